"""Slow, plain torch rasteriser in any float type: the definition that the fast backends are tested against.

It follows the formulas as written: a surfel's homography M maps its tangent-plane coordinates (s, t, 1) to homogeneous
pixels (2DGS equation 5), a pixel's ray meets the surfel where two planes through the ray and the surfel's plane do
(equations 8-10), and everything else is a dense [pixels, surfels] table per 16x16 tile with surfels sorted by depth.
Tables are recomputed in backward, so memory stays that of one tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genfusion_ns.geometry.cameras import camera_centers
from genfusion_ns.rendering.contract import MIN_COVERAGE, RasterSettings, SurfelRender, Surfels, strategy_info
from genfusion_ns.rendering.homographies import surfel_homographies
from genfusion_ns.rendering.spherical_harmonics import sh_colors

TILE = 16
EXTENT_SIGMAS = 3.0
"""Standard deviations within which a surfel touches tiles (gsplat 1.4; 1.5 takes 3.33)."""
MIN_ALPHA = 1.0 / 255.0
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4


@dataclass(frozen=True)
class _Projection:
    """The visible surfels of one camera, nearest first."""

    homographies: Float[Tensor, "V 3 3"]
    centers2d: Float[Tensor, "V 2"]
    opacities: Float[Tensor, " V"]
    features: Float[Tensor, "V 6"]
    """rgb, then world normal."""
    tile_min: Int[Tensor, "V 2"]
    tile_max: Int[Tensor, "V 2"]

    def select(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.homographies[index], self.centers2d[index], self.opacities[index], self.features[index]


def render(
    surfels: Surfels,
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    background: Float[Tensor, "C 3"],
    settings: RasterSettings,
) -> SurfelRender:
    """Render on any device and float type; see `surfels.rasterize_surfels`."""
    c, n = viewmats.shape[0], len(surfels)
    gradient_2dgs = surfels.means.new_zeros(c, n, 2).requires_grad_(torch.is_grad_enabled())
    images, radii = [], []
    for camera in range(c):
        projection, radius = _project(surfels, viewmats[camera], Ks[camera], gradient_2dgs[camera], settings)
        images.append(_rasterize(projection, settings))
        radii.append(radius)
    stacked = torch.stack(images)
    rgb, normals, depth, alpha, distortion, median = stacked.split([3, 3, 1, 1, 1, 1], -1)
    return SurfelRender(
        rgb=rgb + (1 - alpha) * background[:, None, None],
        alpha=alpha,
        depth=depth / alpha.clamp_min(MIN_COVERAGE),
        median_depth=median,
        normals=normals,
        distortion=distortion,
        info=strategy_info(gradient_2dgs, torch.stack(radii), settings),
    )


def _project(
    surfels: Surfels, viewmat: Tensor, K: Tensor, gradient_2dgs: Float[Tensor, "N 2"], settings: RasterSettings
) -> tuple[_Projection, Int[Tensor, " N"]]:
    homographies, normals, means = surfel_homographies(surfels, viewmat, K)
    centers2d, half_extent, finite = _one_sigma_box(homographies)
    blur = math.sqrt(settings.pixel_variance or 0.0)
    radius = torch.where(finite, (EXTENT_SIGMAS * (half_extent.detach() + blur)).ceil(), 0.0)
    size = radius.new_tensor([settings.width, settings.height])
    inside = ((centers2d + radius[:, None] > 0) & (centers2d - radius[:, None] < size)).all(-1)
    visible = finite & inside & (means[:, 2] >= settings.near) & (means[:, 2] <= settings.far)
    order = means[:, 2].detach().argsort(stable=True)
    order = order[visible[order]]
    if settings.sh_degree is None:
        rgb = surfels.features_dc[order]
    else:
        directions = F.normalize(surfels.means[order] - camera_centers(viewmat), dim=-1)
        rest = None if surfels.features_rest is None else surfels.features_rest[order]
        rgb = sh_colors(surfels.features_dc[order], rest, directions, settings.sh_degree)
    # gradient_2dgs is zero: it only picks up the raster stage's gradient of M[0, 2] and M[1, 2], times M[2, 2]
    shift = F.pad(gradient_2dgs * homographies[:, 2, 2:].detach(), (0, 1))[:, :, None]
    tiles = size.div(TILE).ceil()
    low = ((centers2d.detach() - radius[:, None]) / TILE).floor()[order]
    high = ((centers2d.detach() + radius[:, None]) / TILE).ceil()[order]
    projection = _Projection(
        homographies=(homographies + F.pad(shift, (2, 0)))[order],
        centers2d=centers2d[order],
        opacities=surfels.opacities[order],
        features=torch.cat([rgb, normals[order]], -1),
        tile_min=low.clamp_min(0).minimum(tiles).long(),
        tile_max=high.clamp_min(0).minimum(tiles).long(),
    )
    shown = torch.where(visible, radius, 0.0).clamp_max(2**31 - 129)
    return projection, shown.to(torch.int32)


def _one_sigma_box(
    homographies: Float[Tensor, "N 3 3"],
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Centre and larger half-extent of the box around the one-sigma ellipse (2DGS, Sigg et al. 2006), and validity."""
    signs = homographies.new_tensor([1.0, 1.0, -1.0])
    uv, w = homographies[:, :2], homographies[:, 2]
    denominator = (signs * w * w).sum(-1)
    valid = denominator != 0
    weights = signs / torch.where(valid, denominator, 1.0)[:, None]
    centers2d = (weights[:, None] * uv * w[:, None]).sum(-1)
    squared = centers2d**2 - (weights[:, None] * uv * uv).sum(-1)
    half = squared.detach().amax(-1).clamp_min(1e-4).sqrt()
    return centers2d, half, valid & torch.isfinite(half) & torch.isfinite(centers2d.detach()).all(-1)


