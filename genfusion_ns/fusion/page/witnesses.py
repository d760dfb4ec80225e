"""What the photos of a run say about each of its surfels: how many see it, and how much of them it makes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genfusion_ns.fusion.exporting.views import ExportCamera
from genfusion_ns.geometry.cameras import resize_intrinsics
from genfusion_ns.models.seen_sides import middles_shown
from genfusion_ns.models.surfel_model import GenFusionModel
from genfusion_ns.rendering.surfels import SurfelRender, Surfels, rasterize_surfels

_LONGEST_SIDE = 640
"""Of the pictures in which surfels are counted, pixels; smaller ones would say the same."""


@dataclass(frozen=True)
class Witnesses:
    """Of N surfels."""

    photos: Int[Tensor, " N"]
    """Photos that show the middle of the surfel: inside of the picture, and nothing solid before it."""
    weight: Float[Tensor, " N"]
    """Pixels of all photos that the surfel makes up: the sum of its blending weights."""


def witnesses(scene: GenFusionModel, cameras: Sequence[ExportCamera], advance: Callable[[int, int], None]) -> Witnesses:
    """Look at a scene from where its photos were taken.

    Args:
        scene: with N surfels.
        cameras: of the photos, as far as they were shown in training.
        advance: is told how many are done, of how many.
    """
    with torch.no_grad():
        surfels = replace(scene.surfels(), features_rest=None)
    photos = torch.zeros(len(surfels), dtype=torch.int64, device=surfels.means.device)
    weight = surfels.means.new_zeros(len(surfels))
    for done, camera in enumerate(map(_smaller, cameras), start=1):
        # The derivative of a picture's sum by the colour of a surfel is what that surfel weighs in it.
        colours = torch.ones_like(surfels.means).requires_grad_()
        with torch.enable_grad():
            render = _render(scene, replace(surfels, features_dc=colours), camera)
            (slope,) = torch.autograd.grad(render.rgb[..., 0].sum(), colours)
        weight += slope[:, 0]
        photos += middles_shown(surfels.means, camera.viewmat, camera.K, render, scene.near)
        advance(done, len(cameras))
    return Witnesses(photos, weight)


def _smaller(camera: ExportCamera) -> ExportCamera:
    factor = _LONGEST_SIDE / max(camera.size)
    if factor >= 1:
        return camera
    size = (max(round(camera.size[0] * factor), 1), max(round(camera.size[1] * factor), 1))
    return ExportCamera(camera.viewmat, resize_intrinsics(camera.K, camera.size, size), size)


def _render(scene: GenFusionModel, surfels: Surfels, camera: ExportCamera) -> SurfelRender:
    like = surfels.means
    return rasterize_surfels(
        surfels,
        camera.viewmat[None].to(like),
        camera.K[None].to(like),
        *camera.size,
        near=scene.near,
        depth_at=scene.config.depth_at,
        pixel_variance=scene.pixel_variance,
        backend=scene.config.backend,
    )
