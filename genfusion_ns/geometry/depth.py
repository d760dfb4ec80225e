"""Depth maps: disparity code, scale-and-shift alignment, back-projection and normals.

Depth is the z coordinate in the OpenCV camera frame in scene units, 0 where nothing is known; disparity is 1 / depth.
Everything is pure torch, batched over leading dimensions, on any device, in the dtype of its input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.seeds import seeded_generator

_SAMPLES = 4096
"""Pixels per image that vote in the robust start and give the medians."""
_HYPOTHESES = 96
"""Lines tried by the robust start: with half of the pixels wrong, 1 - (1 - 0.5^2)^96 = 1 - 1e-12 that one is clean."""
_ITERATIONS = 12
_TUKEY = 4.685
"""Biweight constant with 95 % efficiency under Gaussian noise, in standard deviations."""


@dataclass(frozen=True)
class DisparityCode:
    """Depth of one clip as 0..1 disparity, with the range that leads back to depth."""

    disparity: Float[Tensor, "*shape 1"]
    """(1 / depth - minimum) / (maximum - minimum), clamped to 0..1; 1 is nearest, 0 is farthest or invalid."""
    minimum: Float[Tensor, ""]
    """Smallest coded 1 / depth, in 1 / scene units; 0 where the clip has no valid pixel."""
    maximum: Float[Tensor, ""]
    """Largest coded 1 / depth, in 1 / scene units."""

    def decode(self, disparity: Float[Tensor, "*other 1"]) -> Float[Tensor, "*other 1"]:
        """Depth in scene units of 0..1 disparities under this code; 0 where the code is empty (no depth known)."""
        inverse = self.minimum + disparity * (self.maximum - self.minimum)
        known = inverse > 0
        return torch.where(known, 1.0 / torch.where(known, inverse, 1.0), 0.0)


def encode_disparity(
    depth: Float[Tensor, "*shape 1"], valid: Bool[Tensor, "*shape 1"] | None = None, percentile: float = 0.0
) -> DisparityCode:
    """Disparity of a whole clip, min-max normalised over its valid pixels (the depth channel of GenFusion clips).

    Args:
        depth: z depth of all frames, scene units. [..., 1]
        valid: pixels to trust; those that are not finite and positive are dropped in any case. [..., 1]
        percentile: share of the valid pixels, in percent (0..50, exclusive), that may saturate at either end, so that
            one floater before the lens does not compress the range of everything behind it.

    Returns:
        The code; constant clips are coded 0 and decode to their depth, clips without valid pixels decode to 0.

    Raises:
        ValueError: percentile out of range.

    >>> code = encode_disparity(torch.tensor([[1.0], [2.0], [0.0]]))
    >>> code.disparity.flatten(), code.decode(torch.tensor([[1.0], [0.0]])).flatten()
    (tensor([1., 0., 0.]), tensor([1., 2.]))
    """
    if not 0.0 <= percentile < 50.0:
        raise ValueError(f"percentile is {percentile}; it must be at least 0 and below 50 (percent of the pixels)")
    usable = torch.isfinite(depth) & (depth > torch.finfo(depth.dtype).tiny)  # below it 1 / depth is infinite
    if valid is not None:
        usable = usable & valid
    inverse = 1.0 / torch.where(usable, depth, 1.0)
    values = inverse[usable]
    if values.numel() == 0:
        empty = depth.new_zeros(())
        return DisparityCode(torch.zeros_like(depth), empty, empty)
    # Rank selection instead of torch.quantile, which refuses clips of more than 2^24 pixels.
    tail = int(values.numel() * percentile / 100.0)
    minimum = values.min() if tail == 0 else values.kthvalue(tail + 1).values
    maximum = values.max() if tail == 0 else values.kthvalue(values.numel() - tail).values
    span = maximum - minimum
    coded = (inverse - minimum) / torch.where(span > 0, span, 1.0)
    return DisparityCode(torch.where(usable, coded.clamp(0.0, 1.0), 0.0), minimum, maximum)


@dataclass(frozen=True)
class ScaleShift:
    """One affine map ``scale * source + shift`` per batch entry, and how much of the data it explains."""

    scale: Float[Tensor, " batch"]
    """Not forced to be positive: a value <= 0 says that source and target do not agree, whatever the fit."""
    shift: Float[Tensor, " batch"]
    inlier_fraction: Float[Tensor, " batch"]
    """Share of the masked pixels within the tolerance of the fit, 0..1; 0 without any masked pixel."""

    def apply(self, source: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The aligned source, in target units. [B, ...]"""
        shape = (-1,) + (1,) * (source.dim() - 1)
        return self.scale.view(shape) * source + self.shift.view(shape)


