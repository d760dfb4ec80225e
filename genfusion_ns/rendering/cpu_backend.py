"""Multi-threaded rasteriser for float32 tensors on the CPU: the compiled kernels behind one autograd function.

Per camera: project -> sort by depth -> list the tiles (and 4x4-pixel blocks) each surfel may touch -> blend tile by
tile. Backward repeats the blending front to back, writes the gradients of every (tile, surfel) entry to a slot of its
own and adds the slots surfel by surfel, so results are the same bits for any number of threads.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba.core import event
from torch import Tensor

from genfusion_ns.rendering import cpu_kernels as kernels
from genfusion_ns.rendering.surfels import RasterSettings, SurfelRender, Surfels, strategy_info
from genfusion_ns.rendering.thread_pool import num_threads, run_on_all, set_num_threads

__all__ = ["count_pairs", "num_threads", "render", "set_num_threads"]

_SURFEL_BLOCK = 512
_TILE_BATCH = 4
_LIST_BLOCK = 2048
_MAX_SURFELS = 2**24
"""Surfel ids are kept per pixel as float32."""


def render(
    surfels: Surfels,
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    background: Float[Tensor, "C 3"],
    settings: RasterSettings,
) -> SurfelRender:
    """Render float32 CPU tensors; see `surfels.rasterize_surfels`.

    Raises:
        ValueError: tensors of another type or device, or more than 2^24 surfels.
    """
    means = surfels.means
    if means.dtype != torch.float32 or means.device.type != "cpu":
        raise ValueError(
            f"backend='cpu' renders float32 tensors on the CPU, got {means.dtype} on {means.device}: "
            "use backend='auto' or 'reference'."
        )
    if len(surfels) > _MAX_SURFELS:
        raise ValueError(f"{len(surfels)} surfels; backend='cpu' takes up to {_MAX_SURFELS}.")
    rest = surfels.features_rest
    if rest is None or settings.sh_degree is None:
        rest = _zeros(len(surfels), 0, 3)
    gradient_2dgs = _zeros(viewmats.shape[0], len(surfels), 2).requires_grad_(torch.is_grad_enabled())
    tensors = (means, surfels.quats, surfels.scales, surfels.opacities, surfels.features_dc, rest)
    outputs: Any = _Rasterize.apply(*tensors, viewmats, background, gradient_2dgs, Ks, settings)
    rgb, alpha, depth, median, normals, distortion, radii = outputs
    info = strategy_info(gradient_2dgs, radii, settings)
    return SurfelRender(rgb, alpha, depth, median, normals, distortion, info)


def count_pairs(
    surfels: Surfels, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], settings: RasterSettings
) -> int:
    """Surfel-pixel pairs that contribute to the image of one camera: the work that any rasteriser has to do."""
    pixels = settings.width * settings.height
    tensors = (surfels.means, surfels.quats, surfels.scales, surfels.opacities, surfels.features_dc)
    scene = (*(_array(tensor) for tensor in tensors), np.empty((len(surfels), 0, 3), np.float32))
    images = tuple(np.empty((pixels, 3) if k in (0, 4) else pixels, np.float32) for k in range(6))
    camera = (_view_rows(viewmat), _pinhole(K), np.zeros(3, np.float32))
    plain = replace(settings, sh_degree=None)
    view = _forward(scene, camera, plain, images, np.empty(len(surfels), np.int32))
    return int(kernels.count_pairs(view.size, *view.lists, view.records, view.near, view.at_hit))


class _SayOnce(event.Listener):
    """Tells the user why the first render takes a while; numba's events fire only where its cache has no answer."""

    def on_start(self, event: Any) -> None:
        """Print one line before the first of the rasteriser's kernels is compiled."""
        global _announced
        dispatcher = (event.data or {}).get("dispatcher")
        if not _announced and getattr(dispatcher, "__module__", None) == kernels.__name__:
            _announced = True
            print("Compiling the CPU rasteriser: some seconds, then it is kept on disk.", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        """Nothing to say."""


_announced = False
event.register("numba:compile", _SayOnce())


@dataclass(frozen=True)
class _View:
    """One camera, as the kernels want it, and what its forward pass leaves for backward."""

    viewmat: tuple[float, ...]
    K: tuple[float, ...]
    background: np.ndarray
    size: tuple[int, int, int, int]
    near: np.float32
    at_hit: np.float32
    degree: int
    records: np.ndarray
    ranks: np.ndarray
    starts: np.ndarray
    lists: tuple[np.ndarray, np.ndarray, np.ndarray]
    images: tuple[np.ndarray, ...]


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        features_dc: Tensor,
        features_rest: Tensor,
        viewmats: Tensor,
        background: Tensor,
        gradient_2dgs: Tensor,
        Ks: Tensor,
        settings: RasterSettings,
    ) -> tuple[Tensor, ...]:
        tensors = (means, quats, scales, opacities, features_dc, features_rest)
        scene = tuple(_array(tensor) for tensor in tensors)
        c, h, w = viewmats.shape[0], settings.height, settings.width
        shapes = {"rgb": 3, "alpha": 1, "depth": 1, "median": 1, "normals": 3, "distortion": 1}
        images = {name: torch.empty(c, h, w, channels) for name, channels in shapes.items()}
        radii = torch.empty(c, len(means), dtype=torch.int32)
        views = []
        for k in range(c):
            flat = tuple(
                image[k].numpy().reshape((h * w, 3) if shapes[name] == 3 else h * w) for name, image in images.items()
            )
            camera = (_view_rows(viewmats[k]), _pinhole(Ks[k]), _array(background[k]))
            views.append(_forward(scene, camera, settings, flat, radii[k].numpy()))
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*tensors, *images.values())
            ctx.views, ctx.shape = views, (c, h, w)
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return (*images.values(), radii)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        c, h, w = ctx.shape
        scene = tuple(_array(tensor) for tensor in saved[:6])
        gradients = [_zeros(*tensor.shape) for tensor in saved[:5]]
        rest = saved[5] if ctx.needs_input_grad[5] else saved[5][:0]
        gradients += [_zeros(*rest.shape), _zeros(c, len(saved[0]), 2)]
        viewmats = _zeros(c, 4, 4)
        filled = [
            _zeros(c, h, w, 3 if k in (0, 4) else 1) if cotangent is None else cotangent.contiguous()
            for k, cotangent in enumerate(cotangents[:6])
        ]
        for k, view in enumerate(ctx.views):
            upstream = tuple(
                image[k].numpy().reshape((h * w, 3) if j in (0, 4) else h * w) for j, image in enumerate(filled)
            )
            out = (*(gradient.numpy() for gradient in gradients[:6]), gradients[6][k].numpy())
            viewmats[k, :3] = torch.from_numpy(_backward(scene, view, upstream, out)).float()
        background = (filled[0] * (1 - saved[7])).sum((1, 2)) if ctx.needs_input_grad[7] else None
        results = [*gradients[:6], viewmats, background, gradients[6], None, None]
        return tuple(result if needed else None for result, needed in zip(results, ctx.needs_input_grad, strict=True))


