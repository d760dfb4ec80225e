"""Pixels and frames in and out of the generator. Sizes are (width, height) in pixels.

The network reads videos channels first, ``[B, C, T, H, W]``; colours are in -1..1 and so is disparity, where -1 is the
farthest or unknown.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def resize_rgb(rgb: Float[Tensor, "B 3 T H W"], size: tuple[int, int]) -> Float[Tensor, "B 3 T h w"]:
    """Colours resampled to (width, height), linearly and without antialiasing."""
    return functional.interpolate(rgb, (rgb.shape[2], size[1], size[0]), mode="trilinear", align_corners=False)


def resize_disparity(disparity: Float[Tensor, "B 1 T H W"], size: tuple[int, int]) -> Float[Tensor, "B 1 T h w"]:
    """Disparity of the nearest pixel, so that no value appears between a surface and what lies behind it."""
    return functional.interpolate(disparity, (disparity.shape[2], size[1], size[0]), mode="nearest")


def to_network(unit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0..1 to -1..1."""
    return (unit - 0.5) * 2


def from_network(signed: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-1..1, clamped, to 0..1."""
    return (signed.clamp(-1, 1) + 1) / 2


def fit_within(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """`size` scaled, either way, to the largest that stays within `limit`, with its aspect kept.

    Upright sizes turn the limit by 90 degrees, so that they get as many pixels.
    """
    if (size[0] < size[1]) != (limit[0] < limit[1]):
        limit = limit[1], limit[0]
    scale = min(limit[0] / size[0], limit[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def pad_to_multiple(video: Float[Tensor, "T H W C"], multiple: int) -> tuple[Float[Tensor, "T h w C"], tuple[int, int]]:
    """The video with replicated borders up to the multiple, and the (top, left) border that was added."""
    extra = (-video.shape[1] % multiple, -video.shape[2] % multiple)
    top, left = extra[0] // 2, extra[1] // 2
    border = (left, extra[1] - left, top, extra[0] - top)
    return functional.pad(video.permute(0, 3, 1, 2), border, mode="replicate").permute(0, 2, 3, 1), (top, left)


def there_and_back(frames: int, least: int) -> list[int]:
    """Frame numbers of a clip, followed back and forth until there are `least`."""
    cycle = list(range(frames)) + list(range(frames - 2, 0, -1))
    return [cycle[index % len(cycle)] for index in range(max(frames, least))]
