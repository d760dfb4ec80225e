"""From frames to what the network of the dynamicrafter generator is trained on: noisy latents, context tokens, v.

The loss is the mean squared error of v at uniform time steps, with the dynamic rescale (DynamiCrafter, Xing et al.
2024; v: Salimans and Ho 2022). Target and condition are drawn from the autoencoder's distribution, as in GenFusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genfusion_ns.priors.dynamicrafter.images import to_network
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler


class TrainingBatch(Protocol):
    """B training samples of one size, without cameras."""

    @property
    def artifact_rgb(self) -> Float[Tensor, "B T H W 3"]:
        """Colours in 0..1."""
        ...

    @property
    def artifact_disparity(self) -> Float[Tensor, "B T H W 1"]:
        """Over the range of each sample, 0..1; 0 is farthest or unknown."""
        ...

    @property
    def clean_rgb(self) -> Float[Tensor, "B T H W 3"]:
        """Colours in 0..1."""
        ...

    @property
    def clean_disparity(self) -> Float[Tensor, "B T H W 1"]:
        """Over its own range, as `artifact_disparity`."""
        ...

    @property
    def reference(self) -> Float[Tensor, "B h w 3"]:
        """One photo per sample; colours in 0..1."""
        ...


@dataclass(frozen=True)
class Draws:
    """All that is random about a batch."""

    timesteps: Int[Tensor, " B"]
    """0..999."""
    dropout: Float[Tensor, " B"]
    """Uniform in 0..1; decides whether a sample sees its photo."""
    noise: Float[Tensor, "B 4 T h w"]
    """Of the diffusion."""
    clean: Float[Tensor, "B*T 4 h w"]
    """Of the latents of the clean clip."""
    condition: Float[Tensor, "B*T 4 h w"]
    """Of the latents of the artifact clip."""

    def to(self, device: torch.device) -> Draws:
        """The same draws on `device`."""
        return Draws(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Exercise:
    """What the network is asked, and the answer."""

    sample: Float[Tensor, "B 8 T h w"]
    """Noisy latents, then those of the artifact clip."""
    timesteps: Int[Tensor, " B"]
    """Of the noise."""
    tokens: Float[Tensor, "B N C"]
    """Of the photos, as the image encoder gives them."""
    fps: Int[Tensor, " B"]
    """Frame rate."""
    velocity: Float[Tensor, "B 4 T h w"]
    """v."""


def draw(generators: Sequence[torch.Generator], shape: tuple[int, int, int, int], timesteps: int = 1000) -> Draws:
    """Draw what is random about a batch, each sample from a generator of its own.

    Args:
        generators: one per sample, on the CPU.
        shape: of the latents of one sample, (4, T, h, w).
        timesteps: of the diffusion.
    """
    channels, frames, height, width = shape
    frame = (frames, channels, height, width)
    samples = [
        (
            torch.randint(0, timesteps, (1,), generator=generator),
            torch.rand(1, generator=generator),
            torch.randn(1, *shape, generator=generator),
            torch.randn(frame, generator=generator),
            torch.randn(frame, generator=generator),
        )
        for generator in generators
    ]
    return Draws(*(torch.cat(parts) for parts in zip(*samples, strict=True)))


def encode_batch(
    pipeline: DynamiCrafterPipeline, batch: TrainingBatch, draws: Draws, hidden: tuple[float, float], fps: int
) -> Exercise:
    """Encode a batch with the frozen parts of a pipeline, which are on the device of the draws.

    Args:
        pipeline: its U-Net and its image projection are not used.
        batch: of a size that the network takes.
        draws: see `Draws`.
        hidden: draws of `dropout` in this range, its end excluded, replace the photo by mid grey.
        fps: frame rate that the network is told.
    """
    device = draws.timesteps.device
    clean, condition = (
        pipeline.encode_video(_video(rgb, disparity).to(device), noise=noise)
        for rgb, disparity, noise in (
            (batch.clean_rgb, batch.clean_disparity, draws.clean),
            (batch.artifact_rgb, batch.artifact_disparity, draws.condition),
        )
    )
    dropped = (draws.dropout >= hidden[0]) & (draws.dropout < hidden[1])
    photos = to_network(batch.reference.to(device)).permute(0, 3, 1, 2)
    tokens = pipeline.photo_tokens(torch.where(dropped[:, None, None, None], 0.0, photos))
    rates = torch.full_like(draws.timesteps, fps)
    return diffuse(pipeline.scheduler, clean, condition, draws, tokens, rates)


def diffuse(
    scheduler: DynamiCrafterScheduler,
    clean: Float[Tensor, "B 4 T h w"],
    condition: Float[Tensor, "B 4 T h w"],
    draws: Draws,
    tokens: Float[Tensor, "B N C"],
    fps: Int[Tensor, " B"],
) -> Exercise:
    """Noisy latents and v of clean ones."""
    scaled = scheduler.rescale(clean, draws.timesteps)
    noisy = scheduler.add_noise(scaled, draws.noise, draws.timesteps)
    velocity = scheduler.get_velocity(scaled, draws.noise, draws.timesteps)
    return Exercise(torch.cat([noisy, condition], dim=1), draws.timesteps, tokens, fps, velocity)


def velocity_loss(network: nn.Module, exercise: Exercise) -> Float[Tensor, ""]:
    """Mean squared error of v over everything; `network` is called as `TrainedParts` is."""
    predicted = network(exercise.sample, exercise.timesteps, exercise.tokens, exercise.fps)
    return (predicted.float() - exercise.velocity).square().mean()


def _video(rgb: Tensor, disparity: Tensor) -> Float[Tensor, "B 4 T H W"]:
    return to_network(torch.cat([rgb, disparity], dim=-1)).permute(0, 4, 1, 2, 3)
