"""How clips are sampled, and what a sampling gives; shared by the pipeline and those who call it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from genfusion_ns.priors.dynamicrafter.scheduler import Spacing


@dataclass(frozen=True)
class Sampling:
    """How a clip is sampled; the defaults are those of GenFusion."""

    steps: int = 25
    """Denoising steps."""
    guidance_scale: float = 3.2
    """Weight of the reference photos; 1 does without the second branch. GenFusion completes scenes with 2.2."""
    guidance_rescale: float = 0.7
    """How far the spread of the guided prediction is pulled back, 0..1."""
    eta: float = 1.0
    """Randomness of the steps, 0 (none) to 1."""
    fps: int = 30
    """Frame rate the network is told."""
    spacing: Spacing = "uniform"
    """Which time steps are taken; see `scheduler.spaced_timesteps`."""
    sample_condition: bool = True
    """Draw the condition latents from their distribution, as in training; False takes its mode, the same each time."""
    batch_guidance: bool = True
    """Run both branches of the guidance in one call of the network; False halves the memory."""


@dataclass(frozen=True)
class RecordedNoise:
    """Standard normal noise to use in place of fresh draws; None draws."""

    condition: Float[Tensor, "B*T 4 h w"] | None = None
    """Of the condition latents."""
    start: Float[Tensor, "B 4 T h w"] | None = None
    """Latents to start from."""
    steps: Float[Tensor, "S B 4 T h w"] | None = None
    """Of each step, in the order of execution."""


@dataclass(frozen=True)
class Denoised:
    """End of the sampling of a batch."""

    latents: Float[Tensor, "B 4 T h w"]
    """What the decoder takes."""
    variance: Float[Tensor, "B 1 T h w"]
    """How uncertain the latents were when sampling began, as a mean over channels in squared units of the latents.

    The sum of the squared changes of the clean estimate from step to step. Along an exact stochastic sampling (eta 1)
    that estimate is a martingale, so that the expected sum is the variance of what it ends at. It is one draw of that
    number, distorted by guidance.
    """
