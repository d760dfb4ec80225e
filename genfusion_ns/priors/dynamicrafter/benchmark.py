"""Seconds and memory of the generator per clip, with random weights: neither depends on their values."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from genfusion_ns.priors.dynamicrafter.architecture import Architecture, weighted_parts
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.sampling import Sampling
from genfusion_ns.seeds import seeded_generator


@dataclass(frozen=True)
class Cost:
    """What one repair takes."""

    seconds: float
    gibibytes: float | None
    """Peak of the GPU memory that tensors take."""

    def __str__(self) -> str:
        memory = "" if self.gibibytes is None else f", {self.gibibytes:.1f} GiB"
        return f"{self.seconds:.2f} s{memory}"


class ClipTimer:
    """Runs of one pipeline on one clip."""

    def __init__(
        self, pipeline: DynamiCrafterPipeline, size: tuple[int, int], frames: int, device: torch.device
    ) -> None:
        self._pipeline, self._device = pipeline, device
        generator = seeded_generator(0)
        width, height = size
        self._clip = torch.rand(frames, height, width, 4, generator=generator)
        self._photo = torch.rand(1, height, width, 3, generator=generator)

    def run(self, steps: int, batch_guidance: bool) -> Cost:
        """One repair from frames to frames."""
        # Trailing spacing takes any number of steps.
        sampling = Sampling(steps=steps, spacing="uniform_trailing", batch_guidance=batch_guidance)
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
            torch.cuda.synchronize(self._device)
        began = time.perf_counter()
        self._pipeline(self._clip[..., :3], self._clip[..., 3:], self._photo, sampling, seeded_generator(0))
        if not on_gpu:
            return Cost(time.perf_counter() - began, None)
        torch.cuda.synchronize(self._device)
        return Cost(time.perf_counter() - began, torch.cuda.max_memory_allocated(self._device) / 2**30)


def fastest(timer: ClipTimer, steps: int, variants: list[bool], repeats: int) -> list[Cost]:
    """The fastest of `repeats` runs with and without guidance in one call, in turn: a slow moment slows both."""
    costs = [[timer.run(steps, batch) for batch in variants] for _ in range(repeats)]
    return [min(runs, key=lambda cost: cost.seconds) for runs in zip(*costs, strict=True)]


def random_pipeline(architecture: Architecture, dtype: torch.dtype, device: torch.device) -> DynamiCrafterPipeline:
    """A generator without training whose activations stay in the range of half precision, made on the device."""
    pipeline = architecture.skeleton()
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(device).manual_seed(0)
    for part in weighted_parts(pipeline).values():
        torch.nn.Module.to(part, dtype).to_empty(device=device).eval()
        with torch.no_grad():
            for name, parameter in part.named_parameters():
                if parameter.dim() > 1:
                    fan_in = parameter.numel() / parameter.shape[0]
                    parameter.normal_(std=fan_in**-0.5, generator=generator)
                else:
                    parameter.fill_(float(name.endswith("weight")))
            for name, buffer in part.named_buffers():
                if name.endswith("position_ids"):
                    buffer.copy_(torch.arange(buffer.numel(), device=device).view_as(buffer))
    return pipeline


def benched_architecture(published: bool) -> Architecture:
    """The published sizes, or toy sizes of the same parts."""
    if published:
        return Architecture()
    full = Architecture()
    return Architecture(
        unet={"block_out_channels": (32, 32, 32, 64), "attention_head_dim": 8, "cross_attention_dim": 64},
        image_projection={"embed_dims": 80, "hidden_dims": 48, "output_dims": 64, "depth": 2, "heads": 4},
        vae={**full.vae, "block_out_channels": (32, 32, 32, 64)},
        image_encoder={
            **full.image_encoder,
            "hidden_size": 80,
            "intermediate_size": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    )
