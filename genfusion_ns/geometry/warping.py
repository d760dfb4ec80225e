"""Photos seen from other cameras: each pixel of a clip looked up in a photo through the clip's own depth.

Conventions are those of `genfusion_ns.geometry.cameras`: OpenCV ``viewmats``, pixel centres at half-integers, z depth.
A warp is as good as the depth under it; `WarpedReferences` says where the look-up was possible, and where the clip's
own surfaces stand between the photo and the point, but it cannot know that the depth itself is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.geometry.cameras import camera_centers, project
from genfusion_ns.geometry.clips import References
from genfusion_ns.geometry.depth import depth_to_points
from genfusion_ns.geometry.images import WHOLLY_SEEN, sample_pixels

_LEAST = 1e-20
"""Keeps divisions by depths finite; no length of any scene."""
_ZBUFFER_CELL = 4  # pixels: coarse enough that the points of one clip leave no gaps between neighbouring samples


@dataclass(frozen=True)
class WarpedReferences:
    """R photos brought into each of T views."""

    rgb: Float[Tensor, "R T H W 3"]
    """Colours in 0..1, 0 where not valid."""
    valid: Bool[Tensor, "R T H W 1"]
    """True where the point lies in front of the photo's camera and inside the seen part of the photo."""
    visible: Bool[Tensor, "R T H W 1"]
    """True where it is valid and no surface of the clip hides the point from the photo's camera."""
    points: Float[Tensor, "T H W 3"]
    """World points of the clip's pixels."""
    centers: Float[Tensor, "T 3"]
    """Places of the clip's cameras."""
    photo_centers: Float[Tensor, "R 3"]
    """Places of the photos' cameras."""

    @cached_property
    def alignment(self) -> Float[Tensor, "R T H W 1"]:
        """Cosine of the angle at the point between the directions to the frame and to the photo, 0 where not valid.

        A surface fitted to a photo is to be believed from about where that photo stood.
        """
        to_frame = functional.normalize(self.points - self.centers[:, None, None], dim=-1)
        cosines = [
            (to_frame * functional.normalize(self.points - center, dim=-1)).sum(-1, keepdim=True)
            for center in self.photo_centers
        ]
        return torch.stack(cosines) * self.valid


def warp_references(
    depth: Float[Tensor, "T H W 1"],
    viewmats: Float[Tensor, "T 4 4"],
    Ks: Float[Tensor, "T 3 3"],
    references: References,
    *,
    solid: Bool[Tensor, "T H W 1"] | None = None,
    tolerance: float = 0.05,
) -> WarpedReferences:
    """Look every pixel of a clip up in every photo (backward warp, bilinear).

    Args:
        depth: z depth of the clip, scene units; non-positive depth is never valid. [T, H, W, 1]
        viewmats: cameras of the clip. [T, 4, 4]
        Ks: intrinsics of the clip. [T, 3, 3]
        references: the photos, of any size. [R, h, w, 3]
        solid: pixels whose surface may hide others; all with positive depth when None. [T, H, W, 1]
        tolerance: relative depth by which a nearer surface must be in front to hide a point.

    Returns:
        Colours, validity and visibility per photo and frame.
    """
    points = depth_to_points(depth, Ks, viewmats)
    solid = depth > 0 if solid is None else solid & (depth > 0)
    seen = references.seen if references.seen is not None else [None] * len(references)
    warped = [
        _warp_one(points, depth > 0, solid, (photo, mask), viewmat=viewmat, K=K, tolerance=tolerance)
        for photo, mask, viewmat, K in zip(references.rgb, seen, references.viewmats, references.Ks, strict=True)
    ]
    rgb, valid, visible = (torch.stack(parts) for parts in zip(*warped, strict=True))
    return WarpedReferences(rgb, valid, visible, points, camera_centers(viewmats), camera_centers(references.viewmats))


