"""Trains nerfstudio's own mipnerf at given sizes on a multi-scale data set, and prints its PSNR by scale.

nerfstudio fixes the width of its network and fetches LPIPS when it is built; both are replaced here, and the optimiser
is that of mipnerf-multiscale. The rest is nerfstudio's: datamanager, samplers, encoding, loss.

    python docs/compare_mipnerf.py --data multiscale/lego --steps 3000
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro


@dataclass
class Compare:
    """Train nerfstudio's mipnerf and evaluate it by scale."""

    data: Path
    """Written by gf-make-multiscale."""
    steps: int = 3000
    rays: int = 512
    samples: int = 24
    width: int = 64
    depth: int = 4
    view_width: int = 32
    rate: float = 5e-3
    final_rate: float = 5e-4

    def run(self) -> None:
        """Train, then print one line of JSON."""
        from genfusion_ns.models.optim import WarmedDecayConfig

        torch.manual_seed(0)
        pipeline = self._pipeline()
        optimizer = torch.optim.Adam(pipeline.model.parameters(), lr=self.rate)
        schedule = WarmedDecayConfig(lr_final=self.final_rate, max_steps=self.steps).setup()
        schedule = schedule.get_scheduler(optimizer, self.rate)
        pipeline.train()
        began = time.monotonic()
        for step in range(self.steps):
            _, losses, _ = pipeline.get_train_loss_dict(step)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
        seconds = time.monotonic() - began
        print(json.dumps({"seconds": round(seconds), **self._psnr(pipeline)}))

    def _pipeline(self) -> Any:
        from nerfstudio.configs.method_configs import method_configs
        from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
        from nerfstudio.models import mipnerf

        from genfusion_ns.data.multiscale.parser import MultiscaleBlenderDataParserConfig

        config = method_configs["mipnerf"].pipeline
        # Its own datamanager is of this kind with a process of its own, which takes half of a machine of two cores.
        config.datamanager = VanillaDataManagerConfig(dataparser=MultiscaleBlenderDataParserConfig(data=self.data))
        config.datamanager.train_num_rays_per_batch = config.datamanager.eval_num_rays_per_batch = self.rays
        config.model.num_coarse_samples = config.model.num_importance_samples = self.samples
        config.model.eval_num_rays_per_chunk = 4096
        field = functools.partial(
            mipnerf.NeRFField,
            base_mlp_num_layers=self.depth,
            base_mlp_layer_width=self.width,
            head_mlp_layer_width=self.view_width,
        )
        with (
            mock.patch.object(mipnerf, "NeRFField", field),
            mock.patch(
                "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", lambda **_: torch.nn.Identity()
            ),
        ):
            return config.setup(device="cpu", test_mode="test")

    @torch.no_grad()
    def _psnr(self, pipeline: Any) -> dict[str, float]:
        pipeline.eval()
        found: dict[str, list[float]] = {}
        for camera, photo in pipeline.datamanager.fixed_indices_eval_dataloader:
            image = pipeline.model.get_outputs_for_camera(camera)["rgb_fine"].clamp(0, 1)
            error = (image - photo["image"]).square().mean()
            name = f"psnr_x{2 ** int(camera.metadata['scale_label'])}"
            found.setdefault(name, []).append(float(-10 * torch.log10(error)))
        return {name: round(sum(values) / len(values), 2) for name, values in found.items()}


if __name__ == "__main__":
    tyro.cli(Compare).run()
