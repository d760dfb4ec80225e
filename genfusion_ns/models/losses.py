"""Image and geometry losses of the surfel model.

Images are [H, W, C] in 0..1, as nerfstudio passes them. Reference for the terms and their constants: GenFusion
(CVPR 2025) section 3.3 and 2DGS (SIGGRAPH 2024) section 5.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_FEWEST_FOR_A_FIT = 16
_C1 = 0.01**2
_C2 = 0.03**2
_CHARBONNIER = 1e-3
"""Difference of colours below which the Charbonnier loss is quadratic."""
_FLAT = 1e-10
"""Variance of disparities over their squared mean below which they are one, up to rounding."""


def ssim_map(image: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"]) -> Float[Tensor, "H W C"]:
    """Structural similarity per pixel and channel (Wang et al. 2004, equation 13).

    The window is an 11x11 Gaussian of sigma 1.5, with zeros beyond the border. It is applied as two one-dimensional
    depthwise convolutions over all moments at once, which on a CPU is an order of magnitude cheaper than the dense
    two-dimensional window of the metric libraries.

    Args:
        image: prediction in 0..1; gradients flow through it.
        target: ground truth in 0..1, a constant.

    Returns:
        Similarity in -1..1.
    """
    channels = image.shape[-1]
    x, y = image.permute(2, 0, 1), target.permute(2, 0, 1)
    moments = _blur(torch.cat([x, y, x * x, y * y, x * y])[None])[0]
    mu_x, mu_y, xx, yy, xy = moments.split(channels)
    mu_xx, mu_yy, mu_xy = mu_x * mu_x, mu_y * mu_y, mu_x * mu_y
    luminance = (2 * mu_xy + _C1) / (mu_xx + mu_yy + _C1)
    structure = (2 * (xy - mu_xy) + _C2) / (xx - mu_xx + yy - mu_yy + _C2)
    return (luminance * structure).permute(1, 2, 0)


def photometric_loss(
    image: Float[Tensor, "H W 3"],
    target: Float[Tensor, "H W 3"],
    ssim_weight: float,
    weight: Float[Tensor, "H W 1"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - ssim_weight) * L1 + ssim_weight * (1 - SSIM) (3DGS equation 7), optionally weighted per pixel.

    Args:
        image: rendered colours.
        target: photo or repaired frame, in 0..1.
        ssim_weight: share of the structural term, 0..1.
        weight: trust per pixel in 0..1; the mean runs over all pixels, so that a frame of which little is trusted also
            pulls little.
    """
    if image.device.type == "cpu" and image.dtype == target.dtype == torch.float32 and not target.requires_grad:
        # The compiled kernels take a while to import, and only training on a CPU needs them.
        from genfusion_ns.models.photometric_kernels import PhotometricLoss

        return PhotometricLoss.apply(image, target, ssim_weight, weight)  # type: ignore[return-value]
    trust = 1.0 if weight is None else weight
    loss = (1 - ssim_weight) * ((image - target).abs() * trust).mean()
    return loss + ssim_weight * ((1 - ssim_map(image, target)) * trust).mean()


def charbonnier_loss(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], weight: Float[Tensor, "H W 1"] | None = None
) -> Float[Tensor, ""]:
    """Mean of sqrt(x^2 + 0.001^2) of the differences x (Charbonnier; Zip-NeRF and ReconFusion); arguments as above."""
    error = ((image - target).square() + _CHARBONNIER**2).sqrt()
    return (error if weight is None else error * weight).mean()


def block_means(
    images: list[Float[Tensor, "H W C"]], weight: Float[Tensor, "H W 1"], side: int
) -> tuple[list[Float[Tensor, "h w C"]], Float[Tensor, "h w 1"]]:
    """Means of images over blocks of `side` x `side` pixels, in which each pixel counts by its weight.

    What two images show in detail then makes no difference between them, only what they show on average.

    Args:
        images: of one size; gradients flow through them.
        weight: trust per pixel in 0..1, a constant.
        side: of a block in pixels; the last row and column of blocks take what is left.

    Returns:
        The images, 0 in blocks without any weight, and the mean weight of each block. h = ceil(H / side)
    """
    counted = torch.cat([weight, *(weight * image for image in images)], dim=-1).permute(2, 0, 1)[None]
    means = F.avg_pool2d(counted, side, ceil_mode=True, count_include_pad=False)[0].permute(1, 2, 0)
    trust, sums = means[..., :1], means[..., 1:]
    averages = sums / trust.clamp_min(1e-6)
    return list(averages.split([image.shape[-1] for image in images], dim=-1)), trust


