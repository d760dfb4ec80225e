"""Images blurred to several scales: what is wrong in detail is often right on average."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

BLURS = ((3, 1), (4, 2), (8, 4), (16, 8))
"""Pixels per side of each mean, and from one mean to the next: overlapping, so that no grid shows."""


def blur_images(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N S C H W"]:
    """Each of the blurs of images, from the finest."""
    size = (images.shape[-2], images.shape[-1])
    blurred = []
    for width_of_mean, stride in BLURS:
        # With this border the means lie where the interpolation below takes them to be.
        border = (width_of_mean - stride) // 2
        small = functional.avg_pool2d(images, width_of_mean, stride, border, count_include_pad=False)
        blurred.append(functional.interpolate(small, size=size, mode="bilinear", align_corners=False))
    return torch.stack(blurred, dim=1)
