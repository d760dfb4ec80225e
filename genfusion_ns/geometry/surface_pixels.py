"""Which pixels of a depth clip to turn into surface: on smooth ground, and each surface only once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_EDGE = 0.1
"""Relative difference of disparity between neighbouring pixels that belong to one smooth surface."""
_BEHIND = 1.1
"""A seed this many times deeper than a pixel's surface belongs to another surface behind it."""


def neighbours_agreeing(disparity: Float[Tensor, "T H W 1"], reach: int) -> Float[Tensor, "T H W 1"]:
    """Share of the (2 reach + 1)^2 pixels around each one that lie on the same smooth surface, itself included.

    Low on depth edges, in the blends that interpolation leaves there, and for stray values.

    Args:
        disparity: 1 / depth up to a factor; neighbours may differ by a tenth of it. [T, H, W, 1]
        reach: pixels to either side.

    Returns:
        0..1; pixels beyond the border repeat those at it. [T, H, W, 1]
    """
    height, width = disparity.shape[1:3]
    image = disparity.permute(0, 3, 1, 2)
    padded = F.pad(image, [reach] * 4, mode="replicate")
    side = 2 * reach + 1
    agreeing = torch.zeros_like(image)
    for row in range(side):
        for column in range(side):
            other = padded[..., row : row + height, column : column + width]
            agreeing += (other - image).abs() <= _EDGE * image.abs()
    return (agreeing / side**2).permute(0, 2, 3, 1)


def first_sightings(
    wanted: Bool[Tensor, "T H W 1"],
    depth: Float[Tensor, "T H W 1"],
    points: Float[Tensor, "T H W 3"],
    viewmats: Float[Tensor, "T 4 4"],
    Ks: Float[Tensor, "T 3 3"],
    *,
    stride: int,
) -> Bool[Tensor, "T H W"]:
    """A regular choice of pixels in which every surface of a clip is taken once, from the first frame that shows it.

    Args:
        wanted: pixels that may be chosen. [T, H, W, 1]
        depth: their z depth, scene units. [T, H, W, 1]
        points: their world points, see `depth_to_points`. [T, H, W, 3]
        viewmats: world-to-camera, OpenCV axes. [T, 4, 4]
        Ks: intrinsics in pixels of this raster. [T, 3, 3]
        stride: at most one pixel in stride x stride is chosen.

    Returns:
        [T, H, W]
    """
    offset = stride // 2
    chosen = torch.zeros_like(wanted[..., 0])
    seeds = points.new_zeros(0, 3)
    for t in range(len(wanted)):
        grid = (slice(offset, None, stride), slice(offset, None, stride))
        new = wanted[t, ..., 0][grid] & ~_taken(seeds, depth[t, ..., 0][grid], viewmats[t], Ks[t], stride)
        chosen[t][grid] = new
        seeds = torch.cat([seeds, points[t][chosen[t]]])
    return chosen


def _taken(
    seeds: Float[Tensor, "S 3"],
    depth: Float[Tensor, "h w"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    stride: int,
) -> Bool[Tensor, "h w"]:
    """Cells of stride x stride pixels that a seed falls into or beside, unless it lies behind the surface there."""
    height, width = depth.shape
    camera = seeds @ viewmat[:3, :3].T + viewmat[:3, 3]
    z = camera[:, 2]
    cell = (camera @ K.T)[:, :2] / z.clamp(min=1e-12)[:, None] / stride
    visible = (z > 0) & (cell >= 0).all(-1) & (cell[:, 0] < width) & (cell[:, 1] < height)
    column, row = cell[visible].long().unbind(-1)
    nearest = torch.full_like(depth, torch.inf).flatten()
    nearest = nearest.scatter_reduce(0, row * width + column, z[visible], "amin").view(1, 1, height, width)
    nearest = -F.max_pool2d(-nearest, 3, stride=1, padding=1)[0, 0]
    return nearest <= _BEHIND * depth
