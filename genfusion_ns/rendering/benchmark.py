"""Timing of rasterisers in units that compare across machines, on scenes of known statistics."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.rendering.surfels import SurfelRender, Surfels, rasterize_surfels
from genfusion_ns.seeds import seeded_generator

_IMAGES = ("rgb", "alpha", "depth", "median_depth", "normals", "distortion")


@dataclass(frozen=True)
class Times:
    """Seconds of the fastest of several runs."""

    wall: float
    cpu: float
    """Of all threads together."""


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


def passes(
    backend: str,
    surfels: Surfels,
    viewmat: Tensor,
    K: Tensor,
    size: tuple[int, int],
    pixel_variance: float | None = None,
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A forward pass with backward from all images, and one without gradients."""
    names = ("means", "quats", "scales", "opacities", "features_dc")
    leaves = [getattr(surfels, name).detach().clone().requires_grad_() for name in names]
    generator = seeded_generator(0)
    upstream: list[Tensor] = []

    def render() -> SurfelRender:
        scene = Surfels(*leaves)
        options = {"pixel_variance": pixel_variance, "backend": backend}
        return rasterize_surfels(scene, viewmat[None], K[None], *size, **options)  # pyright: ignore

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


def fastest(run: Callable[[], object], repeats: int) -> Times:
    """Least time of the wall clock and of the CPU among `repeats` runs, each for itself."""
    walls, cpus = [], []
    for _ in range(max(1, repeats)):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Times(min(walls), min(cpus))


def fastest_in_turns(runs: Sequence[Callable[[], object]], repeats: int) -> list[Times]:
    """`fastest` of each, run in turns: what else the machine does meets all of them alike."""
    turns = [[fastest(run, 1) for run in runs] for _ in range(max(1, repeats))]
    return [Times(min(t.wall for t in times), min(t.cpu for t in times)) for times in zip(*turns, strict=True)]


def single_thread_sgemm(repeats: int) -> float:
    """CPU seconds of a product of 1024^2 matrices in one thread: what the machine can do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.randn(1024, 1024, generator=seeded_generator(0))
    seconds = fastest(lambda: F.linear(matrix, matrix), repeats).cpu
    torch.set_num_threads(threads)
    return seconds


def peak_growth(run: Callable[[], None]) -> int | None:
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
