"""CUDA rasteriser over ``gsplat.rasterization_2dgs``, for gsplat 1.4.x and 1.5.x.

gsplat blends the depth of surfel centres. The depth of the ray-surfel intersection comes from extra blended channels:
surfel i with centre depth m_i is hit at depth m_i / (1 + e_i(p)), where e_i is affine in the pixel p and 0 at the
projected centre (it is the relative change of disparity). With E the mean under the pixel's weights,

    depth(p) = E[m]^2 / E[m (1 + e(p))],

from the blended m and the three coefficients of m (1 + e). That is the expected depth exactly for one surfel, and for
any number of surfels that face the camera; elsewhere it is right to first order in e. On a garden scene of 50k
surfels at 120 x 67 pixels the median error is 0.14 % of the depth, against 0.8 % for blended centre depth. Towards
edge-on views e is faded out, as the contract takes centre depth where the low-pass disc wins.

What else differs from the other backends: median depth and distortion use centre depths; intersections nearer than the
near plane are not skipped; ``gradient_2dgs`` leaves out the part of the loss that goes through depth. gsplat 1.5 takes
3.33 standard deviations, per axis, as the extent of a surfel; in a scene of 2000 surfels alpha differed by up to 0.024
at their rims. gsplat 1.4 misses terms in the gradient of the low-pass centre: of surfels below a pixel the gradients of
quats and scales are 35 to 100 % off. It has no pose gradient: asking for it raises. (Measured with gsplat's kernels
compiled for the CPU; on an H200 gsplat 1.4 passes the tests against the reference.)

gsplat's low-pass disc is compiled in (``eps2d`` is accepted and unused), so the filter of ``pixel_variance`` is applied
to the surfels themselves, at their centres, before gsplat sees them. With a variance of 0.5, that of the disc, the disc
never wins over the enlarged surfel; with less it would, and surfels below a pixel would cover two to five times their
light. So no less is taken: a little blurrier than the other backends, which training makes up for. (Not measured on a
GPU.)

gsplat's own ``gradient_2dgs`` is a race on a GPU, where each thread reads a sum that others still add to (7 to 17 % off
in another legal order of lanes); here it is taken from the complete gradient of the ray transforms. gsplat 1.5 divides
by the number of surfels in host code, so a scene without surfels never reaches it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.geometry.cameras import camera_centers
from genfusion_ns.rendering.contract import MIN_COVERAGE, RasterSettings, SurfelRender, Surfels, strategy_info
from genfusion_ns.rendering.filters import filtered_surfels
from genfusion_ns.rendering.homographies import surfel_homographies

CHANNELS = 8
"""Colour, three coefficients of m (1 + e), zero, m: gsplat takes the last channel as z, and pads other counts."""
LOW_PASS_SIGMA = 0.5**0.5
"""Standard deviation of the low-pass disc in pixels (2DGS equation 11)."""
MIN_PIXEL_VARIANCE = LOW_PASS_SIGMA**2
"""Least variance of the filter in pixels squared, with which the low-pass disc never wins."""
MIN_DISPARITY_RATIO = 0.05
"""Floor of E[m (1 + e)] / E[m], where planes are extrapolated past their horizon."""


def render(
    surfels: Surfels,
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    background: Float[Tensor, "C 3"],
    settings: RasterSettings,
) -> SurfelRender:
    """Render float32 CUDA tensors; see `surfels.rasterize_surfels`.

    Cameras are rendered one by one: gsplat 1.4 mixes up the images of several.

    Raises:
        ValueError: tensors elsewhere than on a CUDA device, or a pose gradient asked of gsplat 1.4.
    """
    means = surfels.means
    if not means.is_cuda or means.dtype != torch.float32:
        raise ValueError(
            f"backend='gsplat' renders float32 tensors on a CUDA device, got {means.dtype} on {means.device}: "
            "use backend='auto', or move the scene."
        )
    if viewmats.requires_grad and _gsplat_version() < (1, 5):
        raise ValueError(
            "viewmats require a gradient, which the installed gsplat 1.4 does not compute: install gsplat 1.5, "
            "detach the poses, or render with backend='reference'."
        )
    return render_checked(surfels, viewmats, Ks, background, settings)


def render_checked(
    surfels: Surfels,
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    background: Float[Tensor, "C 3"],
    settings: RasterSettings,
) -> SurfelRender:
    """`render` without its checks: everything around gsplat's kernels runs on any device."""
    shape = (viewmats.shape[0], len(surfels))
    gradient_2dgs = surfels.means.new_zeros(*shape, 2).requires_grad_(torch.is_grad_enabled())
    images, radii = [], []
    for camera in range(shape[0]):
        image, radius = _render_one(
            surfels, viewmats[camera], Ks[camera], settings, gradient_2dgs=gradient_2dgs, camera=camera
        )
        images.append(image)
        radii.append(radius)
    rgb, normals, depth, alpha, distortion, median = torch.stack(images).split([3, 3, 1, 1, 1, 1], -1)
    return SurfelRender(
        rgb=rgb + (1 - alpha) * background[:, None, None],
        alpha=alpha,
        depth=depth,
        median_depth=median,
        normals=normals,
        distortion=distortion,
        info=strategy_info(gradient_2dgs, torch.stack(radii), settings),
    )


