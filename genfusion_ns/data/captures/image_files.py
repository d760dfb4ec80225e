"""Image files as they come: what their headers say, whether they are whole, and their pixels as 8-bit RGB or RGBA.

The pixel grid is the stored one, as COLMAP and nerfstudio see it; an EXIF orientation is applied only where a camera
file was made from the turned pixels (see `image_sizes`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
"""Pillow's names of the formats that are read, whatever a file is called. Pillow knows many more, and hands some of
them to other programs: an EPS file that is named .png would reach Ghostscript."""
PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
"""Endings of photos, in the order in which a name without its own may stand for them."""
_SHOWN = 3
_TAIL = 1 << 16
"""Bytes at the end of a file that are searched for its end marker; cameras append previews and notes."""
_END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
_QUARTER_TURNS = range(5, 9)
"""EXIF orientations that swap width and height."""
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_EIGHT_BIT = {"1": "L", "L": "L", "LA": "RGBA", "La": "RGBA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}


class CaptureError(ValueError):
    """A capture that cannot be used; the message names the file, the value found, what is allowed and the way out."""


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says."""

    size: tuple[int, int]
    """(width, height) of the stored pixels."""
    is_turned: bool
    """The EXIF orientation asks for a quarter turn, so that viewers show width and height swapped."""

    @property
    def swapped(self) -> tuple[int, int]:
        """(width, height) of the pixels after a quarter turn."""
        return self.size[1], self.size[0]


def raise_for(problems: Sequence[str], what: str, way_out: str, error: type[CaptureError] = CaptureError) -> None:
    """Raise one error for all `problems` of a kind, showing the first few and their number; none raises nothing."""
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise error(f"{what}: {shown}{more}. {way_out}")


@contextmanager
def open_image(file: Path) -> Iterator[Image.Image]:
    """Context manager that opens an image file, of one of `FORMATS`; its pixels are decoded when they are asked for.

    Raises:
        CaptureError: missing, empty, no image, cut off or of unreasonable size, also where that shows only when it is
            decoded inside the context.
    """
    _require_file(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except CaptureError:
        raise
    except _DECODING_ERRORS as error:
        raise _unreadable(file, error) from error


def read_header(file: Path) -> ImageHeader:
    """Size and orientation of an image file, which is also checked for its end.

    Costs two small reads. Only JPEG and PNG files without an end marker in their last 64 KB are decoded to find out
    whether they are whole; damage in the middle of a file shows when its pixels are loaded.

    Raises:
        CaptureError: missing, empty, no image, or cut off.
    """
    with open_image(file) as image:
        # Asking a PNG file without EXIF for it would decode the whole image.
        exif = image.getexif() if "exif" in image.info else {}
        header = ImageHeader(image.size, exif.get(ExifTags.Base.Orientation) in _QUARTER_TURNS)
        marker = _END_MARKERS.get(image.format or "")
        if marker is not None and marker not in _tail(file):
            image.draft("RGB", (1, 1))
            image.load()
        return header


def load_pixels(file: Path, size: tuple[int, int] | None = None, turn: bool = False) -> np.ndarray:
    """Pixels of an image file as 8-bit RGB, or RGBA where it has transparency.

    16-bit samples are scaled, palettes looked up, CMYK and other colour models converted, grey repeated.

    Args:
        file: of one of `FORMATS`.
        size: (width, height) to resize to, bilinearly; the stored size by default.
        turn: apply the EXIF orientation.

    Returns:
        uint8 array. [H, W, 3 or 4]

    Raises:
        CaptureError: the file cannot be decoded, or its samples have no defined range (32-bit integers, floats).
    """
    with open_image(file) as image:
        if not has_range(image):
            raise CaptureError(
                f"{file} has 32-bit samples (Pillow mode {image.mode}), whose range is unknown; 8 or 16 bits per "
                "channel are allowed. Save it as 8-bit PNG or JPEG."
            )
        converted = eight_bit(ImageOps.exif_transpose(image) if turn else image)
    if size is not None and size != converted.size:
        converted = converted.resize(size, resample=Image.Resampling.BILINEAR)
    return np.array(converted, dtype=np.uint8)


def is_wide(image: Image.Image) -> bool:
    """Whether its samples are of 16 bits; PNG has no wider ones, though Pillow may hold them in 32."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def has_range(image: Image.Image) -> bool:
    """Whether the format says which sample is white; for 32-bit integers and floats none does."""
    return is_wide(image) or not image.mode.startswith(("I", "F"))


def has_alpha(image: Image.Image) -> bool:
    """Whether `eight_bit` gives it an alpha channel."""
    return _EIGHT_BIT.get(image.mode) == "RGBA" or (image.mode == "P" and "transparency" in image.info)


def eight_bit(image: Image.Image) -> Image.Image:
    """An image that `has_range` as RGB, or RGBA where it has transparency, of 8 bits per channel."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.round(wide / 257).clip(0, 255).astype(np.uint8))
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    image = image.convert(_EIGHT_BIT.get(image.mode, "RGB"))
    return image.convert("RGB") if image.mode == "L" else image


def _require_file(file: Path) -> None:
    try:
        found = file.stat().st_size if file.is_file() else None
    except (OSError, ValueError) as error:  # too long a name, or a null byte in it
        raise CaptureError(f"{str(file)!r} is not a usable file name ({error})") from error
    if found is None:
        raise CaptureError(f"{file} {'is a folder, not an image' if file.is_dir() else _absent(file)}")
    if found == 0:
        raise CaptureError(f"{file} is empty (0 bytes)")


def _absent(file: Path) -> str:
    """What to say of a file that is not there: several that its name may mean are named, as none is chosen for it."""
    stems = {file.stem.casefold(), file.name.casefold()}  # a name may lack its ending
    there = sorted(file.parent.iterdir()) if file.parent.is_dir() else []
    alike = [path.name for path in there if path.stem.casefold() in stems]
    return f"does not exist; beside it are {', '.join(alike)}: name one of them" if alike else "does not exist"


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        return stream.read()


def _unreadable(file: Path, error: Exception) -> CaptureError:
    if isinstance(error, Image.DecompressionBombError):
        return CaptureError(f"{file} is too large to be decoded safely ({error}); shrink it")
    if isinstance(error, MemoryError):
        return CaptureError(f"{file} does not fit into memory; shrink it, or free some")
    if isinstance(error, Image.UnidentifiedImageError):
        with file.open("rb") as stream:
            start = stream.read(12)
        known = ", ".join(FORMATS)
        return CaptureError(f"{file} is not an image of a known format, {known} (it starts with {start!r})")
    return CaptureError(f"{file} is damaged or cut off ({error})")
