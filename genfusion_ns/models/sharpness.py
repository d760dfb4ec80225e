"""How sharp an image is, relative to another: what PSNR and SSIM reward blur for, these two show.

Both are ratios without a unit. 1: as much fine detail as the target; less: blurred; more: noise, or edges where the
target has none. They compare amounts of detail and not its places, so they replace none of PSNR, SSIM and LPIPS.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_NO_DETAIL = 1e-4
"""Deviation below which an image counts as plain: a fortieth of a grey level. Two plain images have the ratio 1."""


def sharpness_ratio(image: Float[Tensor, "*B H W 3"], target: Float[Tensor, "*B H W 3"]) -> Float[Tensor, "*B"]:
    """Standard deviation of the Laplacian of luma, of image over target.

    The Laplacian is that of the four neighbours, over pixels that have them all. It weighs a frequency by its square,
    so it answers to the finest detail first.

    >>> photo = (torch.arange(8) % 2).float().expand(8, 8)[..., None].expand(8, 8, 3)  # stripes
    >>> faint = 0.5 + 0.25 * (photo - 0.5)
    >>> print(f"{sharpness_ratio(photo, photo):.2f}, {sharpness_ratio(faint, photo):.2f}")
    1.00, 0.25

    Args:
        image: colours in 0..1, at least 3x3 pixels.
        target: of the same size.
    """
    ours, theirs = (_laplacian(_luma(picture)).flatten(-2).std(-1, correction=0) for picture in (image, target))
    return (ours + _NO_DETAIL) / (theirs + _NO_DETAIL)


def gradient_energy_ratio(image: Float[Tensor, "*B H W 3"], target: Float[Tensor, "*B H W 3"]) -> Float[Tensor, "*B"]:
    """Mean squared gradient of luma, of image over target.

    By Parseval's theorem it is the energy of the image's spectrum with each frequency weighted by its square (for
    differences of neighbours 4 sin^2(w/2)), so edges and texture of all sizes count. An energy: contrast halved gives a
    quarter.

    Args:
        image: colours in 0..1, at least 2x2 pixels.
        target: of the same size.
    """
    ours, theirs = (_gradient_energy(_luma(picture)) for picture in (image, target))
    return (ours + _NO_DETAIL**2) / (theirs + _NO_DETAIL**2)


def _luma(image: Float[Tensor, "*B H W 3"]) -> Float[Tensor, "*B H W"]:
    return image @ image.new_tensor(_LUMA)


def _laplacian(luma: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B h w"]:
    middle = luma[..., 1:-1, 1:-1]
    upright = luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1]
    across = luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:]
    return upright + across - 4 * middle


def _gradient_energy(luma: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    return sum((torch.diff(luma, dim=dim).square().flatten(-2).mean(-1) for dim in (-2, -1)), luma.new_zeros(()))