def _rasterize(projection: _Projection, settings: RasterSettings) -> Float[Tensor, "H W 10"]:
    columns, rows = math.ceil(settings.width / TILE), math.ceil(settings.height / TILE)
    like = projection.opacities
    tensors = (projection.homographies, projection.centers2d, like, projection.features)
    grad = any(tensor.requires_grad for tensor in tensors)
    bands = []
    for row in range(rows):
        in_row = ((projection.tile_min[:, 1] <= row) & (projection.tile_max[:, 1] > row)).nonzero()[:, 0]
        band = []
        for column in range(columns):
            x = torch.arange(column * TILE, min((column + 1) * TILE, settings.width)).to(like) + 0.5
            y = torch.arange(row * TILE, min((row + 1) * TILE, settings.height)).to(like) + 0.5
            pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
            here = (projection.tile_min[in_row, 0] <= column) & (projection.tile_max[in_row, 0] > column)
            arguments = (pixels, *projection.select(in_row[here]), settings)
            tile: Any = checkpoint(_blend, *arguments, use_reentrant=False) if grad else _blend(*arguments)
            band.append(tile.reshape(len(y), len(x), 10))
        bands.append(torch.cat(band, 1))
    return torch.cat(bands, 0)


def _blend(
    pixels: Float[Tensor, "P 2"],
    homographies: Float[Tensor, "V 3 3"],
    centers2d: Float[Tensor, "V 2"],
    opacities: Float[Tensor, " V"],
    features: Float[Tensor, "V 6"],
    settings: RasterSettings,
) -> Float[Tensor, "P 10"]:
    """Pixels of one tile: rgb, normal, sum(w z), alpha, distortion, median depth, front to back.

    Blending is 2DGS equation 12, distortion equation 13.
    """
    if len(opacities) == 0:
        # still part of the graph, so that every tensor gets a gradient of zero
        return pixels.new_zeros(len(pixels), 10) + 0 * (features.sum() + homographies.sum())
    if settings.pixel_variance is None:
        exponent, z, valid = _evaluate(pixels, homographies, centers2d, settings)
    else:
        exponent, z, valid = _evaluate_filtered(pixels, homographies, settings, settings.pixel_variance)
    alpha = (opacities * torch.exp(-exponent)).clamp_max(MAX_ALPHA)
    alpha = torch.where(valid & (alpha >= MIN_ALPHA), alpha, 0.0)
    alpha = torch.where((1 - alpha.detach()).cumprod(-1) > MIN_TRANSMITTANCE, alpha, 0.0)
    after = (1 - alpha).cumprod(-1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], -1)
    weights = alpha * before
    weighted_z = weights * z
    behind = z * (1 - before) - (weighted_z.cumsum(-1) - weighted_z)
    hit = (weights.detach() > 0) & (before.detach() > 0.5)
    last = (hit * torch.arange(1, len(opacities) + 1, device=hit.device)).amax(-1, keepdim=True)
    median = torch.where(last > 0, z.gather(1, (last - 1).clamp_min(0)), 0.0)
    total = [weighted_z.sum(-1, keepdim=True), 1 - after[:, -1:], 2 * (weights * behind).sum(-1, keepdim=True)]
    return torch.cat([weights @ features, *total, median], -1)


