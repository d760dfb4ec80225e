"""Cameras that fit their image files to the pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from genfusion_ns.data.captures.image_files import CaptureError, ImageHeader, read_header

_MAX_MISMATCH = 0.02
"""Largest relative difference between a camera and its image that counts as rounding."""
SIZE_WAY_OUT = (
    "Check the sizes in the capture's camera file and --downscale-factor; where width and height are swapped, turn the "
    "images to how the camera file has them."
)
"""What helps against an `ImageSizeError`."""


SHRINK = "shrink_images"
"""Key in the metadata of a dataparser's outputs: whole factor by which images are to be shrunk as they are loaded."""


class ImageSizeError(CaptureError):
    """An image whose size its camera does not explain."""


def loaded_header(file: Path, metadata: Mapping[str, Any]) -> ImageHeader:
    """Size and orientation of an image as it is loaded, which is shrunk where the metadata of its dataset say so.

    Raises:
        CaptureError: see `read_header`.
    """
    header, factor = read_header(file), metadata.get(SHRINK, 1)
    return replace(header, size=(header.size[0] // factor, header.size[1] // factor))


def shrink(pixels: UInt8[np.ndarray, "H W C"], factor: int) -> UInt8[np.ndarray, "h w C"]:
    """An image shrunk by averaging squares of factor x factor pixels, colours by their opacity; a rest is cut off.

    Pixel x of the result covers factor * x .. factor * (x + 1), so that a camera's pixels are divided by the factor.
    """
    image = Image.fromarray(pixels)
    box = (0, 0, image.width // factor * factor, image.height // factor * factor)
    if image.mode == "RGBA":
        return np.array(image.convert("RGBa").reduce(factor, box).convert("RGBA"))
    return np.array(image.reduce(factor, box))


def must_turn(header: ImageHeader, expected: tuple[int, int]) -> bool:
    """Whether the camera, of `expected` (width, height), was made from the pixels as the EXIF orientation turns them.

    True only where the stored pixels do not fit and the turned ones do; half turns and square images stay as stored.
    """
    return header.is_turned and not _fits(header.size, expected) and _fits(header.swapped, expected)


def size_problem(header: ImageHeader, expected: tuple[int, int]) -> str | None:
    """How an image differs from its camera, of `expected` (width, height); None within 2 % or two pixels."""
    width, height = header.size
    if _fits(header.size, expected) or must_turn(header, expected):
        return None
    swapped = ", width and height swapped" if _fits(header.swapped, expected) else ""
    return f"has {width} x {height} pixels, its camera {expected[0]} x {expected[1]}{swapped}"


def match_image_sizes(dataset: InputDataset) -> None:
    """Rescale the cameras of `dataset`, in place, to the sizes of its images, as loaded at its scale factor.

    Downscaled images are rounded up or down depending on the tool that made them (mip-NeRF 360's differ by a pixel from
    the dataparsers' expectation); reads image headers only.

    Raises:
        ImageSizeError: a side differs by more than 2 % and two pixels.
        CaptureError: an image cannot be read.
    """
    full, cameras = dataset._dataparser_outputs.cameras, dataset.cameras
    with_sizes = []
    for i, file in enumerate(dataset.image_filenames):
        header = loaded_header(file, dataset._dataparser_outputs.metadata)
        expected = (int(full.width[i]), int(full.height[i]))
        problem = size_problem(header, expected)
        if problem is not None:
            raise ImageSizeError(f"{file} {problem}. {SIZE_WAY_OUT}")
        width, height = header.swapped if must_turn(header, expected) else header.size
        with_sizes.append((int(width * dataset.scale_factor), int(height * dataset.scale_factor)))
    sizes = torch.tensor(with_sizes, dtype=cameras.width.dtype)
    scale_x, scale_y = sizes[:, :1] / full.width, sizes[:, 1:] / full.height
    cameras.fx, cameras.cx = full.fx * scale_x, full.cx * scale_x
    cameras.fy, cameras.cy = full.fy * scale_y, full.cy * scale_y
    cameras.width, cameras.height = sizes[:, :1].clone(), sizes[:, 1:].clone()


def _fits(found: tuple[int, int], expected: tuple[int, int]) -> bool:
    return all(abs(f - e) <= max(2, _MAX_MISMATCH * e) for f, e in zip(found, expected, strict=True))
