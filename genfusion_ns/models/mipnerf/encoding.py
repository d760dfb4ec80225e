"""Positions and directions as the network sees them (Barron et al., "Mip-NeRF", ICCV 2021, section 3.1).

Features are ordered [sines | cosines]; within a block by degree, then by axis.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

POSITION_DEGREES = (0, 16)
"""First degree and the one after the last, of positions."""
DIRECTION_DEGREES = (0, 4)
"""The same of viewing directions."""


def integrated_encoding(
    means: Float[Tensor, "*batch 3"],
    covariances: Float[Tensor, "*batch 3"] | Float[Tensor, "*batch 3 3"],
    degrees: tuple[int, int] = POSITION_DEGREES,
) -> Float[Tensor, "*batch features"]:
    """Expected sines and cosines of Gaussians (equations 13 to 15): what varies within one fades away.

    Args:
        means: [..., 3]
        covariances: diagonals [..., 3], or matrices [..., 3, 3], of which the diagonal counts.
        degrees: first degree and the one after the last; the frequency of degree l is 2^l.

    Returns:
        Values in -1..1. [..., 6 * number of degrees]
    """
    if covariances.dim() == means.dim() + 1:
        covariances = torch.diagonal(covariances, dim1=-2, dim2=-1)
    scales = _frequencies(degrees, means)
    angles = (means[..., None, :] * scales[:, None]).flatten(-2)
    variances = (covariances[..., None, :] * scales[:, None].square()).flatten(-2)
    damping = torch.exp(-0.5 * variances)
    return torch.cat([damping * torch.sin(angles), damping * torch.cos(angles)], -1)


def plain_encoding(
    x: Float[Tensor, "*batch 3"], degrees: tuple[int, int] = DIRECTION_DEGREES
) -> Float[Tensor, "*batch features"]:
    """The vector itself, then its sines and cosines. [..., 3 + 6 * number of degrees]"""
    angles = (x[..., None, :] * _frequencies(degrees, x)[:, None]).flatten(-2)
    return torch.cat([x, torch.sin(angles), torch.sin(angles + math.pi / 2)], -1)


def expected_sine(mean: Float[Tensor, "*batch"], variance: Float[Tensor, "*batch"]) -> tuple[Tensor, Tensor]:
    """Mean and variance of the sine of a Gaussian variable."""
    expected = torch.exp(-0.5 * variance) * torch.sin(mean)
    square = 0.5 * (1 - torch.exp(-2 * variance) * torch.cos(2 * mean))
    return expected, (square - expected.square()).clamp_min(0)


def _frequencies(degrees: tuple[int, int], like: Tensor) -> Tensor:
    return 2.0 ** torch.arange(*degrees, dtype=like.dtype, device=like.device)
