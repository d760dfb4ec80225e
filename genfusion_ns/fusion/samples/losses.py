"""What a render is compared with its sample by: absolute differences, and LPIPS where its weights are on disk."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genfusion_ns.geometry.cameras import full_precision
from genfusion_ns.perceptual import LpipsNet, lpips_loss_network, smallest_side


class SampleLoss:
    """Mean absolute difference plus LPIPS, whose parameters take no gradient and are no part of checkpoints."""

    def __init__(self, lpips_weight: float, net: LpipsNet, size: tuple[int, int], device: torch.device | str) -> None:
        """
        Args:
            lpips_weight: of the perceptual term; 0 loads nothing.
            net: its backbone.
            size: (width, height) of the images.
            device: of the images.

        Raises:
            ValueError: the weights are missing or damaged, or images of this size are too small for the backbone.
        """
        self._weight = lpips_weight
        self._network: nn.Module | None = None
        if lpips_weight == 0:
            return
        flag = "--pipeline.fusion.lpips-weight"
        if min(size) < smallest_side(net):
            raise ValueError(
                f"samples of {size[0]}x{size[1]} pixels are too small for LPIPS ({net}), which needs "
                f"{smallest_side(net)} a side: {flag} 0 leaves it out"
            )
        self._network = lpips_loss_network(net, flag).to(device)

    @full_precision()
    def __call__(
        self, image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """The two terms; the second is None where it is left out.

        Args:
            image: the render; gradients flow through it.
            target: the sample, in 0..1.
        """
        absolute = (image - target).abs().mean()
        if self._network is None:
            return absolute, None
        pair = [picture.permute(2, 0, 1)[None] for picture in (image, target)]
        return absolute, self._weight * self._network(*pair, normalize=True).mean()
