"""Images of a field: rays in equal steps, of which each counts as much as in training, whatever its length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.pixel_rays import meet_cube, pixel_rays
from genfusion_ns.priors.triposr.field import CHUNK, TriplaneField
from genfusion_ns.priors.triposr.occupancy import Occupancy

_WITHIN = 0.999
"""Share of the cube that is looked at; planes fade at its faces."""
_BLOCK = 16
"""Steps that a ray goes before it is asked whether anything behind can still be seen."""
_OPAQUE = 1e-4
"""Share of the light from behind below which a ray ends."""
_RAYS = 4096
"""Rays that are marched at once."""
_LEAST = 1e-10


@dataclass(frozen=True)
class RayImages:
    """What rays gather."""

    rgb: Float[Tensor, "*rays 3"]
    """Colours over white, 0..1."""
    alpha: Float[Tensor, "*rays 1"]
    """Opacity, 0..1."""
    depth: Float[Tensor, "*rays 1"]
    """Mean length along the ray to what it meets, times the opacity; scene units."""

    def shaped(self, *shape: int) -> RayImages:
        """The same rays in another order of axes."""
        return RayImages(*(value.view(*shape, -1) for value in (self.rgb, self.alpha, self.depth)))


def render_views(
    field: TriplaneField,
    c2w: Float[Tensor, "V rows 4"],
    K: Float[Tensor, "3 3"],
    size: tuple[int, int],
    samples: int,
    occupancy: Occupancy | None = None,
    chunk: int = CHUNK,
) -> RayImages:
    """Images of a field from cameras that share their intrinsics; arguments as in `pixel_rays` and `render_rays`."""
    origins, directions = pixel_rays(c2w, K, size)
    starts, along = (value.reshape(-1, 3).to(field.code.device) for value in (origins, directions))
    return render_rays(field, starts, along, samples, occupancy, chunk).shaped(len(c2w), size[1], size[0])


def render_rays(
    field: TriplaneField,
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    samples: int,
    occupancy: Occupancy | None = None,
    chunk: int = CHUNK,
) -> RayImages:
    """Colours that rays gather of a field.

    Args:
        field: of one object; gradients reach its planes and its decoder.
        origins, directions: of the rays; directions of length 1.
        samples: steps of each ray.
        occupancy: of the field: places that are empty are not asked for, and rays end where they see nothing more.
            None: every step of every ray that meets the cube.
        chunk: see `TriplaneField.query`.
    """
    near, far, hits = meet_cube(origins, directions, _WITHIN * field.radius)
    rgb, alpha, depth = (origins.new_zeros(len(origins), channels) for channels in (3, 1, 1))
    parts = []
    chosen = hits.nonzero()[:, 0]
    for rays in chosen.split(_RAYS):
        ends = (near[rays], far[rays])
        parts.append(_march(field, origins[rays], directions[rays], ends, samples, occupancy, chunk))
    if parts:
        gathered = [torch.cat(values) for values in zip(*parts, strict=True)]
        rgb, alpha, depth = (
            whole.index_put((chosen,), part) for whole, part in zip((rgb, alpha, depth), gathered, strict=True)
        )
    return RayImages(rgb + (1 - alpha), alpha, depth)


def _march(
    field: TriplaneField,
    origins: Tensor,
    directions: Tensor,
    ends: tuple[Tensor, Tensor],
    samples: int,
    occupancy: Occupancy | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour over black, opacity and depth of rays that meet the cube."""
    near, far = ends
    middles = (torch.arange(samples, device=near.device, dtype=near.dtype) + 0.5) / samples
    through = torch.ones_like(near)
    rgb, alpha, depth = (origins.new_zeros(len(origins), channels) for channels in (3, 1, 1))
    for block in middles.split(samples if occupancy is None else _BLOCK):
        along = near[:, None] + (far - near)[:, None] * block
        points = origins[:, None] + along[..., None] * directions[:, None]
        if occupancy is None:
            density, colours = _asked(field, points, None, chunk)
        else:
            wanted = occupancy.holds(points) & (through > _OPAQUE)[:, None]
            if not bool(wanted.any()):
                continue
            density, colours = _asked(field, points, wanted, chunk)
        opacity = 1 - torch.exp(-density / samples)
        behind = torch.cumprod(1 - opacity + _LEAST, dim=1)
        before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], dim=1)
        weights = opacity * before * through[:, None]
        rgb = rgb + (weights[..., None] * colours).sum(1)
        alpha = alpha + weights.sum(1, keepdim=True)
        depth = depth + (weights * along).sum(1, keepdim=True)
        through = through * behind[:, -1]
    return rgb, alpha, depth


def _asked(field: TriplaneField, points: Tensor, wanted: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
    """Density and colour at points; nothing where they are not wanted."""
    if wanted is None:
        found = field.query(points.reshape(-1, 3), chunk)
        return found.density.view(points.shape[:-1]), found.colours.view(points.shape)
    found = field.query(points[wanted], chunk)
    density, colours = points.new_zeros(points.shape[:-1]), torch.zeros_like(points)
    return density.masked_scatter(wanted, found.density), colours.masked_scatter(wanted[..., None], found.colours)
