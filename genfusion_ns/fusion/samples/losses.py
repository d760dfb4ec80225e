"""What a render is compared with its sample by: absolute differences, and LPIPS where its weights are on disk."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genfusion_ns.geometry.cameras import full_precision
from genfusion_ns.perceptual import HOW_TO_GET, LpipsNet, lpips_from_disk, smallest_side, weights_file


def check_lpips(net: LpipsNet, flag: str) -> None:
    """Refuse a run whose loss needs weights that are not on this disk; nothing is loaded.

    Args:
        net: the backbone.
        flag: of the weight of the term.

    Raises:
        ValueError: with the flag.
    """
    path = weights_file(net)
    if path is None or not path.is_file():
        raise ValueError(
            f"samples are compared by LPIPS ({net}), whose weights are not installed; {HOW_TO_GET} -- or leave that "
            f"term out with {flag} 0"
        )


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
        check_lpips(net, flag)
        metric = lpips_from_disk(net)
        if metric is None:
            raise ValueError(f"the weights of LPIPS ({net}) are not installed; {HOW_TO_GET}")
        self._network = metric.net.to(device).eval().requires_grad_(False)  # type: ignore[union-attr, operator]

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