def _forward(
    scene: tuple[np.ndarray, ...],
    camera: tuple[tuple[float, ...], tuple[float, ...], np.ndarray],
    settings: RasterSettings,
    images: tuple[np.ndarray, ...],
    radii: np.ndarray,
) -> _View:
    viewmat, K, background = camera
    n, width, height = len(scene[0]), settings.width, settings.height
    size = (width, height, math.ceil(width / kernels.TILE), math.ceil(height / kernels.TILE))
    degree = -1 if settings.sh_degree is None else settings.sh_degree
    records, rect = np.empty((n, kernels.RECORD), np.float32), np.empty((n, 4), np.int32)
    ranks = np.empty(n, np.int32)
    counter, limits = np.zeros(1, np.int64), (settings.near, settings.far)
    run_on_all(
        lambda: kernels.project(
            counter, _SURFEL_BLOCK, scene, viewmat, K, size, limits, degree, records, rect, radii, ranks
        )
    )
    ids = kernels.sort_by_depth(records, ranks)
    at_hit = settings.depth_at == "intersection"
    starts, lists = _list_tiles(ids, records, rect, settings.near if at_hit else 0.0, size)
    view = _View(
        viewmat=viewmat,
        K=K,
        background=background,
        size=size,
        near=np.float32(settings.near if at_hit else -np.inf),
        at_hit=np.float32(at_hit),
        degree=degree,
        records=records,
        ranks=ranks,
        starts=starts,
        lists=lists,
        images=(*images, np.empty(width * height, np.float32)),
    )
    tiles = np.zeros(1, np.int64)
    run_on_all(
        lambda: kernels.forward(
            tiles, _TILE_BATCH, size, *lists, records, view.near, view.at_hit, background, view.images
        )
    )
    return view


