"""A sample, and what people who watch a run see of the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from genfusion_ns.fusion.samples.schedule import SampleSchedule
from genfusion_ns.priors.base import ViewPrior


@dataclass(frozen=True)
class Sample:
    """What the prior says that a view should show."""

    target: Float[Tensor, "H W 3"]
    """Colours in 0..1."""
    viewmat: Float[Tensor, "4 4"]
    """World-to-camera, OpenCV axes."""
    level: float
    """Noise level that it started at, 0..1."""
    step: int
    """Before which it was drawn."""
    rendered: Float[Tensor, "H W 3"] | None = None
    """The render that it was made of, to be shown; not kept with checkpoints."""
    references: tuple[int, ...] = ()
    """Photos that conditioned it."""


class WatchedSamples(Protocol):
    """Samples that people watch; see `genfusion_ns.fusion.samples.supervision.SampleSupervision`."""

    paused: bool
    latest: Sample | None
    schedule: SampleSchedule
    prior: ViewPrior
