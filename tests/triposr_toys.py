"""The recorded TripoSR of reduced size, and what the published modules made of it."""

from __future__ import annotations

import json
from functools import cache

from safetensors.torch import load_file
from shared_files import recorded
from torch import Tensor

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
