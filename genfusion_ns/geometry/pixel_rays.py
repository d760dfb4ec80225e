"""Rays through the pixels of a camera, cameras on a circle, and where rays meet a cube."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.geometry.cameras import look_at


def orbit_poses(azimuths: Float[Tensor, " V"], elevation: float, distance: float) -> Float[Tensor, "V 4 4"]:
    """Cameras around the origin of a world whose z axis is up, looking at it.

    Args:
        azimuths: degrees, from +x towards +y.
        elevation: degrees above the plane, between -90 and 90.
        distance: from the origin.

    Returns:
        c2w, OpenGL axes.
    """
    angle, height = torch.deg2rad(azimuths), math.radians(elevation)
    flat = torch.full_like(angle, math.cos(height))
    places = torch.stack([flat * angle.cos(), flat * angle.sin(), torch.full_like(angle, math.sin(height))], dim=-1)
    return look_at(distance * places, places.new_zeros(3), up=places.new_tensor([0.0, 0.0, 1.0]))


def evenly_around(count: int) -> Float[Tensor, " count"]:
    """Azimuths in degrees, evenly around, the first 0.

    >>> evenly_around(4)
    tensor([  0.,  90., 180., 270.])
    """
    return 360.0 * torch.arange(count) / count


def intrinsics(fov_y: float, size: tuple[int, int]) -> Float[Tensor, "3 3"]:
    """Pinhole intrinsics in pixels with square pixels and the principal point in the middle.

    Args:
        fov_y: vertical angle of view in degrees.
        size: (width, height).
    """
    width, height = size
    focal = 0.5 * height / math.tan(math.radians(fov_y) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def pixel_rays(
    c2w: Float[Tensor, "V rows 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
) -> tuple[Float[Tensor, "V H W 3"], Float[Tensor, "V H W 3"]]:
    """Origins and unit directions of the rays through all pixel centres.

    Args:
        c2w: OpenGL axes.
        K: intrinsics in pixels, shared by the cameras.
        size: (width, height).
    """
    width, height = size
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = (columns - K[0, 2]) / K[0, 0], -(rows - K[1, 2]) / K[1, 1]
    camera = torch.stack([x, y, -torch.ones_like(x)], dim=-1).to(c2w)
    directions = torch.einsum("hwk,vik->vhwi", camera, c2w[:, :3, :3])
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return c2w[:, None, None, :3, 3].expand_as(directions), directions


def meet_cube(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], half: float, least: float = 0.01
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"], Bool[Tensor, " R"]]:
    """Where rays enter and leave the cube -half..half, and which do.

    Args:
        origins: start of each ray; within the cube it is where the ray enters.
        directions: of length 1.
        half: half the side of the cube.
        least: length within the cube up to which a ray counts as a miss.
    """
    inverse = 1 / directions
    first, second = (-half - origins) * inverse, (half - origins) * inverse
    # A ray in a face, parallel to it, gives 0 * inf; it touches nothing but that face.
    near = torch.minimum(first, second).nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).nan_to_num(torch.inf, torch.inf, -torch.inf).amin(-1)
    hits = far - near > least
    zero = torch.zeros_like(near)
    return torch.where(hits, near, zero), torch.where(hits, far, zero), hits