def _warp_one(
    points: Tensor,
    known: Tensor,
    solid: Tensor,
    image: tuple[Tensor, Tensor | None],
    *,
    viewmat: Tensor,
    K: Tensor,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    photo, mask = image
    height, width = photo.shape[:2]
    pixels, z = project(points, viewmat, K)
    x, y = pixels[..., :1], pixels[..., 1:]
    valid = known & (x >= 0) & (x <= width) & (y >= 0) & (y <= height) & (z > 0)
    colours = sample_pixels(photo, pixels)
    if mask is not None:
        valid = valid & (sample_pixels(mask.to(photo), pixels) > WHOLLY_SEEN)
    nearest = _zbuffer_lookup(pixels, z, valid & solid, (width, height))
    return colours * valid, valid, valid & (z <= nearest * (1 + tolerance))


def _zbuffer_lookup(pixels: Tensor, z: Tensor, solid: Tensor, size: tuple[int, int]) -> Tensor:
    """Smallest z of the solid points in the raster cell of each point; infinite where there is none.

    Points outside the raster count as in its outermost cells.
    """
    columns, rows = -(-size[0] // _ZBUFFER_CELL), -(-size[1] // _ZBUFFER_CELL)
    column = (pixels[..., 0].nan_to_num() / _ZBUFFER_CELL).clamp(0, columns - 1).long()
    row = (pixels[..., 1].nan_to_num() / _ZBUFFER_CELL).clamp(0, rows - 1).long()
    cell = (row * columns + column).flatten()
    buffer = z.new_full((rows * columns,), torch.inf)
    buffer.scatter_reduce_(0, cell, torch.where(solid, z, torch.inf).flatten(), reduce="amin")
    return buffer[cell].view_as(z)


def fill_depth(
    depth: Float[Tensor, "T H W 1"], weight: Float[Tensor, "T H W 1"], threshold: float = 0.3
) -> Float[Tensor, "T H W 1"]:
    """Depth with its unreliable pixels replaced by a smooth continuation of the reliable ones.

    A push-pull pyramid (Gortler et al. 1996, The Lumigraph).

    Disparity, which is affine in the image over a plane, is averaged rather than depth.

    Args:
        depth: z depth, scene units. [T, H, W, 1]
        weight: reliability in 0..1, such as alpha; pixels below `threshold` or of non-positive depth are replaced.
        threshold: least weight that keeps a pixel as it is.

    Returns:
        Positive depth everywhere; 0 in frames that have no reliable pixel at all. [T, H, W, 1]
    """
    keep = (weight >= threshold) & (depth > 0)
    mass = torch.where(keep, weight, torch.zeros_like(weight)).permute(0, 3, 1, 2)
    disparity = torch.where(keep, 1 / depth.clamp(min=_LEAST), torch.zeros_like(depth)).permute(0, 3, 1, 2)
    filled = _push_pull(disparity * mass, mass).permute(0, 2, 3, 1)
    return torch.where(keep, depth, torch.where(filled > 0, 1 / filled.clamp(min=1e-12), torch.zeros_like(filled)))


def fill_colours(rgb: Float[Tensor, "T H W 3"], alpha: Float[Tensor, "T H W 1"]) -> Float[Tensor, "T H W 3"]:
    """Rendered colours over a smooth continuation of themselves instead of black (push-pull pyramid).

    Args:
        rgb: colours over black, that is multiplied by their coverage. [T, H, W, 3]
        alpha: coverage in 0..1. [T, H, W, 1]
    """
    return _over_coarser(rgb.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _over_coarser(value: Tensor, mass: Tensor) -> Tensor:
    """Values multiplied by their mass, over those of the coarser levels. [T, C, H, W]"""
    if max(mass.shape[-2:]) == 1:
        return value / mass.clamp(min=1e-6)
    pooled = [functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (value, mass)]
    coarse = functional.interpolate(_over_coarser(*pooled), size=mass.shape[-2:], mode="bilinear", align_corners=False)
    return value + (1 - mass) * coarse


def _push_pull(value: Tensor, mass: Tensor) -> Tensor:
    """Weighted values divided by their mass, with empty pixels taken from the next coarser level. [T, 1, H, W]"""
    mean = value / mass.clamp(min=1e-6)
    if min(mass.shape[-2:]) == 1 and max(mass.shape[-2:]) == 1:
        return torch.where(mass > 1e-6, mean, torch.zeros_like(mean))
    pooled = [functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (value, mass)]
    coarse = _push_pull(pooled[0], pooled[1])
    smooth = functional.interpolate(coarse, size=mass.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(mass > 1e-6, mean, smooth)
