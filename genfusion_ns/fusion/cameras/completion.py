"""Cameras of scene completion: along a path of the user or around the scene, where the photos did not look."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor

from genfusion_ns.data.camera_path import CameraPath, read_camera_path
from genfusion_ns.fusion.cameras.clip_cameras import (
    ClipSettings,
    PhotoCameras,
    SampledViews,
    clip_intrinsics,
    cut_into_clips,
)
from genfusion_ns.fusion.cameras.framing import ClipFrame, Framing, frame_of
from genfusion_ns.fusion.cameras.path_check import path_misses_scene, path_tilt
from genfusion_ns.fusion.cameras.sparse import ViewSampler
from genfusion_ns.geometry.capture_shape import capture_shape
from genfusion_ns.geometry.clear_paths import keep_clear
from genfusion_ns.geometry.free_space import ClearTest
from genfusion_ns.geometry.trajectories import orbit_path
from genfusion_ns.messages import say

_TILT = 60.0
"""Degrees between the verticals of path and capture above which the path was probably saved in another orientation."""


@dataclass
class CompletionSamplerConfig(ClipSettings, InstantiateConfig):
    """Views of what the photos do not show, along a saved camera path or on a loop made from parameters."""

    _target: type = field(default_factory=lambda: CompletionSampler)
    camera_path: Path | None = None
    """Camera path saved by the render panel of ns-viewer (JSON), in the world of this capture; none: a loop. Its angles
    of view count unless --pipeline.fusion.framing is pixels, which has those of the photos."""
    num_frames: int = 48
    """Frames that the path is resampled to."""
    frames_per_round: int = 16
    """Each round takes the next so many frames of the path, from its start again when it ends; a multiple of the
    repairer's clip length wastes none."""
    path_scale: float = 0.7
    """Loop: factor on the horizontal distances of the cameras from the point they look at, 0.01..100."""
    rotation_angle: float = 16.0
    """Loop: degrees by which the cameras turn to their left, away from that point, -360..360; 90 looks along the
    loop."""
    position_z_offset: float = 0.0
    """Loop: upward shift, in units of the median distance between a camera and that point; -100..100."""
    distance: float = 1.8
    """Loop: shift away from that point (negative: towards it), in the same unit; -100..100."""


@dataclass(frozen=True)
class _Lens:
    frame: ClipFrame
    K: Float[Tensor, "M 3 3"]


