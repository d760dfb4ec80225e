"""Losses on colours that see blur, which a mean of squares rewards.

All of them take frames of colours in -1..1 and weights in 0..1, of which no mean runs over pixels of weight 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.perceptual import lpips_loss_network

_CHARBONNIER = 0.03  # of the -1..1 range; below it the penalty is quadratic
_SCALES = 3
_WINDOW = 8  # pixels per side of the squares whose amounts of detail are compared
_LEAST_DETAIL = 0.03  # mean difference of neighbours in -1..1 below which a square counts as plain


def charbonnier(error: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A penalty that is quadratic near 0 and linear far from it (Charbonnier et al. 1994)."""
    return (error.square() + _CHARBONNIER**2).sqrt() - _CHARBONNIER


def gradient_loss(error: Float[Tensor, "N 3 H W"]) -> Float[Tensor, ""]:
    """Charbonnier penalty of the differences of neighbours of an error, at full, half and quarter resolution."""
    total = error.new_zeros(())
    for scale in range(_SCALES):
        if min(error.shape[-2:]) < 2:
            break
        total = total + sum(charbonnier(error.diff(dim=axis)).mean() for axis in (2, 3))
        if scale < _SCALES - 1:
            error = functional.avg_pool2d(error, 2, ceil_mode=True)
    return total / _SCALES


def detail_loss(
    image: Float[Tensor, "N 3 H W"], truth: Float[Tensor, "N 3 H W"], weight: Float[Tensor, "N 1 H W"]
) -> Float[Tensor, ""]:
    """How far the amount of detail in small squares is from the true one, as a logarithm of their ratio.

    It compares amounts, not places: detail that is a pixel off costs nothing here, blur does.
    """
    shape = (min(_WINDOW, image.shape[-2]), min(_WINDOW, image.shape[-1]))
    ours, theirs = ((_differences(x, shape) + _LEAST_DETAIL).log() for x in (image, truth))
    share = functional.avg_pool2d(weight, shape, ceil_mode=True)
    return ((ours - theirs).abs() * share).sum() / share.sum().clamp(min=1e-6)


def _differences(image: Tensor, window: tuple[int, int]) -> Tensor:
    across = functional.pad(image.diff(dim=3).abs(), (0, 1))
    down = functional.pad(image.diff(dim=2).abs(), (0, 0, 0, 1))
    return functional.avg_pool2d((across + down).mean(dim=1, keepdim=True), window, ceil_mode=True)


def harm_loss(
    image: Float[Tensor, "N 3 H W"], before: Float[Tensor, "N 3 H W"], truth: Float[Tensor, "N 3 H W"]
) -> Float[Tensor, "N 1 H W"]:
    """By how much each pixel is farther from the truth than it was before the repair; 0 where it is not."""
    errors = [(x - truth).abs().mean(dim=1, keepdim=True) for x in (image, before)]
    return (errors[0] - errors[1]).clamp(min=0)


class PerceptualLoss:
    """LPIPS (Zhang et al. 2018) with the AlexNet backbone; not a module, so that no checkpoint holds it."""

    def __init__(self) -> None:
        """
        Raises:
            ValueError: the weights are not installed.
        """
        self._network = lpips_loss_network("alex", "--optimisation.perceptual-weight")

    def to(self, device: torch.device) -> PerceptualLoss:
        """The same on `device`."""
        self._network = self._network.to(device)
        return self

    def __call__(self, image: Float[Tensor, "N 3 H W"], truth: Float[Tensor, "N 3 H W"]) -> Float[Tensor, ""]:
        """Mean distance of images, colours in -1..1; small ones are enlarged to 64 pixels."""
        least = min(image.shape[-2:])
        if least < 64:
            image, truth = (functional.interpolate(x, scale_factor=64 / least, mode="bilinear") for x in (image, truth))
        return self._network(image.clamp(-1, 1), truth).mean()
