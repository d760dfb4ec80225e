"""The images of a capture, converted rightly whatever their pixel format."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from genfusion_ns.data.captures.image_files import CaptureError, load_pixels
from genfusion_ns.data.captures.image_sizes import SHRINK, loaded_header, must_turn, shrink


class CaptureDataset(InputDataset):
    """nerfstudio's image dataset, with 16-bit, palette, grey with alpha, CMYK and EXIF-turned files read rightly.

    nerfstudio 1.1.5 wraps 16-bit samples, reads palette indices as grey and refuses the others.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        """
        Args:
            dataparser_outputs: files and cameras.
            scale_factor: by which images and cameras are resized when loaded.

        Raises:
            CaptureError: the scale factor is not positive or leaves an image without pixels.
        """
        sizes = dataparser_outputs.cameras.width, dataparser_outputs.cameras.height
        shortest = min(int(size.min()) for size in sizes)
        if not (0 < scale_factor <= 1e3 and shortest * scale_factor >= 1):
            raise CaptureError(
                f"--pipeline.datamanager.camera-res-scale-factor is {scale_factor}; it must be a positive number that "
                f"leaves at least one of the {shortest} pixels of the shortest image side, such as 0.5."
            )
        super().__init__(dataparser_outputs, scale_factor)

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """Pixels of one image at the scale factor of the dataset. [H, W, 3 or 4], 0..255

        Raises:
            CaptureError: the file cannot be read; the message names it.
        """
        file = self.image_filenames[image_idx]
        cameras, metadata = self._dataparser_outputs.cameras, self._dataparser_outputs.metadata
        header = loaded_header(file, metadata)
        turn = must_turn(header, (int(cameras.width[image_idx]), int(cameras.height[image_idx])))
        width, height = header.swapped if turn else header.size
        size = (int(width * self.scale_factor), int(height * self.scale_factor))
        if SHRINK not in metadata:
            return load_pixels(file, size, turn)
        pixels = shrink(load_pixels(file, turn=turn), metadata[SHRINK])
        if size == (width, height):
            return pixels
        return np.array(Image.fromarray(pixels).resize(size, resample=Image.Resampling.BILINEAR))

    def get_image_uint8(self, image_idx: int) -> UInt8[Tensor, "H W channels"]:
        """One image, 0..255; what is composed over a background colour is rounded, not cut as in nerfstudio."""
        if self._dataparser_outputs.alpha_color is None:
            return torch.from_numpy(self.get_numpy_image(image_idx))
        return (255 * self.get_image_float32(image_idx)).round().to(torch.uint8)