def align_scale_shift(
    source: Float[Tensor, "batch ..."],
    target: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."],
    *,
    robust: bool = True,
    tolerance: float = 0.1,
    generator: torch.Generator | None = None,
) -> ScaleShift:
    """Scale and shift that bring `source` closest to `target` over `mask`, one pair per entry; use on disparities.

    The robust fit starts from the least median of residuals among lines through random pixel pairs (Rousseeuw 1984)
    and refines it with Tukey-weighted least squares (Beaton and Tukey 1974); it stands nearly half of the pixels being
    wrong. Gradients flow through the last (weighted) least squares, not through the weights.

    Args:
        source: relative disparity. [B, ...]; to fit a whole clip with one pair, pass it as [1, T, H, W, 1].
        target: disparity in 1 / scene units. [B, ...]
        mask: pixels where both are valid; values outside it are never read, so they may be inf or nan. [B, ...]
        robust: False gives ordinary least squares (as in the depth loss of GenFusion).
        tolerance: residual that still counts as inlier, as a share of the 5..95 % range of the masked target.
        generator: draws the pixel pairs; without one, a generator seeded with 0 makes the result reproducible.

    Returns:
        The fit. A source without variation gets scale 0 and the mean target as shift; an empty mask gets 1 and 0.

    >>> known = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    >>> align_scale_shift(known, 2 * known + 1, mask=known >= 0)
    ScaleShift(scale=tensor([2.]), shift=tensor([1.]), inlier_fraction=tensor([1.]))
    """
    flat_mask = mask.flatten(1)
    x = torch.where(flat_mask, source.flatten(1), 0.0)
    y = torch.where(flat_mask, target.flatten(1), 0.0)
    weights = flat_mask.to(x.dtype)
    with torch.no_grad():
        sample_x, sample_y = _draw_pixels(x, y, flat_mask, generator)
        ends = torch.quantile(sample_y, sample_y.new_tensor([0.05, 0.95]), dim=1)
        rounding = 64 * torch.finfo(y.dtype).eps * sample_y.abs().amax(dim=1)
        if robust:
            weights = _robust_weights(x, y, weights, (sample_x, sample_y), rounding)
    scale, shift = _weighted_line(x, y, weights)
    with torch.no_grad():
        residual = (scale[:, None] * x + shift[:, None] - y).abs()
        within = flat_mask & (residual <= (tolerance * (ends[1] - ends[0]) + rounding)[:, None])
        inliers = within.sum(1) / flat_mask.sum(1).clamp(min=1)
    return ScaleShift(scale, shift, inliers.to(x.dtype))


