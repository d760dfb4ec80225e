"""Weak scenes without fitting: few photos lifted to surfels by their depth, with the errors that such fits have.

A fit of few photos takes minutes of a processor, this takes a second, where the depth of the photos is known. What is
wrong with it is drawn at random, fixed in the world, and rendered by the same rasteriser: layers that do not meet,
surfaces that are only right from where their photo stood, holes where no photo looked or nothing was matched, things
hanging in the air, spikes, blur.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.geometry.clips import Clip
from genfusion_ns.geometry.depth import depth_to_normals, depth_to_points
from genfusion_ns.models.insertion import facing_quats
from genfusion_ns.rendering.contract import Surfels
from genfusion_ns.rendering.surfels import rasterize_surfels

_NEAR = 0.05
"""Nearest surface that is drawn, over the median depth."""


@dataclass(frozen=True)
class Flaws:
    """How wrong one weak scene is."""

    step: int
    """Pixels of the photos from one surfel to the next: blur."""
    bend: float
    """Smooth relative error of the depth of each photo."""
    shift: float
    """Relative error of the depth of each photo as a whole."""
    torn: float
    """Share of the blobs of each photo whose depth is wrong by far: floaters."""
    lost: float
    """Share of the blobs of each photo that have no surface: holes."""
    spikes: float
    """Share of surfels that are long and thin."""
    facing: float
    """Share of surfels that face their photo instead of lying on the surface."""
    tint: float
    """Deviation of the brightness of each photo."""

    @classmethod
    def draw(cls, generator: torch.Generator) -> Flaws:
        """From nearly right to hopeless, each flaw for itself."""

        def between(low: float, high: float) -> float:
            return low * (high / low) ** float(torch.rand((), generator=generator))

        return cls(
            step=int(torch.randint(1, 4, (), generator=generator)),
            bend=between(0.002, 0.06),
            shift=between(0.0005, 0.03),
            torn=between(0.005, 0.12),
            lost=between(0.01, 0.2),
            spikes=between(0.0005, 0.02),
            facing=float(torch.rand((), generator=generator)),
            tint=between(0.005, 0.06),
        )


@torch.no_grad()
def lift(photos: Clip, flaws: Flaws, generator: torch.Generator) -> Surfels:
    """Surfels of photos.

    Args:
        photos: with depth where their alpha is above 0.5, which is lifted.
        flaws: what is wrong with them.
        generator: of everything random.
    """
    parts = [_lift_one(photos, index, flaws, generator) for index in range(len(photos))]
    names = ("means", "quats", "scales", "opacities", "features_dc")
    return Surfels(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@torch.no_grad()
def render_lifted(surfels: Surfels, target: Clip, typical: float) -> Clip:
    """The scene of `lift` from the cameras of a clip, on black.

    Args:
        surfels: at least one.
        target: whose cameras and size are taken.
        typical: median depth in scene units.
    """
    render = rasterize_surfels(surfels, target.viewmats, target.Ks, *target.size, near=_NEAR * typical)
    normals = functional.normalize(render.normals, dim=-1)
    return Clip(render.rgb.clamp(0, 1), render.depth, render.alpha, target.viewmats, target.Ks, normals)


def _lift_one(photos: Clip, index: int, flaws: Flaws, generator: torch.Generator) -> Surfels:
    view = slice(index, index + 1)
    depth, alpha, rgb = photos.depth[view], photos.alpha[view], photos.rgb[view]
    known = (alpha > 0.5) & (depth > 0)
    wrong = depth * (1 + flaws.shift * _normal((1,), generator)) * _field(depth, 6, flaws.bend, generator).exp()
    torn, lost = (_blobs(depth, share, generator) for share in (flaws.torn, flaws.lost))
    away = torch.empty(1).uniform_(0.35, 1.1, generator=generator)
    wrong = torch.where(torn, wrong * away, wrong)
    known = known & ~lost
    rows, columns = (slice(flaws.step // 2, None, flaws.step) for _ in range(2))
    points = depth_to_points(wrong, photos.Ks[view], photos.viewmats[view])[0, rows, columns]
    keep = known[0, rows, columns, 0]
    z = wrong[0, rows, columns][keep]
    normals = depth_to_normals(wrong, photos.Ks[view], photos.viewmats[view])[0, rows, columns][keep]
    colours = functional.avg_pool2d(rgb.permute(0, 3, 1, 2), flaws.step, ceil_mode=True)[0].permute(1, 2, 0)
    colours = colours[: keep.shape[0], : keep.shape[1]][keep[: colours.shape[0], : colours.shape[1]]]
    count = int(keep.sum())
    forward = viewmat_to_c2w(photos.viewmats[view])[0, :3, 2]  # OpenGL axes: towards the camera
    facing = torch.rand(count, 1, generator=generator) < flaws.facing
    normals = torch.where(facing | (normals.norm(dim=-1, keepdim=True) < 0.5), forward.expand(count, 3), normals)
    normals = functional.normalize(normals + 0.15 * _normal((count, 3), generator), dim=-1)
    size = z * flaws.step / photos.Ks[index, 0, 0]
    scales = size * 0.7 * (0.3 * _normal((count, 2), generator)).exp()
    spiked = torch.rand(count, 1, generator=generator) < flaws.spikes
    long = torch.tensor([1.0, 0.1]) * torch.empty(count, 1).uniform_(4, 25, generator=generator)
    scales = torch.where(spiked, scales * long, scales)
    tint = 1 + flaws.tint * _normal((1, 3), generator) + flaws.tint * _normal((1,), generator)
    return Surfels(
        means=points[keep],
        quats=_onto(normals, torch.rand(count, generator=generator) * torch.pi),
        scales=scales,
        opacities=torch.empty(count).uniform_(0.45, 0.98, generator=generator),
        features_dc=(colours * tint + 0.02 * _normal((count, 3), generator)).clamp(0, 1),
    )


def _onto(normals: Float[Tensor, "N 3"], turns: Float[Tensor, " N"]) -> Float[Tensor, "N 4"]:
    """Rotations that turn the z axis onto the line of normals, after a turn about z. (w, x, y, z)"""
    w, x, y, _ = facing_quats(normals).unbind(-1)
    c, s = (turns / 2).cos(), (turns / 2).sin()
    return torch.stack([w * c, x * c + y * s, y * c - x * s, w * s], dim=-1)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _field(like: Float[Tensor, "1 H W 1"], cells: int, strength: float, generator: torch.Generator) -> Tensor:
    """A smooth field of zero mean. [1, H, W, 1]"""
    coarse = _normal((1, 1, cells, cells), generator) * strength
    return functional.interpolate(coarse, size=like.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)


def _blobs(like: Float[Tensor, "1 H W 1"], share: float, generator: torch.Generator) -> Tensor:
    """Blobs that take about this share of the image. [1, H, W, 1]"""
    cells = int(torch.randint(5, 16, (), generator=generator))
    field = _field(like, cells, 1.0, generator)
    return field > field.flatten().quantile(1 - min(share, 1.0))
