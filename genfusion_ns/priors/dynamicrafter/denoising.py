"""The sampling loop of the generator: from noise, or from what a guide gives, to clean latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Tensor

from genfusion_ns.priors.dynamicrafter.sampling import Denoised, Guide, RecordedNoise, Sampling
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler, apply_guidance
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet


@dataclass(frozen=True)
class Conditions:
    """What the network is told beside noisy latents and time step."""

    latents: Float[Tensor, "B 4 T h w"]
    """Of the renders."""
    context: Float[Tensor, "B L D"]
    """Tokens of the photos."""
    null_context: Float[Tensor, "B L D"] | None = None
    """Tokens of no photo; without them there is no guidance."""
    fps: Int[Tensor, " B"] | None = None
    """Frame rates, one per clip, instead of the one of the sampling."""


@torch.no_grad()
def sample_latents(
    unet: DynamiCrafterUNet,
    scheduler: DynamiCrafterScheduler,
    conditions: Conditions,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    noise: RecordedNoise | None = None,
    guide: Guide | None = None,
    progress: Callable[[], object] | None = None,
) -> Denoised:
    """Sample latents.

    Args:
        unet: predicts v.
        scheduler: noise levels and steps; its time steps are set here.
        conditions: of the clips.
        sampling: steps and guidance.
        generator: source of the start and of the noise of the steps.
        noise: recorded noise instead.
        guide: latents to follow; time steps at which they are followed everywhere are not computed.
        progress: called after each step.
    """
    recorded = noise or RecordedNoise()
    start = recorded.start
    if start is None:
        shape, device = conditions.latents.shape, conditions.latents.device
        start = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
    start = latents = start.to(conditions.latents)
    scheduler.set_timesteps(sampling.steps, spacing=sampling.spacing)
    timesteps: list[int] = scheduler.timesteps.tolist()
    variance = torch.zeros_like(latents[:, :1])
    clean: Tensor | None = None
    for index, timestep in enumerate(timesteps):
        free: Tensor | float = 1.0
        if guide is not None:
            if guide.held(timesteps[index + 1] if index + 1 < len(timesteps) else 0, len(scheduler)).all():
                continue  # nothing would be left of this step after the next replacement
            held = guide.held(timestep, len(scheduler))
            latents = torch.where(held, _at_level(guide.latents, start, timestep, scheduler), latents)
            free = (~held).to(latents)
        velocity = _predict(unet, latents, conditions, timestep, sampling)
        fresh = None if recorded.steps is None else recorded.steps[index]
        stepped = scheduler.step(velocity, timestep, latents, sampling.eta, generator, fresh)
        latents = stepped.prev_sample
        estimate = scheduler.unscale(cast(Tensor, stepped.pred_original_sample), timestep)
        if clean is not None:
            variance = variance + free * (estimate - clean).square().mean(1, keepdim=True)
        clean = estimate
        if progress is not None:
            progress()
    if guide is not None:
        latents = torch.where(guide.held(0, len(scheduler)), guide.latents.to(latents), latents)
    return Denoised(latents, variance)


def _at_level(clean: Tensor, noise: Tensor, timestep: int, scheduler: DynamiCrafterScheduler) -> Tensor:
    """Latents of a time step, from clean ones and the noise that the sampling starts with."""
    times = torch.full((len(clean),), timestep, device=clean.device)
    return scheduler.add_noise(scheduler.rescale(clean.to(noise), times), noise, times)


def _predict(
    unet: DynamiCrafterUNet, latents: Tensor, conditions: Conditions, timestep: int, sampling: Sampling
) -> Tensor:
    """v of one time step after guidance, in float32."""
    dtype = unet.dtype
    sample = torch.cat([latents, conditions.latents], dim=1).to(dtype)
    times = torch.full((len(latents),), timestep, device=latents.device)
    fps = torch.full_like(times, sampling.fps) if conditions.fps is None else conditions.fps
    context, null_context = conditions.context.to(dtype), conditions.null_context
    if null_context is None or sampling.guidance_scale == 1:
        return unet(sample, times, context, fps).float()
    null_context = null_context.to(dtype)
    if sampling.batch_guidance:
        both = torch.cat([context, null_context])
        prediction = unet(sample.repeat(2, 1, 1, 1, 1), times.repeat(2), both, fps.repeat(2))
        conditional, unconditional = prediction.float().chunk(2)
    else:
        conditional = unet(sample, times, context, fps).float()
        unconditional = unet(sample, times, null_context, fps).float()
    return apply_guidance(conditional, unconditional, sampling.guidance_scale, sampling.guidance_rescale)
