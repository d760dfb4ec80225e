"""Images at 1, 1/2, 1/4, ... of their size."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from genfusion_ns.data.captures.image_sizes import shrink


def published_levels(image: UInt8[np.ndarray, "H W C"], count: int) -> list[UInt8[np.ndarray, "h w C"]]:
    """Levels of a Blender image as the published conversion has them, to the last bit.

    Squares of 2x2 pixels are averaged again and again in single precision, colours apart from opacity; only what is
    stored is cut to 8 bits.

    Args:
        image: sides divisible by 2^(count - 1).
        count: levels, the image itself the first.
    """
    values: Float[np.ndarray, "h w C"] = image.astype(np.float32) / np.float32(255)
    levels = []
    for level in range(count):
        if level > 0:
            height, width = values.shape[0] // 2, values.shape[1] // 2
            values = np.mean(values.reshape(height, 2, width, 2, -1), (1, 3))
        levels.append((255 * values).astype(np.uint8))
    return levels


def area_levels(image: UInt8[np.ndarray, "H W C"], count: int) -> list[UInt8[np.ndarray, "h w C"]]:
    """Levels of a photo, each the average over squares of its pixels, colours by their opacity; see `shrink`."""
    return [image if level == 0 else shrink(image, 2**level) for level in range(count)]


def cut_evenly(image: UInt8[np.ndarray, "H W C"], divisor: int) -> UInt8[np.ndarray, "h w C"]:
    """An image cut to sides that divide, by as much on both sides, so that its middle stays the middle.

    Raises:
        ValueError: an odd number of pixels is too many.
    """
    height, width = image.shape[:2]
    rest = height % divisor, width % divisor
    if rest[0] % 2 or rest[1] % 2:
        raise ValueError(
            f"an image of {width} x {height} pixels cannot be cut to multiples of {divisor} around its middle; give "
            "another --downscale or --n-down"
        )
    top, left = rest[0] // 2, rest[1] // 2
    return image[top : height - top, left : width - left]
