"""What a phone and its registration add to perfect pictures: drifting exposure, noise, poses that are a little off."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from genfusion_ns.data.sample_scene.materials import linear_to_srgb, srgb_to_linear


def photograph(
    rgb: Float[np.ndarray, "H W 3"], index: int, count: int, exposure: float, noise: float, seed: int
) -> Float[np.ndarray, "H W 3"]:
    """A picture as one of `count` photos of a walk; unchanged where exposure and noise are 0.

    Args:
        rgb: sRGB in 0..1.
        index: of the photo along the walk.
        count: photos of the walk.
        exposure: largest change in stops; it drifts smoothly along the walk.
        noise: standard deviation at mid grey; that of other brightness follows the root of the light.
        seed: of phase and noise.
    """
    if exposure == 0 and noise == 0:
        return rgb
    phase, rate = np.random.default_rng([seed, 5]).uniform([0, 0.8], [1, 2.2])
    stops = exposure * np.sin(2 * np.pi * (phase + rate * index / count))
    photo = linear_to_srgb(srgb_to_linear(rgb) * 2.0**stops)
    strength = noise * np.sqrt(0.2 + 1.6 * photo)  # 1 at mid grey
    grain = np.random.default_rng([seed, 6, index]).standard_normal(rgb.shape)
    return np.clip(photo + strength * grain, 0, 1).astype(np.float32)


def mistaken(c2w: Float[np.ndarray, "N 4 4"], error: float, seed: int) -> Float[np.ndarray, "N 4 4"]:
    """Poses with errors of `error` degrees and `error` hundredths of the cameras' spread; unchanged where it is 0."""
    if error == 0:
        return c2w
    rng, poses = np.random.default_rng([seed, 7]), c2w.copy()
    spread = np.linalg.norm(c2w[:, :3, 3] - c2w[:, :3, 3].mean(0), axis=1).mean()
    for pose in poses:
        axis = rng.standard_normal(3)
        angle = np.radians(error) * rng.standard_normal()
        turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
        pose[:3, :3] = pose[:3, :3] @ turn.as_matrix()
        pose[:3, 3] += error / 100 * spread * rng.standard_normal(3) / np.sqrt(3)
    return poses
