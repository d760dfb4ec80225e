"""What is shown where a scene is empty: the colours that its photos have in that direction, as blurred as can be.

Few photos leave holes beside what they show, and whatever is behind a hole is more like the photos than a colour of the
viewer. Nothing is learned: a low degree of spherical harmonics is fitted to the photos before training, held to their
mean where none looked. Training does not see it, lest surfels leave to it what they should show.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.rendering.spherical_harmonics import sh_basis

DEGREE = 2
BANDS = (DEGREE + 1) ** 2
_HELD = 0.3
"""Pull of the coefficients towards 0, in units of that of all photos."""


@dataclass(frozen=True)
class Surroundings:
    """Colours by direction."""

    mean: Float[Tensor, "3"]
    """Of all photos, 0..1."""
    coefficients: Float[Tensor, "9 3"]
    """Of the harmonics of what differs from the mean."""

    @classmethod
    def fit(cls, directions: Float[Tensor, "C 3"], colours: Float[Tensor, "C 3"]) -> Surroundings:
        """Least squares, with a pull towards the mean.

        Args:
            directions: unit vectors, at least one.
            colours: seen there, 0..1.
        """
        basis, colours = sh_basis(directions.double(), DEGREE), colours.double()
        mean = colours.mean(dim=0)
        held = torch.eye(BANDS, dtype=basis.dtype) * _HELD * len(basis) * float(basis[0, 0] ** 2)
        solved = torch.linalg.solve(basis.T @ basis + held, basis.T @ (colours - mean))
        return cls(mean, solved.contiguous())


def beyond(
    directions: Float[Tensor, "*shape 3"], mean: Float[Tensor, "3"], coefficients: Float[Tensor, "9 3"]
) -> Float[Tensor, "*shape 3"]:
    """Colours in directions of any length but 0, within 0..1; see `Surroundings`."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    return (mean + sh_basis(unit, DEGREE) @ coefficients.to(unit)).clamp(0, 1)
