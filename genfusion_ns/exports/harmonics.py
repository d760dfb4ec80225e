"""Rotations of real spherical harmonics as splat files have them (the basis of 3DGS, without the constant band)."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float

from genfusion_ns.rendering.spherical_harmonics import sh_basis

C0 = 0.28209479177387814
"""Of the constant band: colour = 1/2 + C0 times its coefficient."""


def rotated_bands(rest: Float[np.ndarray, "N bands 3"], rotation: Float[np.ndarray, "3 3"]) -> np.ndarray:
    """Coefficients of the degrees above 0 after the scene was turned: f'(R d) = f(d).

    Args:
        rest: 0, 3, 8 or 15 bands.
        rotation: of the scene, orthonormal and no reflection.
    """
    parts, first = [], 0
    for degree in range(1, math.isqrt(rest.shape[1] + 1)):
        directions = _spread(4 * (2 * degree + 1))
        turned, plain = (
            sh_basis(torch.from_numpy(along), degree)[:, degree**2 : (degree + 1) ** 2].numpy()
            for along in (directions @ rotation.T, directions)
        )
        # turned @ new = plain @ old for all directions; a degree never leaves itself, so this is exact.
        matrix = np.linalg.lstsq(turned, plain, rcond=None)[0]
        parts.append(np.einsum("ij,njc->nic", matrix, rest[:, first : first + 2 * degree + 1]))
        first += 2 * degree + 1
    return np.concatenate(parts, axis=1).astype(rest.dtype) if parts else rest


def _spread(count: int) -> Float[np.ndarray, "M 3"]:
    """Directions all over the sphere."""
    turn = np.pi * (1 + math.sqrt(5)) * np.arange(count)
    z = 1 - 2 * (np.arange(count) + 0.5) / count
    flat = np.sqrt(1 - z * z)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=-1)
