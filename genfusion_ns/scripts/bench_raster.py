"""`gf-bench-raster`: how fast the CPU rasteriser is on this machine, in units that compare across machines.

Times are minima over repeats, of the wall clock and of the CPU time of all threads. A contributing pair is a surfel
and a pixel it adds to: the work that any rasteriser has to do for the image, whatever it culls.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.data.array_files import ArrayFileError, read_arrays
from genfusion_ns.errors import run_program
from genfusion_ns.geometry.cameras import crop_intrinsics, resize_intrinsics
from genfusion_ns.rendering.surfels import RasterSettings, SurfelRender, Surfels, rasterize_surfels
from genfusion_ns.seeds import seeded_generator

_IMAGES = ("rgb", "alpha", "depth", "median_depth", "normals", "distortion")


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
        forward, both = self._time("cpu", surfels, viewmat, K, (self.width, self.height), self.repeats)
        sgemm = _single_thread_sgemm(self.repeats)
        _report("cpu", forward, both, pairs)
        print(f"single-thread 1024^3 sgemm {sgemm * 1e3:.1f} ms; cpu F+B / sgemm (CPU time) {both.cpu / sgemm:.2f}")
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
        self, backend: str, surfels: Surfels, viewmat: Tensor, K: Tensor, size: tuple[int, int], repeats: int
    ) -> tuple[_Times, _Times]:
        run, forward = _passes(backend, surfels, viewmat, K, size)
        return _fastest(forward, repeats), _fastest(run, repeats)

    def _peak_memory(self, surfels: Surfels, viewmat: Tensor, K: Tensor) -> str:
        run, _ = _passes("cpu", surfels, viewmat, K, (self.width, self.height))
        gc.collect()
        peak = _peak_growth(run)
        return "not measured, this system does not say" if peak is None else f"{peak / 2**20:.0f} MiB"

    def _training_step(self, surfels: Surfels, viewmat: Tensor, K: Tensor) -> None:
        from genfusion_ns.scripts.bench_step import training_step

        step = training_step(surfels, viewmat, K, self.width, self.height)
        step()
        times = _fastest(step, self.repeats)
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
        forward, both = self._time("reference", surfels, viewmat, cropped, (width, height), 1)
        print(f"reference on the {width} x {height} window in the middle, {torch.get_num_threads()} torch threads:")
        _report("reference", forward, both, pairs)
        print(f"cpu does {fast * both.cpu / pairs:.0f} times the contributing pairs per second of CPU time (F+B)")


@dataclass(frozen=True)
class _Times:
    wall: float
    cpu: float


def generated_scene(count: int, width: int, height: int, seed: int) -> tuple[Surfels, Tensor, Tensor]:
    """Surfels with the statistics of a captured outdoor scene, a viewmat and intrinsics.

    A good half of them in view at about 37 contributing pairs per pixel, opacities of two kinds (faint and solid), and
    one in seventy so near the camera that its disc passes through the image plane.

    Args:
        count: number of surfels.
        width, height: size of the image in pixels.
        seed: of the random generator.
    """
    random = np.random.default_rng(seed)
    reach = np.array([0.67, 0.67 * height / width])
    direction = random.uniform(-1.33, 1.33, (count, 2)) * reach
    waves = np.sin(4 * direction[:, 0] + 1) + np.cos(7 * direction[:, 1] + direction[:, 0])
    depth = 3 * np.exp(0.3 * waves + 0.1 * random.standard_normal(count))
    near = random.random(count) < 1 / 70
    depth[near] = random.uniform(0.2, 0.8, int(near.sum()))
    # those near the camera stay as large as the rest, so that their discs cross the image plane
    spacing = np.maximum(depth, 1.5) * np.sqrt(4 * 1.33**2 * reach.prod() / count)
    spread = 0.35 * random.standard_normal((count, 1)) + 0.5 * random.standard_normal((count, 2))
    faint = random.random(count) < 0.45
    opacities = np.where(faint, random.beta(1.2, 6, count), random.beta(4, 1.2, count))
    quats = np.array([1.0, 0, 0, 0]) + 0.5 * random.standard_normal((count, 4))
    arrays = (
        np.concatenate([direction * depth[:, None], depth[:, None]], 1),
        quats,
        1.05 * spacing[:, None] * np.exp(spread),
        opacities,
        random.random((count, 3)),
    )
    surfels = Surfels(*(torch.from_numpy(array.astype(np.float32)) for array in arrays))
    focal = 0.5 * width / reach[0]
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    return surfels, torch.eye(4), K


def _passes(
    backend: str, surfels: Surfels, viewmat: Tensor, K: Tensor, size: tuple[int, int]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A forward pass with backward from all images, and one without gradients."""
    names = ("means", "quats", "scales", "opacities", "features_dc")
    leaves = [getattr(surfels, name).detach().clone().requires_grad_() for name in names]
    generator = seeded_generator(0)
    upstream: list[Tensor] = []

    def render() -> SurfelRender:
        return rasterize_surfels(Surfels(*leaves), viewmat[None], K[None], *size, backend=backend)  # pyright: ignore

    def both() -> None:
        render_now = render()
        images = [getattr(render_now, name) for name in _IMAGES]
        if not upstream:
            upstream.extend(torch.randn(image.shape, generator=generator) for image in images)
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(images, upstream)

    def forward() -> None:
        with torch.no_grad():
            render()

    both()
    return both, forward


def _fastest(run: Callable[[], object], repeats: int) -> _Times:
    walls, cpus = [], []
    for _ in range(max(1, repeats)):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return _Times(min(walls), min(cpus))


def _single_thread_sgemm(repeats: int) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.randn(1024, 1024, generator=seeded_generator(0))
    seconds = _fastest(lambda: F.linear(matrix, matrix), repeats).cpu
    torch.set_num_threads(threads)
    return seconds


def _peak_growth(run: Callable[[], None]) -> int | None:
    """Bytes by which the peak of resident memory grows during `run`; None where the kernel cannot reset the peak."""
    if not sys.platform.startswith("linux"):
        return None
    # memory that earlier passes left with the allocator would hide what this one takes
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return None
    before = _status("VmHWM")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _report(name: str, forward: _Times, both: _Times, pairs: int) -> None:
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
