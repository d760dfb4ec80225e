"""Image metrics of held-out views, by torchmetrics."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.messages import say


class ImageMetrics:
    """PSNR, SSIM and LPIPS of image pairs.

    LPIPS needs backbone weights that torchvision downloads; it is built at the first use, and when the download fails
    the other metrics go on without it and one line says so. Not an nn.Module, so that its weights never enter a
    checkpoint.
    """

    def __init__(self, lpips_net: str) -> None:
        self._lpips_net = lpips_net
        self._lpips: torch.nn.Module | None = None
        self._lpips_unavailable = False

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"]) -> dict[str, float]:
        """Metrics of one image against its photo, both in 0..1.

        Returns:
            psnr in dB, ssim in -1..1 and, when available, lpips >= 0.
        """
        # Not at the top: it pulls in transformers and scipy.signal, and every ns-* command imports this module.
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        pair = [picture.clamp(0, 1).permute(2, 0, 1)[None] for picture in (image, target)]
        metrics = {
            "psnr": float(peak_signal_noise_ratio(*pair, data_range=1.0)),
            "ssim": float(structural_similarity_index_measure(*pair, data_range=1.0)),  # type: ignore[arg-type]
        }
        lpips = self._lpips_network(image.device)
        if lpips is not None:
            metrics["lpips"] = float(lpips(*pair))
        return metrics

    def _lpips_network(self, device: torch.device) -> torch.nn.Module | None:
        if self._lpips is None and not self._lpips_unavailable:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            try:
                network = LearnedPerceptualImagePatchSimilarity(net_type=self._lpips_net, normalize=True)  # type: ignore[arg-type]
            except (OSError, RuntimeError) as error:
                self._lpips_unavailable = True
                say(
                    f"LPIPS is left out: its {self._lpips_net} weights could not be loaded ({error}). "
                    "Run once with network access, or put the torchvision file into the torch hub folder.",
                    "yellow",
                )
                return None
            self._lpips = network.to(device).eval()
        return self._lpips
