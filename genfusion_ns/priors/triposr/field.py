"""The radiance field of one object: features from three planes, and what a small network makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CHUNK = 8192
"""Points that are asked for at once."""
PLANE_AXES = ((0, 1), (0, 2), (1, 2))
"""Coordinates of a point that are column and row of each plane."""


@dataclass(frozen=True)
class FieldSamples:
    """What a field says of N points."""

    density: Float[Tensor, " N"]
    """At least 0."""
    colours: Float[Tensor, "N 3"]
    """0..1."""


class TriplaneField:
    """Density and colour everywhere in the cube -radius..radius; counts the points that it is asked for."""

    def __init__(
        self,
        code: Float[Tensor, "3 F S S"],
        decoder: Callable[[Tensor], Tensor],
        radius: float,
        density_bias: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """
        Args:
            code: planes of one object.
            decoder: from features of all planes to raw density and raw colour.
            radius: half the side of the cube.
            density_bias: added to the raw density before the exponential.
            dtype: of the decoder. Planes are read in float32: half a precision would move points by texels.
        """
        self.code, self.decoder, self.radius, self.density_bias = code.float(), decoder, radius, density_bias
        self.dtype = dtype
        self.queries = 0

    @property
    def resolution(self) -> int:
        """Samples of a plane along one side."""
        return self.code.shape[-1]

    def features(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N G"]:
        """Features of points, those of the three planes one after the other; beyond the cube they fade to zero."""
        scaled = (points / self.radius).to(self.code)
        grids = torch.stack([scaled[:, list(axes)] for axes in PLANE_AXES])[:, :, None]
        found = functional.grid_sample(self.code, grids, mode="bilinear", padding_mode="zeros", align_corners=False)
        return found[..., 0].permute(2, 0, 1).flatten(1)

    def raw(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4"]:
        """Density and colour of points before their activations, in float32."""
        self.queries += len(points)
        return self.decoder(self.features(points).to(self.dtype)).float()

    def query(self, points: Float[Tensor, "N 3"], chunk: int = CHUNK) -> FieldSamples:
        """Density and colour of points, `chunk` of them at a time, which changes nothing."""
        parts = [self.raw(part) for part in points.split(chunk)]
        raw = torch.cat(parts) if parts else points.new_zeros(0, 4)
        return FieldSamples(self.activated(raw[:, 0]), torch.sigmoid(raw[:, 1:]))

    def density(self, points: Float[Tensor, "N 3"], chunk: int = CHUNK) -> Float[Tensor, " N"]:
        """Density of points alone."""
        return self.query(points, chunk).density

    def activated(self, raw: Tensor) -> Tensor:
        """Density of a raw one."""
        return torch.exp(raw + self.density_bias)
