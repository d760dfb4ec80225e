"""The same part of a held-out photo at four sizes, by runs without and with the pixel filter, as one picture.

    ns-train genfusion --data demo/scene --max-num-iterations 1500 --pipeline.repairer.model none --timestamp none
    ns-train genfusion --data demo/scene --max-num-iterations 1500 --pipeline.repairer.model none --timestamp mip \
        --pipeline.model.antialias mip
    python docs/antialias_picture.py --none outputs/scene/genfusion/none/config.yml \
        --mip outputs/scene/genfusion/mip/config.yml --output docs/images/antialias.png
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch.nn import functional

_SIZES = (1, 2, 4, 8)
_PART = 0.5
"""Of the sides of the photo, in its middle."""
_HEIGHT = 150
"""Pixels of a row."""


@dataclass
class Picture:
    """Draw the picture."""

    none: Path
    """config.yml of a run without the filter."""
    mip: Path
    """config.yml of the same run with it."""
    output: Path
    view: int = 0
    """Which of the held-out photos."""

    def run(self) -> None:
        """Photo, none and mip below one another; full size, a half, a quarter and an eighth side by side."""
        rows = [_row(_views(self.none, self.view, photo=True))]
        rows += [_row(_views(config, self.view, photo=False)) for config in (self.none, self.mip)]
        Image.fromarray(np.concatenate(rows)).save(self.output)


def _views(config: Path, view: int, *, photo: bool) -> list[torch.Tensor]:
    """The photo, or a render of it, at each size. [H, W, 3] each"""
    from nerfstudio.utils.eval_utils import eval_setup

    pipeline: Any = eval_setup(config)[1]
    camera, batch = pipeline.datamanager.fixed_indices_eval_dataloader[view]
    if photo:
        image = pipeline.model.get_gt_img(batch["image"]).permute(2, 0, 1)[None]
        return [functional.avg_pool2d(image, size)[0].permute(1, 2, 0) for size in _SIZES]
    images = []
    for size in _SIZES:
        small = deepcopy(camera)
        small.rescale_output_resolution(1 / size)
        with torch.no_grad():
            images.append(pipeline.model.get_outputs_for_camera(small)["rgb"].clamp(0, 1))
    return images


def _row(images: list[torch.Tensor]) -> np.ndarray:
    tiles = []
    for image in images:
        height, width = image.shape[0], image.shape[1]
        top, left = (round(side * (1 - _PART) / 2) for side in (height, width))
        part = image[top : height - top, left : width - left]
        tile = Image.fromarray((part.cpu().numpy() * 255).round().astype(np.uint8))
        tiles.append(np.asarray(tile.resize((round(_HEIGHT * width / height), _HEIGHT), Image.Resampling.NEAREST)))
    return np.concatenate(tiles, axis=1)


if __name__ == "__main__":
    tyro.cli(Picture).run()
