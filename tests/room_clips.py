"""Clips of an empty room with a hole in them, and what a repairer makes of their disparity."""

from __future__ import annotations

import torch

from genfusion_ns.geometry.cameras import c2w_to_viewmat, look_at
from genfusion_ns.geometry.clips import Clip, RepairedClip

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
HALF = torch.tensor([2.0, 1.5, 1.2])
"""Half extents of the room around the origin."""
WIDTH, HEIGHT, FRAMES = 96, 64, 6
SCALE, SHIFT = 2.4, -0.03
"""Rendered disparity = SCALE * repaired + SHIFT."""


def room_clip(frames: int = FRAMES) -> tuple[Clip, torch.Tensor]:
    """Views of an empty room from near its middle, and the hole in them: everything at x > 1 or on the wall y > 1.3."""
    angle = torch.linspace(-0.5, 0.5, frames, dtype=torch.float64)
    position = torch.stack([-1.2 + 0.1 * angle, 0.3 * angle, 0.1 * angle], dim=-1)
    target = position + torch.stack([angle.cos(), 0.4 + angle.sin(), -0.1 + 0 * angle], dim=-1)
    viewmats = c2w_to_viewmat(look_at(position, target, UP)).float()
    K = torch.tensor([[60.0, 0, WIDTH / 2], [0, 60, HEIGHT / 2], [0, 0, 1]])
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(K).T @ viewmats[:, None, :3, :3]
    origin = position.float()[:, None, None]
    depth = torch.maximum((HALF - origin) / rays, (-HALF - origin) / rays).amin(-1, keepdim=True)
    points = origin + depth * rays
    hole = (points[..., :1] > 1.0) | (points[..., 1:2] > 1.3)
    rendered = torch.where(hole, 0.0, depth)
    alpha = torch.where(hole, 0.02, 0.98)
    clip = Clip(torch.zeros(frames, HEIGHT, WIDTH, 3), rendered, alpha, viewmats, K.expand(frames, 3, 3).clone())
    return clip, depth


def repair(depth: torch.Tensor, wrong: float = 0.0, seed: int = 0) -> RepairedClip:
    """The true disparity in the repairer's units, with a share of wrong pixels; colours tell the frame and pixel."""
    generator = torch.Generator().manual_seed(seed)
    disparity = (1 / depth - SHIFT) / SCALE
    noise = torch.rand(depth.shape, generator=generator)
    disparity = torch.where(torch.rand(depth.shape, generator=generator) < wrong, noise, disparity)
    rgb = torch.rand(*depth.shape[:3], 3, generator=generator)
    return RepairedClip(rgb, disparity, torch.ones_like(depth))
