"""Image arithmetic: sizes, resampling, bytes; no cameras here. Images end in [H, W, C], sizes are (width, height)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

WHOLLY_SEEN = 0.999
"""A mask that is resampled to above this had no hidden pixel take part."""
_VIDEO_GAP = 8
"""Black pixels between the two halves of a video."""


def commonest_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) that most of them have; `sizes` must not be empty."""
    return Counter(sizes).most_common(1)[0][0]


def fit_area(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """`size` shrunk, never enlarged, to the area of `limit`, with its aspect kept; all (width, height).

    >>> fit_area((1920, 1080), limit=(960, 512))
    (935, 526)
    """
    scale = min(1.0, (limit[0] * limit[1] / (size[0] * size[1])) ** 0.5)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_images(
    images: Float[Tensor, "T H W C"], size: tuple[int, int], nearest: bool = False
) -> Float[Tensor, "T h w C"]:
    """Images resampled to (width, height), bilinear with antialiasing or by nearest pixel."""
    planes = images.permute(0, 3, 1, 2)
    shape = (size[1], size[0])
    if nearest:
        resized = functional.interpolate(planes, size=shape, mode="nearest-exact")
    else:
        resized = functional.interpolate(planes, size=shape, mode="bilinear", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1)


def enlarge_mask(mask: Bool[Tensor, "T h w 1"], size: tuple[int, int]) -> Bool[Tensor, "T H W 1"]:
    """A coarse mask at (width, height) `size`, by the nearest of its pixels."""
    planes = functional.interpolate(mask.movedim(-1, 1).float(), size=(size[1], size[0]))
    return planes.bool().movedim(1, -1)


def grown(mask: Bool[Tensor, "T H W 1"]) -> Bool[Tensor, "T H W 1"]:
    """A mask with the neighbours of its pixels."""
    planes = mask.movedim(-1, 1).float()
    return (functional.max_pool2d(planes, 3, stride=1, padding=1) > 0).movedim(1, -1)


def shrunk(mask: Bool[Tensor, "T H W 1"]) -> Bool[Tensor, "T H W 1"]:
    """A mask without the pixels at its edges; those of the picture are none."""
    return ~grown(~mask)


def square_means(image: Float[Tensor, "H W C"], side: int) -> Float[Tensor, "h w C"]:
    """Means of an image over squares of `side` x `side` pixels, which have to fill it.

    >>> square_means(torch.arange(4.0).reshape(2, 2, 1), 2)
    tensor([[[1.5000]]])
    """
    if side == 1:
        return image
    height, width, channels = image.shape
    return image.reshape(height // side, side, width // side, side, channels).mean(dim=(1, 3))


def to_bytes(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Values of 0..1 as 8 bits on the CPU; not-a-number becomes 0. [...]

    >>> to_bytes(torch.tensor([0.0, 0.5, 1.2, torch.nan]))
    tensor([  0, 128, 255,   0], dtype=torch.uint8)
    """
    return (images.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def psnr(squared_error: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Peak signal-to-noise ratio of mean squared errors of colours in 0..1; dB, at most 100. NaN of NaN. [...]

    >>> psnr(torch.tensor([0.01, 0.0]))
    tensor([ 20., 100.])
    """
    return -10 * torch.log10(squared_error.clamp_min(1e-10))


def sample_pixels(image: Float[Tensor, "H W C"], pixels: Float[Tensor, "T h w 2"]) -> Float[Tensor, "T h w C"]:
    """An image at pixel coordinates (x, y), bilinear; beyond its border the border goes on."""
    size = pixels.new_tensor([image.shape[1], image.shape[0]])
    # align_corners=False puts -1 and 1 at the outer edges of the border pixels, which is where 0 and `size` are here.
    grid = (2 * pixels / size - 1).nan_to_num(2.0).clamp(-2, 2)
    planes = image.permute(2, 0, 1)[None].expand(len(pixels), -1, -1, -1)
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)


def side_by_side(left: Float[Tensor, "T H W 3"], right: Float[Tensor, "T H W 3"]) -> Float[Tensor, "T H V 3"]:
    """Two clips of one size next to each other, with a black gap."""
    gap = left.new_zeros(*left.shape[:2], _VIDEO_GAP, 3)
    return torch.cat([left, gap, right.to(left)], dim=2)
