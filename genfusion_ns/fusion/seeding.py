"""New surfels for what no photo shows: repaired frames become surface where the scene is still empty.

GenFusion's point addition with a sounder alignment. The repaired disparity, known up to scale and shift per clip, is
fitted robustly to the rendered disparity where the scene is dense; the fit then gives depth to the pixels that are
empty. (The official code fits depth instead, where distant pixels dominate, and two frames apart from each other.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.geometry.cameras import camera_centers
from genfusion_ns.geometry.clips import Clip, RepairedClip
from genfusion_ns.geometry.depth import ScaleShift, align_scale_shift, depth_to_normals, depth_to_points
from genfusion_ns.geometry.surface_pixels import first_sightings, neighbours_agreeing
from genfusion_ns.models.insertion import NewSurfels
from genfusion_ns.stored_config import StoredConfig

_NEARER = 2.0
"""New surfaces may have at most this many times the disparity of the nearest rendered ones (99th percentile)."""
_COMPANY = 0.6
"""Share of the 5 x 5 pixels around one that must lie on its surface; fewer do on depth edges and for stray depths."""
_GRAZING = 0.3
"""Cosine to the view direction below which the normal of a depth map is mostly noise."""
_QUANTILE_POINTS = 1_000_000


@dataclass
class SeedingConfig(StoredConfig):
    """Insertion of surfels where renders are empty, from repaired clips."""

    enabled: bool = True
    """Insert surfels where the renders of a round are empty."""
    max_alpha: float = 0.1
    """Surfels are inserted where less than this is covered, 0..1."""
    fit_alpha: float = 0.5
    """The repaired depth is aligned where at least this is covered, 0..1."""
    min_confidence: float = 0.1
    """Trust in a repaired pixel below which it is neither used for the alignment nor turned into surfels, 0..1. Low,
    because little trust is the rule in large holes; and what the photos contradict is pruned again."""
    stride: int = 2
    """Every so many pixels along both axes, one surfel."""
    max_new: int = 20_000
    """Surfels per clip at most; beyond it fewer and larger ones are inserted."""
    opacity: float = 0.1
    """Opacity that new surfels start with, between 0 and 1."""
    min_pixels: int = 500
    """A clip is skipped when fewer pixels than this serve the alignment."""
    min_inliers: float = 0.5
    """A clip is skipped when a smaller share of them agrees with the alignment, 0..1."""

    def __post_init__(self) -> None:
        for name in ("max_alpha", "fit_alpha", "min_confidence", "min_inliers"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"seeding.{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("stride", "max_new", "min_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"seeding.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.opacity < 1:
            raise ValueError(f"seeding.opacity is {self.opacity}; it must be above 0 and below 1")
        if self.max_alpha > self.fit_alpha:
            raise ValueError(
                f"seeding.max_alpha is {self.max_alpha}, seeding.fit_alpha {self.fit_alpha}: a pixel cannot be empty "
                "and dense; max_alpha must not be above fit_alpha"
            )


@dataclass(frozen=True)
class Seeds:
    """What came of one clip."""

    surfels: NewSurfels | None
    """In random order, so that any part of them is spread over all; None when there are none."""
    reason: str | None
    """Why there are none."""
    log: dict[str, Any]
    """Figures of the alignment and of the pixels that passed each test, ready for JSON."""


def scene_bounds(
    cameras: Float[Tensor, "N 3"], points: Float[Tensor, "M 3"], factor: float = 1.5
) -> Float[Tensor, "2 3"]:
    """Lower and upper corner of an axis-aligned box around a scene.

    It holds all cameras and the surfels between the 2nd and 98th percentile along each axis, grown about its middle.

    Args:
        cameras: camera centres, scene units. [N, 3]
        points: centres of surfels; a few far outliers do no harm. [M, 3]
        factor: growth of each side.
    """
    points = points.detach()[:: max(1, -(-len(points) // _QUANTILE_POINTS))].to(cameras)
    low, high = cameras.amin(0), cameras.amax(0)
    if len(points):
        inner = torch.quantile(points, points.new_tensor([0.02, 0.98]), dim=0)
        low, high = torch.minimum(low, inner[0]), torch.maximum(high, inner[1])
    middle, half = (low + high) / 2, (high - low) / 2
    # A flat capture still has surroundings.
    half = factor * torch.maximum(half, 0.25 * half.amax())
    return torch.stack([middle - half, middle + half])


@torch.no_grad()
def seed_surfels(
    clip: Clip,
    repaired: RepairedClip,
    bounds: Float[Tensor, "2 3"],
    config: SeedingConfig,
    generator: torch.Generator,
) -> Seeds:
    """Surfels on the repaired surfaces that a rendered clip does not have.

    All frames are eligible; a surface that several of them show is seeded from the first. Pixels on depth edges, out
    of bounds, behind the camera, or much nearer than anything rendered are left out.

    Args:
        clip: render of the scene.
        repaired: its repair at the same size; its confidence decides what is trusted.
        bounds: lower and upper corner of the box that new surfels must lie in, see `scene_bounds`. [2, 3]
        config: thresholds.
        generator: on the CPU; draws the pixels of the alignment and the order of the seeds.

    Returns:
        The surfels, or the reason why there are none.

    Raises:
        ValueError: clip and repair differ in size.
    """
    if clip.depth.shape != repaired.disparity.shape:
        raise ValueError(
            f"the clip is {tuple(clip.depth.shape)} and its repair {tuple(repaired.disparity.shape)} [T, H, W, 1]; "
            "seeding needs both at one size"
        )
    fit, mask, reason, log = _align(clip, repaired, config, generator)
    if reason is not None:
        return Seeds(None, reason, log)
    disparity = fit.apply(repaired.disparity[None])[0]
    nearest = _NEARER * _high_disparity(clip.depth[mask], generator)
    empty = clip.alpha < config.max_alpha
    trusted = empty & _trusted(repaired, config)
    usable = trusted & (disparity > 0) & (disparity <= nearest)
    depth = torch.where(usable, 1 / torch.where(usable, disparity, 1.0), 0.0)
    points = depth_to_points(depth, clip.Ks, clip.viewmats)
    inside = ((points >= bounds[0].to(points)) & (points <= bounds[1].to(points))).all(-1, keepdim=True)
    wanted = usable & inside & (neighbours_agreeing(disparity, reach=2) >= _COMPANY)
    log |= {name: int(m.sum()) for name, m in (("empty", empty), ("empty_trusted", trusted), ("empty_usable", wanted))}
    chosen = first_sightings(wanted, depth, points, clip.viewmats, clip.Ks, stride=config.stride)
    if not bool(chosen.any()):
        return Seeds(
            None,
            f"of {log['empty']} empty pixels {log['empty_trusted']} are trusted and {log['empty_usable']} have a sound "
            "depth inside the scene",
            log,
        )
    new = _surfels_at(chosen, depth, disparity, points, clip=clip, repaired=repaired, config=config)
    new = _shuffled(new, generator).thinned(config.max_new)
    return Seeds(new, None, {**log, "seeds": len(new)})


def _align(
    clip: Clip, repaired: RepairedClip, config: SeedingConfig, generator: torch.Generator
) -> tuple[ScaleShift, Bool[Tensor, "T H W 1"], str | None, dict[str, Any]]:
    """The fit of repaired to rendered disparity over the whole clip, its pixels, and what speaks against it."""
    mask = (clip.alpha >= config.fit_alpha) & (clip.depth > 0) & _trusted(repaired, config)
    rendered = 1 / torch.where(mask, clip.depth, 1.0)
    fit = align_scale_shift(repaired.disparity[None], rendered[None], mask[None], generator=generator)
    pixels, scale, inliers = int(mask.sum()), float(fit.scale), float(fit.inlier_fraction)
    log = {"fit_pixels": pixels, "scale": scale, "shift": float(fit.shift), "inliers": inliers}
    reason = None
    if pixels < config.min_pixels:
        reason = f"{pixels} pixels are dense and trusted enough for the alignment, {config.min_pixels} are needed"
    elif scale <= 0:
        reason = f"the repaired disparity runs against the rendered one (scale {scale:.3g})"
    elif inliers < config.min_inliers:
        reason = f"{inliers:.0%} of the pixels agree with the alignment, {config.min_inliers:.0%} are needed"
    return fit, mask, reason, log


def _trusted(repaired: RepairedClip, config: SeedingConfig) -> Bool[Tensor, "T H W 1"]:
    """Pixels with enough confidence and a depth that is not saturated: 0 and 1 also stand for anything beyond."""
    known = (repaired.disparity > 0) & (repaired.disparity < 1)
    return known & (repaired.confidence >= config.min_confidence)


def _high_disparity(depth: Float[Tensor, " P"], generator: torch.Generator) -> Tensor:
    """99th percentile of 1 / depth, from a sample."""
    sample = torch.randint(len(depth), (min(len(depth), 10_000),), generator=generator)
    return torch.quantile(1 / depth[sample.to(depth.device)], 0.99)


def _surfels_at(
    chosen: Bool[Tensor, "T H W"],
    depth: Float[Tensor, "T H W 1"],
    disparity: Float[Tensor, "T H W 1"],
    points: Float[Tensor, "T H W 3"],
    *,
    clip: Clip,
    repaired: RepairedClip,
    config: SeedingConfig,
) -> NewSurfels:
    means = points[chosen]
    frame = chosen.nonzero()[:, 0]
    toward = F.normalize(camera_centers(clip.viewmats)[frame] - means, dim=-1)
    # Neighbours that are no seeds themselves still tell how the surface lies.
    surface = 1 / torch.where(disparity > 0, disparity, torch.inf)
    normals = depth_to_normals(surface, clip.Ks, clip.viewmats)[chosen]
    rough = neighbours_agreeing(disparity, reach=1)[chosen] < 1
    unsure = rough | ((normals * toward).sum(-1, keepdim=True) < _GRAZING)
    focal = (clip.Ks[:, 0, 0] * clip.Ks[:, 1, 1]).sqrt()[frame]
    return NewSurfels(
        means=means,
        colours=repaired.rgb[chosen].clamp(0, 1),
        radius=config.stride * depth[chosen][:, 0] / focal,
        normals=torch.where(unsure, toward, normals),
        opacity=config.opacity,
    )


def _shuffled(new: NewSurfels, generator: torch.Generator) -> NewSurfels:
    order = torch.randperm(len(new), generator=generator).to(new.means.device)
    return new.chosen(order)
