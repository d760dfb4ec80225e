"""Points to start from behind everything, where photos show a backdrop: a white wall, the sky, houses across a street.

Structure from motion finds points on texture alone. What has none stays empty for hundreds of steps, until surfels of
other things have grown over it, far too near. How far away a backdrop is cannot be known, so it is put on a sphere
around everything: from there it can hide nothing, from any side. Small gaps between points (dark fur, a wall between
flowers) are part of what is near; put far away, they would be in the wrong place and cost more than they bring (1 dB on
a capture of 6 photos). So a backdrop is what is far from every point in the photo, and of one colour the gaps as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.data.points.photo_cells import photo_cells
from genfusion_ns.geometry.cameras import c2w_to_viewmat, camera_centers
from genfusion_ns.geometry.images import to_bytes

_CELLS = 48
"""Cells along the longer side of a photo; each that is empty gives one point."""
_LEAST_SIDE = 4
"""Pixels along a cell at least."""
_REACH = 2
"""Cells around one in which a seed point makes it count as covered."""
_FAR = 0.125
"""The same as a share of the longer side of the photo, where a backdrop has many colours."""
_ENCLOSED = 0.9
"""Share of the cameras and of the points that the sphere encloses at least; the rest may be strays."""
_RADIUS = 1.5
"""Radius of the sphere over that of what it encloses."""
_MOST = 20_000
"""Points at most; with more, neighbours are merged."""
_LEAST_SHARE = 0.2
"""Share of what is seen of the photos that a backdrop fills at least."""
_PLAIN, _MOSTLY, _OTHER = 0.1, 0.75, 0.3
"""Colours of a plain backdrop, 0..1: the largest difference in a channel from their median that a share of them may
have, that share, and the difference from which on a place is something else. A board in uneven light has 0.05, a hall
out of focus 0.13."""


@dataclass(frozen=True)
class Backdrop:
    """What photos show behind everything."""

    xyz: Float[Tensor, "B 3"]
    """Points on a sphere around the scene, scene units."""
    rgb: UInt8[Tensor, "B 3"]
    """Their colours, 0..255."""
    plain: Float[Tensor, "3"] | None
    """Its colour, 0..1, if it has but one."""


def find_backdrop(cameras: Cameras, photos: Sequence[Mapping[str, Any]], points: Float[Tensor, "M 3"]) -> Backdrop:
    """Points on a far sphere, in the colours of the photos, where these see no seed point.

    Where much of the photos is of one colour and without points, that is the backdrop, but for things of other colours
    in it; else it is what lies far from every point.

    Args:
        cameras: of the photos as they are given here: undistorted and cropped. [V]
        photos: of each view, see `photo_cells`. Hidden and transparent places stay empty.
        points: seed points in their frame, at least one. [M, 3]

    Returns:
        The points; directions that several photos see get their mean colour.
    """
    cells = [photo_cells(photo, _CELLS, _LEAST_SIDE) for photo in photos]
    near = _gather(cameras, cells, points)
    if len(near.rgb) and near.share >= _LEAST_SHARE:
        plain = near.rgb.median(dim=0).values
        difference = (near.rgb - plain).abs().amax(dim=-1)
        if float(difference.quantile(_MOSTLY)) <= _PLAIN:
            alike = difference < _OTHER
            return Backdrop(near.xyz[alike], to_bytes(near.rgb[alike]), plain)
    far = _gather(cameras, cells, points, _FAR)
    return Backdrop(far.xyz, to_bytes(far.rgb), None)


@dataclass(frozen=True)
class _Gathered:
    """Points of all photos on the sphere."""

    xyz: Float[Tensor, "B 3"]
    rgb: Float[Tensor, "B 3"]
    share: float
    """Of what is seen of the photos that they fill."""


def _gather(
    cameras: Cameras, photos: Sequence[tuple[Tensor, Tensor]], points: Float[Tensor, "M 3"], share: float = 0.0
) -> _Gathered:
    """What photos (see `photo_cells`) show without a seed point within `_REACH` cells and a share of their side."""
    viewmats = c2w_to_viewmat(cameras.camera_to_worlds).float()
    centers = camera_centers(viewmats)
    middle, radius = _sphere(centers, points)
    directions, colours, sizes, empties, cells = [points.new_zeros(0, 3)], [points.new_zeros(0, 3)], [], 0, 0
    for i, (colour, seen) in enumerate(photos):
        reach = max(_REACH, round(share * max(seen.shape)))
        empty = seen & ~_covered(points, viewmats[i], cameras, i, seen.shape, reach)
        rays = _rays(cameras, i, viewmats[i], empty)
        hit, direction = _on_sphere(centers[i] - middle, rays, radius)
        directions.append(direction)
        colours.append(colour[empty][hit])
        empties, cells = empties + int(empty.sum()), cells + int(seen.sum())
        sizes.append(float(cameras.width[i] / seen.shape[1] / cameras.fx[i]))
    cell = sorted(sizes)[len(sizes) // 2]
    unit, rgb = _merged(torch.cat(directions), torch.cat(colours), cell)
    return _Gathered(middle + radius * unit, rgb, empties / max(1, cells))


def directional_colours(
    cameras: Cameras, photos: Sequence[Mapping[str, Any]]
) -> tuple[Float[Tensor, "C 3"], Float[Tensor, "C 3"]]:
    """World directions (unit) in which photos look, and the mean colours that they see there, 0..1, cell by cell.

    Args:
        cameras, photos: see `find_backdrop`. Hidden and transparent places are left out.
    """
    viewmats = c2w_to_viewmat(cameras.camera_to_worlds).float()
    directions, colours = [viewmats.new_zeros(0, 3)], [viewmats.new_zeros(0, 3)]
    for i, photo in enumerate(photos):
        colour, seen = photo_cells(photo, _CELLS, _LEAST_SIDE)
        directions.append(_rays(cameras, i, viewmats[i], seen))
        colours.append(colour[seen])
    return torch.cat(directions), torch.cat(colours)


def _rays(cameras: Cameras, i: int, viewmat: Float[Tensor, "4 4"], chosen: Bool[Tensor, "r c"]) -> Float[Tensor, "C 3"]:
    """Unit directions in the world of the middles of the chosen cells of a photo."""
    rows, columns = chosen.nonzero().T
    u = (columns + 0.5) / chosen.shape[1] * cameras.width[i]
    v = (rows + 0.5) / chosen.shape[0] * cameras.height[i]
    x, y = (u - cameras.cx[i]) / cameras.fx[i], (v - cameras.cy[i]) / cameras.fy[i]
    return F.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1).float() @ viewmat[:3, :3], dim=-1)


def _sphere(centers: Float[Tensor, "V 3"], points: Float[Tensor, "M 3"]) -> tuple[Float[Tensor, "3"], float]:
    """Middle and radius, scene units, of a sphere around cameras and points."""
    middle = (centers.median(dim=0).values + points.median(dim=0).values) / 2
    reach = [
        float(distance.kthvalue(math.ceil(_ENCLOSED * len(distance))).values)
        for distance in ((centers - middle).norm(dim=-1), (points - middle).norm(dim=-1))
    ]
    return middle, _RADIUS * max(reach)


def _covered(
    points: Float[Tensor, "M 3"],
    viewmat: Float[Tensor, "4 4"],
    cameras: Cameras,
    view: int,
    shape: Sequence[int],
    reach: int,
) -> Bool[Tensor, "r c"]:
    """Cells with a point in them or within `reach` cells, also just outside the image."""
    x, y, z = (points @ viewmat[:3, :3].T + viewmat[:3, 3])[:, :, None].unbind(1)
    x, y, z = x[z > 0], y[z > 0], z[z > 0]
    rows, columns = shape
    column = ((cameras.fx[view] * x / z + cameras.cx[view]) / cameras.width[view] * columns).floor() + reach
    row = ((cameras.fy[view] * y / z + cameras.cy[view]) / cameras.height[view] * rows).floor() + reach
    near = (column >= 0) & (column < columns + 2 * reach) & (row >= 0) & (row < rows + 2 * reach)
    count = torch.zeros(rows + 2 * reach, columns + 2 * reach)
    count[row[near].long(), column[near].long()] = 1
    return F.max_pool2d(count[None, None], 2 * reach + 1, stride=1)[0, 0] > 0


def _on_sphere(
    origin: Float[Tensor, "3"], rays: Float[Tensor, "K 3"], radius: float
) -> tuple[Bool[Tensor, " K"], Float[Tensor, "H 3"]]:
    """Which rays leave a sphere around 0, and where, as unit vectors."""
    along = rays @ origin
    squared = along.square() - origin.square().sum() + radius**2
    distance = squared.clamp(min=0).sqrt() - along
    hit = (squared > 0) & (distance > 0)
    return hit, F.normalize(origin + distance[hit, None] * rays[hit], dim=-1)


def _merged(
    directions: Float[Tensor, "K 3"], colours: Float[Tensor, "K 3"], cell: float
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]:
    """One direction and its mean colour for all within about `cell` radians of each other; `_MOST` at most."""
    while True:
        places, index = torch.unique((directions / cell).round(), dim=0, return_inverse=True)
        if len(places) <= _MOST:
            break
        cell *= math.sqrt(2)
    count = torch.bincount(index, minlength=len(places)).clamp(min=1)[:, None]
    sums = [torch.zeros(len(places), 3).index_add_(0, index, values) for values in (directions, colours)]
    return F.normalize(sums[0], dim=-1), sums[1] / count
