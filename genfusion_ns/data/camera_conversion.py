"""Between nerfstudio's `Cameras` and the view matrices and intrinsics that renderer and repairer speak."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from genfusion_ns.geometry.cameras import c2w_to_viewmat, viewmat_to_c2w


def cameras_to_viewmats(cameras: Cameras) -> tuple[Float[Tensor, "*batch 4 4"], Float[Tensor, "*batch 3 3"]]:
    """World-to-camera matrices (OpenCV axes) and intrinsics in pixels of `cameras`; lens distortion is left behind."""
    return c2w_to_viewmat(cameras.camera_to_worlds), cameras.get_intrinsics_matrices()


def camera_sizes(cameras: Cameras) -> list[tuple[int, int]]:
    """(width, height) of each camera in pixels."""
    return list(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True))


def viewmats_to_cameras(
    viewmats: Float[Tensor, "*batch 4 4"], Ks: Float[Tensor, "*batch 3 3"], size: tuple[int, int]
) -> Cameras:
    """Pinhole cameras of one size.

    Args:
        viewmats: world-to-camera, OpenCV axes. [..., 4, 4]
        Ks: intrinsics in pixels. [..., 3, 3]
        size: (width, height) in pixels.
    """
    ones = torch.ones_like(Ks[..., :1, 0], dtype=torch.int64)
    return Cameras(
        camera_to_worlds=viewmat_to_c2w(viewmats)[..., :3, :],
        fx=Ks[..., 0, 0:1],
        fy=Ks[..., 1, 1:2],
        cx=Ks[..., 0, 2:3],
        cy=Ks[..., 1, 2:3],
        width=size[0] * ones,
        height=size[1] * ones,
        camera_type=CameraType.PERSPECTIVE,
    )
