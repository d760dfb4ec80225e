"""`gf-bench-raster`: how fast the CPU rasteriser is on this machine, in units that compare across machines.

Times are minima over repeats, of the wall clock and of the CPU time of all threads. A contributing pair is a surfel
and a pixel it adds to: the work that any rasteriser has to do for the image, whatever it culls.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from genfusion_ns.data.array_files import ArrayFileError, read_arrays
from genfusion_ns.errors import run_program
from genfusion_ns.geometry.cameras import crop_intrinsics, resize_intrinsics
from genfusion_ns.rendering.benchmark import (
    Times,
    fastest,
    fastest_in_turns,
    generated_scene,
    passes,
    peak_growth,
    single_thread_sgemm,
)
from genfusion_ns.rendering.contract import PIXEL_VARIANCE
from genfusion_ns.rendering.surfels import RasterSettings, Surfels


@dataclass
class BenchRaster:
    """Time the CPU rasteriser, and the plain torch reference on a window of the same image."""

    scene: Path | None = None
    """An .npz of means, quats, scales, opacities, colors (0..255), viewmat, K, width, height; else a generated one."""
    surfels: int = 50_000
    """Number of surfels of the generated scene."""
    seed: int = 0
    """Seed of the generated scene."""
    width: int = 480
    """Width of the image in pixels."""
    height: int = 270
    """Height of the image in pixels."""
    threads: int | None = None
    """Threads of the rasteriser; OMP_NUM_THREADS or all cores if not given."""
    repeats: int = 10
    """Renders per figure; the fastest counts."""
    window: tuple[int, int] = (64, 36)
    """Width and height of the window in the middle of the image that the reference renders; 0 0 leaves it out."""
    antialias: bool = False
    """Measure surfels seen through the pixel (--pipeline.model.antialias mip) beside plain ones, in turns."""

    def main(self) -> None:
        """Print one line per figure."""
        from genfusion_ns.rendering.backends import cpu as cpu_backend

        surfels, viewmat, K = self._load()
        cpu_backend.set_num_threads(self.threads)
        settings = RasterSettings(self.width, self.height, None, 0.2, 1e10, "intersection")
        pairs = cpu_backend.count_pairs(surfels, viewmat, K, settings)
        pixels = self.width * self.height
        print(
            f"{len(surfels)} surfels, {self.width} x {self.height}, {pairs / 1e6:.2f} M contributing pairs "
            f"({pairs / pixels:.1f} per pixel), {cpu_backend.num_threads()} threads"
        )
        forward, both = self._time("cpu", surfels, viewmat, K, size=(self.width, self.height), repeats=self.repeats)
        sgemm = single_thread_sgemm(self.repeats)
        _report("cpu", forward, both, pairs)
        print(f"single-thread 1024^3 sgemm {sgemm * 1e3:.1f} ms; cpu F+B / sgemm (CPU time) {both.cpu / sgemm:.2f}")
        if self.antialias:
            self._antialias(surfels, viewmat, K, pairs)
        print(f"extra peak memory of F+B: {self._peak_memory(surfels, viewmat, K)}")
        self._training_step(surfels, viewmat, K)
        if min(self.window) > 0:
            self._reference(surfels, viewmat, K, pairs / both.cpu)

    def _load(self) -> tuple[Surfels, Tensor, Tensor]:
        if self.scene is None:
            return generated_scene(self.surfels, self.width, self.height, self.seed)
        try:
            arrays = read_arrays(self.scene)
        except ArrayFileError as error:
            raise SystemExit(f"--scene {self.scene} cannot be read as an .npz archive: {error}") from error
        tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
        names = ("means", "quats", "scales", "opacities", "colors")
        missing = sorted({*names, "viewmat", "K", "width", "height"} - set(tensors))
        if missing:
            raise SystemExit(f"--scene {self.scene}: has no {', '.join(missing)}.")
        surfels = Surfels(*(tensors[name] / (255 if name == "colors" else 1) for name in names))
        size = int(tensors["width"]), int(tensors["height"])
        return surfels, tensors["viewmat"], resize_intrinsics(tensors["K"], size, (self.width, self.height))

    def _time(
        self, backend: str, surfels: Surfels, viewmat: Tensor, K: Tensor, *, size: tuple[int, int], repeats: int
    ) -> tuple[Times, Times]:
        run, forward = passes(backend, surfels, viewmat, K, size)
        return fastest(forward, repeats), fastest(run, repeats)

    def _antialias(self, surfels: Surfels, viewmat: Tensor, K: Tensor, plain_pairs: int) -> None:
        from genfusion_ns.rendering.backends import cpu as cpu_backend

        size = (self.width, self.height)
        settings = RasterSettings(*size, None, 0.2, 1e10, "intersection", PIXEL_VARIANCE)
        pairs = (plain_pairs, cpu_backend.count_pairs(surfels, viewmat, K, settings))
        runs = [passes("cpu", surfels, viewmat, K, size, variance) for variance in (None, PIXEL_VARIANCE)]
        forward = fastest_in_turns([run[1] for run in runs], self.repeats)
        both = fastest_in_turns([run[0] for run in runs], self.repeats)
        for name, count, f, b in zip(("none", "mip "), pairs, forward, both, strict=True):
            _report(f"cpu, antialias {name}", f, b, count)
        print(
            f"antialias mip / none: F {forward[1].cpu / forward[0].cpu:.2f}, F+B {both[1].cpu / both[0].cpu:.2f} "
            f"(CPU time), contributing pairs {pairs[1] / max(pairs[0], 1):.2f}"
        )

    def _peak_memory(self, surfels: Surfels, viewmat: Tensor, K: Tensor) -> str:
        run, _ = passes("cpu", surfels, viewmat, K, (self.width, self.height))
        gc.collect()
        peak = peak_growth(run)
        return "not measured, this system does not say" if peak is None else f"{peak / 2**20:.0f} MiB"

    def _training_step(self, surfels: Surfels, viewmat: Tensor, K: Tensor) -> None:
        from genfusion_ns.fusion.benchmark.training_step import training_step
        from genfusion_ns.methods import genfusion

        step = training_step(surfels, viewmat, K, self.width, self.height, optimizers=genfusion.config.optimizers)
        step()
        times = fastest(step, self.repeats)
        print(
            f"training step (SH 3, L1 + SSIM, Adam) {times.wall * 1e3:.1f} ms wall {times.cpu * 1e3:.1f} ms CPU, "
            f"{1 / times.wall:.1f} steps/s, {torch.get_num_threads()} torch threads"
        )

    def _reference(self, surfels: Surfels, viewmat: Tensor, K: Tensor, fast: float) -> None:
        from genfusion_ns.rendering.backends import cpu as cpu_backend

        width, height = min(self.window[0], self.width), min(self.window[1], self.height)
        cropped = crop_intrinsics(K, (self.width - width) // 2, (self.height - height) // 2)
        settings = RasterSettings(width, height, None, 0.2, 1e10, "intersection")
        pairs = cpu_backend.count_pairs(surfels, viewmat, cropped, settings)
        forward, both = self._time("reference", surfels, viewmat, cropped, size=(width, height), repeats=1)
        print(f"reference on the {width} x {height} window in the middle, {torch.get_num_threads()} torch threads:")
        _report("reference", forward, both, pairs)
        print(f"cpu does {fast * both.cpu / pairs:.0f} times the contributing pairs per second of CPU time (F+B)")


def _report(name: str, forward: Times, both: Times, pairs: int) -> None:
    for label, times in (("F  ", forward), ("F+B", both)):
        print(
            f"{name} {label} {times.wall * 1e3:8.1f} ms wall {times.cpu * 1e3:8.1f} ms CPU "
            f"{pairs / times.cpu / 1e6:7.1f} M contributing pairs/s/core"
        )


def entrypoint() -> None:
    """Console script."""
    run_program("gf-bench-raster", lambda: tyro.cli(BenchRaster, description=__doc__).main())


if __name__ == "__main__":
    entrypoint()
