"""How the frames of clips lie in the frame of a photo, given the size that a repairer was made for. Sizes are
(width, height) in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

Framing = Literal["fit", "crop", "pixels", "pad"]
"""fit: all of a photo's frame, in its shape; crop: its frame scaled to cover the size, and a part of it; pixels: the
same at the pixels of the photo; pad: all of its frame within the size, with what lies around it."""
Size = tuple[int, int]


@dataclass(frozen=True)
class ClipFrame:
    """The size of clips, and how large the whole frame of a photo is in their pixels."""

    size: Size
    """Of the clips."""
    whole: Size
    """Of the photo's frame, at the scale of the clips."""
    padded: bool = False
    """Clips show more than the photo's frame, and only what lies in it is to supervise."""

    def middle(self) -> Size:
        """Top-left pixel (x, y) of a clip in the middle of the whole frame; below 0 where the clip is larger."""
        return (self.whole[0] - self.size[0]) // 2, (self.whole[1] - self.size[1]) // 2

    def corner(self, generator: torch.Generator) -> Size:
        """Top-left pixel (x, y) of a clip: drawn along sides on which the whole frame is larger, else as `middle`."""
        x, y = self.middle()
        if self.whole[0] > self.size[0]:
            x = int(torch.randint(self.whole[0] - self.size[0] + 1, (), generator=generator))
        if self.whole[1] > self.size[1]:
            y = int(torch.randint(self.whole[1] - self.size[1] + 1, (), generator=generator))
        return x, y

    def part_of_photo(self, corner: Size) -> tuple[slice, slice]:
        """Rows and columns of a clip with this corner that lie in the photo's frame."""
        columns, rows = (
            slice(max(0, -at), min(side, whole - at))
            for at, side, whole in zip(corner, self.size, self.whole, strict=True)
        )
        return rows, columns


def frame_of(photo_size: Size, resolution: Size, framing: Framing = "fit") -> ClipFrame:
    """The frame of clips for photos of one size.

    Args:
        photo_size: of the photos.
        resolution: of the repairer; other framings than fit turn it for upright photos.
        framing: see `Framing`.

    Raises:
        ValueError: a side below 1.

    >>> frame_of((1600, 1200), (960, 512), "crop")
    ClipFrame(size=(960, 512), whole=(960, 720), padded=False)
    >>> frame_of((960, 540), (960, 512), "pixels").whole
    (960, 540)
    >>> frame_of((1000, 1000), (960, 512), "pad")
    ClipFrame(size=(960, 512), whole=(512, 512), padded=True)
    """
    if framing == "fit":
        size = clip_size(photo_size, resolution)
        return ClipFrame(size, size)
    upright = photo_size[0] < photo_size[1]
    size = (min(resolution), max(resolution)) if upright else (max(resolution), min(resolution))
    if framing == "pixels":
        return ClipFrame(size, photo_size)
    scales = (size[0] / photo_size[0], size[1] / photo_size[1])
    scale = max(scales) if framing == "crop" else min(scales)
    whole = (max(1, round(photo_size[0] * scale)), max(1, round(photo_size[1] * scale)))
    return ClipFrame(size, whole, padded=framing == "pad")


def clip_size(photo_size: Size, resolution: Size, multiple: int = 8) -> Size:
    """Clip size with the shape of the photos and about as many pixels as the repairer was made for.

    Args:
        photo_size: (width, height) of the photos.
        resolution: (width, height) of the repairer.
        multiple: both sides are multiples of this.

    Returns:
        (width, height) in pixels.

    Raises:
        ValueError: a side below 1.
    """
    if min(*photo_size, *resolution, multiple) < 1:
        raise ValueError(
            f"photo size {photo_size}, repairer resolution {resolution} and multiple {multiple} must be >= 1"
        )
    aspect, area = photo_size[0] / photo_size[1], resolution[0] * resolution[1]
    ideal = math.sqrt(area * aspect)
    around = [max(1, math.floor(ideal / multiple) + step) * multiple for step in (-1, 0, 1, 2)]
    candidates = [(w, max(1, math.floor(w / aspect / multiple + 0.5)) * multiple) for w in around]
    return min(candidates, key=lambda s: 2 * abs(math.log(s[0] / s[1] / aspect)) + abs(math.log(s[0] * s[1] / area)))
