"""The depth distortion of GenFusion's rasteriser, from blended disparities; no backend has to know of it.

2DGS leaves open which depth equation 13 compares and how. The rasterisers of 2DGS and GenFusion take squares of
m = far / (far - near) (1 - near / z); ours, as gsplat, takes differences of z itself (`SurfelRender.distortion`). Their
form is, over the surfels of a pixel with weights w and disparities u = 1 / z,

    sum_{j<i} w_i w_j (m_i - m_j)^2 = (near far / (far - near))^2 (sum w  sum w u^2 - (sum w u)^2),

and so needs no order. The disparity of a plane is affine in the pixel, so that u and its square are blended as
coefficients, three and six per surfel, like colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.rendering.backends.gsplat import pack_channels
from genfusion_ns.rendering.contract import RasterSettings, SurfelRender, Surfels

_NEAR, _FAR = 0.2, 100.0
"""Planes of GenFusion's rasteriser, in units of its world, in which the middle camera is 1 from the origin."""
_STEEPEST = 16.0
"""Change of relative disparity across the image up to which a surfel is a plane; beyond it is almost edge-on, and its
squares would drown what others say in rounding."""


def published_distortion(
    surfels: Surfels,
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    settings: RasterSettings,
    unit: float,
    draw: Callable[[Surfels], SurfelRender],
) -> Float[Tensor, "H W 1"]:
    """Distortion as GenFusion weighs it (``--lambda_dist``), without unit; gradients reach all that a render's do.

    Depth is that of the intersection unless the settings say centre.

    Args:
        surfels: the scene; its colours do not count.
        viewmat: world-to-camera, OpenCV axes.
        K: intrinsics in pixels.
        settings: of the render.
        unit: what stands for 1 in GenFusion's world, scene units.
        draw: renders surfels with plain colours (no spherical harmonics) from this camera, on black.
    """
    packed = pack_channels(surfels, torch.zeros_like(surfels.means), viewmat, K, settings)
    depth = packed[:, 7:]
    rise, slope = packed[:, 3:4] / depth - 1, packed[:, 4:6] / depth
    across = (settings.width**2 + settings.height**2) ** 0.5
    steepness = slope.detach().norm(dim=-1, keepdim=True) * across
    flatter = (_STEEPEST / steepness.clamp_min(_STEEPEST)) if settings.depth_at == "intersection" else 0.0
    a, b, c = ((unit / depth) * torch.cat([1 + flatter * rise, flatter * slope * across], dim=-1)).split(1, dim=-1)
    coefficients = [torch.cat(three, dim=-1) for three in ((a, b, c), (a * a, a * b, a * c), (b * b, b * c, c * c))]
    renders = [draw(replace(surfels, features_dc=three, features_rest=None)) for three in coefficients]
    mean, square_a, square_b = (render.rgb[0] for render in renders)
    x, y = _pixels(settings, like=mean)
    x, y = x / across, y / across
    first = mean[..., :1] + mean[..., 1:2] * x + mean[..., 2:] * y
    second = square_a[..., :1] + 2 * (square_a[..., 1:2] * x + square_a[..., 2:] * y)
    second = second + square_b[..., :1] * x * x + 2 * square_b[..., 1:2] * x * y + square_b[..., 2:] * y * y
    return (_NEAR * _FAR / (_FAR - _NEAR)) ** 2 * (renders[0].alpha[0] * second - first * first)


def _pixels(settings: RasterSettings, like: Tensor) -> tuple[Float[Tensor, "1 W 1"], Float[Tensor, "H 1 1"]]:
    """Pixel centres, counted from the middle of the image."""
    x, y = (
        torch.arange(side, device=like.device).to(like.dtype) + 0.5 - side / 2
        for side in (settings.width, settings.height)
    )
    return x[None, :, None], y[:, None, None]
