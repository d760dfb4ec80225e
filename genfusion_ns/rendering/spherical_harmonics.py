"""Real spherical harmonics up to degree 3, in the band order and signs that Gaussian-splatting files use.

As polynomials in the direction: Sloan 2008, Stupid Spherical Harmonics (SH) Tricks, appendix A2.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

C0 = 0.5 / math.sqrt(math.pi)
"""Degree 0, the constant basis function: a degree-0 coefficient is (rgb - 0.5) / C0."""
C1 = math.sqrt(3 / (4 * math.pi))
C2_XY = math.sqrt(15 / (4 * math.pi))
C2_ZZ = math.sqrt(5 / (16 * math.pi))
C2_XX = math.sqrt(15 / (16 * math.pi))
C3_XXX = math.sqrt(35 / (32 * math.pi))
C3_XYZ = math.sqrt(105 / (4 * math.pi))
C3_YZZ = math.sqrt(21 / (32 * math.pi))
C3_ZZZ = math.sqrt(7 / (16 * math.pi))
C3_ZXX = math.sqrt(105 / (16 * math.pi))


def sh_basis(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch bands"]:
    """Basis functions at unit directions, (degree + 1)^2 of them.

    Args:
        directions: unit vectors. [..., 3]
        degree: highest degree, 0..3.

    >>> sh_basis(torch.tensor([0.0, 0.0, 1.0]), degree=1) + 0.0
    tensor([0.2821, 0.0000, 0.4886, 0.0000])
    """
    x, y, z = directions.unbind(-1)
    bands = [torch.full_like(x, C0)]
    if degree > 0:
        bands += [-C1 * y, C1 * z, -C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        bands += [C2_XY * x * y, -C2_XY * y * z, C2_ZZ * (2 * zz - xx - yy), -C2_XY * x * z, C2_XX * (xx - yy)]
    if degree > 2:
        xx, yy, zz = x * x, y * y, z * z
        bands += [
            -C3_XXX * y * (3 * xx - yy),
            C3_XYZ * x * y * z,
            -C3_YZZ * y * (4 * zz - xx - yy),
            C3_ZZZ * z * (2 * zz - 3 * xx - 3 * yy),
            -C3_YZZ * x * (4 * zz - xx - yy),
            C3_ZXX * z * (xx - yy),
            -C3_XXX * x * (xx - 3 * yy),
        ]
    return torch.stack(bands, -1)


def sh_colors(
    features_dc: Float[Tensor, "N 3"],
    features_rest: Float[Tensor, "N bands 3"] | None,
    directions: Float[Tensor, "N 3"],
    degree: int,
) -> Float[Tensor, "N 3"]:
    """Colours max(0, SH + 0.5) seen along unit directions from the camera to each surfel."""
    basis = sh_basis(directions, degree)
    rgb = basis[:, :1] * features_dc
    if degree > 0 and features_rest is not None:
        rgb = rgb + torch.einsum("nk,nkc->nc", basis[:, 1:], features_rest[:, : basis.shape[1] - 1])
    return (rgb + 0.5).clamp_min(0.0)
