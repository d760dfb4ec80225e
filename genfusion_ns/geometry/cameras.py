"""Camera conventions and the clip, the unit that travels between renderer and repairer.

Conventions
-----------
``c2w``      camera-to-world, OpenGL axes (x right, y up, z backward), as nerfstudio stores poses.
``viewmat``  world-to-camera, OpenCV axes (x right, y down, z forward), as rasterisers want it.
``K``        3x3 intrinsics in pixels; the centre of pixel (row i, column j) is (x, y) = (j + 0.5, i + 0.5).
Depth is the z coordinate in the OpenCV camera frame, in scene units; disparity is 1 / depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@contextmanager
def full_precision() -> Iterator[None]:
    """Context and decorator in which no mixed precision takes place, whoever asked for it outside.

    Products of half precision move cameras by pixels, and structural similarity is a difference of squares.
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@full_precision()
def c2w_to_viewmat(c2w: Float[Tensor, "*batch rows 4"]) -> Float[Tensor, "*batch 4 4"]:
    """World-to-camera matrices (OpenCV axes) of camera-to-world poses (OpenGL axes).

    Args:
        c2w: rigid poses, 3x4 or 4x4. [..., 3 or 4, 4]

    Returns:
        Rigid inverses with the y and z camera axes flipped. [..., 4, 4]
    """
    w2c_rotation = _flipped(c2w[..., :3, :3]).transpose(-1, -2)
    return _rigid(w2c_rotation, -(w2c_rotation @ c2w[..., :3, 3:4]))


@full_precision()
def viewmat_to_c2w(viewmat: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Camera-to-world poses (OpenGL axes) of world-to-camera matrices (OpenCV axes); inverse of `c2w_to_viewmat`."""
    c2w_rotation = viewmat[..., :3, :3].transpose(-1, -2)
    return _rigid(_flipped(c2w_rotation), -(c2w_rotation @ viewmat[..., :3, 3:4]))


@full_precision()
def camera_centers(viewmats: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
    """Camera centres in world coordinates, scene units. [..., 3]"""
    return -(viewmats[..., :3, :3].transpose(-1, -2) @ viewmats[..., :3, 3:4])[..., 0]


def camera_forwards(viewmats: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
    """Unit viewing directions (OpenCV +z) in world coordinates. [..., 3]"""
    return viewmats[..., 2, :3]


def crop_intrinsics(
    K: Float[Tensor, "*batch 3 3"], x: float | Tensor, y: float | Tensor
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics of a crop window whose top-left pixel is (x, y) in the full image, in pixels. [..., 3, 3]"""
    cropped = K.clone()
    cropped[..., 0, 2] -= x
    cropped[..., 1, 2] -= y
    return cropped


def commonest_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) that most of them have; `sizes` must not be empty."""
    return Counter(sizes).most_common(1)[0][0]


def resize_intrinsics(
    K: Float[Tensor, "*batch 3 3"], from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics after resampling an image from `from_size` to `to_size`, both (width, height). [..., 3, 3]"""
    x, y = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return torch.cat([K[..., :1, :] * x, K[..., 1:2, :] * y, K[..., 2:, :]], dim=-2)


def _flipped(axes: Tensor) -> Tensor:
    """Camera axes, the columns of a rotation, between OpenGL and OpenCV: y and z are turned round."""
    return torch.cat([axes[..., :1], -axes[..., 1:]], dim=-1)


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    pose = rotation.new_zeros(*rotation.shape[:-2], 4, 4)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3:4] = translation
    pose[..., 3, 3] = 1.0
    return pose


@dataclass(frozen=True)
class Clip:
    """T consecutive rendered views of one scene: colour, depth, coverage and cameras.

    A clip rendered from the reconstruction is an *artifact clip*; its rgb and depth are wrong where the scene is weak.
    """

    rgb: Float[Tensor, "T H W 3"]
    """Colours in 0..1."""
    depth: Float[Tensor, "T H W 1"]
    """Expected z depth in scene units; meaningless where alpha is 0."""
    alpha: Float[Tensor, "T H W 1"]
    """Accumulated opacity in 0..1."""
    viewmats: Float[Tensor, "T 4 4"]
    """World-to-camera, OpenCV axes."""
    Ks: Float[Tensor, "T 3 3"]
    """Intrinsics in pixels of this H x W raster."""
    normals: Float[Tensor, "T H W 3"] | None = None
    """Unit normals of the rendered surfaces in world coordinates, 0 where nothing was rendered; None: not asked for."""

    def __len__(self) -> int:
        return self.rgb.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]

    def to(self, device: torch.device | str) -> Clip:
        """The same clip on `device`."""
        normals = None if self.normals is None else self.normals.to(device)
        return Clip(
            self.rgb.to(device),
            self.depth.to(device),
            self.alpha.to(device),
            self.viewmats.to(device),
            self.Ks.to(device),
            normals,
        )


@dataclass(frozen=True)
class References:
    """R real photos that condition a repair, with their cameras, all resampled to one size."""

    rgb: Float[Tensor, "R H W 3"]
    """Colours in 0..1."""
    viewmats: Float[Tensor, "R 4 4"]
    """World-to-camera, OpenCV axes, in the frame of the clip."""
    Ks: Float[Tensor, "R 3 3"]
    """Intrinsics in pixels of this H x W raster."""
    seen: Bool[Tensor, "R H W 1"] | None = None
    """Pixels that are part of the photo; the colours of others mean nothing. None: all."""

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def to(self, device: torch.device | str) -> References:
        """The same references on `device`."""
        seen = None if self.seen is None else self.seen.to(device)
        return References(self.rgb.to(device), self.viewmats.to(device), self.Ks.to(device), seen)


@dataclass(frozen=True)
class RepairedClip:
    """What a repairer makes of an artifact clip, frame by frame and pixel by pixel."""

    rgb: Float[Tensor, "T H W 3"]
    """Colours in 0..1."""
    disparity: Float[Tensor, "T H W 1"]
    """Relative disparity in 0..1, known up to one scale and shift per clip; larger is nearer."""
    confidence: Float[Tensor, "T H W 1"]
    """The repairer's own trust in each pixel, 0..1."""

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def to(self, device: torch.device | str) -> RepairedClip:
        """The same clip on `device`."""
        return RepairedClip(*(getattr(self, name).to(device) for name in ("rgb", "disparity", "confidence")))
