"""Where a ray meets a surfel: maps from pixels to the plane of each surfel (2DGS, Huang et al. 2024, section 4.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.rendering.contract import Surfels


def rotation_matrices(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """Rotations of (w, x, y, z) quaternions, normalised first.

    >>> rotation_matrices(torch.tensor([[2.0, 0.0, 0.0, 0.0]]))  # no turn, whatever the norm
    tensor([[[1., 0., 0.],
             [0., 1., 0.],
             [0., 0., 1.]]])
    """
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        -1,
    ).reshape(-1, 3, 3)


def surfel_homographies(
    surfels: Surfels, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"]
) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Tangent plane -> homogeneous pixels (2DGS equation 5), world normals facing the camera, camera-frame means."""
    axes = rotation_matrices(surfels.quats)
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    means = surfels.means @ rotation.T + translation
    tangents = rotation @ (axes[..., :2] * surfels.scales[:, None, :2])
    zero = torch.zeros_like(K[0, 0])
    # Entry by entry: lists of indices would be an upload that the GPU waits for.
    intrinsics = torch.stack([K[0, 0], zero, K[0, 2], zero, K[1, 1], K[1, 2], zero, zero, K[2, 2]]).view(3, 3)
    homographies = intrinsics @ torch.cat([tangents, means[..., None]], -1)
    normals = axes[..., 2] @ rotation.T
    facing = torch.where((normals * means).sum(-1) > 0, -1.0, 1.0).to(axes)
    return homographies, (normals * facing[:, None]) @ rotation, means
