"""Where the camera of the input image stood: on the axis that the network gives it, at a height that is looked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.fusion.image_start.capture_files import Photo
from genfusion_ns.geometry.object_views import DISTANCE, FOV_Y
from genfusion_ns.geometry.pixel_rays import intrinsics, orbit_poses
from genfusion_ns.priors.triposr.objects import MadeObject

_ELEVATIONS = tuple(float(angle) for angle in range(-20, 65, 5))
_SIDE = 64
_SOLID = 0.5
LEAST_OVERLAP = 0.8
"""Share of the joint outline that both outlines must cover for the photo to be used."""


@dataclass(frozen=True)
class Placed:
    """The photo beside a view of the object."""

    photo: Photo
    """With the camera of the view, changed so that both outlines have the same box."""
    overlap: float
    """Of the outlines, intersection over union, 0..1."""
    elevation: float
    """Of the camera, degrees."""


def place_photo(
    made: MadeObject, rgba: Float[Tensor, "S S 4"], elevations: tuple[float, ...] = _ELEVATIONS
) -> Placed | None:
    """The camera of a photo at azimuth 0: of several heights the one whose view is most like it.

    Args:
        made: the object that the network made of the photo.
        rgba: the photo, its object cut out.
        elevations: heights to try, degrees.

    Returns:
        None where no view shows anything.
    """
    box = _box_of(rgba[..., 3] > _SOLID)
    if box is None:
        return None
    size, K = (_SIDE, _SIDE), intrinsics(FOV_Y, (_SIDE, _SIDE))
    best: tuple[float, Placed] | None = None
    for elevation in elevations:
        c2w = orbit_poses(torch.zeros(1), elevation, DISTANCE)
        view = made.views(c2w, K, size)
        seen = _box_of(view.alpha[0, ..., 0] > _SOLID)
        if seen is None:
            continue
        scale, shift = _fit(seen, box)
        placed = _resampled(rgba, scale, shift, _SIDE)
        error = (view.rgb[0] - _over_white(placed)).abs().mean() + (view.alpha[0] - placed[..., 3:]).abs().mean()
        if best is None or float(error) < best[0]:
            camera = torch.diag(torch.tensor([scale, scale, 1.0])) @ K
            camera[:2, 2] += shift
            overlap = _overlap(view.alpha[0, ..., 0] > _SOLID, placed[..., 3] > _SOLID)
            best = float(error), Placed(Photo(rgba, c2w[0], camera), overlap, elevation)
    return None if best is None else best[1]


def _box_of(solid: Bool[Tensor, "H W"]) -> Float[Tensor, "2 2"] | None:
    """First and last (x, y) of an outline, in pixels; None of nothing."""
    rows, columns = solid.nonzero(as_tuple=True)
    if len(rows) == 0:
        return None
    low = torch.stack([columns.min(), rows.min()])
    high = torch.stack([columns.max(), rows.max()]) + 1
    return torch.stack([low, high]).float()


def _fit(view: Float[Tensor, "2 2"], photo: Float[Tensor, "2 2"]) -> tuple[float, Float[Tensor, "2"]]:
    """Scale and shift from pixels of a view to those of the photo, by their boxes."""
    ratio = (photo[1] - photo[0]) / (view[1] - view[0])
    scale = float(ratio.prod().sqrt())
    return scale, photo.mean(0) - scale * view.mean(0)


def _resampled(rgba: Tensor, scale: float, shift: Tensor, side: int) -> Float[Tensor, "s s 4"]:
    """The photo in the pixels of a view, colours over black."""
    rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1) * scale + shift
    grid = 2 * pixels / torch.tensor([rgba.shape[1], rgba.shape[0]]) - 1
    premultiplied = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=-1)
    found = functional.grid_sample(premultiplied.permute(2, 0, 1)[None], grid[None], align_corners=False)
    return found[0].permute(1, 2, 0)


def _over_white(premultiplied: Tensor) -> Float[Tensor, "H W 3"]:
    return premultiplied[..., :3] + 1 - premultiplied[..., 3:]


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))
