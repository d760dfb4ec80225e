"""Clip pairs without a capture: worlds of textured planes, rendered in closed form with exact depth.

Each pixel takes the nearest of a few bounded planes its ray meets. Worlds are small but obey real geometry: parallax,
occlusion and grazing angles are right, so a network learns from them how warped photos relate to a view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.data.clips.degradation import degrade_clip
from genfusion_ns.geometry.clips import Clip, ClipPair, References, before_backdrop

_TEXTURE = 128
_FAR = 1e6


@dataclass(frozen=True)
class PlaneWorld:
    """P bounded planes. A point centre + u * right + v * down belongs to a plane for u, v in -1..1."""

    centers: Float[Tensor, "P 3"]
    """Scene units."""
    rights: Float[Tensor, "P 3"]
    """Half-edges, scene units, perpendicular to `downs`."""
    downs: Float[Tensor, "P 3"]
    textures: tuple[Float[Tensor, "3 h w"], ...]
    """One per plane, of any size, colours in 0..1."""


def random_world(generator: torch.Generator, planes: int = 9, wall: bool = True) -> PlaneWorld:
    """A room-like world around the z axis: one far wall and smaller tilted cards in front of it, or these alone."""
    depth = torch.empty(planes).uniform_(2.0, 5.0, generator=generator)
    spread = torch.empty(planes, 2).uniform_(-0.6, 0.6, generator=generator) * depth[:, None]
    centers = torch.cat([spread, depth[:, None]], dim=1)
    half = torch.empty(planes).uniform_(0.25, 0.9, generator=generator)
    centers[0], half[0] = torch.tensor([0.0, 0.0, 6.0]), 8.0
    tilt = torch.randn(planes, 3, generator=generator) * 0.5
    tilt[0] *= 0.2
    normals = functional.normalize(torch.tensor([0.0, 0.0, -1.0]) + tilt, dim=1)
    rights = functional.normalize(torch.linalg.cross(normals, torch.randn(planes, 3, generator=generator)), dim=1)
    downs = torch.linalg.cross(normals, rights)
    aspect = torch.empty(planes).uniform_(0.6, 1.6, generator=generator)
    textures = tuple(_random_texture(generator, scale=3 if i == 0 else 1) for i in range(planes))
    kept = slice(0 if wall else 1, None)
    return PlaneWorld(
        centers[kept], (rights * half[:, None])[kept], (downs * (half * aspect)[:, None])[kept], textures[kept]
    )


def render_world(
    world: PlaneWorld, viewmats: Float[Tensor, "T 4 4"], Ks: Float[Tensor, "T 3 3"], size: tuple[int, int]
) -> Clip:
    """Render with exact z depth; alpha is 1 where a ray meets a plane.

    Args:
        world: the planes.
        viewmats: world-to-camera, OpenCV axes.
        Ks: intrinsics in pixels of the raster.
        size: (width, height).
    """
    width, height = size
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([xs, ys, torch.ones_like(xs)], dim=-1)
    rotation = viewmats[:, :3, :3].transpose(1, 2)
    origins = -(rotation @ viewmats[:, :3, 3:])[..., 0]
    # Rays have z = 1 in the camera frame, so the ray parameter is the z depth.
    rays = torch.einsum("tij,tjk,hwk->thwi", rotation, torch.linalg.inv(Ks), pixels)
    normals = torch.linalg.cross(world.rights, world.downs)
    offsets = ((world.centers[None] - origins[:, None]) * normals).sum(-1)
    slopes = torch.einsum("thwi,pi->thwp", rays, normals)
    depth = offsets[:, None, None] / torch.where(slopes.abs() > 1e-9, slopes, torch.full_like(slopes, 1e-9))
    u, v = (_plane_coordinate(world, edges, origins, rays, depth) for edges in (world.rights, world.downs))
    hit = (depth > 1e-3) & (u.abs() <= 1) & (v.abs() <= 1)
    nearest, plane = torch.where(hit, depth, torch.full_like(depth, _FAR)).min(dim=-1, keepdim=True)
    grid = torch.cat([u.gather(-1, plane), v.gather(-1, plane)], dim=-1)
    rgb = torch.zeros(*plane.shape[:3], 3)
    for index, texture in enumerate(world.textures):
        colours = functional.grid_sample(texture[None].expand(len(grid), -1, -1, -1), grid, align_corners=False)
        rgb = torch.where(plane == index, colours.permute(0, 2, 3, 1), rgb)
    alpha = (nearest < _FAR).float()
    return Clip(rgb=rgb * alpha, depth=nearest * alpha, alpha=alpha, viewmats=viewmats, Ks=Ks)


def _plane_coordinate(world: PlaneWorld, edges: Tensor, origins: Tensor, rays: Tensor, depth: Tensor) -> Tensor:
    """Coordinate along one edge of each plane, of the point at each depth of each ray. [T, H, W, P]"""
    scaled = edges / edges.square().sum(-1, keepdim=True)
    start = ((origins[:, None] - world.centers) * scaled).sum(-1)
    return start[:, None, None] + depth * torch.einsum("thwi,pi->thwp", rays, scaled)


def procedural_pair(
    generator: torch.Generator, frames: int = 12, size: tuple[int, int] = (192, 128), references: int = 3
) -> ClipPair:
    """A random world seen along a random short path, with photos from around it and a degraded twin.

    A third of the worlds are objects before nothing; their empty space is a black backdrop, not a hole.
    """
    wall = float(torch.rand((), generator=generator)) > 1 / 3
    world = random_world(generator, wall=wall)
    focal = float(torch.empty(()).uniform_(0.8, 1.3, generator=generator)) * max(size)
    K = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    ends = torch.randn(2, 6, generator=generator) * torch.tensor([0.5, 0.3, 0.3, 0.12, 0.12, 0.05])
    steps = torch.linspace(0, 1, frames)[:, None]
    path = _poses(ends[:1] * (1 - steps) + ends[1:] * steps)
    around = ends.mean(0) + torch.randn(references, 6, generator=generator) * torch.tensor(
        [0.7, 0.4, 0.3, 0.12, 0.12, 0.05]
    )
    clean = render_world(world, path, K.expand(frames, 3, 3).clone(), size)
    photos = render_world(world, _poses(around), K.expand(references, 3, 3).clone(), size)
    pair = ClipPair(clean, clean, References(photos.rgb, photos.viewmats, photos.Ks))
    artifact = degrade_clip(clean, generator)
    if not wall:  # blurs and floaters reach beyond the object
        artifact = before_backdrop(replace(artifact, rgb=artifact.rgb * (artifact.depth > 0) * artifact.alpha))
    return ClipPair(artifact, clean, pair.references)


def _poses(parameters: Float[Tensor, "T 6"]) -> Float[Tensor, "T 4 4"]:
    """World-to-camera matrices of positions (3 numbers) and rotation vectors (3 numbers, radians)."""
    x, y, z = parameters[:, 3:].unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
    viewmats = torch.eye(4).repeat(len(parameters), 1, 1)
    viewmats[:, :3, :3] = torch.linalg.matrix_exp(skew)
    viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ parameters[:, :3, None])[..., 0]
    return viewmats


def _random_texture(generator: torch.Generator, scale: int) -> Float[Tensor, "3 h w"]:
    """Coloured noise of several octaves with stripes or checks on top, in 0..1."""
    side = _TEXTURE * scale
    texture = torch.rand(3, 1, 1, generator=generator).expand(3, side, side).clone()
    for cells in (4, 8, 16, 32, 64):
        noise = torch.randn(1, 3, cells * scale, cells * scale, generator=generator)
        noise += 1.5 * torch.randn(1, 1, cells * scale, cells * scale, generator=generator)
        texture += functional.interpolate(noise, size=(side, side), mode="bicubic")[0] * 0.16 / math.sqrt(cells / 4)
    if float(torch.rand((), generator=generator)) < 0.6:
        count = int(torch.randint(2, 10, (), generator=generator)) * scale
        axis = torch.arange(side) * count // side % 2
        pattern = (axis[:, None] + axis * int(torch.randint(0, 2, (), generator=generator))) % 2
        colour = torch.rand(3, 1, 1, generator=generator)
        texture = torch.where(pattern.bool(), 0.4 * texture + 0.6 * colour, texture)
    return texture.clamp(0, 1)
