"""Cameras around an object, and which of them are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.object_views import DISTANCE, FOV_Y
from genfusion_ns.geometry.pixel_rays import evenly_around, intrinsics, orbit_poses

_HELD_OUT = 8
"""Every so many views one is held out, and at least one."""
_LEAST_VIEWS = 3


@dataclass(frozen=True)
class Orbit:
    """Cameras on rings around an object, all looking at its middle."""

    c2w: Float[Tensor, "V 4 4"]
    """Poses, OpenGL axes, z up; the first of each ring stands at azimuth 0 or half a step from it."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels."""
    size: tuple[int, int]
    """(width, height) in pixels."""

    def __len__(self) -> int:
        return len(self.c2w)

    @property
    def held_out(self) -> list[int]:
        """Positions of the views that are for judging."""
        return list(range(_HELD_OUT // 2 - 1, len(self), _HELD_OUT)) or [len(self) // 2]


def orbit_of(views: int, elevations: Sequence[float], side: int) -> Orbit:
    """`views` cameras, spread evenly over rings at `elevations`, with square images.

    Neighbouring rings are turned against each other by half a step.

    Args:
        views: cameras in all; at least 3 and one per ring.
        elevations: degrees above the object's middle, above -90 and below 90.
        side: pixels along an image.

    Raises:
        ValueError: with the flag.
    """
    if views < max(_LEAST_VIEWS, len(elevations)):
        raise ValueError(
            f"--num-views is {views}; at least {_LEAST_VIEWS}, and one per elevation ({len(elevations)}), are needed"
        )
    if not elevations or any(not -90 < elevation < 90 for elevation in elevations):
        given = " ".join(f"{elevation:g}" for elevation in elevations) or "empty"
        raise ValueError(f"--elevations is {given}; give one or more angles between -90 and 90 degrees")
    rings = []
    for index, elevation in enumerate(elevations):
        count = views // len(elevations) + (index < views % len(elevations))
        turn = 180.0 / count if index % 2 else 0.0
        rings.append(orbit_poses(evenly_around(count) + turn, elevation, DISTANCE))
    return Orbit(torch.cat(rings), intrinsics(FOV_Y, (side, side)), (side, side))