def disparity_loss(
    depth: Float[Tensor, "H W 1"],
    target: Float[Tensor, "H W 1"],
    valid: Bool[Tensor, "H W 1"],
    weight: Float[Tensor, "H W 1"] | None = None,
    gradient_weight: float = 0.5,
) -> Float[Tensor, ""]:
    """Scale-and-shift-invariant loss in disparity (Ranftl et al. 2020, section 5), restricted to valid pixels.

    The rendered disparity is fitted to the target by weighted least squares; scale and shift are constants for the
    gradient, so that the fit cannot be improved by collapsing it. Differences of the residual between valid neighbours
    are penalised as in the original, on the image grid.

    Args:
        depth: rendered depth in scene units, gradients flow through it.
        target: relative disparity, any affine range.
        valid: pixels with finite rendered depth and enough coverage.
        weight: trust per pixel in 0..1.
        gradient_weight: share of the neighbour term.

    Returns:
        0 when fewer than 16 pixels are valid, which leaves no meaningful fit.
    """
    valid = valid & (depth > 0)
    trust = valid.to(depth.dtype) if weight is None else weight * valid
    disparity = torch.where(valid, 1.0 / torch.where(valid, depth, 1.0), 0.0)
    scale, shift = _affine_fit(disparity.detach(), target, trust)
    residual = (scale * disparity + shift - target) * valid
    total = trust.sum().clamp_min(1e-6)
    loss = (trust * residual.square()).sum() / total
    for axis in (0, 1):
        pair = torch.minimum(*_neighbours(trust, axis))
        first, second = _neighbours(residual, axis)
        loss = loss + gradient_weight * (pair * (second - first).abs()).sum() / total
    # Not an `if`: that would have every step wait for the GPU.
    return torch.where(valid.sum() < _FEWEST_FOR_A_FIT, 0.0, loss)


def normal_consistency_loss(
    normals: Float[Tensor, "H W 3"], depth_normals: Float[Tensor, "H W 3"], alpha: Float[Tensor, "H W 1"]
) -> Float[Tensor, ""]:
    """Mean of alpha minus the cosine between blended surfel normals and normals of the depth map (2DGS eq. 14).

    Args:
        normals: blended surfel normals in the world frame, weighted by opacity, not normalised.
        depth_normals: unit normals from the depth map, 0 where undefined.
        alpha: coverage in 0..1, a constant here.
    """
    cosine = (normals * depth_normals).sum(-1, keepdim=True)
    defined = (depth_normals.square().sum(-1, keepdim=True) > 0.5).to(alpha.dtype)
    return (defined * alpha.detach() * (alpha.detach() - cosine)).mean()


def _affine_fit(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = weight.sum().clamp_min(1e-8)
    mean_source, mean_target = (weight * source).sum() / total, (weight * target).sum() / total
    centred = source - mean_source
    variance = (weight * centred.square()).sum() / total
    covariance = (weight * centred * (target - mean_target)).sum() / total
    # A flat source has nothing to fit; what counts as flat may not depend on the unit of length.
    flat = variance <= _FLAT * mean_source.square()
    scale = torch.where(flat, 0.0, covariance / torch.where(flat, 1.0, variance))
    return scale, mean_target - scale * mean_source


def _neighbours(image: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    size = image.shape[axis]
    return image.narrow(axis, 0, size - 1), image.narrow(axis, 1, size - 1)


@lru_cache(maxsize=8)
def _gaussian_window(dtype: torch.dtype, device: torch.device) -> Tensor:
    offsets = torch.arange(_SSIM_WINDOW, dtype=dtype, device=device) - _SSIM_WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    return window / window.sum()


def _blur(planes: Tensor) -> Tensor:
    channels = planes.shape[1]
    window = _gaussian_window(planes.dtype, planes.device)
    rows = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    half = _SSIM_WINDOW // 2
    return F.conv2d(
        F.conv2d(planes, rows, padding=(half, 0), groups=channels), columns, padding=(0, half), groups=channels
    )
