"""`gf-bench-generator`: seconds and memory of the generator per clip, with random weights.

Time and memory of a diffusion model do not depend on the values of its weights, so nothing needs to be downloaded. On a
GPU the networks have the published sizes (2.2 billion parameters), on a CPU toy sizes, of which only ratios mean
anything.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import tyro

from genfusion_ns.errors import run_program

if TYPE_CHECKING:
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
        # Takes seconds to import, which --help should not.
        from genfusion_ns.priors.dynamicrafter.benchmark import benched_architecture, random_pipeline

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
            pipeline = random_pipeline(benched_architecture(on_gpu), _DTYPES[dtype], device)
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
        from genfusion_ns.priors.dynamicrafter.benchmark import ClipTimer, fastest

        timer = ClipTimer(pipeline, size, self.frames, device)
        timer.run(self.steps[0], True)
        for steps in self.steps:
            yield f"{steps} steps, {fastest(timer, steps, [True], self.repeats)[0]}"
        # Alternately, so that a machine that slows down slows both.
        one, two = fastest(timer, self.steps[0], [True, False], self.repeats)
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
