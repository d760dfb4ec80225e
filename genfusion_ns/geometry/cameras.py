"""Cameras: their conventions, and what is computed from their poses and intrinsics alone.

Conventions
-----------
``c2w``      camera-to-world, OpenGL axes (x right, y up, z backward), as nerfstudio stores poses.
``viewmat``  world-to-camera, OpenCV axes (x right, y down, z forward), as rasterisers want it.
``K``        3x3 intrinsics in pixels; the centre of pixel (row i, column j) is (x, y) = (j + 0.5, i + 0.5).
Depth is the z coordinate in the OpenCV camera frame, in scene units; disparity is 1 / depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_LEAST = 1e-20
"""Keeps divisions by depths finite; no length of any scene."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Context and decorator in which no mixed precision takes place, whoever asked for it outside.

    Products of half precision move cameras by pixels, and structural similarity is a difference of squares.
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@full_precision()
def c2w_to_viewmat(c2w: Float[Tensor, "*batch rows 4"]) -> Float[Tensor, "*batch 4 4"]:
    """World-to-camera matrices (OpenCV axes) of camera-to-world poses (OpenGL axes).

    Args:
        c2w: rigid poses, 3x4 or 4x4. [..., 3 or 4, 4]

    Returns:
        Rigid inverses with the y and z camera axes flipped. [..., 4, 4]
    """
    w2c_rotation = _flipped(c2w[..., :3, :3]).transpose(-1, -2)
    return rigid_poses(w2c_rotation, -(w2c_rotation @ c2w[..., :3, 3:4])[..., 0])


@full_precision()
def viewmat_to_c2w(viewmat: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Camera-to-world poses (OpenGL axes) of world-to-camera matrices (OpenCV axes); inverse of `c2w_to_viewmat`."""
    c2w_rotation = viewmat[..., :3, :3].transpose(-1, -2)
    return rigid_poses(_flipped(c2w_rotation), -(c2w_rotation @ viewmat[..., :3, 3:4])[..., 0])


@full_precision()
def camera_centers(viewmats: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
    """Camera centres in world coordinates, scene units. [..., 3]"""
    return -(viewmats[..., :3, :3].transpose(-1, -2) @ viewmats[..., :3, 3:4])[..., 0]


def distances_between(points: Float[Tensor, "N 3"], others: Float[Tensor, "M 3"]) -> Float[Tensor, "N M"]:
    """Distances, scene units, as exact far from the origin as near it.

    torch.cdist multiplies matrices where points are many, which in single precision is 5 % wrong 1000 units away.
    """
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def camera_forwards(viewmats: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
    """Unit viewing directions (OpenCV +z) in world coordinates. [..., 3]"""
    return viewmats[..., 2, :3]


def crop_intrinsics(
    K: Float[Tensor, "*batch 3 3"], x: float | Tensor, y: float | Tensor
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics of a crop window whose top-left pixel is (x, y) in the full image, in pixels. [..., 3, 3]

    >>> crop_intrinsics(torch.tensor([[100.0, 0.0, 32.0], [0.0, 100.0, 24.0], [0.0, 0.0, 1.0]]), 8, 4)
    tensor([[100.,   0.,  24.],
            [  0., 100.,  20.],
            [  0.,   0.,   1.]])
    """
    cropped = K.clone()
    cropped[..., 0, 2] -= x
    cropped[..., 1, 2] -= y
    return cropped


def resize_intrinsics(
    K: Float[Tensor, "*batch 3 3"], from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics after resampling an image from `from_size` to `to_size`, both (width, height). [..., 3, 3]"""
    x, y = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return torch.cat([K[..., :1, :] * x, K[..., 1:2, :] * y, K[..., 2:, :]], dim=-2)


def project(
    points: Float[Tensor, "*points 3"], viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"]
) -> tuple[Float[Tensor, "*points 2"], Float[Tensor, "*points 1"]]:
    """Pixel coordinates (x, y) and z depth of world points in one camera.

    Points behind the camera get finite, meaningless pixel coordinates; test z > 0.

    >>> K = torch.tensor([[100.0, 0.0, 32.0], [0.0, 100.0, 24.0], [0.0, 0.0, 1.0]])
    >>> project(torch.tensor([0.1, 0.0, 2.0]), torch.eye(4), K)
    (tensor([37., 24.]), tensor([2.]))
    """
    camera_points = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    z = camera_points[..., 2:3]
    return (camera_points @ K.T)[..., :2] / z.clamp(min=_LEAST), z


def look_at(
    positions: Float[Tensor, "M 3"], target: Float[Tensor, "*M 3"], up: Float[Tensor, "*M 3"]
) -> Float[Tensor, "M 4 4"]:
    """Poses at `positions` that look at `target` without roll about `up`.

    Raises:
        ValueError: a viewing direction is parallel to `up`, which leaves the roll open.

    >>> poses = look_at(torch.tensor([[0.0, -3.0, 0.0]]), torch.zeros(3), up=torch.tensor([0.0, 0.0, 1.0]))
    >>> camera_forwards(c2w_to_viewmat(poses)) + 0.0  # along y, towards the target
    tensor([[0., 1., 0.]])
    """
    backward = functional.normalize(positions - target, dim=-1, eps=1e-300)
    right = torch.linalg.cross(up.expand_as(backward), backward)
    if (right.norm(dim=-1) < 1e-6).any():
        raise ValueError("a camera of the path looks along the up axis, or stands at its target; its roll is undefined")
    right = functional.normalize(right, dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(backward, right), backward], dim=-1)
    return rigid_poses(rotation, positions)


def rigid_poses(
    rotations: Float[Tensor, "*batch 3 3"], translations: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Matrices [R t; 0 1]. [..., 4, 4]"""
    poses = rotations.new_zeros(*rotations.shape[:-2], 4, 4)
    poses[..., :3, :3] = rotations
    poses[..., :3, 3] = translations
    poses[..., 3, 3] = 1.0
    return poses


def _flipped(axes: Tensor) -> Tensor:
    """Camera axes, the columns of a rotation, between OpenGL and OpenCV: y and z are turned round."""
    return torch.cat([axes[..., :1], -axes[..., 1:]], dim=-1)
