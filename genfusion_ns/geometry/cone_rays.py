"""Rays of pinhole cameras as cones: each pixel sees a piece of space, not a line.

Directions are not normalised: their part along the optical axis has length 1, so that a position on a ray is its depth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

BASE_RADIUS = 2 / math.sqrt(12)
"""Radius in pixels of the cone at depth 1 whose variance is that of a pixel (Barron et al., "Mip-NeRF", sec. 3.1)."""


class ConeRays(NamedTuple):
    """Origins [..., 3], directions [..., 3], and radii [..., 1] at depth 1, scene units."""

    origins: Tensor
    directions: Tensor
    radii: Tensor


def cone_rays(
    c2w: Float[Tensor, "*rays 3 4"], intrinsics: Float[Tensor, "*rays 4"], pixels: Float[Tensor, "*rays 2"]
) -> ConeRays:
    """Cones through pixels.

    Args:
        c2w: pose of each ray's camera, OpenGL axes. [..., 3, 4]
        intrinsics: fx, fy, cx, cy of each ray's camera in pixels. [..., 4]
        pixels: (x, y) of pixel centres, so that the first is at 0.5. [..., 2]

    >>> rays = cone_rays(torch.eye(4)[:3], torch.tensor([100.0, 100, 50, 50]), torch.tensor([50.0, 0]))
    >>> rays.directions
    tensor([ 0.0000,  0.5000, -1.0000])
    """
    focal, centre = intrinsics[..., :2], intrinsics[..., 2:]
    x, y = ((pixels - centre) / focal).unbind(-1)
    camera = torch.stack([x, -y, -torch.ones_like(x)], -1)
    directions = (c2w[..., :3, :3] * camera[..., None, :]).sum(-1)
    radii = BASE_RADIUS / focal.prod(-1, keepdim=True).sqrt()  # of a square pixel with the same area
    return ConeRays(c2w[..., :3, 3], directions, radii)
