"""Rotations of real spherical harmonics as splat files have them (the basis of 3DGS, without the constant band)."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

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
        turned, plain = _band(degree, directions @ rotation.T), _band(degree, directions)
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


def _band(degree: int, directions: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "M 2l+1"]:
    x, y, z = directions.T
    if degree == 1:
        return 0.4886025119029199 * np.stack([-y, z, -x], axis=-1)
    if degree == 2:
        a, b, c = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
        return np.stack([a * x * y, -a * y * z, b * (3 * z * z - 1), -a * x * z, c * (x * x - y * y)], axis=-1)
    a, b, c, d, e = 0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277
    return np.stack(
        [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (5 * z * z - 1),
            d * z * (5 * z * z - 3),
            -c * x * (5 * z * z - 1),
            e * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ],
        axis=-1,
    )