def _list_tiles(
    ids: np.ndarray, records: np.ndarray, rect: np.ndarray, near: float, size: tuple[int, int, int, int]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    count = len(ids)
    counts = np.zeros(count, np.int64)
    firsts = range(0, count, _LIST_BLOCK)
    parts: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(firsts)
    queue = iter(enumerate(firsts))

    def work() -> None:
        for k, first in queue:
            last = min(first + _LIST_BLOCK, count)
            parts[k] = kernels.list_tiles(ids, first, last, records, rect, near, size[2], counts)

    run_on_all(work)
    done = [part for part in parts if part is not None]
    tiles = np.concatenate([np.empty(0, np.int32), *(part[0] for part in done)])
    masks = np.concatenate([np.empty(0, np.uint16), *(part[1] for part in done)])
    starts = np.concatenate([[0], np.cumsum(counts)])
    offsets = np.empty(size[2] * size[3] + 1, np.int64)
    listed, listed_masks = np.empty((len(tiles), 2), np.int32), np.empty(len(tiles), np.uint16)
    kernels.fill_tiles(ids, starts, tiles, masks, offsets, listed, listed_masks)
    return starts, (offsets, listed, listed_masks)


def _backward(
    scene: tuple[np.ndarray, ...],
    view: _View,
    cotangents: tuple[np.ndarray, ...],
    out: tuple[np.ndarray, ...],
) -> np.ndarray:
    """Add the gradients of one camera to `out`; the gradient of its viewmat. [3, 4]"""
    slots = np.empty((len(view.lists[1]), kernels.SLOT), np.float32)
    tiles, blocks = np.zeros(1, np.int64), np.zeros(1, np.int64)
    run_on_all(
        lambda: kernels.backward(
            tiles,
            _TILE_BATCH,
            view.size,
            *view.lists,
            view.records,
            view.near,
            view.at_hit,
            view.background,
            view.images,
            cotangents,
            slots,
        )
    )
    pose_sums = np.zeros((math.ceil(len(view.ranks) / _SURFEL_BLOCK), 12))
    run_on_all(
        lambda: kernels.unproject(
            blocks,
            _SURFEL_BLOCK,
            view.ranks,
            view.starts,
            slots,
            scene,
            view.viewmat,
            view.K,
            view.degree,
            out,
            pose_sums,
        )
    )
    return pose_sums.sum(0).reshape(3, 4)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def _view_rows(viewmat: Tensor) -> tuple[float, ...]:
    return tuple(viewmat.detach()[:3].flatten().tolist())


def _pinhole(K: Tensor) -> tuple[float, ...]:
    return tuple(float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))


def _zeros(*shape: int) -> Tensor:
    """Zeros without torch's own thread pool, whose threads would go on spinning beside ours for a while."""
    return torch.from_numpy(np.zeros(shape, np.float32))