def seen_through_pixels(
    surfels: Surfels, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], settings: RasterSettings
) -> Surfels:
    """What gsplat is given in place of the surfels, for one camera: the same without a filter."""
    if settings.pixel_variance is None:
        return surfels
    return filtered_surfels(surfels, viewmat, K, max(settings.pixel_variance, MIN_PIXEL_VARIANCE))


def pack_channels(
    surfels: Surfels,
    rgb: Float[Tensor, "N 3"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    settings: RasterSettings,
) -> Float[Tensor, "N 8"]:
    """What gsplat blends for one camera; see `CHANNELS`. Surfels behind the near plane get harmless numbers."""
    homographies, _, means = surfel_homographies(surfels, viewmat, K)
    in_front = means[:, 2] >= settings.near
    harmless = torch.eye(3, dtype=homographies.dtype, device=homographies.device)
    homographies = torch.where(in_front[:, None, None], homographies, harmless)
    slope, centers = _disparity_slope(homographies)
    # Half a size is a Python number: a tensor made of both would be an upload that the GPU waits for.
    to_middle = torch.stack([settings.width / 2 - centers[:, 0], settings.height / 2 - centers[:, 1]], -1)
    offset = 1 + (slope * to_middle).sum(-1, keepdim=True)
    depth = homographies[:, 2, 2:]
    return torch.cat([rgb, depth * offset, depth * slope, torch.zeros_like(depth), depth], -1)


def expected_depth(
    blended: Float[Tensor, "H W 8"], alpha: Float[Tensor, "H W 1"], settings: RasterSettings
) -> Float[Tensor, "H W 1"]:
    """Expected depth of an image of blended channels; see the module docstring."""
    z = blended[..., 7:]
    if settings.depth_at == "centre":
        return z / alpha.clamp_min(MIN_COVERAGE)
    y = torch.arange(settings.height, device=alpha.device).to(alpha.dtype) + 0.5 - settings.height / 2
    x = torch.arange(settings.width, device=alpha.device).to(alpha.dtype) + 0.5 - settings.width / 2
    tilted = (blended[..., 3] + blended[..., 4] * x + blended[..., 5] * y[:, None])[..., None]
    floor = (MIN_DISPARITY_RATIO * z).clamp_min(MIN_COVERAGE)
    return z / alpha.clamp_min(MIN_COVERAGE) * (z / torch.maximum(tilted, floor))


def _disparity_slope(homographies: Float[Tensor, "N 3 3"]) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    """Slope per pixel of the relative disparity 1 + e, faded out towards edge-on views, and projected centres.

    On the ellipse the disparity of one standard deviation changes by about |(M20, M21)| / M22; a slope that exceeds
    this over one standard deviation of the low-pass disc belongs to a surfel that the disc hides.
    """
    u, v, w = homographies.unbind(-2)
    depth = w[:, 2:]
    centers = torch.cat([u[:, 2:], v[:, 2:]], -1) / depth
    a = centers[:, :1] * w[:, :2] - u[:, :2]
    b = centers[:, 1:] * w[:, :2] - v[:, :2]
    determinant = a[:, :1] * b[:, 1:] - a[:, 1:] * b[:, :1]
    # e is 0 at the centre: w . inv([a; b]) in the tangent plane, as a row vector over pixels
    numerator = torch.cat([w[:, :1] * b[:, 1:] - w[:, 1:2] * b[:, :1], a[:, :1] * w[:, 1:2] - a[:, 1:] * w[:, :1]], -1)
    within = (w[:, :2].detach().norm(dim=-1, keepdim=True) / depth.detach()) * determinant.detach().abs()
    across = LOW_PASS_SIGMA * numerator.detach().norm(dim=-1, keepdim=True)
    fade = torch.where(across > within, within / across.clamp_min(1e-30), 1.0)
    visible = determinant.abs() > 1e-20
    slope = torch.where(visible, numerator / torch.where(visible, determinant, 1.0), 0.0)
    return slope * fade, centers


def _render_one(
    surfels: Surfels,
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    settings: RasterSettings,
    *,
    gradient_2dgs: Float[Tensor, "C N 2"],
    camera: int,
) -> tuple[Float[Tensor, "H W 10"], Tensor]:
    if len(surfels) == 0:
        return _render_nothing(surfels, settings)
    from gsplat import rasterization_2dgs

    surfels = seen_through_pixels(surfels, viewmat, K, settings)
    channels = pack_channels(surfels, _colors(surfels, viewmat, settings), viewmat, K, settings)
    scales = torch.cat([surfels.scales[:, :2], torch.ones_like(surfels.scales[:, :1])], -1)
    if gradient_2dgs.requires_grad and not scales.requires_grad:
        scales.requires_grad_()  # the ray transforms then have a gradient also where the surfels need none
    blended, alpha, normals, _, distortion, median, meta = rasterization_2dgs(
        surfels.means,
        surfels.quats,
        scales,
        surfels.opacities,
        channels[None],
        viewmat[None],
        K[None],
        settings.width,
        settings.height,
        near_plane=settings.near,
        far_plane=settings.far,
    )
    radii = meta["radii"][0]
    # gsplat 1.5 keeps one radius per axis, and both are 0 or neither
    radii = (radii if radii.ndim == 1 else radii.amax(-1)).to(torch.int32)
    if gradient_2dgs.requires_grad:
        transforms: Tensor = meta["ray_transforms"]
        depths = transforms.detach()[0, :, 2, 2:]
        transforms.register_hook(lambda gradient: _keep_gradient(gradient_2dgs, camera, radii, depths, gradient[0]))
    depth = expected_depth(blended[0], alpha[0], settings)
    image = torch.cat([blended[0, ..., :3], normals[0], depth, alpha[0], distortion[0], median[0]], -1)
    return image, radii


def _render_nothing(surfels: Surfels, settings: RasterSettings) -> tuple[Float[Tensor, "H W 10"], Tensor]:
    """What no surfel shows; part of the graph, so that every tensor gets a gradient, an empty one."""
    parts = (surfels.means, surfels.quats, surfels.scales, surfels.opacities, surfels.features_dc)
    nothing = torch.stack([part.sum() for part in parts]).sum()
    image = nothing.expand(settings.height, settings.width, 10)
    return image, torch.zeros(0, dtype=torch.int32, device=image.device)


def _colors(surfels: Surfels, viewmat: Tensor, settings: RasterSettings) -> Float[Tensor, "N 3"]:
    if settings.sh_degree is None:
        return surfels.features_dc
    from gsplat import spherical_harmonics

    coefficients = surfels.features_dc[:, None]
    if surfels.features_rest is not None:
        coefficients = torch.cat([coefficients, surfels.features_rest], 1)
    directions = F.normalize(surfels.means - camera_centers(viewmat), dim=-1)
    return (spherical_harmonics(settings.sh_degree, directions, coefficients) + 0.5).clamp_min(0.0)


def _keep_gradient(
    gradient_2dgs: Float[Tensor, "C N 2"],
    camera: int,
    radii: Tensor,
    depths: Float[Tensor, "N 1"],
    gradient: Float[Tensor, "N 3 3"],
) -> None:
    """Add the raster gradient of the projected centres of one camera, from that of the ray transforms M.

    M[:2, 2] is the centre times M[2, 2], and gsplat multiplies by that once more. What is culled has no defined M.
    """
    if gradient_2dgs.grad is None:
        gradient_2dgs.grad = torch.zeros_like(gradient_2dgs)
    gradient_2dgs.grad[camera] += torch.where(radii[:, None] > 0, gradient[:, :2, 2] * depths, 0.0)


def _gsplat_version() -> tuple[int, int]:
    import gsplat

    major, minor = gsplat.__version__.split(".")[:2]
    return int(major), int(minor)
