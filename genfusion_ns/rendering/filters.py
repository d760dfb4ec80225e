"""Surfels enlarged once: as one pixel of a camera sees their middle, or as the finest photo of them can show.

Both keep the light that a surfel covers: what its area gains, its opacity loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.rendering.contract import Surfels
from genfusion_ns.rendering.homographies import rotation_matrices

SMOOTHING = 0.2
"""Variance of the 3D smoothing filter in the squared distance between two samples (Mip-Splatting, 2024)."""
_MARGIN = 0.15
"""Share of the image beyond its border in which a camera still counts as seeing a surfel (Mip-Splatting)."""
_LEAST_SLANT = 1e-10
"""Least det(T^T T) in its squared trace; a surfel seen from the side would become infinitely long."""


def filtered_surfels(
    surfels: Surfels, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], variance: float
) -> Surfels:
    """The surfels as a pixel of one camera sees them: the object-space mip filter (AA-2DGS, 2025) at their centres.

    With T the derivative of the pixel by the place in the plane of the surfel, the covariance in that plane becomes
    diag(s^2) + variance inv(T^T T). Exact for rasterisers that filter nothing themselves, up to the change of T over
    the surfel.

    Args:
        surfels: the scene.
        viewmat: world-to-camera. [4, 4]
        K: intrinsics in pixels. [3, 3]
        variance: of the filter, pixels squared; 1/12 is a pixel.

    Returns:
        Surfels with new rotations about their normals, scales [N, 2] and opacities; the rest is the same.
    """
    squares = surfels.scales[:, :2].square()
    pixels = _pixels_per_length(surfels, viewmat, K)
    metric = pixels.mT @ pixels
    trace = metric[:, 0, 0] + metric[:, 1, 1]
    slant = (pixels[:, 0, 0] * pixels[:, 1, 1] - pixels[:, 0, 1] * pixels[:, 1, 0]).square()
    slant = slant.maximum(_LEAST_SLANT * trace.square())
    over = variance / slant
    first, second = squares[:, 0] + over * metric[:, 1, 1], squares[:, 1] + over * metric[:, 0, 0]
    mixed = -over * metric[:, 0, 1]
    # not first * second - mixed^2, of which little is left for a surfel seen from the side
    product = squares[:, 0] * squares[:, 1]
    enlarged = squares[:, 0] * metric[:, 0, 0] + squares[:, 1] * metric[:, 1, 1]
    determinant = product + over * (enlarged + variance)
    middle, half = 0.5 * (first + second), 0.5 * (first - second)
    # a circle has no axes: any are right, and none has a derivative
    round_ = half.square() + mixed.square() <= 1e-12 * middle.square()
    half, mixed = torch.where(round_, middle.detach() * 1e-6, half), torch.where(round_, 0.0, mixed)
    largest = middle + torch.sqrt(half.square() + mixed.square())
    scales = torch.stack([largest, determinant / largest], -1).sqrt()
    turn = 0.25 * torch.atan2(2 * mixed, 2 * half)
    return replace(
        surfels,
        quats=_turned_about_normal(surfels.quats, turn),
        scales=scales,
        opacities=surfels.opacities * (product / determinant).sqrt(),
    )


def _pixels_per_length(surfels: Surfels, viewmat: Tensor, K: Tensor) -> Float[Tensor, "N 2 2"]:
    """Derivative of the pixel (rows x, y) by the length along both tangents, at the centres.

    Surfels at and behind the camera, which nobody draws, get that of the depth of 1e-6 in their distance.
    """
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    means = surfels.means @ rotation.T + translation
    tangents = rotation @ rotation_matrices(surfels.quats)[..., :2]
    depth = torch.maximum(means[:, 2], 1e-6 * means.detach().norm(dim=-1).clamp_min(1e-20))
    focal = torch.stack([K[0, 0], K[1, 1]])
    slope = means[:, :2] / depth[:, None]
    return (focal / depth[:, None])[..., None] * (tangents[:, :2] - slope[..., None] * tangents[:, 2:])


def _turned_about_normal(quats: Float[Tensor, "N 4"], half_angle: Float[Tensor, " N"]) -> Float[Tensor, "N 4"]:
    """Quaternions times rotations about their own third axis, by twice `half_angle` radians."""
    w, x, y, z = quats.unbind(-1)
    c, s = half_angle.cos(), half_angle.sin()
    return torch.stack([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], -1)


def smoothed_surfels(surfels: Surfels, variance: Float[Tensor, " N"]) -> Surfels:
    """The surfels with the 3D smoothing filter of these variances, scene units squared; flat as they are."""
    scales = surfels.scales[:, :2]
    wider = (scales.square() + variance[:, None]).sqrt()
    return replace(surfels, scales=wider, opacities=surfels.opacities * (scales / wider).prod(-1))


@torch.no_grad()
def smoothing_variance(
    means: Float[Tensor, "N 3"],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    sizes: Sequence[tuple[int, int]],
    near: float,
) -> Float[Tensor, " N"]:
    """Variances of the 3D smoothing filter (Mip-Splatting, 2024, section 5.1): detail that no photo samples is none.

    0.2 of the squared distance between the samples of the camera that has them closest at the surfel, among those that
    see its centre; surfels that none sees take the largest distance of those seen.

    Args:
        means: centres, world coordinates. [N, 3]
        viewmats: world-to-camera, of the photos. [C, 4, 4]
        Ks: intrinsics in pixels. [C, 3, 3]
        sizes: (width, height) of each photo in pixels.
        near: depth from which on a camera sees, scene units.

    Returns:
        Scene units squared. [N]
    """
    closest = means.new_full((len(means),), torch.inf)
    for viewmat, K, size in zip(viewmats, Ks, sizes, strict=True):
        points = means @ viewmat[:3, :3].T + viewmat[:3, 3]
        depth = points[:, 2]
        pixels = points[:, :2] / depth[:, None] * torch.stack([K[0, 0], K[1, 1]]) + K[:2, 2]
        whole = means.new_tensor(size)
        seen = (depth > near) & ((pixels >= -_MARGIN * whole) & (pixels <= (1 + _MARGIN) * whole)).all(-1)
        distance = depth / torch.maximum(K[0, 0], K[1, 1])
        closest = torch.where(seen, torch.minimum(closest, distance), closest)
    found = torch.isfinite(closest)
    largest = torch.where(found, closest, 0.0).amax() if len(means) else means.new_zeros(())
    return SMOOTHING * torch.where(found, closest, largest).square()
