"""Panoramas from perspective renders: surfels are drawn onto the faces of a cube, which are then looked up.

The cube stands as the camera does. Its faces are a little wider than 90 degrees, so that no look-up reaches past a
border.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.depth import depth_to_points
from genfusion_ns.geometry.images import sample_pixels
from genfusion_ns.models.views import View

_MARGIN = 2
"""Pixels of a face beyond 90 degrees, on each side."""
_FACES = (
    ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
)
"""Forward and up axis of each face in the frame of the camera, OpenGL axes."""

Draw = Callable[[Float[Tensor, "1 4 4"], Float[Tensor, "1 3 3"], int, int], View]
"""Draws the perspective view of a viewmat and intrinsics at a width and height in pixels."""


def look_along(
    draw: Draw, c2w: Float[Tensor, "3 4"], directions: Float[Tensor, "H W 3"], pixels_per_radian: float
) -> View:
    """What is seen from one place along any directions.

    Args:
        draw: draws perspective views.
        c2w: pose of the camera, OpenGL axes; its rotation turns the cube.
        directions: of the pixels, in world coordinates, of any length but 0.
        pixels_per_radian: resolution in the middle of a face; towards its border it doubles.

    Returns:
        The view; its depths are distances from the camera.
    """
    half = math.ceil(pixels_per_radian) + _MARGIN
    K = c2w.new_tensor([[pixels_per_radian, 0, half], [0, pixels_per_radian, half], [0, 0, 1]])[None]
    looks = torch.nn.functional.normalize(directions, dim=-1)
    rotations = torch.stack([c2w[:, :3] @ _face_rotation(*axes).to(c2w) for axes in _FACES])
    nearest = torch.einsum("hwc,fc->hwf", looks, -rotations[:, :, 2]).argmax(dim=-1)
    images: dict[str, Tensor] = {}
    for index, rotation in enumerate(rotations):
        chosen = nearest == index
        if not chosen.any():
            continue
        viewmat = c2w_to_viewmat(torch.cat([rotation, c2w[:, 3:]], dim=-1))[None]
        looked_up = _look_up(draw(viewmat, K, 2 * half, 2 * half), looks[chosen] @ viewmat[0, :3, :3].T, K[0])
        for name, values in looked_up.items():
            image = images.setdefault(name, values.new_zeros(*chosen.shape, values.shape[-1]))
            image[chosen] = values
    return View(**images)


def _face_rotation(forward: tuple[float, ...], up: tuple[float, ...]) -> Float[Tensor, "3 3"]:
    backward, upward = -torch.tensor(forward), torch.tensor(up)
    return torch.stack([torch.linalg.cross(upward, backward), upward, backward], dim=-1)


def _look_up(face: View, looks: Float[Tensor, "M 3"], K: Float[Tensor, "3 3"]) -> dict[str, Tensor]:
    """Images of a face where unit directions (OpenCV axes of the face) meet it. [M, C] each"""
    pixels = ((looks @ K.T)[:, :2] / looks[:, 2:])[None, None]

    def smooth(image: Tensor) -> Tensor:
        return sample_pixels(image, pixels)[0, 0]

    alpha = smooth(face.alpha)
    distance_per_z = depth_to_points(torch.ones_like(face.alpha), K, torch.eye(4).to(K)).norm(dim=-1, keepdim=True)
    # Depths that lie beside each other must not be mixed into one between them: there is no surface there.
    middles = pixels.floor() + 0.5
    return {
        "rgb": smooth(face.rgb),
        "alpha": alpha,
        "depth": smooth(distance_per_z * face.depth * face.alpha) / alpha.clamp_min(1e-10),
        "median_depth": sample_pixels(distance_per_z * face.median_depth, middles)[0, 0],
        "normals": smooth(face.normals),
        "depth_normals": smooth(face.depth_normals),
        "distortion": smooth(distance_per_z * face.distortion),
        "background": smooth(face.background),
    }