def _draw_pixels(x: Tensor, y: Tensor, mask: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """`_SAMPLES` masked pixels per batch entry, with replacement; zeros where the mask is empty. [B, S] twice"""
    if generator is None:
        generator = seeded_generator(0)
    rank = mask.long().cumsum(dim=1)
    uniform = torch.rand(x.shape[0], _SAMPLES, generator=generator, device=generator.device).to(x.device)
    wanted = (uniform * rank[:, -1:]).long() + 1
    index = torch.searchsorted(rank, wanted).clamp(max=x.shape[1] - 1)
    return x.gather(1, index), y.gather(1, index)


def _robust_weights(x: Tensor, y: Tensor, mask: Tensor, sample: tuple[Tensor, Tensor], floor: Tensor) -> Tensor:
    """Tukey weights of all pixels around the line that most of the sampled pixels follow. [B, P]"""
    sample_x, sample_y = sample
    half = _SAMPLES // 2
    first = (sample_x[:, :_HYPOTHESES], sample_y[:, :_HYPOTHESES])
    second = (sample_x[:, half : half + _HYPOTHESES], sample_y[:, half : half + _HYPOTHESES])
    run = second[0] - first[0]
    slope = (second[1] - first[1]) / torch.where(run == 0, torch.inf, run)
    offset = first[1] - slope * first[0]
    voters = slice(0, None, _SAMPLES // 1024)
    lines = slope[..., None] * sample_x[:, None, voters] + offset[..., None]
    medians = (lines - sample_y[:, None, voters]).abs().median(dim=2).values
    best = medians.argmin(dim=1, keepdim=True)
    scale, shift = slope.gather(1, best)[:, 0], offset.gather(1, best)[:, 0]

    weights = mask
    for _ in range(_ITERATIONS):
        spread = (scale[:, None] * sample_x + shift[:, None] - sample_y).abs().median(dim=1).values
        cutoff = _TUKEY * torch.maximum(1.4826 * spread, floor).clamp(min=torch.finfo(x.dtype).tiny)
        residual = (scale[:, None] * x + shift[:, None] - y) / cutoff[:, None]
        weights = mask * (1.0 - residual.square()).clamp(min=0.0).square()
        scale, shift = _weighted_line(x, y, weights)
    return weights


def _weighted_line(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted least squares of y on x in centred form, which keeps float32 digits. [B] twice"""
    total = weights.sum(1)
    share = weights / torch.where(total > 0, total, 1.0)[:, None]
    mean_x, mean_y = (share * x).sum(1), (share * y).sum(1)
    centred = x - mean_x[:, None]
    variance = (share * centred.square()).sum(1)
    covariance = (share * centred * (y - mean_y[:, None])).sum(1)
    varies = variance > (8 * torch.finfo(x.dtype).eps * mean_x).square()
    scale = torch.where(varies, covariance / torch.where(varies, variance, 1.0), 0.0)
    shift = mean_y - scale * mean_x
    return torch.where(total > 0, scale, 1.0), torch.where(total > 0, shift, 0.0)


def depth_to_points(
    depth: Float[Tensor, "*batch H W 1"], K: Float[Tensor, "*batch 3 3"], viewmat: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch H W 3"]:
    """World points seen through the pixel centres of a depth map.

    Args:
        depth: z depth, scene units. [..., H, W, 1]
        K: intrinsics in pixels of this raster. [..., 3, 3]
        viewmat: world-to-camera, OpenCV axes. [..., 4, 4]

    Returns:
        World coordinates, scene units; the camera centre itself where depth is 0. [..., H, W, 3]
    """
    height, width = depth.shape[-3:-1]
    rows = torch.arange(height, device=depth.device, dtype=depth.dtype) + 0.5
    columns = torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(K)[..., None, :, :].transpose(-1, -2)
    rotation, translation = viewmat[..., :3, :3], viewmat[..., :3, 3]
    # Row vectors: (p - t) R is R^T (p - t).
    return (depth * rays - translation[..., None, None, :]) @ rotation[..., None, :, :]


def depth_to_normals(
    depth: Float[Tensor, "*batch H W 1"], K: Float[Tensor, "*batch 3 3"], viewmat: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch H W 3"]:
    """Unit world normals of a depth map, towards the camera, from differences of neighbouring points.

    As 2DGS does for its normal consistency (equation 15), but for the border: central differences inside, one-sided
    ones on the border, so that no pixel is lost and planes are exact everywhere.
    Differentiable. Normals beside depth edges and beside unknown (0) depth mean nothing; mask them.

    Args:
        depth: z depth, scene units, at least 2 x 2 pixels. [..., H, W, 1]
        K: intrinsics in pixels of this raster. [..., 3, 3]
        viewmat: world-to-camera, OpenCV axes. [..., 4, 4]

    Returns:
        Unit normals, zero where the surface is degenerate (depth 0 all around). [..., H, W, 3]

    Raises:
        ValueError: an image with a single row or column, which has no surface to differentiate.
    """
    height, width = depth.shape[-3:-1]
    if height < 2 or width < 2:
        raise ValueError(f"normals need a depth map of at least 2 x 2 pixels, got {width} x {height} (width x height)")
    points = depth_to_points(depth, K, viewmat)
    down = _differences(points, dim=-3)
    right = _differences(points, dim=-2)
    normal = F.normalize(torch.cross(down, right, dim=-1), dim=-1, eps=1e-18)
    center = -(viewmat[..., :3, :3].transpose(-1, -2) @ viewmat[..., :3, 3:4])[..., 0]
    behind = ((center[..., None, None, :] - points) * normal).sum(-1, keepdim=True) < 0
    return torch.where(behind, -normal, normal)


def _differences(points: Tensor, dim: int) -> Tensor:
    size = points.shape[dim]
    index = torch.arange(size, device=points.device)
    after = points.index_select(dim, (index + 1).clamp(max=size - 1))
    before = points.index_select(dim, (index - 1).clamp(min=0))
    return after - before
