"""Camera paths of the sample scene: a walk around the middle of a room, or a sweep in front of a wall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

FreeTest = Callable[[Float[np.ndarray, "N 3"]], Bool[np.ndarray, " N"]]


@dataclass(frozen=True)
class HandHeldPath:
    """How a hand-held camera moves, in metres and radians, in the frame of the room (z up)."""

    kind: Literal["orbit", "forward"]
    focus: Float[np.ndarray, "3"]
    """The point looked at."""
    radius: float
    """Distance of the cameras to the focus, on the floor plan."""
    heading: float
    """Direction from the focus to the middle of the path, radians from the x axis."""
    sweep: float
    """Angle covered (orbit), or the width of the sweep in metres (forward)."""
    heights: tuple[float, float]
    """Lowest and highest camera above the floor."""

    def poses(self, num_views: int, path_seed: int, is_free: FreeTest) -> Float[np.ndarray, "N 4 4"]:
        """Poses in walking order; a place that is not free is drawn towards the focus, or raised, until it is.

        Args:
            num_views: at least 1.
            path_seed: changes phases and unsteadiness.
            is_free: tells free points from blocked ones.

        Raises:
            ValueError: if `num_views` is below 1.
            RuntimeError: if a camera finds no free place.
        """
        if num_views < 1:
            raise ValueError(f"num_views must be at least 1, got {num_views}")
        rng = np.random.default_rng([path_seed, 17, num_views if path_seed else 0])
        t = (np.arange(num_views) + 0.5) / num_views
        centres = (self._orbit if self.kind == "orbit" else self._pass_by)(t, rng)
        centres = self._freed(centres, is_free)
        wobble = 0.10 if self.kind == "orbit" else 0.22
        aims = self.focus + np.stack([_drift(t, rng, wobble), _drift(t, rng, wobble), _drift(t, rng, 0.07)], -1)
        return np.stack([pose_towards(c, a, r) for c, a, r in zip(centres, aims, _drift(t, rng, 0.02), strict=True)])

    def _orbit(self, t: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
        angle = self.heading + self.sweep * (t - 0.5) + _drift(t, rng, 0.05)
        radius = self.radius * (1 + _drift(t, rng, 0.10))
        low, high = self.heights
        level = 0.5 + 0.5 * np.sin(2 * np.pi * (rng.choice([1.5, 2.0, 2.5, 3.0]) * t + rng.uniform()))
        height = low + (high - low) * level
        offset = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
        return np.concatenate([self.focus[:2] + offset, height[:, None]], 1)

    def _pass_by(self, t: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
        rows = max(1, round(len(t) / 11)) if len(t) > 6 else 1
        row = np.minimum((t * rows).astype(int), rows - 1)
        along = t * rows - row
        along = np.where(row % 2 == 0, along, 1 - along) - 0.5
        low, high = self.heights
        height = low + (high - low) * (row + 0.5) / rows + _drift(t, rng, 0.06)
        towards = np.array([np.cos(self.heading), np.sin(self.heading)])
        aside = np.array([-towards[1], towards[0]])
        side = self.sweep * along + _drift(t, rng, 0.05)
        back = self.radius + _drift(t, rng, 0.15)
        return np.concatenate([self.focus[:2] + back[:, None] * towards + side[:, None] * aside, height[:, None]], 1)

    def _freed(self, centres: Float[np.ndarray, "N 3"], is_free: FreeTest) -> Float[np.ndarray, "N 3"]:
        freed, blocked = centres.copy(), ~is_free(centres)
        for lift in (0.0, 0.15, 0.3, 0.45):
            for shrink in np.arange(0.0, 0.41, 0.05):
                trial = centres.copy()
                trial[:, :2] += shrink * (self.focus[:2] - trial[:, :2])
                trial[:, 2] += lift
                found = blocked & is_free(trial)
                freed[found], blocked = trial[found], blocked & ~found
        if blocked.any():
            raise RuntimeError(f"{int(blocked.sum())} cameras of the {self.kind} path find no free place in this room")
        return freed


def pose_towards(centre: np.ndarray, target: np.ndarray, roll: float = 0.0) -> Float[np.ndarray, "4 4"]:
    """Pose at `centre` looking at `target`, z up, turned by `roll` radians. c2w, OpenGL axes. [4, 4]"""
    backward = (centre - target) / np.linalg.norm(centre - target)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    up = np.cross(backward, right)
    c2w = np.eye(4)
    c2w[:3, 0] = np.cos(roll) * right + np.sin(roll) * up
    c2w[:3, 1] = -np.sin(roll) * right + np.cos(roll) * up
    c2w[:3, 2], c2w[:3, 3] = backward, centre
    return c2w


def _drift(t: np.ndarray, rng: np.random.Generator, amplitude: float) -> np.ndarray:
    frequency, phase = rng.uniform(1.0, 6.0, 3), rng.uniform(0, 2 * np.pi, 3)
    return amplitude * np.sin(2 * np.pi * frequency * t[:, None] + phase).mean(1) * 1.5