def _evaluate(
    pixels: Float[Tensor, "P 2"],
    homographies: Float[Tensor, "V 3 3"],
    centers2d: Float[Tensor, "V 2"],
    settings: RasterSettings,
) -> tuple[Float[Tensor, "P V"], Float[Tensor, "P V"], Bool[Tensor, "P V"]]:
    """Falloff exponent, depth and validity of every pixel-surfel pair (2DGS equations 8-11)."""
    u, v, w = homographies.unbind(-2)
    hit = torch.linalg.cross(pixels[:, None, :1] * w - u, pixels[:, None, 1:] * w - v)
    parallel = hit[..., 2] == 0
    s = hit[..., :2] / torch.where(parallel, 1.0, hit[..., 2])[..., None]
    on_plane = torch.where(parallel, torch.inf, (s.detach() * s.detach()).sum(-1))
    offset = centers2d - pixels[:, None]
    low_pass = 2 * (offset * offset).sum(-1)
    meets = on_plane <= low_pass
    exponent = 0.5 * torch.where(meets, (s * s).sum(-1), low_pass)
    center_z = w[:, 2].expand_as(exponent)
    if settings.depth_at == "centre":
        return exponent, center_z, torch.ones_like(meets)
    z = torch.where(meets, (s * w[:, :2]).sum(-1) + w[:, 2], center_z)
    return exponent, z, z >= settings.near


def _evaluate_filtered(
    pixels: Float[Tensor, "P 2"], homographies: Float[Tensor, "V 3 3"], settings: RasterSettings, variance: float
) -> tuple[Float[Tensor, "P V"], Float[Tensor, "P V"], Bool[Tensor, "P V"]]:
    """`_evaluate` with the object-space mip filter (AA-2DGS, 2025) in place of the low-pass disc.

    The exponent includes half the logarithm of |V|. A pair whose ray lies in the surfel's plane is no valid one.
    """
    u, v, w = homographies.unbind(-2)
    rows = torch.stack([pixels[:, None, :1] * w - u, pixels[:, None, 1:] * w - v], -2)
    hit = torch.linalg.cross(rows[..., 0, :], rows[..., 1, :])
    meets = hit[..., 2] != 0
    below = torch.where(meets, hit[..., 2], 1.0)
    s = hit[..., :2] / below[..., None]
    z = (s * w[:, :2]).sum(-1) + w[:, 2]
    # d(x, y) / d(s, t) is minus the first two columns of the rows, over z: this is its inverse
    (a, b), (c, d) = (row.unbind(-1) for row in rows[..., :2].unbind(-2))
    jacobian = torch.stack([-d, b, c, -a], -1).unflatten(-1, (2, 2)) * (z / below)[..., None, None]
    square = (s * s).sum(-1)
    spread = torch.ones_like(square)
    if variance > 0:
        crossed = s[..., :1] * jacobian[..., 1, :] - s[..., 1:] * jacobian[..., 0, :]
        determinant = jacobian[..., 0, 0] * jacobian[..., 1, 1] - jacobian[..., 0, 1] * jacobian[..., 1, 0]
        spread = 1 + variance * (jacobian * jacobian).sum((-2, -1)) + (variance * determinant) ** 2
        square = (square + variance * (crossed * crossed).sum(-1)) / spread
    exponent = 0.5 * square + 0.5 * spread.log()
    if settings.depth_at == "centre":
        return exponent, w[:, 2].expand_as(exponent), meets
    return exponent, z, meets & (z >= settings.near)
