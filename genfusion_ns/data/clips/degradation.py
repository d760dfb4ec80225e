"""Synthetic reconstruction artifacts, fixed in the world so that they move with the scene like real ones.

Three kinds, as weak surfel reconstructions show them: patches that are blurred and drift in colour and depth, holes
where nothing was reconstructed, and needle-shaped floaters between the camera and the scene.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.geometry.clips import Clip, ClipPair
from genfusion_ns.geometry.depth import depth_to_points

_NEAREST = 3e-3
"""Depth of the nearest floater that is drawn, over the typical depth of the clip."""


def degrade_clip(clean: Clip, generator: torch.Generator) -> Clip:
    """A clip as a weak reconstruction might render it.

    Args:
        clean: clip with depth where its alpha is 1.
        generator: source of all choices.

    Returns:
        Clip of the same shape and cameras, with alpha below 1 in holes, on black as renders are.
    """
    points = depth_to_points(clean.depth, clean.Ks, clean.viewmats)
    typical = clean.depth[clean.depth > 0].median() if bool((clean.depth > 0).any()) else clean.depth.new_tensor(1.0)
    clip = _blur_and_drift(clean, points, typical, generator)
    clip = _add_floaters(clip, typical, generator)
    return _cut_holes(clip, points, typical, generator)


def degrade_pair(pair: ClipPair, generator: torch.Generator) -> ClipPair:
    """The pair with its artifact clip replaced by a degradation of its clean clip."""
    return replace(pair, artifact=degrade_clip(pair.clean, generator))


def _world_blobs(points: Tensor, typical: Tensor, count: int, radius: float, generator: torch.Generator) -> Tensor:
    """Weights in 0..1 of each of `count` soft balls around random surface points. [count, T, H, W, 1]"""
    flat = points.reshape(-1, 3)
    chosen = flat[torch.randint(0, len(flat), (count,), generator=generator)]
    radii = typical * radius * torch.empty(count).uniform_(0.4, 1.6, generator=generator)
    weights = []
    for center, size in zip(chosen, radii, strict=True):
        distance = (points - center).norm(dim=-1, keepdim=True) / size
        weights.append(torch.sigmoid(6 * (1 - distance)))
    return torch.stack(weights)


def _blur_and_drift(clip: Clip, points: Tensor, typical: Tensor, generator: torch.Generator) -> Clip:
    """Inside each ball: blurred colour, a colour offset, and depth off by a smooth factor."""
    count = _count(4, 14, generator)
    rgb, depth = clip.rgb, clip.depth
    planes = torch.cat([rgb, depth], dim=-1).permute(0, 3, 1, 2)
    levels = [_shrink(planes, factor) for factor in (3, 6, 12)]
    for weight in _world_blobs(points, typical, count, 0.2, generator):
        blurred = levels[_count(0, 2, generator)]
        drift = torch.randn(3, generator=generator) * 0.05
        factor = 1 + float(torch.randn((), generator=generator)) * 0.06
        rgb = torch.lerp(rgb, (blurred[..., :3] + drift), weight)
        depth = torch.where(depth > 0, torch.lerp(depth, blurred[..., 3:] * factor, weight), depth)
    return replace(clip, rgb=rgb.clamp(0, 1), depth=depth)


def _shrink(planes: Tensor, factor: int) -> Tensor:
    """Blur by averaging cells of `factor` pixels and interpolating between them. [T, H, W, C]"""
    height, width = planes.shape[-2:]
    small = functional.adaptive_avg_pool2d(planes, (max(1, height // factor), max(1, width // factor)))
    return functional.interpolate(small, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)


def _cut_holes(clip: Clip, points: Tensor, typical: Tensor, generator: torch.Generator) -> Clip:
    count = _count(0, 5, generator)
    keep = torch.ones_like(clip.alpha)
    if count:
        keep = 1 - _world_blobs(points, typical, count, 0.1, generator).amax(dim=0)
    alpha = clip.alpha * keep
    return replace(clip, rgb=clip.rgb * keep, alpha=alpha)


def _add_floaters(clip: Clip, typical: Tensor, generator: torch.Generator) -> Clip:
    """Elongated Gaussian splats in front of the scene, in the colours of the clip."""
    count = _count(0, 30, generator)
    width, height = clip.size
    rgb, depth = clip.rgb, clip.depth
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    for _ in range(count):
        frame = _count(0, len(clip) - 1, generator)
        pixel = torch.rand(2, generator=generator) * torch.tensor([width, height])
        z = typical * float(torch.empty(()).uniform_(0.3, 1.0, generator=generator))
        ray = torch.linalg.inv(clip.Ks[frame]) @ torch.cat([pixel, torch.ones(1)])
        rotation, translation = clip.viewmats[frame, :3, :3], clip.viewmats[frame, :3, 3]
        center = rotation.T @ (ray * z - translation)
        camera = clip.viewmats[:, :3, :3] @ center + clip.viewmats[:, :3, 3]
        projected = (clip.Ks @ camera[..., None])[..., 0]
        z_frames = camera[:, 2].clamp(min=_NEAREST * float(typical))
        middle = projected[:, :2] / z_frames[:, None]
        extent = width * torch.empty(2).uniform_(0.015, 0.1, generator=generator)
        extent[1] = extent[0] * float(torch.empty(()).uniform_(0.08, 0.5, generator=generator))
        angle = torch.rand((), generator=generator) * torch.pi
        weight = _splat(xs, ys, middle, extent, angle) * (camera[:, 2] > _NEAREST * typical)[:, None, None, None]
        weight = weight * ((depth <= 0) | (z_frames[:, None, None, None] < depth))
        row, column = int(pixel[1].clamp(max=height - 1)), int(pixel[0].clamp(max=width - 1))
        colour = (clip.rgb[frame, row, column] + torch.randn(3, generator=generator) * 0.15).clamp(0, 1)
        rgb = torch.lerp(rgb, colour.expand_as(rgb), weight)
        z = z_frames[:, None, None, None].expand_as(depth)
        # What was unknown is the floater's where the floater is what one sees; a mean with nothing is no depth.
        depth = torch.where(depth > 0, torch.lerp(depth, z, weight), torch.where(weight > 0.5, z, 0.0))
    return replace(clip, rgb=rgb, depth=depth)


def _splat(xs: Tensor, ys: Tensor, middle: Float[Tensor, "T 2"], extent: Tensor, angle: Tensor) -> Tensor:
    """Opacity of one rotated Gaussian in every frame. [T, H, W, 1]"""
    dx, dy = xs - middle[:, 0, None, None], ys - middle[:, 1, None, None]
    u = (dx * angle.cos() + dy * angle.sin()) / extent[0]
    v = (dy * angle.cos() - dx * angle.sin()) / extent[1]
    return (0.9 * torch.exp(-0.5 * (u.square() + v.square())))[..., None]


def _count(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
