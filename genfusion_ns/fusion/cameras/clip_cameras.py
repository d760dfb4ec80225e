"""Cameras of the clips of a round: where they stand, how large their frames are, which photos condition them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import resize_intrinsics
from genfusion_ns.geometry.capture_shape import pose_distances
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.geometry.windows import Window, clip_windows


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
    """Intrinsics in pixels of `size`."""
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


def cut_into_clips(
    cameras: PhotoCameras,
    c2w: Float[Tensor, "M 4 4"],
    K: Float[Tensor, "M 3 3"],
    size: tuple[int, int],
    *,
    clip_length: int,
    num_references: int,
    log: dict[str, Any],
    photo_ids: list[int | None] | None = None,
) -> SampledViews:
    """A camera path, cut into the windows that a repairer takes, each with the views that condition it.

    Args:
        cameras: training views, at least one.
        c2w: the path, OpenGL axes.
        K: intrinsics in pixels of `size`.
        size: (width, height) of the clips in pixels.
        clip_length: frames of a window.
        num_references: photos that condition a window at most.
        log: see `SampledViews`.
        photo_ids: see `SampledViews`.
    """
    windows = clip_windows(len(c2w), clip_length)
    references = [choose_references(cameras.c2w, c2w[w.start : w.start + w.length], num_references) for w in windows]
    return SampledViews(c2w, K, size, windows, references, log, photo_ids)


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


def clip_size(photo_size: tuple[int, int], resolution: tuple[int, int], multiple: int = 8) -> tuple[int, int]:
    """Clip size with the shape of the photos and about as many pixels as the repairer was made for.

    Args:
        photo_size: (width, height) of the photos.
        resolution: (width, height) of the repairer.
        multiple: both sides are multiples of this.

    Returns:
        (width, height) in pixels.

    Raises:
        ValueError: a side below 1.
    """
    if min(*photo_size, *resolution, multiple) < 1:
        raise ValueError(
            f"photo size {photo_size}, repairer resolution {resolution} and multiple {multiple} must be >= 1"
        )
    aspect, area = photo_size[0] / photo_size[1], resolution[0] * resolution[1]
    ideal = math.sqrt(area * aspect)
    around = [max(1, math.floor(ideal / multiple) + step) * multiple for step in (-1, 0, 1, 2)]
    candidates = [(w, max(1, math.floor(w / aspect / multiple + 0.5)) * multiple) for w in around]
    return min(candidates, key=lambda s: 2 * abs(math.log(s[0] / s[1] / aspect)) + abs(math.log(s[0] * s[1] / area)))


def clip_intrinsics(cameras: PhotoCameras, resolution: tuple[int, int]) -> tuple[tuple[int, int], Float[Tensor, "3 3"]]:
    """Size of the clip and the median intrinsics of the observed views at it, over the views of the commonest size.

    Args:
        cameras: training views.
        resolution: (width, height) of the repairer.

    Returns:
        (width, height) and K in pixels of that size.
    """
    common = commonest_size(cameras.sizes)
    chosen = cameras.Ks[[i for i, size in enumerate(cameras.sizes) if size == common]]
    size = clip_size(common, resolution)
    return size, resize_intrinsics(chosen.median(dim=0).values, common, size)
