"""Pixels in and out of the generator, as it was trained.

Videos are channels first, ``[B, C, T, H, W]``; colours are in -1..1 and so is disparity, where -1 is the farthest or
unknown.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def resize_rgb(
    rgb: Float[Tensor, "B 3 T H W"], size: tuple[int, int], frames: int | None = None
) -> Float[Tensor, "B 3 t h w"]:
    """Colours resampled to (width, height), and in time where `frames` differs, linearly and without antialiasing."""
    shape = (frames or rgb.shape[2], size[1], size[0])
    return functional.interpolate(rgb, shape, mode="trilinear", align_corners=False)


def resize_disparity(
    disparity: Float[Tensor, "B 1 T H W"], size: tuple[int, int], frames: int | None = None
) -> Float[Tensor, "B 1 t h w"]:
    """Disparity of the nearest pixel, so that no value appears between a surface and what lies behind it."""
    return functional.interpolate(disparity, (frames or disparity.shape[2], size[1], size[0]), mode="nearest")


def to_network(unit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0..1 to -1..1."""
    return (unit - 0.5) * 2


def from_network(signed: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-1..1, clamped, to 0..1."""
    return (signed.clamp(-1, 1) + 1) / 2
