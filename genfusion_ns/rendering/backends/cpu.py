"""Multi-threaded rasteriser for float32 tensors on the CPU: the compiled kernels behind one autograd function.

Per camera: project -> sort by depth -> list the tiles (and 4x4-pixel blocks) each surfel may touch -> blend tile by
tile. Backward repeats the blending front to back, writes the gradients of every (tile, surfel) entry to a slot of its
own and adds the slots surfel by surfel, so results are the same bits for any number of threads.

What backward needs of a camera is 150 bytes per surfel and more. One camera keeps it; of several none does: backward
makes it anew, camera by camera, so that only the images grow with their number (200,000 surfels, 32 cameras of
480 x 270: 225 MiB, 182 of them images, instead of 822).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.rendering.backends import cpu_kernels as kernels
from genfusion_ns.rendering.contract import RasterSettings, SurfelRender, Surfels, strategy_info
from genfusion_ns.rendering.thread_pool import num_threads, run_on_all, set_num_threads

__all__ = ["count_pairs", "num_threads", "render", "set_num_threads"]

_SURFEL_BLOCK = 512
_TILE_BATCH = 4
_LIST_BLOCK = 2048
_MAX_SURFELS = 2**24
"""Surfel ids are kept per pixel as float32."""
_CHANNELS = (3, 1, 1, 1, 3, 1)
"""Of rgb, alpha, depth, median depth, normals and distortion."""


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
    tensors = (surfels.means, surfels.quats, surfels.scales, surfels.opacities, surfels.features_dc)
    scene = (*(_array(tensor) for tensor in tensors), np.empty((len(surfels), 0, 3), np.float32))
    camera = (_view_rows(viewmat), _pinhole(K), np.zeros(3, np.float32))
    view = _prepare(scene, camera, replace(settings, sh_degree=None), np.empty(len(surfels), np.int32))
    return int(kernels.count_pairs(view.size, *view.lists, view.records, view.near, view.at_hit, view.blend_mip))


@dataclass(frozen=True)
class _View:
    """One camera, as the kernels want it, and what it sees of the scene."""

    viewmat: tuple[float, ...]
    K: tuple[float, ...]
    background: np.ndarray
    size: tuple[int, int, int, int]
    near: np.float32
    at_hit: np.float32
    degree: int
    mip: float | None
    records: np.ndarray
    starts: np.ndarray
    lists: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def blend_mip(self) -> np.float32 | None:
        """The filter's variance as blending has it."""
        return None if self.mip is None else np.float32(self.mip)


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
        images = [torch.empty(c, h, w, channels) for channels in _CHANNELS]
        kept = any(ctx.needs_input_grad)
        median_ids = torch.empty(c if kept else 1, h, w, 1)
        radii = torch.empty(c, len(means), dtype=torch.int32)
        cameras = [(_view_rows(viewmats[k]), _pinhole(Ks[k]), _array(background[k])) for k in range(c)]
        view = None
        for k, camera in enumerate(cameras):
            view = None  # the memory of the camera before
            view = _prepare(scene, camera, settings, radii[k].numpy())
            _blend(view, (*_flat(images, k), *_flat([median_ids], k if kept else 0)))
        if kept:
            ctx.save_for_backward(*tensors, *images, median_ids)
            ctx.cameras, ctx.settings = cameras, settings
            ctx.view = view if c == 1 else None
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return (*images, radii)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        images = saved[6:]
        c, h, w = images[0].shape[:3]
        scene = tuple(_array(tensor) for tensor in saved[:6])
        gradients = [_zeros(*tensor.shape) for tensor in saved[:5]]
        rest = saved[5] if ctx.needs_input_grad[5] else saved[5][:0]
        gradients += [_zeros(*rest.shape), _zeros(c, len(saved[0]), 2)]
        viewmats = _zeros(c, 4, 4)
        filled = [
            _zeros(1, h, w, channels).expand(c, -1, -1, -1) if cotangent is None else cotangent.contiguous()
            for channels, cotangent in zip(_CHANNELS, cotangents, strict=False)
        ]
        for k, camera in enumerate(ctx.cameras):
            view = ctx.view
            if view is None:
                view = _prepare(scene, camera, ctx.settings, np.empty(len(saved[0]), np.int32))
            out = (*(gradient.numpy() for gradient in gradients[:6]), gradients[6][k].numpy())
            pose = _backward(scene, view, _flat(images, k), _flat(filled, k), out)
            viewmats[k, :3] = torch.from_numpy(pose).float()
        background = (filled[0] * (1 - images[1])).sum((1, 2)) if ctx.needs_input_grad[7] else None
        results = [*gradients[:6], viewmats, background, gradients[6], None, None]
        return tuple(result if needed else None for result, needed in zip(results, ctx.needs_input_grad, strict=True))


