"""Images as the network wants them: one object, cut out, on grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

LEAST_SIDE = 8
"""Pixels along an image, and along what is cut out of it, at least."""
_GREY = 0.5
_MOST_PIXELS = 2**28
_WAY_OUT = "save it as an 8-bit RGBA PNG whose alpha cuts out the object"


class PictureError(ValueError):
    """An image that nothing can be made of; the message names the file and says what to do."""


def read_picture(path: Path) -> Image.Image:
    """An image of a file as RGB or RGBA in 8 bits, turned as its EXIF entry says; the first frame of an animated one.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: it is no image, damaged, of a kind without colours, or too small or large.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a folder, not an image' if path.is_dir() else 'does not exist'}")
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            if width * height > _MOST_PIXELS:
                raise PictureError(f"{path} has {width} x {height} pixels, more than any photo; {_WAY_OUT}")
            if getattr(opened, "is_animated", False):
                print(f"note: {path} is animated; its first frame is taken")
            frame = next(iter(ImageSequence.Iterator(opened)))
            frame.load()
            picture = _in_eight_bits(ImageOps.exif_transpose(frame), path)
    except PictureError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path} cannot be read as an image: {error}; {_WAY_OUT}") from error
    if min(picture.size) < LEAST_SIDE:
        raise PictureError(
            f"{path} has {width} x {height} pixels; at least {LEAST_SIDE} along each side are needed, 512 are good"
        )
    return picture


def _in_eight_bits(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits of grey, which Pillow would cut off
        values = np.asarray(image, dtype=np.float64)
        highest = 65535.0 if values.max() > 255 or image.mode.startswith("I;16") else 255.0
        if values.min() < 0 or values.max() > highest:
            raise PictureError(f"{path} has values {values.min():g}..{values.max():g}; {_WAY_OUT}")
        image = Image.fromarray(np.round(values * (255 / highest)).astype(np.uint8))
    has_alpha = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def cut_out(picture: Image.Image, ratio: float, name: str) -> UInt8[np.ndarray, "S S 4"]:
    """The object of an RGBA image in the middle of a square, of which it fills the share `ratio` along its longer side.

    Args:
        picture: RGBA.
        ratio: above 0, at most 1.
        name: of the image, for messages.

    Raises:
        PictureError: the image is transparent everywhere, or nearly.
    """
    rgba = np.asarray(picture)
    rows, columns = np.nonzero(rgba[..., 3] > 0)
    if len(rows) == 0:
        raise PictureError(f"{name} is transparent everywhere, so that it shows no object; {_WAY_OUT}")
    # The upper bounds are exclusive, so that the last row and column fall off: so it is in the network's training.
    rgba = rgba[rows.min() : rows.max(), columns.min() : columns.max()]
    if min(rgba.shape[:2]) < LEAST_SIDE // 2:
        raise PictureError(
            f"{name} shows an object of {rgba.shape[1]} x {rgba.shape[0]} pixels, which is too small; {_WAY_OUT}"
        )
    square = _padded(rgba, max(rgba.shape[:2]))
    return _padded(square, int(len(square) / ratio))


def _padded(rgba: UInt8[np.ndarray, "h w 4"], side: int) -> UInt8[np.ndarray, "side side 4"]:
    before = [(side - length) // 2 for length in rgba.shape[:2]]
    after = [side - length - start for length, start in zip(rgba.shape[:2], before, strict=True)]
    return np.pad(rgba, [*zip(before, after, strict=True), (0, 0)])


def over_grey(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """An RGBA image over the grey that the network knows as background; fractions of a level are cut off."""
    values = rgba.astype(np.float32) / 255
    alpha = values[..., 3:]
    return ((values[..., :3] * alpha + (1 - alpha) * _GREY) * 255).astype(np.uint8)


def as_tensor(rgb: UInt8[np.ndarray, "H W 3"]) -> Float[torch.Tensor, "1 H W 3"]:
    """Colours in 0..1."""
    return torch.from_numpy(rgb.astype(np.float32) / 255)[None]
