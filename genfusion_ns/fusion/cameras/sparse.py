"""Where a round looks: the cameras of its clips and the photos that condition them, nothing else.

A sampler sees poses only. What it may not know by itself, namely where walls are, comes in as a test of poses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor

from genfusion_ns.fusion.cameras.clip_cameras import (
    ClipSettings,
    PhotoCameras,
    SampledViews,
    clip_intrinsics,
    cut_into_clips,
)
from genfusion_ns.fusion.cameras.framing import ClipFrame, Framing
from genfusion_ns.geometry.arcs import arc_path
from genfusion_ns.geometry.cameras import crop_intrinsics
from genfusion_ns.geometry.capture_shape import CaptureShape, capture_shape, pose_distances
from genfusion_ns.geometry.clear_paths import ClearPath, keep_clear
from genfusion_ns.geometry.free_space import ClearTest
from genfusion_ns.geometry.trajectories import ellipse_path, follow_path, spline_path
from genfusion_ns.ranges import require_ranges

_Path = tuple[Tensor, list[int], dict[str, Any]]
"""Frames, at which of them a piece begins that does not go on from the one before, and how it came about."""
_TURN_SHARE = 0.125
"""Largest turn away from what photos look at, as a share of the vertical angle of view."""


class ViewSampler(ABC):
    """Chooses the cameras of a round."""

    counts: ClassVar[tuple[str, ...]] = ("num_references",)
    """Settings that must be at least 1."""
    ranges: ClassVar[dict[str, tuple[float, float]]] = {}
    """Least and largest value of the others."""
    shows_holes: ClassVar[bool] = False
    """Its clips are meant to show what no photo shows; only a repairer that fills holes makes something of them."""

    def __init__(self, config: Any, clip_length: int, resolution: tuple[int, int], framing: Framing = "fit") -> None:
        """`clip_length` and `resolution` (width, height) are those of the repairer, which clips fill by `framing`.

        Raises:
            ValueError: a setting out of range.
        """
        ranges = {**dict.fromkeys(self.counts, (1, math.inf)), **self.ranges}
        require_ranges(config, ranges, "--pipeline.fusion.sampler.")
        self.config = config
        self.clip_length = clip_length
        self.resolution = resolution
        self.framing: Framing = framing

    @abstractmethod
    def sample(
        self,
        cameras: PhotoCameras,
        round: int,
        generator: torch.Generator,
        is_clear: ClearTest | None = None,
    ) -> SampledViews:
        """Cameras and references of one round.

        Args:
            cameras: training views, at least one.
            round: 0-based count of rounds.
            generator: source of all randomness, on the CPU.
            is_clear: which poses stand in free space; without it every pose is taken as clear.
        """


@dataclass
class SparseSamplerConfig(ClipSettings, InstantiateConfig):
    """Views between and around a few observed ones."""

    _target: type = field(default_factory=lambda: SparseSampler)
    kind: Literal["auto", "arc", "ellipse", "follow"] = "auto"
    """Path: around the subject where photos were taken (arc), a full loop around it as GenFusion's (ellipse), along the
    cameras (follow), or arc where the cameras surround a subject, else follow (auto)."""
    num_frames: int = 48
    """Frames per round; a multiple of the repairer's clip length wastes none."""
    beyond: float = 10.0
    """Arc: degrees by which the path goes on after the last photo of an arc in round 0, 0..180."""
    beyond_step: float = 5.0
    """Arc: how many degrees further it goes per round, 0..180."""
    max_beyond: float = 30.0
    """Arc: degrees beyond the last photo at most, 0..180."""
    bridge: float = 90.0
    """Arc: widest gap between two photos that is crossed, in degrees around the subject, 0..360."""
    ellipse_scale: float = 1.0
    """Arc, ellipse: factor on the horizontal distances from the subject, 0.01..100."""
    height_variation: float = 1.5
    """Sway of the height in round 0, 0..10. Arc: 1 is the spread of the photos near in angle; ellipse: 1 covers the
    10th to 90th percentile of the observed heights."""
    height_variation_step: float = 0.2
    """Arc, ellipse: how much the sway shrinks per round, down to 0.5; 0..10."""
    tilt_step: float = 2.0
    """Arc, ellipse: degrees by which the cameras look above or below the subject, per round, 0..89; none in round 0."""
    max_tilt: float = 10.0
    """Arc, ellipse: largest tilt in degrees, 0..89; an eighth of the vertical angle of view at most."""
    position_jitter: float = 0.2
    """Follow: largest departure from the observed cameras, as a share of the distance between neighbours, 0..10."""
    turn_jitter: float = 5.0
    """Follow: largest turn away from the observed directions in degrees, 0..180; an eighth of the angle of view at
    most."""