def _prepare(
    scene: tuple[np.ndarray, ...],
    camera: tuple[tuple[float, ...], tuple[float, ...], np.ndarray],
    settings: RasterSettings,
    radii: np.ndarray,
) -> _View:
    """Project the scene into one camera, filling its radii, and list what each tile has to blend."""
    viewmat, K, background = camera
    n, width, height = len(scene[0]), settings.width, settings.height
    size = (width, height, math.ceil(width / kernels.TILE), math.ceil(height / kernels.TILE))
    degree = -1 if settings.sh_degree is None else settings.sh_degree
    mip = settings.pixel_variance
    record = kernels.RECORD if mip is None else kernels.MIP_RECORD
    records, rect = np.empty((n, record), np.float32), np.empty((n, 4), np.int32)
    shown = np.empty(n, np.bool_)
    counter, limits = np.zeros(1, np.int64), (settings.near, settings.far)
    run_on_all(
        lambda: kernels.project(
            counter, _SURFEL_BLOCK, scene, viewmat, K, size, limits, degree, records, rect, radii, shown, mip
        )
    )
    ids = kernels.sort_by_depth(records, shown)
    at_hit = settings.depth_at == "intersection"
    starts, lists = _list_tiles(ids, records, rect, settings.near if at_hit else 0.0, size, mip)
    return _View(
        viewmat=viewmat,
        K=K,
        background=background,
        size=size,
        near=np.float32(settings.near if at_hit else -np.inf),
        at_hit=np.float32(at_hit),
        degree=degree,
        mip=mip,
        records=records,
        starts=starts,
        lists=lists,
    )


def _blend(view: _View, images: tuple[np.ndarray, ...]) -> None:
    """Fill the images of one camera: the six of a render and the ids of the median surfels."""
    tiles = np.zeros(1, np.int64)
    run_on_all(
        lambda: kernels.forward(
            tiles,
            _TILE_BATCH,
            view.size,
            *view.lists,
            view.records,
            view.near,
            view.at_hit,
            view.background,
            images,
            view.blend_mip,
        )
    )


def _list_tiles(
    ids: np.ndarray,
    records: np.ndarray,
    rect: np.ndarray,
    near: float,
    size: tuple[int, int, int, int],
    mip: float | None,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    count = len(ids)
    counts = np.zeros(len(records), np.int64)
    firsts = range(0, count, _LIST_BLOCK)
    parts: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(firsts)
    queue = iter(enumerate(firsts))

    def work() -> None:
        for k, first in queue:
            last = min(first + _LIST_BLOCK, count)
            parts[k] = kernels.list_tiles(ids, first, last, records, rect, near, size[2], counts, mip)

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
    images: tuple[np.ndarray, ...],
    cotangents: tuple[np.ndarray, ...],
    out: tuple[np.ndarray, ...],
) -> np.ndarray:
    """Add the gradients of one camera to `out`; the gradient of its viewmat. [3, 4]"""
    slot = kernels.SLOT if view.mip is None else kernels.MIP_SLOT
    slots = np.empty((len(view.lists[1]), slot), np.float32)
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
            images,
            cotangents,
            slots,
            view.blend_mip,
        )
    )
    pose_sums = np.zeros((math.ceil(len(scene[0]) / _SURFEL_BLOCK), 12))
    run_on_all(
        lambda: kernels.unproject(
            blocks,
            _SURFEL_BLOCK,
            view.starts,
            slots,
            scene,
            view.viewmat,
            view.K,
            view.degree,
            out,
            pose_sums,
            view.mip,
        )
    )
    return pose_sums.sum(0).reshape(3, 4)


def _flat(images: Sequence[Tensor], camera: int) -> tuple[np.ndarray, ...]:
    """The images of one camera, pixel after pixel."""
    return tuple(image[camera].numpy().reshape((-1, 3) if image.shape[-1] == 3 else -1) for image in images)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def _view_rows(viewmat: Tensor) -> tuple[float, ...]:
    return tuple(viewmat.detach()[:3].flatten().tolist())


def _pinhole(K: Tensor) -> tuple[float, ...]:
    return tuple(float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))


def _zeros(*shape: int) -> Tensor:
    """Zeros without torch's own thread pool, whose threads would go on spinning beside ours for a while."""
    return torch.from_numpy(np.zeros(shape, np.float32))
