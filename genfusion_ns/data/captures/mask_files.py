"""Mask images: which file belongs to which photo, and what it shows of it. All masks of a run are read here.

White is seen, black is hidden. nerfstudio's own loader takes every pixel that is not quite black for seen, wants one
channel and the size of the photo, and says nothing of masks that hide all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Num
from PIL import Image

from genfusion_ns.data.captures.image_files import CaptureError, eight_bit, has_alpha, has_range, is_wide, open_image
from genfusion_ns.data.view_selection import NameIndex

FOLDER = "masks"
"""Folder beside the photos where masks are looked for that the capture does not declare."""
_COARSEST = 8
"""Photo pixels along a side that one mask pixel may stand for; anything smaller is another picture."""
_OPAQUE = 127


class MaskError(CaptureError):
    """Masks that cannot be used; the message names the file, what is wrong with it and what is allowed."""


def read_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """A mask image, True where seen; brought to (width, height) `size` when it has the same shape.

    What counts is the alpha channel where some of it is transparent, else the brightest channel. Where there is one
    level beside 0 (0 and 1, a label and none), that one is seen; otherwise what is above half of the range.

    Raises:
        MaskError: missing, unreadable, of another shape than the photo, or nothing in it is seen.
    """
    return _read(path, size, alpha_only=False)


def read_alpha(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The alpha channel of a photo as its mask, opaque is seen; the rest and the errors as for `read_mask`."""
    return _read(path, size, alpha_only=True)


def require_alpha(files: Iterable[Path]) -> None:
    """Refuse photos without an alpha channel.

    Raises:
        MaskError: one has none.
        CaptureError: one cannot be read.
    """
    for file in files:
        with open_image(file) as image:
            if not has_alpha(image):
                raise MaskError(
                    f"{file} has no alpha channel (its mode is {image.mode}), but "
                    "--pipeline.datamanager.masking.source is alpha; use RGBA photos, or masks or windows"
                )


def masks_beside(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The masks of the photos with these `names` in the folder ``masks`` of a capture that declares none.

    Raises:
        MaskError: no such folder, or no mask for a photo, or more than one.
    """
    beside = sorted(path for path in (folder / FOLDER).rglob("*") if path.is_file())
    if not beside:
        raise MaskError(
            f"--pipeline.datamanager.masking.source is masks, but {folder} names no mask_path and has no folder "
            f"{FOLDER} beside the photos"
        )
    there = [path.relative_to(folder / FOLDER).as_posix() for path in beside]
    # Both "photo.png" and "photo.jpg.png" are usual names for the mask of photo.jpg.
    exact, loose = {name.rsplit(".", 1)[0]: i for i, name in enumerate(there)}, NameIndex(there)
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        matches = [exact[name]] if name in exact else loose.find(name)
        found += [beside[match] for match in matches[:1]]
        missing += [name] if len(matches) != 1 else []
    if missing:
        raise MaskError(
            f"{folder / FOLDER} has no mask, or more than one, for {len(missing)} train photo(s), such as "
            f"{missing[0]}; it holds {there[0]} .. {there[-1]}. A mask is named like its photo, with any extension"
        )
    return tuple(found)


def declared_masks(named: Sequence[Path] | None) -> list[Path] | None:
    """The mask files that a capture declares, one per view; None when it declares none.

    Of masks that lack beside downscaled photos those of full size count. `CaptureParser` names these; dataparsers that
    answer for themselves name ``masks_<factor>``, there or not.

    Args:
        named: what the dataparser gave.

    Raises:
        MaskError: a file is missing.
    """
    if named is None:
        return None
    # os.path: False for names that are too long, where pathlib raises.
    found = [file if os.path.isfile(file) else _without_factor(file) for file in named]
    missing = [file for file, there in zip(named, found, strict=True) if not os.path.isfile(there)]
    if missing:
        raise MaskError(
            f"{missing[0]} does not exist, a mask that the capture declares ({len(missing)} of {len(named)} are "
            "missing). Copy the masks there, or remove mask_path (or --masks-path) to use whole photos."
        )
    return found


def check_masks(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    """Read masks to find those that cannot be used; errors as for `read_mask`."""
    for file, size in zip(files, sizes, strict=True):
        read_mask(file, size)


def _without_factor(file: Path) -> Path:
    """``masks/b/c.png`` for ``masks_2/b/c.png``; other paths as they are."""
    for place, part in reversed(list(enumerate(file.parts[:-1]))):
        if match := re.fullmatch(r"(.+)_[0-9]+", part):
            return Path(*file.parts[:place], match[1], *file.parts[place + 1 :])
    return file


def _read(path: Path, size: tuple[int, int], alpha_only: bool) -> Bool[np.ndarray, "H W"]:
    try:
        with open_image(path) as image:
            _require_shape(path, image.size, size)
            seen = _alpha(image) > _OPAQUE if alpha_only else _seen(path, image)
    except MaskError:
        raise
    except CaptureError as error:
        raise MaskError(f"{path} cannot be read as a mask image: {error}") from error
    if seen.shape != size[::-1]:
        pixels = Image.fromarray(seen.astype(np.uint8))
        seen = np.asarray(pixels.resize(size, Image.Resampling.NEAREST)) > 0
    if not seen.any():
        raise MaskError(
            f"{path} shows nothing of its photo: no pixel is white. Invert it, or take the photo out of the capture"
        )
    return seen


def _require_shape(path: Path, found: tuple[int, int], size: tuple[int, int]) -> None:
    same_shape = abs(found[0] * size[1] - found[1] * size[0]) <= 2 * max(*found, *size)
    if not same_shape or any(f * _COARSEST < s for f, s in zip(found, size, strict=True)):
        raise MaskError(
            f"{path} has {found[0]} x {found[1]} pixels, its photo {size[0]} x {size[1]}; a mask must have the size of "
            f"the photo, or its shape at another resolution, down to 1/{_COARSEST}"
        )


def _alpha(image: Image.Image) -> Num[np.ndarray, "H W"]:
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _seen(path: Path, image: Image.Image) -> Bool[np.ndarray, "H W"]:
    if has_alpha(image):
        alpha = _alpha(image)
        if alpha.min() < 255:
            return alpha > _OPAQUE
    if image.mode == "1":
        return np.array(image)
    deep = is_wide(image) or not has_range(image)
    samples = np.asarray(image) if deep else np.asarray(eight_bit(image))[..., :3].max(-1)
    shown = samples != 0
    levels = samples[shown]
    if not len(levels) or (levels == levels[0]).all():
        return shown
    if not has_range(image):
        raise MaskError(
            f"{path} has 32-bit samples (Pillow mode {image.mode}) of more than one level beside 0, of which none is "
            "known to be white. Save it as 8-bit PNG, black and white"
        )
    half = 65535 // 2 if deep else _OPAQUE
    if levels.max() <= half:
        raise MaskError(
            f"{path} has several levels of grey, of which the brightest is {levels.max()} of {2 * half + 1}; white is "
            "seen and black hidden. Save what is seen as white"
        )
    return samples > half
