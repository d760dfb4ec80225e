"""How clips are sampled, and what a sampling gives; shared by the pipeline and those who call it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.priors.dynamicrafter.timesteps import Spacing, spaced_timesteps


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
    """Which time steps are taken; see `timesteps.spaced_timesteps`."""
    sample_condition: bool = True
    """Draw the condition latents from their distribution, as in training; False takes its mode, the same each time."""
    batch_guidance: bool = True
    """Run both branches of the guidance in one call of the network; False halves the memory."""
    start_noise: float = 1.0
    """Noise level, as a share of the time steps, at which covered pixels start from their render; see `start_guide`."""

    def __post_init__(self) -> None:
        """Raises ValueError, which begins with the name of the field, for values out of range."""
        limits = {
            "guidance_scale": (0.0, 50.0),
            "guidance_rescale": (0.0, 1.0),
            "eta": (0.0, 1.0),
            "start_noise": (0.05, 1.0),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also false for NaN
                raise ValueError(f"{name} is {value}; allowed are {low:g}..{high:g}")
        try:
            spaced_timesteps(self.steps, self.spacing)
        except ValueError as error:
            raise ValueError(f"steps is {self.steps}: {error}") from error


@dataclass(frozen=True)
class Guide:
    """Clean latents that the sampling follows, each position down to its own noise level, and free of them below.

    While a position is held, it is these latents at the noise level of the time step; then sampling goes on from there.
    Positions held to level 0 are kept (inpainting by replacement: Lugmayr et al. 2022, RePaint, equation 8, without its
    repetitions). Held to a level between, a position starts from the latents instead of from noise (Meng et al. 2022,
    SDEdit), each with its own strength (Levin and Fried 2023, Differential Diffusion).
    """

    latents: Float[Tensor, "B 4 T h w"]
    """Scaled latents, as `DynamiCrafterPipeline.encode_video` gives them."""
    until: Float[Tensor, "B 1 T h w"]
    """Share of the time steps, 0..1, below which a position is free: 1 never held, 0 held to the end."""

    def held(self, timestep: int, total: int) -> Bool[Tensor, "B 1 T h w"]:
        """Positions that are not free yet at a time step of 0..`total` - 1."""
        return self.until * total <= timestep


@dataclass(frozen=True)
class KnownFrames:
    """Frames of a clip that need no sampling, because an earlier window has repaired them."""

    video: Float[Tensor, "K H W 4"]
    """Colours and disparity in 0..1, of the size of the clip and in the disparity code of the clip."""
    places: list[int]
    """Which frame of the clip each of them is."""


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
    number, distorted by guidance. Where a `Guide` holds a position, only the steps after that count.
    """


def start_guide(latents: Float[Tensor, "B 4 T h w"], alpha: Float[Tensor, "B 1 T h w"], start_noise: float) -> Guide:
    """Start from the artifact clip where it is covered, and from pure noise where it is empty.

    The idea is that of ArtiFixer (2026), whose network was trained for it; here each position joins the sampling at its
    own noise level instead, so that a network trained on pure noise always sees the noise level it is told.

    Args:
        latents: of the artifact clip.
        alpha: its coverage in 0..1.
        start_noise: noise level, as a share of the time steps, from which full coverage starts; 1 is pure noise.
    """
    return Guide(latents, 1 - alpha * (1 - start_noise))


def keep_frames(guide: Guide | None, latents: Float[Tensor, "B 4 T h w"], places: list[int]) -> Guide:
    """A guide that keeps the latents of the frames in `places` to the end, and is `guide` elsewhere."""
    until = torch.ones_like(latents[:, :1]) if guide is None else guide.until.clone()
    kept = latents.clone() if guide is None else guide.latents.clone()
    until[:, :, places] = 0.0
    kept[:, :, places] = latents[:, :, places]
    return Guide(kept, until)
