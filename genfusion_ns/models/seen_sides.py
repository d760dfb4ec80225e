"""From which side photos see each surfel, and from where it is shown.

Few photos leave open how far away things behind the subject are, so a run may put a wall into the middle of the room.
In the photos that looks right, but a camera that goes behind it sees nothing but its back. Of a surface that photos see
from one side alone nothing is known from the other one: there it is not shown, and what lies beyond it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from genfusion_ns.geometry.cameras import camera_centers, project, resize_intrinsics
from genfusion_ns.geometry.clips import SOLID_ALPHA
from genfusion_ns.rendering.homographies import rotation_matrices
from genfusion_ns.rendering.surfels import SurfelRender

FRONT, BACK = 1, 2
"""Bits of the sides from which photos see a surfel: the one that its normal points to, and the other."""
_WIDTH = 128
"""Pixels across the renders that say what is hidden."""
_BEHIND = 0.03
"""Share of its depth by which a surfel may lie behind what a photo shows and still count as seen, as surfaces are made
of several layers; `gf-export` takes it for two views that agree."""

Draw = Callable[[Tensor, Tensor, int, int], SurfelRender]
"""Renders the scene from cameras (viewmats [C, 4, 4], Ks [C, 3, 3]) at a width and height."""


@dataclass(frozen=True)
class PhotoViewmats:
    """Cameras of C photos, by their world-to-camera matrices."""

    viewmats: Float[Tensor, "C 4 4"]
    """World-to-camera."""
    Ks: Float[Tensor, "C 3 3"]
    """Intrinsics in pixels."""
    sizes: Sequence[tuple[int, int]]
    """Width and height of each in pixels."""


@torch.no_grad()
def seen_sides(
    means: Float[Tensor, "N 3"], quats: Float[Tensor, "N 4"], photos: PhotoViewmats, near: float, draw: Draw
) -> UInt8[Tensor, " N"]:
    """From which sides photos see each surfel: the sum of `FRONT` and `BACK`, 0 where no photo can.

    A photo sees a surfel whose centre it shows, unless the scene hides it. Of surfels that are hidden from all photos,
    layers behind what these show, it is the sides that they turn to the photos in whose pictures they lie: from behind
    such layers would stand there like a veil.

    Args:
        means, quats: of the surfels; w, x, y, z of any length.
        photos: their cameras.
        near: near plane, scene units.
        draw: the scene that may hide them.
    """
    normals = surfel_normals(quats)
    sides = torch.zeros(len(means), dtype=torch.uint8, device=means.device)
    turned = sides.clone()
    for view, size in enumerate(photos.sizes):
        small = (min(_WIDTH, size[0]), max(1, round(size[1] * min(1.0, _WIDTH / size[0]))))
        viewmat = photos.viewmats[view].to(means)
        K = resize_intrinsics(photos.Ks[view].to(means), size, small)
        render = draw(viewmat[None], K[None], *small)
        middles = _middles(means, viewmat, K, small, near)
        side = torch.where(_ahead(viewmat, means, normals), FRONT, BACK).to(torch.uint8)
        sides |= side * _unhidden(*middles, render)
        turned |= side * middles[2]
    return torch.where(sides == 0, turned, sides)


def shown_from(
    viewmat: Float[Tensor, "4 4"], means: Float[Tensor, "N 3"], quats: Float[Tensor, "N 4"], sides: UInt8[Tensor, " N"]
) -> Bool[Tensor, " N"]:
    """Which surfels a camera shows: those that it sees from a side of `seen_sides`, or that are in no picture."""
    side = torch.where(_ahead(viewmat, means, surfel_normals(quats)), FRONT, BACK)
    return (sides == 0) | ((sides & side) > 0)


def surfel_normals(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3"]:
    """The axes of surfels in the world, of length 1."""
    return rotation_matrices(quats)[..., 2]


def _ahead(viewmat: Tensor, means: Tensor, normals: Tensor) -> Bool[Tensor, " N"]:
    """Whether the normals point to the side of the camera."""
    return ((camera_centers(viewmat[None])[0] - means) * normals).sum(dim=-1) > 0


@torch.no_grad()
def middles_shown(
    means: Float[Tensor, "N 3"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    render: SurfelRender,
    near: float,
) -> Bool[Tensor, " N"]:
    """Which surfels a camera shows the middle of: inside of the picture, and nothing solid before it.

    Args:
        means: their middles.
        viewmat, K: of the camera.
        render: what it shows.
        near: near plane, scene units.
    """
    height, width = render.alpha.shape[1:3]
    return _unhidden(*_middles(means, viewmat, K, (width, height), near), render)


def _middles(
    means: Float[Tensor, "N 3"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    size: tuple[int, int],
    near: float,
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Pixels and depths of the middles, and which lie inside of a picture of (width, height) `size`."""
    pixels, z = project(means, viewmat.to(means), K.to(means))
    z = z[:, 0]
    return pixels, z, (z >= near) & (pixels >= 0).all(-1) & (pixels[:, 0] < size[0]) & (pixels[:, 1] < size[1])


def _unhidden(pixels: Tensor, z: Tensor, inside: Tensor, render: SurfelRender) -> Bool[Tensor, " N"]:
    """Which of the middles inside have nothing solid before them."""
    solid = torch.where(render.alpha > SOLID_ALPHA, render.median_depth, torch.inf)[0, ..., 0]
    front = torch.zeros_like(z)
    front[inside] = solid[pixels[inside, 1].long(), pixels[inside, 0].long()]
    return inside & (z <= (1 + _BEHIND) * front)
