"""How fast this machine trains, measured on a generated scene in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from genfusion_ns.fusion.benchmark.training_step import training_step
from genfusion_ns.fusion.whole_run.choice import Speed
from genfusion_ns.rendering.benchmark import generated_scene

_SIZES = ((160, 90), (480, 270))
_SURFELS = 100_000
"""As runs of some dozens of photos have in the end: rather fewer steps than no page in time."""
_STEPS = 5


def measured_speed(optimizers: Mapping[str, Any]) -> Speed:
    """Time real training steps at two sizes, on all cores as they are now; other work on them counts.

    Args:
        optimizers: of the method, by parameter group, as its config has them.
    """
    seconds = [_seconds(size, optimizers) for size in _SIZES]
    pixels = [width * height for width, height in _SIZES]
    pixel = max((seconds[1] - seconds[0]) / (pixels[1] - pixels[0]), 1e-9)
    return Speed(base=max(seconds[0] - pixel * pixels[0], 1e-4), pixel=pixel)


def _seconds(size: tuple[int, int], optimizers: Mapping[str, Any]) -> float:
    surfels, viewmat, K = generated_scene(_SURFELS, *size, seed=0)
    with torch.random.fork_rng():
        step = training_step(surfels, viewmat, K, *size, optimizers=optimizers)
        step()  # compiles
        began = time.monotonic()
        for _ in range(_STEPS):
            step()
    return (time.monotonic() - began) / _STEPS
