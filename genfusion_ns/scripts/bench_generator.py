"""`gf-bench-generator`: seconds and memory of the generator per clip, with random weights.

Time and memory of a diffusion model do not depend on the values of its weights, so nothing needs to be downloaded. On a
GPU the networks have the published sizes (2.2 billion parameters), on a CPU toy sizes, of which only ratios mean
anything.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.seeds import seeded_generator

if TYPE_CHECKING:
    from genfusion_ns.priors.dynamicrafter.architecture import Architecture
    from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class BenchGenerator:
    """Time the DynamiCrafter generator with random weights: published sizes on a GPU, toy sizes on a CPU."""

    device: str | None = None
    """cuda, cuda:1 or cpu; a GPU where there is one by default."""
    sizes: tuple[str, ...] = ()
    """WIDTHxHEIGHT of the clips, multiples of 64; 512x320 960x512 on a GPU and 64x64 128x64 on a CPU by default."""
    steps: tuple[int, ...] = (5, 10, 25)
    """Denoising steps."""
    dtypes: tuple[str, ...] = ()
    """Types of the weights; fp16 bf16 on a GPU and fp32 on a CPU by default."""
    frames: int = 16
    """Frames per clip."""
    repeats: int = 2
    """Runs per figure, after one to warm up; the fastest counts."""

    def main(self) -> None:
        """Print one line per figure.

        Raises:
            ValueError: a device, size or type that there is not, or a number out of range.
            torch.OutOfMemoryError: a size that the memory cannot hold.
        """
        if self.repeats < 1 or not self.steps:
            raise ValueError(f"--repeats is {self.repeats} and --steps {self.steps}; at least 1 of each is needed")
        device = self._device()
        on_gpu = device.type == "cuda"
        sizes = [_size(text) for text in self.sizes or (("512x320", "960x512") if on_gpu else ("64x64", "128x64"))]
        dtypes = self.dtypes or (("fp16", "bf16") if on_gpu else ("fp32",))
        if unknown := sorted(set(dtypes) - set(_DTYPES)):
            raise ValueError(f"--dtypes has {', '.join(unknown)}; allowed are {', '.join(_DTYPES)}")
        name = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} torch threads"
        print(f"{name}, torch {torch.__version__}, {'published' if on_gpu else 'toy'} sizes, {self.frames} frames")
        for dtype, offload in itertools.product(dtypes, (False, True) if on_gpu else (False,)):
            pipeline = random_pipeline(_architecture(on_gpu), _DTYPES[dtype], device)
            if offload:
                pipeline.enable_model_cpu_offload(device=device)
            for size in sizes:
                for line in self._lines(pipeline, size, device):
                    print(f"{size[0]}x{size[1]} {dtype}{' offloaded' if offload else ''}: {line}", flush=True)
            del pipeline
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()

    def _lines(self, pipeline: DynamiCrafterPipeline, size: tuple[int, int], device: torch.device) -> Iterator[str]:
        timer = _Timer(pipeline, size, self.frames, device)
        timer.run(self.steps[0], True)
        for steps in self.steps:
            yield f"{steps} steps, {_fastest(timer, steps, [True], self.repeats)[0]}"
        # Alternately, so that a machine that slows down slows both.
        one, two = _fastest(timer, self.steps[0], [True, False], self.repeats)
        ratio = two.seconds / one.seconds
        yield f"{self.steps[0]} steps, guidance in one call {one}, in two {two}; two / one {ratio:.2f}"

    def _device(self) -> torch.device:
        if self.device is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device == "cpu":
            return torch.device("cpu")
        found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if self.device not in ("cuda", *found) or not found:
            raise ValueError(f"--device is {self.device}; this machine has: {', '.join(['cpu', *found])}")
        return torch.device(self.device)


@dataclass(frozen=True)
class _Cost:
    seconds: float
    gibibytes: float | None
    """Peak of the GPU memory that tensors take."""

    def __str__(self) -> str:
        memory = "" if self.gibibytes is None else f", {self.gibibytes:.1f} GiB"
        return f"{self.seconds:.2f} s{memory}"


class _Timer:
    """Runs of one pipeline on one clip."""

    def __init__(
        self, pipeline: DynamiCrafterPipeline, size: tuple[int, int], frames: int, device: torch.device
    ) -> None:
        self._pipeline, self._device = pipeline, device
        generator = seeded_generator(0)
        width, height = size
        self._clip = torch.rand(frames, height, width, 4, generator=generator)
        self._photo = torch.rand(1, height, width, 3, generator=generator)

    def run(self, steps: int, batch_guidance: bool) -> _Cost:
        """One repair from frames to frames."""
        from genfusion_ns.priors.dynamicrafter.sampling import Sampling

        # Trailing spacing takes any number of steps.
        sampling = Sampling(steps=steps, spacing="uniform_trailing", batch_guidance=batch_guidance)
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
            torch.cuda.synchronize(self._device)
        began = time.perf_counter()
        self._pipeline(self._clip[..., :3], self._clip[..., 3:], self._photo, sampling, seeded_generator(0))
        if not on_gpu:
            return _Cost(time.perf_counter() - began, None)
        torch.cuda.synchronize(self._device)
        return _Cost(time.perf_counter() - began, torch.cuda.max_memory_allocated(self._device) / 2**30)


def _fastest(timer: _Timer, steps: int, variants: list[bool], repeats: int) -> list[_Cost]:
    costs = [[timer.run(steps, batch) for batch in variants] for _ in range(repeats)]
    return [min(runs, key=lambda cost: cost.seconds) for runs in zip(*costs, strict=True)]


def random_pipeline(architecture: Architecture, dtype: torch.dtype, device: torch.device) -> DynamiCrafterPipeline:
    """A generator without training whose activations stay in the range of half precision, made on the device."""
    from genfusion_ns.priors.dynamicrafter.architecture import weighted_parts

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


def _architecture(published: bool) -> Architecture:
    from genfusion_ns.priors.dynamicrafter.architecture import Architecture

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


def _size(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 and int(side) % 64 == 0 for side in sides):
        raise ValueError(f"--sizes has {text}; WIDTHxHEIGHT is needed, both multiples of 64, such as 960x512")
    return int(sides[0]), int(sides[1])


def entrypoint() -> None:
    """Entry point of `gf-bench-generator`."""
    run_program("gf-bench-generator", lambda: tyro.cli(BenchGenerator, prog="gf-bench-generator").main())


if __name__ == "__main__":
    entrypoint()
