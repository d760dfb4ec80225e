"""Where exports stand: similarities from the frame of a scene to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

FrameName = Literal["scene", "capture", "y-up", "y-down"]
"""scene: as nerfstudio has it, z up, its unit. capture: frame and unit of the capture's files before nerfstudio moved
and scaled it. y-up, y-down: the scene turned about x, as many viewers expect it."""
_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_Y_DOWN = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation x + translation."""

    rotation: Float[np.ndarray, "3 3"]
    """Orthonormal, no reflection."""
    scale: float
    translation: Float[np.ndarray, "3"]

    def points(self, places: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "M 3"]:
        """Places in the new frame."""
        return (self.scale * places.astype(np.float64) @ self.rotation.T + self.translation).astype(places.dtype)

    def directions(self, vectors: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "M 3"]:
        """Vectors turned, of the same length."""
        return (vectors.astype(np.float64) @ self.rotation.T).astype(vectors.dtype)


def frame_of(name: FrameName, transform: Float[np.ndarray, "3 4"], scale: float, y_up: bool = False) -> Similarity:
    """From the frame of a scene to the one that is asked for.

    Args:
        name: of the frame.
        transform, scale: by which the dataparser led from the capture to the scene: scale * (R x + t).
        y_up: the format demands y up, so the scene is turned that way; a capture stays as it is.
    """
    nothing = np.zeros(3)
    if name == "capture":
        rotation, shift = transform[:3, :3].astype(np.float64), transform[:3, 3].astype(np.float64)
        return Similarity(rotation.T, 1 / scale, -rotation.T @ shift)
    turned = {"y-down": _Y_DOWN, "y-up": _Y_UP, "scene": _Y_UP if y_up else np.eye(3)}
    return Similarity(turned["y-up" if y_up else name], 1.0, nothing)
