"""Cameras that fit their image files to the pixel."""

from __future__ import annotations

import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

_MAX_MISMATCH = 0.02
"""Largest relative difference between a camera and its image that counts as rounding."""


class ImageSizeError(ValueError):
    """An image whose size its camera does not explain."""


def match_image_sizes(dataset: InputDataset) -> None:
    """Rescale the cameras of `dataset`, in place, to the sizes of its image files.

    Downscaled images are rounded up or down depending on the tool that made them (mip-NeRF 360's differ by a pixel from
    the dataparsers' expectation); reads image headers only.

    Raises:
        ImageSizeError: a side differs by more than 2 % and two pixels.
    """
    if dataset.scale_factor != 1.0:
        return
    cameras = dataset.cameras
    with_sizes = []
    for i, file in enumerate(dataset.image_filenames):
        with Image.open(file) as image:
            with_sizes.append(image.size)
        expected = (int(cameras.width[i]), int(cameras.height[i]))
        for found, wanted in zip(with_sizes[-1], expected, strict=True):
            if abs(found - wanted) > max(2, _MAX_MISMATCH * wanted):
                raise ImageSizeError(
                    f"{file} has {with_sizes[-1][0]} x {with_sizes[-1][1]} pixels, its camera {expected[0]} x "
                    f"{expected[1]}. Check the sizes in the capture's camera file and --downscale-factor."
                )
    sizes = torch.tensor(with_sizes, dtype=cameras.width.dtype)
    scale_x, scale_y = sizes[:, :1] / cameras.width, sizes[:, 1:] / cameras.height
    cameras.fx, cameras.cx = cameras.fx * scale_x, cameras.cx * scale_x
    cameras.fy, cameras.cy = cameras.fy * scale_y, cameras.cy * scale_y
    cameras.width, cameras.height = sizes[:, :1].clone(), sizes[:, 1:].clone()
