"""What photos say of the camera that took them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags

from genfusion_ns.data.captures.image_files import open_image

_FILM_DIAGONAL = math.hypot(36, 24)
_TURNED = range(2, 9)
_RESOLUTION_UNITS = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""Millimetres of EXIF's units of focal plane resolution."""
_SANE = (0.1, 20.0)
"""Focal length over the longer side of the image; anything beyond is a slip of the writer."""


@dataclass(frozen=True)
class PhotoFacts:
    """What the header of a photo says."""

    size: tuple[int, int]
    """(width, height) in pixels, the right way up."""
    is_turned: bool
    """The stored pixels are turned or mirrored."""
    focal: float | None
    """Focal length in pixels, where it can be told."""
    camera: str
    """Maker, model and lens; empty where there are none."""
    has_alpha: bool


def read_facts(file: Path) -> PhotoFacts:
    """What a photo says of itself.

    Raises:
        CaptureError: it cannot be read.
    """
    with open_image(file) as image:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        size = (image.height, image.width) if orientation in range(5, 9) else image.size
        model = (exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model), details.get(ExifTags.Base.LensModel))
        return PhotoFacts(
            size=size,
            is_turned=orientation in _TURNED,
            focal=_focal(details, size),
            camera=" ".join(str(part).strip("\0 ") for part in model if part),
            has_alpha="A" in image.getbands() or "transparency" in image.info,
        )


def film_to_pixels(focal_length: float, size: tuple[int, int]) -> float:
    """Focal length in pixels of one that is given for 35 mm film, by the diagonals (CIPA DCG-001)."""
    return focal_length / _FILM_DIAGONAL * math.hypot(*size)


def pixels_to_film(focal: float, size: tuple[int, int]) -> float:
    """The inverse of `film_to_pixels`."""
    return focal * _FILM_DIAGONAL / math.hypot(*size)


def _focal(details: Any, size: tuple[int, int]) -> float | None:
    """Focal length in pixels by the length for 35 mm film, or by the length in mm and the pixels on the sensor."""
    film = _number(details.get(ExifTags.Base.FocalLengthIn35mmFilm))
    candidates = [film_to_pixels(film, size)] if film else []
    millimetres = _number(details.get(ExifTags.Base.FocalLength))
    per_unit = _number(details.get(ExifTags.Base.FocalPlaneXResolution))
    unit = _RESOLUTION_UNITS.get(details.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    if millimetres and per_unit and unit:
        stored = _number(details.get(ExifTags.Base.ExifImageWidth)) or max(size)
        longer = max(stored, _number(details.get(ExifTags.Base.ExifImageHeight)) or 0)
        candidates.append(millimetres * per_unit / unit * max(size) / longer)  # smaller where the photo was shrunk
    sane = [focal for focal in candidates if _SANE[0] <= focal / max(size) <= _SANE[1]]
    return sane[0] if sane else None


def _number(value: Any) -> float | None:
    """A positive finite number of EXIF, which may be a fraction with denominator 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
