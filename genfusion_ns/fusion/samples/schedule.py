"""How noisy samples start and how much they weigh in the course of a run (ReconFusion section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

LevelWeight = Literal["const", "alpha", "sigma"]
"""const: every sample alike; alpha: by the share of the signal in what it starts from; sigma: by that of the noise."""

_TIME_STEPS = 1000
_BETAS = 0.00085, 0.012
"""First and last of Stable Diffusion's scaled linear schedule."""


@dataclass(frozen=True)
class SampleSchedule:
    """The schedules of one run; all linear in its steps."""

    total_steps: int
    first_level: float
    """Least noise level at the first step; the largest one is always 1."""
    final_level: float
    """Least noise level at the last step."""
    weight: float
    """Of the samples at the first step."""
    final_weight: float
    """At the last step, as a share of the first."""

    def progress(self, step: int) -> float:
        """0 at the first step of the run, 1 at the last."""
        return min(1.0, step / max(1, self.total_steps - 1))

    def least_level(self, step: int) -> float:
        """The least noise level that a sample of this step may start at, 0..1."""
        return self.first_level + self.progress(step) * (self.final_level - self.first_level)

    def weight_at(self, step: int) -> float:
        """What samples weigh at this step."""
        return self.weight * (1 + self.progress(step) * (self.final_weight - 1))

    def draw_level(self, step: int, generator: torch.Generator) -> float:
        """A noise level between the least one of the step and 1; never 0, at which nothing would be drawn."""
        least = self.least_level(step)
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        return max(1e-3, least + (1 - least) * share)


def signal_share(level: float) -> float:
    """The cumulative alpha of a noise level in Stable Diffusion's schedule, 0..1.

    >>> round(signal_share(1.0), 4), round(signal_share(0.001), 4)
    (0.0047, 0.9983)
    """
    first, last = (beta**0.5 for beta in _BETAS)
    betas = torch.linspace(first, last, _TIME_STEPS, dtype=torch.float64) ** 2
    return float(torch.cumprod(1 - betas, 0)[round(level * (_TIME_STEPS - 1))])


def level_weight(kind: LevelWeight, level: float) -> float:
    """What a sample from this noise level counts beside others, 0..1."""
    if kind == "const":
        return 1.0
    return signal_share(level) if kind == "alpha" else 1 - signal_share(level)
