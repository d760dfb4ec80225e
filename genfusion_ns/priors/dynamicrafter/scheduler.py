"""Noise schedule and sampler of GenFusion's generator: v-prediction with zero terminal SNR, sampled by DDIM.

Notation as in DDIM (Song et al. 2021): ``a`` is the cumulative alpha of the current time step, ``a'`` that of the next
one. A step is DDIM's equation 12 with the noise of its equation 16; the network predicts v as in Salimans and Ho 2022
(section 4):

- x_t = sqrt(a) x_0 + sqrt(1 - a) epsilon (Ho et al. 2020, equation 4);
- v = sqrt(a) epsilon - sqrt(1 - a) x_0, hence x_0 = sqrt(a) x_t - sqrt(1 - a) v
  and epsilon = sqrt(a) v + sqrt(1 - a) x_t;
- sigma = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a'), and
  x_t' = sqrt(a') x_0 + sqrt(1 - a' - sigma^2) epsilon + sigma noise.

Latents are trained at a size that shrinks with the time step, the *dynamic rescale* of
DynamiCrafter: x_0 is multiplied by ``scale[t]``, which falls from 1 to 0.7 within the first 400 of 1000 steps.

Tables are float64 and steps are computed in float32 whatever the network's type: half precision would move the last
step by as much as its noise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Tensor

from genfusion_ns.priors.dynamicrafter.timesteps import Spacing
from genfusion_ns.priors.dynamicrafter.timesteps import spaced_timesteps as spaced_timesteps


class DynamiCrafterScheduler(SchedulerMixin, ConfigMixin):
    """DDIM with dynamic rescale; see the module."""

    order = 1
    init_noise_sigma = 1.0
    config: Any  # as in `DynamiCrafterUNet`

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        rescale_betas_zero_snr: bool = True,
        base_scale: float = 0.7,
        turning_step: int = 400,
        timestep_spacing: Spacing = "uniform",
    ) -> None:
        """
        Args:
            num_train_timesteps: time steps of training.
            beta_start: first beta; square roots of betas are equally spaced.
            beta_end: last beta, before the rescale.
            rescale_betas_zero_snr: make the last time step pure noise (Lin et al. 2024, algorithm 1).
            base_scale: dynamic rescale from `turning_step` on; 1 turns it off.
            turning_step: entries of the table until the dynamic rescale is constant.
            timestep_spacing: default of `set_timesteps`.
        """
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64)
        signal = (1 - roots**2).cumprod(0).sqrt()
        if rescale_betas_zero_snr:
            signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        self.alphas_cumprod = signal**2
        ramp = torch.linspace(1.0, base_scale, turning_step, dtype=torch.float64)
        flat = torch.full((max(0, num_train_timesteps - turning_step),), base_scale, dtype=torch.float64)
        self.scales = torch.cat([ramp, flat])[:num_train_timesteps]
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.num_inference_steps: int | None = None

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None, spacing: Spacing | None = None
    ) -> None:
        """Choose the time steps of a run, from noisy to clean; errors as in `spaced_timesteps`.

        Args:
            num_inference_steps: how many; "uniform" may give one more where it does not divide 1000.
            device: where `timesteps` are put.
            spacing: that of the config where there is none.
        """
        chosen = spaced_timesteps(
            num_inference_steps, spacing or self.config.timestep_spacing, self.config.num_train_timesteps
        )
        self.timesteps = torch.tensor(chosen[::-1], device=device)
        self.num_inference_steps = len(chosen)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The sample itself; part of the interface of diffusers' schedulers."""
        return sample

    def step(
        self,
        model_output: Float[Tensor, "B ..."],
        timestep: int | Tensor,
        sample: Float[Tensor, "B ..."],
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: Float[Tensor, "B ..."] | None = None,
    ) -> DDIMSchedulerOutput:
        """One step towards the clean latents.

        The last step ends at the noise level of time step 0, which is not quite clean, and keeps the dynamic rescale of
        the last time step, as the published sampler does.

        Args:
            model_output: predicted v, after guidance.
            timestep: current one of `timesteps`.
            sample: latents at that time step.
            eta: 0 is deterministic, 1 as random as the forward process.
            generator: source of the noise, on the CPU or the device of the sample.
            noise: standard normal noise instead, of the shape of the sample.

        Returns:
            ``prev_sample`` and ``pred_original_sample`` (after the rescale), of the type of the sample.

        Raises:
            ValueError: the time step is not one of those set.
        """
        a, a_next, factor = self._levels(int(timestep))
        sigma = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
        x, v = sample.float(), model_output.float()
        epsilon = math.sqrt(a) * v + math.sqrt(1 - a) * x
        clean = (math.sqrt(a) * x - math.sqrt(1 - a) * v) * factor
        # Analytically 0 at pure noise with eta 1, where rounding may leave a negative number.
        direction = math.sqrt(max(0.0, 1 - a_next - sigma**2))
        previous = math.sqrt(a_next) * clean + direction * epsilon
        if sigma > 0:
            if noise is None:
                noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=torch.float32)
            previous = previous + sigma * noise.to(previous)
        return DDIMSchedulerOutput(prev_sample=previous.to(sample), pred_original_sample=clean.to(sample))

    def unscale(self, clean: Float[Tensor, "B ..."], timestep: int) -> Float[Tensor, "B ..."]:
        """The ``pred_original_sample`` of one step without its dynamic rescale, comparable with that of other steps."""
        return clean / float(self.scales[self._following(timestep)])

    def _following(self, timestep: int) -> int:
        """The time step after one of those set; the last one again after itself."""
        chosen: list[int] = self.timesteps.tolist()
        if timestep not in chosen:
            raise ValueError(f"time step {timestep} is not one of those set, {chosen}; call set_timesteps first")
        return [*chosen, chosen[-1]][chosen.index(timestep) + 1]

    def _levels(self, timestep: int) -> tuple[float, float, float]:
        """a, a' and the ratio of the dynamic rescales of the next and this time step."""
        following = self._following(timestep)
        a_next = self.alphas_cumprod[0 if following == timestep else following]
        factor = self.scales[following] / self.scales[timestep]
        return float(self.alphas_cumprod[timestep]), float(a_next), float(factor)

    def rescale(self, latents: Float[Tensor, "B ..."], timesteps: Int[Tensor, " B"]) -> Float[Tensor, "B ..."]:
        """Clean latents at the size at which they are trained at these time steps."""
        return latents * _per_sample(self.scales, timesteps, latents)

    def add_noise(
        self, original_samples: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], timesteps: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """Latents at these time steps, of clean ones that went through `rescale` (Ho et al. 2020, equation 4)."""
        signal = _per_sample(self.alphas_cumprod.sqrt(), timesteps, original_samples)
        spread = _per_sample((1 - self.alphas_cumprod).sqrt(), timesteps, original_samples)
        return signal * original_samples + spread * noise

    def get_velocity(
        self, sample: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], timesteps: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """v, what the network learns to predict (Salimans and Ho 2022, section 4); arguments as in `add_noise`."""
        signal = _per_sample(self.alphas_cumprod.sqrt(), timesteps, sample)
        spread = _per_sample((1 - self.alphas_cumprod).sqrt(), timesteps, sample)
        return signal * noise - spread * sample

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def apply_guidance(
    conditional: Float[Tensor, "B ..."], unconditional: Float[Tensor, "B ..."], scale: float, rescale: float
) -> Float[Tensor, "B ..."]:
    """Classifier-free guidance whose spread is pulled back to that of the conditional prediction.

    Ho and Salimans 2022, equation 6, where w is ``scale - 1``; Lin et al. 2024, equations 14 to 16.

    >>> conditional, unconditional = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    >>> apply_guidance(conditional, unconditional, scale=3.0, rescale=0.0)
    tensor([[0., 4.]])
    >>> apply_guidance(conditional, unconditional, scale=3.0, rescale=1.0)
    tensor([[0., 2.]])

    Args:
        conditional: prediction with the reference photos.
        unconditional: prediction without.
        scale: 1 gives the conditional prediction itself.
        rescale: share of the corrected prediction, 0..1; Lin's phi.
    """
    guided = unconditional + scale * (conditional - unconditional)
    if scale == 1 or rescale <= 0:
        return guided
    axes = tuple(range(1, guided.dim()))
    # A network that is untrained, or predicts a constant, has no spread.
    spread = guided.std(axes, keepdim=True).clamp(min=torch.finfo(guided.dtype).tiny)
    ratio = conditional.std(axes, keepdim=True) / spread
    return rescale * guided * ratio + (1 - rescale) * guided


def _per_sample(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    values = table.to(timesteps.device)[timesteps].to(like)
    return values.view(-1, *(1,) * (like.dim() - 1))