class SparseSampler(ViewSampler):
    """Along the arcs of the photos where they surround their subject, else along the cameras; see `ViewSampler`."""

    counts = ("num_frames", "num_references")
    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "beyond": (0, 180),
        "beyond_step": (0, 180),
        "max_beyond": (0, 180),
        "bridge": (0, 360),
        "ellipse_scale": (0.01, 100),
        "height_variation": (0, 10),
        "height_variation_step": (0, 10),
        "tilt_step": (0, 89),
        "max_tilt": (0, 89),
        "position_jitter": (0, 10),
        "turn_jitter": (0, 180),
    }
    config: SparseSamplerConfig

    def sample(
        self,
        cameras: PhotoCameras,
        round: int,
        generator: torch.Generator,
        is_clear: ClearTest | None = None,
    ) -> SampledViews:
        """See `ViewSampler.sample`."""
        shape = capture_shape(cameras.c2w)
        kind = self.config.kind
        if kind == "auto":
            kind = "arc" if shape.surrounds_focus else "follow"
        frame, K = clip_intrinsics(cameras, self.resolution, self.framing)
        view_angle = 2 * math.degrees(math.atan(frame.whole[1] / 2 / float(K[1, 1])))
        paths = {"arc": self._arc, "ellipse": self._ellipse, "follow": self._follow}
        path, starts, log = paths[kind](cameras.c2w, round, view_angle * _TURN_SHARE, generator)
        log = {"kind": kind, "round": round, **_shape_log(shape), **log}
        if is_clear is not None:
            pieces = [path[start:end] for start, end in zip(starts, [*starts[1:], len(path)], strict=True)]
            cleared = [self._cleared(piece, cameras.c2w, is_clear) for piece in pieces]
            path = torch.cat([piece.c2w for piece in cleared])
            log |= {
                "pulled_frames": sum(piece.pulled_frames for piece in cleared),
                "largest_pull": max(piece.largest_pull for piece in cleared),
                "jumps": sum(piece.jumps for piece in cleared),
            }
        Ks = K.expand(len(path), 3, 3).clone()
        return cut_into_clips(
            cameras,
            path,
            Ks,
            frame,
            clip_length=self.clip_length,
            settings=self.config,
            generator=generator,
            log=log,
        )

    def _cleared(self, path: Tensor, observed: Tensor, is_clear: ClearTest) -> ClearPath:
        borders = [window.start + window.new_from for window in self.config.cut(len(path), self.clip_length)]
        return keep_clear(path, observed, borders, is_clear)

    def _departures(self, round: int, most: float, generator: torch.Generator) -> tuple[float, float, float]:
        """Of a path around the subject: phase in turns, sway of the height, tilt in degrees, `most` at most.

        So limited, the subject stays in the view of a long lens.
        """
        config = self.config
        phase, side = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        sway = max(0.5, config.height_variation - config.height_variation_step * round)
        return phase, sway, math.copysign(min(config.max_tilt, config.tilt_step * round, most), side - 0.5)

    def _ellipse(self, c2w: Tensor, round: int, most: float, generator: torch.Generator) -> _Path:
        config = self.config
        phase, variation, tilt = self._departures(round, most, generator)
        path = ellipse_path(
            c2w,
            config.num_frames,
            height_variation=variation,
            phase=phase,
            scale=config.ellipse_scale,
            tilt=math.radians(tilt),
        )
        return path, [0], {"phase": phase, "height_variation": variation, "tilt_degrees": tilt}

    def _arc(self, c2w: Tensor, round: int, most: float, generator: torch.Generator) -> _Path:
        config = self.config
        phase, sway, tilt = self._departures(round, most, generator)
        beyond = min(config.max_beyond, config.beyond + config.beyond_step * round)
        path = arc_path(
            c2w,
            config.num_frames,
            beyond=math.radians(beyond),
            bridge=math.radians(config.bridge),
            piece=self.clip_length,
            turn=round,
            phase=phase,
            sway=sway,
            scale=config.ellipse_scale,
            tilt=math.radians(tilt),
        )
        arcs = [[math.degrees(arc.start), math.degrees(arc.length)] for arc in path.arcs]
        log = {"phase": phase, "sway": sway, "tilt_degrees": tilt, "beyond_degrees": beyond, "arcs_degrees": arcs}
        return path.c2w, path.starts, log

    def _follow(self, c2w: Tensor, round: int, most: float, generator: torch.Generator) -> _Path:
        config = self.config
        turn = min(config.turn_jitter, most)
        path = follow_path(
            c2w,
            config.num_frames,
            generator,
            position_jitter=config.position_jitter,
            turn_jitter=math.radians(turn),
        )
        return path, [0], {"position_jitter": config.position_jitter, "turn_jitter_degrees": turn}


