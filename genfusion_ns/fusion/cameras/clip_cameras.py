"""Cameras of the clips of a round: where they stand, how large their frames are, which photos condition them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.fusion.cameras.framing import ClipFrame, Framing, frame_of
from genfusion_ns.geometry.cameras import crop_intrinsics, resize_intrinsics
from genfusion_ns.geometry.capture_shape import pose_distances
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.geometry.windows import Window, clip_windows, published_windows
from genfusion_ns.stored_config import StoredConfig


@dataclass
class ClipSettings(StoredConfig):
    """What the settings of all samplers have."""

    num_references: int = 3
    """Photos that condition each clip at most."""
    references: Literal["nearest", "random"] = "nearest"
    """Which ones: those nearest to the clip, or any, as GenFusion has it for masked photos and completion."""
    windows: Literal["fewest", "published"] = "fewest"
    """How a path is cut into clips: as few as cover it, or one or two more, as GenFusion has it."""

    def cut(self, num_frames: int, clip_length: int) -> list[Window]:
        """A path of so many frames as windows of this length."""
        return (published_windows if self.windows == "published" else clip_windows)(num_frames, clip_length)


@dataclass(frozen=True)
class PhotoCameras:
    """Cameras of the N training views; where a run may see only a part of a photo, these are those of the whole one."""

    c2w: Float[Tensor, "N 4 4"]
    """Camera-to-world, OpenGL axes."""
    Ks: Float[Tensor, "N 3 3"]
    """Intrinsics in pixels of each view's own size."""
    sizes: list[tuple[int, int]]
    """(width, height) of each view in pixels."""


@dataclass(frozen=True)
class SampledViews:
    """A camera path of M frames, cut into windows, with the views that condition each window."""

    c2w: Float[Tensor, "M 4 4"]
    """Camera-to-world, OpenGL axes."""
    K: Float[Tensor, "M 3 3"]
    """Intrinsics in pixels of `size`; with `corners` those of the whole frame, at the same scale."""
    size: tuple[int, int]
    """(width, height) at which to render the clip."""
    windows: list[Window]
    """Frames of each repair call."""
    reference_ids: list[list[int]]
    """For each window, indices into the observed views, most similar first."""
    log: dict[str, Any]
    """How the path came about, ready for JSON."""
    photo_ids: list[int | None] | None = None
    """For each frame the observed view whose camera it shares but for K; None in paths that share none."""
    frame: ClipFrame | None = None
    """How clips lie in the whole frame; None: they are the whole frame."""
    corners: list[tuple[int, int]] | None = None
    """For each window the top-left pixel (x, y) of its frames in the whole frame; goes with `frame`."""

    def intrinsics(self, number: int) -> Float[Tensor, "T 3 3"]:
        """Those of the frames of a window."""
        K = self.K[self.windows[number].frames(len(self.c2w))]
        return K if self.corners is None else crop_intrinsics(K, *self.corners[number])

    def supervised(self, number: int) -> tuple[slice, slice] | None:
        """Rows and columns of a window's frames that are to supervise; None: all."""
        if self.frame is None or self.corners is None or not self.frame.padded:
            return None
        return self.frame.part_of_photo(self.corners[number])

    def goes_on(self, number: int) -> bool:
        """Whether the first frames of a window are the last ones of the window before, pixel by pixel."""
        return number > 0 and (self.corners is None or self.corners[number] == self.corners[number - 1])


def cut_into_clips(
    cameras: PhotoCameras,
    c2w: Float[Tensor, "M 4 4"],
    K: Float[Tensor, "M 3 3"],
    frame: ClipFrame,
    *,
    clip_length: int,
    settings: ClipSettings,
    generator: torch.Generator,
    log: dict[str, Any],
    photo_ids: list[int | None] | None = None,
) -> SampledViews:
    """A camera path, cut into the windows that a repairer takes, each with the views that condition it.

    Args:
        cameras: training views, at least one.
        c2w: the path, OpenGL axes.
        K: intrinsics in pixels of the whole frame.
        frame: how clips lie in it.
        clip_length: frames of a window.
        settings: of the sampler.
        generator: draws photos and places, where the settings and the frame leave them open.
        log: see `SampledViews`.
        photo_ids: see `SampledViews`.
    """
    windows = settings.cut(len(c2w), clip_length)
    if settings.references == "random":
        count = min(settings.num_references, len(cameras.c2w))
        references = [torch.randperm(len(cameras.c2w), generator=generator)[:count].tolist() for _ in windows]
    else:
        frames = [c2w[w.start : w.start + w.length] for w in windows]
        references = [choose_references(cameras.c2w, part, settings.num_references) for part in frames]
    if frame.whole == frame.size:
        return SampledViews(c2w, K, frame.size, windows, references, log, photo_ids)
    corners = [frame.corner(generator) for _ in windows]
    log = {**log, "whole_frame": list(frame.whole), "corners": [list(corner) for corner in corners]}
    return SampledViews(c2w, K, frame.size, windows, references, log, photo_ids, frame, corners)


def choose_references(photos: Float[Tensor, "N 4 4"], frames: Float[Tensor, "T 4 4"], count: int) -> list[int]:
    """The views that condition a window: the nearest to its mean pose first, then those that cover its frames best.

    The first choice is the official rule with positions in units of the capture (`pose_distances`). Each further view
    is the one that brings the frames, on average, closest to a chosen view.

    Args:
        photos: poses of the training views. [N, 4, 4]
        frames: poses of the window. [T, 4, 4]
        count: how many; all views at most.

    Returns:
        Indices of `photos` without repeats.
    """
    mean = frames.mean(0, keepdim=True)
    mean[:, :3, 2] = torch.nn.functional.normalize(mean[:, :3, 2], dim=-1)
    chosen = [int(pose_distances(photos, mean)[:, 0].argmin())]
    distances = pose_distances(photos, frames)
    covered = distances[chosen[0]]
    while len(chosen) < min(count, len(photos)):
        gain = (covered - torch.minimum(distances, covered)).sum(1)
        gain[chosen] = -1.0
        # Where no view brings a frame closer any more, the nearest of the rest.
        pick = int(gain.argmax()) if gain.max() > 0 else _nearest_of_the_rest(distances, chosen)
        chosen.append(pick)
        covered = torch.minimum(covered, distances[pick])
    return chosen


def _nearest_of_the_rest(distances: Tensor, chosen: list[int]) -> int:
    total = distances.sum(1)
    total[chosen] = torch.inf
    return int(total.argmin())


def clip_intrinsics(
    cameras: PhotoCameras, resolution: tuple[int, int], framing: Framing = "fit"
) -> tuple[ClipFrame, Float[Tensor, "3 3"]]:
    """Frame of the clips and the median intrinsics of the observed views, over the views of the commonest size.

    Args:
        cameras: training views.
        resolution: (width, height) of the repairer.
        framing: see `frame_of`.

    Returns:
        The frame, and K in pixels of the whole frame.
    """
    common = commonest_size(cameras.sizes)
    chosen = cameras.Ks[[i for i, size in enumerate(cameras.sizes) if size == common]]
    frame = frame_of(common, resolution, framing)
    return frame, resize_intrinsics(chosen.median(dim=0).values, common, frame.whole)
