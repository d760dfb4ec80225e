"""What a stand-alone repair works on: frames from files, without cameras, or a trained run seen along a camera path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes
from genfusion_ns.data.camera_path import CameraPath
from genfusion_ns.data.media.frame_sequences import DepthFolder, FrameSequence, read_photo
from genfusion_ns.fusion.cameras.clip_cameras import choose_references
from genfusion_ns.fusion.cameras.framing import clip_size
from genfusion_ns.fusion.cameras.path_check import path_misses_scene
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.clips import Clip, References
from genfusion_ns.geometry.images import commonest_size, fit_area, resize_images
from genfusion_ns.priors.mono_depth import MonoDepth
from genfusion_ns.priors.without_cameras import clip_without_cameras, photos_without_cameras

_NEAREST = 0.1
"""Offset of relative disparity before it is inverted; repairers code disparity up to scale and shift."""


class ClipSource(Protocol):
    """A sequence of frames to repair, of which a window is asked for at a time."""

    size: tuple[int, int]
    """(width, height) of all frames."""
    fps: float | None
    """Frames per second, where the source has them."""
    has_depth: bool
    """False: depth is neutral."""
    depth_unit: str | None
    """What the depth of the clips is measured in; None where it is unknown or relative."""

    def __len__(self) -> int: ...

    def clip(self, frames: Sequence[int], generator: torch.Generator) -> Clip:
        """The frames with these numbers."""
        ...

    def references(self, frames: Sequence[int]) -> tuple[References, list[str]]:
        """The photos that condition the repair of these frames, and their names."""
        ...


class FileClips:
    """`ClipSource` of frames without cameras; what repairers make of them is in `priors.without_cameras`."""

    def __init__(
        self,
        frames: FrameSequence,
        resolution: tuple[int, int],
        references: Sequence[Path] = (),
        depth: DepthFolder | None = None,
        mono_depth: MonoDepth | None = None,
    ) -> None:
        """
        Args:
            frames: to be repaired.
            resolution: (width, height) whose area photos are shrunk to, and frames for `mono_depth`.
            references: photo files, all brought to the shape of the frames; the first frame where there are none.
            depth: of the frames.
            mono_depth: estimates depth where `depth` is None; without either, depth is neutral.

        Raises:
            CaptureError: a photo cannot be read.
        """
        self.frames = frames
        self.size, self.fps = frames.size, frames.fps
        self.depth_unit = None if depth is None else "the unit of the depth files"
        self.depth, self.mono_depth = depth, mono_depth
        self.has_depth = depth is not None or mono_depth is not None
        self._working = fit_area(frames.size, resolution)
        photos = [read_photo(file)[None] for file in references] or [frames.read([0])]
        self._references = photos_without_cameras(torch.cat([resize_images(p, self._working) for p in photos]))
        self._names = [str(file) for file in references] or ["frame 0"]

    def __len__(self) -> int:
        return len(self.frames)

    def clip(self, frames: Sequence[int], generator: torch.Generator) -> Clip:
        """See `ClipSource.clip`."""
        rgb = self.frames.read(frames)
        if self.depth is not None:
            return clip_without_cameras(rgb, self.depth.read(frames, self.size))
        if self.mono_depth is None:
            return clip_without_cameras(rgb)
        found = self.mono_depth.estimate(resize_images(rgb, self._working), generator)
        low, high = found.disparity.min(), found.disparity.max()
        relative = (found.disparity - low) / (high - low).clamp(min=1e-12)
        depth = torch.where(found.confidence > 0, 1 / (_NEAREST + relative), 0.0)
        return clip_without_cameras(rgb, resize_images(depth, self.size, nearest=True))

    def references(self, frames: Sequence[int]) -> tuple[References, list[str]]:
        """See `ClipSource.references`; the same photos for all frames."""
        return self._references, self._names


@dataclass
class RunClips:
    """`ClipSource` of the scene of a run, rendered along a camera path."""

    pipeline: GenFusionPipeline
    photos: PosedPhotos
    c2w: Float[Tensor, "M 4 4"]
    Ks: Float[Tensor, "M 3 3"]
    size: tuple[int, int]
    fps: float | None
    num_references: int
    given: References | None
    """Photos without cameras, in place of the train photos."""
    given_names: list[str]
    has_depth: bool = True
    depth_unit: str | None = "scene units"

    @classmethod
    def of(
        cls,
        pipeline: GenFusionPipeline,
        path: CameraPath,
        resolution: tuple[int, int],
        references: Sequence[Path] = (),
        num_references: int = 3,
    ) -> RunClips:
        """
        Args:
            pipeline: a loaded run.
            path: frames to render, at the size that it asks for, or that of the photos where it has none.
            resolution: (width, height) whose area photos are brought to.
            references: photo files to use in place of the train photos; their cameras are unknown.
            num_references: train photos per window.

        Raises:
            ValueError: the path shows nothing of the scene.
            CaptureError: a photo cannot be read.
        """
        common = commonest_size(camera_sizes(pipeline.datamanager.whole_train_cameras))
        photos = PosedPhotos.of(pipeline.datamanager, clip_size(common, resolution), pipeline.scene.device)
        problem = path_misses_scene(path, photos.whole)
        if problem is not None:
            raise ValueError(
                f"the camera path does not belong to this run: {problem}. Save it in the viewer of the same run"
            )
        size = common if path.width is None or path.height is None else (path.width, path.height)
        given = None
        if references:
            small = fit_area(size, resolution)
            given = photos_without_cameras(torch.cat([resize_images(read_photo(f)[None], small) for f in references]))
        names = [str(file) for file in references]
        return cls(
            pipeline, photos, path.c2w.float(), _intrinsics(path, size), size, path.fps, num_references, given, names
        )

    def __len__(self) -> int:
        return len(self.c2w)

    @torch.no_grad()
    def clip(self, frames: Sequence[int], generator: torch.Generator) -> Clip:
        """See `ClipSource.clip`."""
        chosen, device = list(frames), self.pipeline.scene.device
        viewmats, Ks = c2w_to_viewmat(self.c2w[chosen]).to(device), self.Ks[chosen].to(device)
        return self.pipeline.scene.render_clip(viewmats, Ks, self.size)

    def references(self, frames: Sequence[int]) -> tuple[References, list[str]]:
        """See `ClipSource.references`: the train photos nearest to the frames."""
        if self.given is not None:
            return self.given, self.given_names
        photos = self.photos.c2w.cpu()
        ids = choose_references(photos, self.c2w[list(frames)].to(photos), self.num_references)
        names = self.pipeline.datamanager.train_names
        return self.photos.references(ids), [names[i] for i in ids]


def _intrinsics(path: CameraPath, size: tuple[int, int]) -> Float[Tensor, "M 3 3"]:
    """Square pixels, the centre in the middle, and the vertical angle of view that the path asks for."""
    Ks = torch.zeros(len(path), 3, 3)
    Ks[:, 0, 0] = Ks[:, 1, 1] = (size[1] / 2 / torch.tan(path.fov_y / 2)).float()
    Ks[:, 0, 2], Ks[:, 1, 2], Ks[:, 2, 2] = size[0] / 2, size[1] / 2, 1
    return Ks