def views_towards(
    cameras: PhotoCameras,
    c2w: Float[Tensor, "rows 4"],
    fov_y: float,
    clip_length: int,
    resolution: tuple[int, int],
    *,
    num_references: int = 3,
    framing: Framing = "fit",
) -> SampledViews:
    """One window from the nearest observed view to a camera.

    Args:
        cameras: training views, at least one.
        c2w: the camera, OpenGL axes; 3 or 4 rows.
        fov_y: its vertical angle of view, radians.
        clip_length: frames of the window.
        resolution: (width, height) of the repairer.
        num_references: photos that condition the window at most.
        framing: how the clip fills the resolution; cropped, it is the middle of the frame.

    Raises:
        ValueError: a pose that is not rigid or not finite, or an angle out of range.
    """
    target = torch.eye(4, dtype=cameras.c2w.dtype)
    target[:3] = c2w[:3].to(target)
    turned = target[:3, :3].T @ target[:3, :3]
    if not bool(torch.isfinite(target).all()) or float((turned - torch.eye(3)).abs().max()) > 1e-3:
        raise ValueError(f"the camera pose to complete from is not a rigid, finite one: {c2w.tolist()}")
    if not 0 < fov_y < math.pi:
        raise ValueError(f"the vertical angle of view is {math.degrees(fov_y)} degrees; it must lie between 0 and 180")
    nearest = int(pose_distances(cameras.c2w, target[None])[:, 0].argmin())
    path = spline_path(torch.stack([cameras.c2w[nearest], target]), clip_length)
    frame, whole = clip_intrinsics(cameras, resolution, framing)
    size, K = frame.size, crop_intrinsics(whole, *frame.middle())
    asked = K.clone()
    asked[0, 0] = asked[1, 1] = size[1] / 2 / math.tan(fov_y / 2)
    asked[0, 2], asked[1, 2] = size[0] / 2, size[1] / 2
    share = torch.linspace(0, 1, clip_length, dtype=K.dtype)[:, None, None]
    log = {"kind": "towards a camera", "from_view": nearest, "fov_y_degrees": math.degrees(fov_y)}
    return cut_into_clips(
        cameras,
        path,
        K + share * (asked - K),
        ClipFrame(size, size),
        clip_length=clip_length,
        settings=ClipSettings(num_references=num_references),
        generator=torch.Generator(),  # nothing is left open
        log=log,
    )


def _shape_log(shape: CaptureShape) -> dict[str, Any]:
    return {
        "focus": shape.focus.tolist(),
        "up": None if shape.up is None else shape.up.tolist(),
        "largest_gap_degrees": math.degrees(shape.largest_gap),
        "focus_miss": shape.miss,
    }
