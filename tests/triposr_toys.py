"""The recorded TripoSR of reduced size, and what the published modules made of it."""

from __future__ import annotations

import json
from functools import cache

import torch
from safetensors.torch import load_file
from shared_files import recorded
from torch import Tensor

from genfusion_ns.priors.triposr.field import TriplaneField
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.priors.triposr.published import load_published

SIZES = {
    "image_size": 64,
    "vit_native_size": 32,
    "vit_patch_size": 8,
    "vit_width": 48,
    "vit_layers": 2,
    "vit_heads": 3,
    "vit_mlp_width": 96,
    "plane_size": 8,
    "plane_channels": 64,
    "heads": 4,
    "head_width": 24,
    "layers": 2,
    "features": 10,
    "decoder_width": 16,
    "decoder_layers": 3,
    "samples": 32,
}
"""Of the recorded network, as its config says."""


def small_triposr() -> TripoSRNetwork:
    """The network with the recorded weights."""
    return load_published(recorded("siblings/triposr_small_weights.safetensors"), SIZES)


@cache
def stages() -> dict[str, Tensor]:
    """What the published modules gave at every stage."""
    return load_file(recorded("siblings/triposr_small_io.safetensors"))


def settings() -> dict:
    """Rays and mesh of the recording."""
    return json.loads(recorded("siblings/triposr_small_config.json").read_text())


class Ball:
    """A decoder whose field is a smooth ball with colours that change from side to side."""

    SIDE, SHARPNESS = 32, 150.0

    def __init__(self, radius: float = 0.87, size: float = 0.35, fades: bool = False) -> None:
        """`fades`: what the planes lose in their outermost half texel is not made up for."""
        self.radius, self.size, self.fades = radius, size, fades
        along = (torch.arange(self.SIDE) + 0.5) / self.SIDE * 2 * radius - radius
        row, column = torch.meshgrid(along, along, indexing="ij")
        self.code = torch.stack([torch.stack([column, row, torch.ones_like(row)]) for _ in range(3)])

    def __call__(self, features: Tensor) -> Tensor:
        """Planes hold coordinates, and ones."""
        x, y, xy_one, _, z, xz_one, _, _, _ = features.unbind(-1)
        if not self.fades:
            x, y, z = x / xy_one.clamp(min=1e-6), y / xy_one.clamp(min=1e-6), z / xz_one.clamp(min=1e-6)
        density = self.SHARPNESS * (self.size**2 - (x**2 + y**2 + z**2))
        return torch.stack([density + 4, 6 * x, 6 * y, 6 * z], dim=-1)

    def field(self) -> TriplaneField:
        """The field."""
        return TriplaneField(self.code, self, self.radius, 0.0)