class CompletionSampler(ViewSampler):
    """Walks along one path, a part per round; see `ViewSampler`."""

    counts = ("num_frames", "frames_per_round", "num_references")
    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "path_scale": (0.01, 100),
        "rotation_angle": (-360, 360),
        "position_z_offset": (-100, 100),
        "distance": (-100, 100),
    }
    shows_holes = True
    config: CompletionSamplerConfig

    def __init__(
        self,
        config: CompletionSamplerConfig,
        clip_length: int,
        resolution: tuple[int, int],
        framing: Framing = "fit",
    ) -> None:
        """Arguments as those of `ViewSampler`.

        Raises:
            ValueError: a setting out of range, or a camera path that cannot be used (`CameraPathError`).
        """
        super().__init__(config, clip_length, resolution, framing)
        self._path = None if config.camera_path is None else read_camera_path(config.camera_path)

    def sample(
        self,
        cameras: PhotoCameras,
        round: int,
        generator: torch.Generator,
        is_clear: ClearTest | None = None,
    ) -> SampledViews:
        """See `ViewSampler.sample`; the path is the same in every run.

        A loop made from parameters is kept in free space. A path of the user is followed as it is, and how many of its
        cameras stand in walls is noted in the log.

        Raises:
            ValueError: the camera path misses the scene, or no loop can be made from these cameras.
        """
        if self._path is not None:
            path, lens, log = self._from_file(self._path, cameras, round, is_clear)
        else:
            path, lens, log = self._from_parameters(cameras, is_clear)
        first = round % math.ceil(self.config.num_frames / self.config.frames_per_round) * self.config.frames_per_round
        part = slice(first, first + self.config.frames_per_round)
        c2w = path[part]
        log = {"round": round, "path_frames": [first, first + len(c2w)], **log}
        return cut_into_clips(
            cameras,
            c2w,
            lens.K[part],
            lens.frame,
            clip_length=self.clip_length,
            settings=self.config,
            generator=generator,
            log=log,
        )

    def _from_file(
        self, path: CameraPath, cameras: PhotoCameras, round: int, is_clear: ClearTest | None
    ) -> tuple[Tensor, _Lens, dict[str, Any]]:
        path = path.resampled(self.config.num_frames)
        problem = path_misses_scene(path, cameras)
        if problem is not None:
            raise ValueError(_explain_miss(self.config.camera_path, problem))
        tilt = path_tilt(path, cameras)
        if tilt > _TILT and round == 0:
            say(
                f"The vertical of the camera path {self.config.camera_path} is {tilt:.0f} degrees from that of "
                "the photos. If that is not meant, the path was saved with another orientation_method.",
                "yellow",
            )
        c2w = path.c2w.to(cameras.c2w)
        log: dict[str, Any] = {"kind": "camera_path", "file": str(self.config.camera_path), "tilt_degrees": tilt}
        if is_clear is not None:
            log["frames_in_walls"] = int((~is_clear(c2w)).sum())
        if self.framing == "pixels":  # no photo of the size that the path has says what a pixel is
            return c2w, self._lens_of_photos(cameras, len(c2w)), log
        return c2w, _lens_of(path, self.resolution, self.framing, cameras.Ks), log

    def _from_parameters(
        self, cameras: PhotoCameras, is_clear: ClearTest | None
    ) -> tuple[Tensor, _Lens, dict[str, Any]]:
        config = self.config
        path = orbit_path(
            cameras.c2w,
            config.num_frames,
            path_scale=config.path_scale,
            rotation_angle=math.radians(config.rotation_angle),
            position_z_offset=config.position_z_offset,
            distance=config.distance,
        )
        log: dict[str, Any] = {"kind": "loop", "focus": capture_shape(cameras.c2w).focus.tolist()}
        for name in ("path_scale", "rotation_angle", "position_z_offset", "distance"):
            log[name] = getattr(config, name)
        if is_clear is not None:
            borders = list(range(0, len(path), config.frames_per_round))
            # Only positions give way: to look where the photos do not is what the path is for.
            cleared = keep_clear(path, cameras.c2w, borders, is_clear, turn=False)
            path, log["pulled_frames"] = cleared.c2w, cleared.pulled_frames
        return path, self._lens_of_photos(cameras, len(path)), log

    def _lens_of_photos(self, cameras: PhotoCameras, count: int) -> _Lens:
        frame, K = clip_intrinsics(cameras, self.resolution, self.framing)
        return _Lens(frame, K.expand(count, 3, 3).clone())


def _lens_of(path: CameraPath, resolution: tuple[int, int], framing: Framing, like: Tensor) -> _Lens:
    """The clip size for the shape of the path, and intrinsics with exactly its angles of view in each frame."""
    shape = (round(1e4 * float(path.aspect.median())), 10_000)
    frame = frame_of(shape, resolution, framing)
    width, height = frame.whole
    half_height = torch.tan(path.fov_y / 2)
    K = torch.eye(3, dtype=torch.float64).repeat(len(path), 1, 1)
    K[:, 0, 0] = width / 2 / (path.aspect * half_height)
    K[:, 1, 1] = height / 2 / half_height
    K[:, 0, 2], K[:, 1, 2] = width / 2, height / 2
    return _Lens(frame, K.to(like))


def _explain_miss(file: Path | None, problem: str) -> str:
    return (
        f"The camera path {file} misses the scene: {problem}. A camera path holds poses in the world frame of the run "
        "in whose viewer it was saved; the frame changes with the capture and with orientation_method, center_method, "
        "auto_scale_poses and scale_factor of the dataparser. Save the path in the viewer of a run on this capture "
        "with the same dataparser settings, or leave camera_path out for a loop made from path_scale, rotation_angle, "
        "position_z_offset and distance."
    )
