"""Where a field is empty, so that nobody asks it there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.priors.triposr.field import CHUNK, TriplaneField

LEAST_DENSITY = 5e-4
"""Density below which a place counts as empty. A ray wholly through such places would gather less than this much of
opacity, as its steps count 1 in all."""
_LEAST_CELLS = 32


@dataclass(frozen=True)
class Occupancy:
    """Cells of the cube of a field in which, or beside which, there is something."""

    cells: Bool[Tensor, "n n n"]
    """By x, y, z."""
    radius: float
    """Half the side of the cube."""

    @classmethod
    @torch.no_grad()
    def of(cls, field: TriplaneField, least: float = LEAST_DENSITY, chunk: int = CHUNK) -> Occupancy:
        """Look at the middle of every cell and at the faces of the cube; around what is not empty, cells count too.

        Cells are as large as the samples of the planes, whose middles are those of the cells: what lies between them
        is made from features of the cells around it, all of which count, and at the faces from those that fade.

        Args:
            field: of one object.
            least: density of a place that is not empty.
            chunk: see `TriplaneField.query`.
        """
        count = field.resolution * -(-_LEAST_CELLS // field.resolution)
        middles = (torch.arange(count, device=field.code.device) + 0.5) / count * 2 - 1
        along = torch.cat([-torch.ones_like(middles[:1]), middles, torch.ones_like(middles[:1])]) * field.radius
        points = torch.stack(torch.meshgrid(along, along, along, indexing="ij"), dim=-1)
        # A slice at a time: all at once are more points than memory is good for.
        density = torch.stack([field.density(part.reshape(-1, 3), chunk) for part in points])
        full = (density >= least).view(1, 1, *points.shape[:3])
        return cls(functional.max_pool3d(full.float(), 3, stride=1)[0, 0] > 0, field.radius)

    @property
    def share(self) -> float:
        """Share of the cells that are not empty, 0..1."""
        return float(self.cells.float().mean())

    def holds(self, points: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether there may be something at points; never outside the cube."""
        count = len(self.cells)
        place = ((points / self.radius + 1) * (count / 2)).floor()
        inside = (points.abs() <= self.radius).all(-1)
        x, y, z = place.clamp(0, count - 1).long().unbind(-1)
        return inside & self.cells[x, y, z]
