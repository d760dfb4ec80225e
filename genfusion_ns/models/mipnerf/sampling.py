"""Where along a ray the network is asked, what part of space each sample stands for, and how samples are composed.

Conventions
-----------
A ray is ``origin + t * direction``; directions are not normalised (their part along the optical axis has length 1), so
that t is depth. ``t`` [..., S + 1] are the fence posts between S intervals. A pixel's cone has radius ``t * radius``.
All of it follows Barron et al., "Mip-NeRF", ICCV 2021, whose sections are named below.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

PADDING = 0.01
"""Added to weights before resampling, so that no part of a ray is forgotten (section 3.2)."""
_TINY = 1e-10


class Gaussians(NamedTuple):
    """Means [..., S, 3] and covariances of the parts of a ray: diagonals [..., S, 3], or matrices [..., S, 3, 3]."""

    means: Tensor
    covariances: Tensor


class Composed(NamedTuple):
    """Rays: colours [..., 3], accumulated opacity [..., 1], depth [..., 1] and the weight of each interval [..., S]."""

    rgb: Tensor
    accumulation: Tensor
    depth: Tensor
    weights: Tensor


def frustum_gaussians(
    t: Float[Tensor, "*rays posts"],
    origins: Float[Tensor, "*rays 3"],
    directions: Float[Tensor, "*rays 3"],
    radii: Float[Tensor, "*rays 1"],
    diagonal: bool = True,
) -> Gaussians:
    """Gaussians of the conical frustums between fence posts (section 3.1, equations 7 and 8 in their stable form).

    Args:
        t: fence posts, depth in scene units. [..., S + 1]
        origins: scene units. [..., 3]
        directions: not normalised. [..., 3]
        radii: of the cone at t = 1, scene units. [..., 1]
        diagonal: covariances as diagonals; False: as matrices.
    """
    start, end = t[..., :-1], t[..., 1:]
    middle, half = (start + end) / 2, (end - start) / 2
    square = 3 * middle**2 + half**2
    mean = middle + 2 * middle * half**2 / square
    along = half**2 / 3 - (4 / 15) * half**4 * (12 * middle**2 - half**2) / square**2
    across = radii**2 * (middle**2 / 4 + (5 / 12) * half**2 - (4 / 15) * half**4 / square)
    return _lifted(origins, directions, mean, along, across, diagonal)


def cylinder_gaussians(
    t: Float[Tensor, "*rays posts"],
    origins: Float[Tensor, "*rays 3"],
    directions: Float[Tensor, "*rays 3"],
    radii: Float[Tensor, "*rays 1"],
    diagonal: bool = True,
) -> Gaussians:
    """Gaussians of cylinders in place of cones, for rays that do not widen; arguments as in `frustum_gaussians`."""
    start, end = t[..., :-1], t[..., 1:]
    return _lifted(
        origins,
        directions,
        (start + end) / 2,
        (end - start) ** 2 / 12,
        (radii**2 / 4).expand_as(start),
        diagonal,
    )


def _lifted(
    origins: Tensor, directions: Tensor, mean: Tensor, along: Tensor, across: Tensor, diagonal: bool
) -> Gaussians:
    """From moments along and across the ray to space (equation 9, and 16 for the diagonal). [..., S, ...]"""
    means = origins[..., None, :] + mean[..., None] * directions[..., None, :]
    length = directions.square().sum(-1, keepdim=True).clamp_min(_TINY)
    if diagonal:
        outer, null = directions.square(), 1 - directions.square() / length
        return Gaussians(means, along[..., None] * outer[..., None, :] + across[..., None] * null[..., None, :])
    outer = directions[..., :, None] * directions[..., None, :]
    null = torch.eye(3, dtype=directions.dtype, device=directions.device) - outer / length[..., None]
    along, across = along[..., None, None], across[..., None, None]
    return Gaussians(means, along * outer[..., None, :, :] + across * null[..., None, :, :])


def contracted(gaussians: Gaussians, centre: Float[Tensor, "3"], radius: float | Tensor) -> Gaussians:
    """Gaussians of all of space brought into a ball of radius 2 (Barron et al., "Mip-NeRF 360", equations 10 and 11).

    The unit ball stays as it is; covariances, which must be matrices, pass through the linearised map.

    Args:
        gaussians: scene units.
        centre: of what is to be shown well, scene units.
        radius: what becomes the unit ball, scene units.
    """
    x = (gaussians.means - centre) / radius
    covariances = gaussians.covariances / radius**2
    square = x.square().sum(-1, keepdim=True).clamp_min(1.0)
    length = square.sqrt()
    # contract(x) = (2 - 1/|x|) x/|x|: scales by `across` around the centre and by 1/|x|^2 away from it.
    across = (2 * length - 1) / square
    unit = x / length
    away = (1 / square - across)[..., None] * unit[..., :, None] * unit[..., None, :]
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    jacobian = across[..., None] * eye + torch.where(square[..., None] > 1, away, torch.zeros_like(away))
    return Gaussians(across * x, jacobian @ covariances @ jacobian.transpose(-1, -2))


def fence_posts(
    near: Float[Tensor, "*rays 1"],
    far: Float[Tensor, "*rays 1"],
    intervals: int,
    disparity: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*rays posts"]:
    """Fence posts between near and far, evenly spaced in depth or in disparity. [..., intervals + 1]

    Args:
        near: depth, above 0 for `disparity`. [..., 1]
        far: depth. [..., 1]
        intervals: S.
        disparity: even in 1 / depth.
        generator: draws each post within its cell, as for training; None: none is moved.
    """
    s = torch.linspace(0, 1, intervals + 1, dtype=near.dtype, device=near.device)
    t = 1 / ((1 - s) / near + s / far) if disparity else near * (1 - s) + far * s
    if generator is None:
        return t
    middles = (t[..., 1:] + t[..., :-1]) / 2
    lower = torch.cat([t[..., :1], middles], -1)
    upper = torch.cat([middles, t[..., -1:]], -1)
    return lower + (upper - lower) * torch.rand(t.shape, generator=generator, dtype=t.dtype, device=t.device)


def widened(weights: Float[Tensor, "*rays S"], padding: float = PADDING) -> Float[Tensor, "*rays S"]:
    """Weights as the second pass samples by them: maximum of neighbours, their mean, padding (section 3.2)."""
    padded = torch.cat([weights[..., :1], weights, weights[..., -1:]], -1)
    largest = torch.maximum(padded[..., :-1], padded[..., 1:])
    return (largest[..., :-1] + largest[..., 1:]) / 2 + padding


def resampled(
    t: Float[Tensor, "*rays posts"],
    weights: Float[Tensor, "*rays S"],
    intervals: int | None = None,
    padding: float = PADDING,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*rays new_posts"]:
    """Fence posts of the second pass, where the first found something; no gradient goes through. [..., intervals + 1]

    Args:
        t: of the first pass. [..., S + 1]
        weights: of the first pass. [..., S]
        intervals: of the second pass; as many as of the first by default.
        padding: see `widened`.
        generator: as in `fence_posts`.
    """
    with torch.no_grad():
        count = weights.shape[-1] if intervals is None else intervals
        return inverse_cdf_samples(t, widened(weights, padding), count + 1, generator)


def inverse_cdf_samples(
    bins: Float[Tensor, "*rays posts"],
    weights: Float[Tensor, "*rays S"],
    count: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*rays count"]:
    """Sorted samples of a histogram: evenly spaced quantiles, or with a generator one drawn in each even cell.

    Args:
        bins: edges. [..., S + 1]
        weights: of the bins, not negative; a histogram that is all but empty counts as even. [..., S]
        count: samples per ray.
        generator: see above.
    """
    total = weights.sum(-1, keepdim=True)
    missing = (1e-5 - total).clamp_min(0)
    weights = weights + missing / weights.shape[-1]
    pdf = weights / (total + missing)
    cdf = pdf[..., :-1].cumsum(-1).clamp_max(1)
    zero = torch.zeros_like(cdf[..., :1])
    cdf = torch.cat([zero, cdf, torch.ones_like(zero)], -1)
    end = 1 - torch.finfo(bins.dtype).eps
    if generator is None:
        u = torch.linspace(0, end, count, dtype=bins.dtype, device=bins.device).expand(*cdf.shape[:-1], count)
    else:
        shape = (*cdf.shape[:-1], count)
        moved = torch.rand(shape, generator=generator, dtype=bins.dtype, device=bins.device) * (1 / count - 1e-6)
        u = (torch.arange(count, dtype=bins.dtype, device=bins.device) / count + moved).clamp_max(end)
    upper = torch.searchsorted(cdf, u.contiguous(), right=True).clamp(1, bins.shape[-1] - 1)
    low, high = (torch.gather(cdf, -1, index) for index in (upper - 1, upper))
    start, stop = (torch.gather(bins, -1, index) for index in (upper - 1, upper))
    share = ((u - low) / (high - low)).nan_to_num(0.0).clamp(0, 1)
    return start + share * (stop - start)


def compose(
    rgb: Float[Tensor, "*rays S 3"],
    density: Float[Tensor, "*rays S 1"],
    t: Float[Tensor, "*rays posts"],
    directions: Float[Tensor, "*rays 3"],
    background: Float[Tensor, "3"] | None = None,
    normalised_depth: bool = True,
) -> Composed:
    """Volume rendering of one pass (equations 2 and 3).

    Args:
        rgb: colours of the intervals. [..., S, 3]
        density: per scene unit. [..., S, 1]
        t: fence posts. [..., S + 1]
        directions: not normalised. [..., 3]
        background: colour behind what light is left; None: black. [3]
        normalised_depth: depth as the mean of what is hit, the nearest post where nothing is; False: weighted sum.
    """
    length = (t[..., 1:] - t[..., :-1]) * directions.norm(dim=-1, keepdim=True)
    optical = density[..., 0] * length
    before = torch.cat([torch.zeros_like(optical[..., :1]), optical[..., :-1].cumsum(-1)], -1)
    weights = (1 - torch.exp(-optical)) * torch.exp(-before)
    accumulation = weights.sum(-1, keepdim=True)
    depth = (weights * (t[..., 1:] + t[..., :-1]) / 2).sum(-1, keepdim=True)
    if normalised_depth:
        depth = (depth / accumulation).nan_to_num(torch.inf)
        depth = torch.minimum(torch.maximum(depth, t[..., :1]), t[..., -1:])
        depth = torch.where(accumulation > 0, depth, t[..., :1])
    colour = (weights[..., None] * rgb).sum(-2)
    if background is not None:
        colour = colour + (1 - accumulation) * background
    return Composed(colour, accumulation, depth, weights)


def activated(
    raw_rgb: Float[Tensor, "*rays S 3"],
    raw_density: Float[Tensor, "*rays S 1"],
    density_bias: float = -1.0,
    rgb_padding: float = 0.001,
) -> tuple[Float[Tensor, "*rays S 3"], Float[Tensor, "*rays S 1"]]:
    """Colours, a little beyond 0..1 so that its ends are reached, and densities of what the network returns."""
    rgb = torch.sigmoid(raw_rgb) * (1 + 2 * rgb_padding) - rgb_padding
    return rgb, functional.softplus(raw_density + density_bias)
