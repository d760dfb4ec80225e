"""Settings of samples: how often, from which noise level, at which cameras, and what they weigh."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from genfusion_ns.fusion.cameras.novel import NovelViewSettings
from genfusion_ns.fusion.contract import SupervisionConfig
from genfusion_ns.fusion.samples.prior import check_prior
from genfusion_ns.fusion.samples.schedule import LevelWeight, SampleSchedule
from genfusion_ns.perceptual import LpipsNet, check_lpips
from genfusion_ns.priors.config import RepairerConfig
from genfusion_ns.ranges import require_ranges

FLAG = "--pipeline.fusion"


@dataclass
class SampleSettings(SupervisionConfig):
    """Samples of an image prior: how often, from which noise level, at which cameras, and what they weigh."""

    sample_every: int = 1
    """Steps between samples; 1 as in ReconFusion."""
    reuse: int = 1
    """Steps that a sample supervises, from the one on at which it was drawn; sample-every at most."""
    weight: float = 1.0
    """Weight of the samples at the first step; it falls in a line."""
    final_weight: float = 0.1
    """Weight at the last step, as a share of the first."""
    first_level: float = 1.0
    """Least noise level at the first step, 0..1; samples start between it and 1, which is pure noise."""
    final_level: float = 0.0
    """Least noise level at the last step, 0..1; at low levels a sample hardly differs from the render."""
    sample_weight: LevelWeight = "const"
    """Weight of a sample by its noise level: all alike (const), by the share of the signal in what it starts from
    (alpha), or by that of the noise (sigma)."""
    lpips_weight: float = 1.0
    """Weight of LPIPS beside the absolute differences; 0 leaves it out, and its weights need not be installed."""
    lpips_net: LpipsNet = "alex"
    """Backbone of that LPIPS; vgg takes several times longer."""
    num_references: int = 3
    """Photos that a sample is conditioned on at most, those whose cameras are nearest."""
    densify: bool = True
    """Sampled views count where surfels are grown; False: the photos alone decide."""
    seed: int = 0
    """Seed of cameras, noise levels and samples."""
    views: NovelViewSettings = field(default_factory=NovelViewSettings)
    """Where the novel views lie."""

    def check(self, repairer: RepairerConfig, device: str) -> None:
        """See `SupervisionConfig.check`."""
        counts = dict.fromkeys(("sample_every", "reuse", "num_references"), (1, math.inf))
        weights = dict.fromkeys(("weight", "final_weight", "lpips_weight"), (0, 1000))
        require_ranges(self, {**counts, **weights, "first_level": (0, 1), "final_level": (0, 1)}, f"{FLAG}.")
        if self.reuse > self.sample_every:
            raise ValueError(
                f"{_flag('reuse')} is {self.reuse}, but a new sample is drawn every {self.sample_every} steps; raise "
                f"{_flag('sample_every')} as well"
            )
        self.views.check(f"{FLAG}.views")
        if self.lpips_weight > 0:
            check_lpips(self.lpips_net, _flag("lpips_weight"))
        check_prior(repairer, device)

    def schedule(self, total_steps: int) -> SampleSchedule:
        """The schedules of a run of so many steps."""
        return SampleSchedule(total_steps, self.first_level, self.final_level, self.weight, self.final_weight)


def _flag(name: str) -> str:
    return f"{FLAG}.{name.replace('_', '-')}"
