"""Priors that draw views, for tests: one of a few lines that shows what it was given, and the real one at toy size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.fusion.contract import Supervision
from genfusion_ns.fusion.samples.config import SampleConfig
from genfusion_ns.fusion.samples.scene import SampledScene
from genfusion_ns.fusion.samples.supervision import SampleSupervision
from genfusion_ns.geometry.clips import References, RenderedView
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.priors.config import RepairerConfig


class Blend:
    """Moves a view towards its nearest photo and noise, the further the higher the level; has a trainable weight."""

    name = "blend"
    num_references = 2

    def __init__(self, resolution: tuple[int, int] = (32, 32)) -> None:
        self.resolution = resolution
        self.network = torch.nn.Linear(3, 3)
        self.seen: list[tuple[RenderedView, References, float]] = []

    @torch.no_grad()
    def sample(
        self, view: RenderedView, references: References, level: float, generator: torch.Generator
    ) -> Float[Tensor, "H W 3"]:
        self.seen.append((view, references, level))
        photo = resize_images(references.rgb[:1], view.size)[0]
        noise = torch.rand(view.rgb.shape, generator=generator).to(view.rgb)
        drawn = torch.sigmoid(self.network(0.7 * photo + 0.3 * noise))
        return (1 - level) * view.rgb + level * (0.8 * photo + 0.2 * drawn)

    def release(self) -> None:
        pass


@dataclass
class BlendConfig(SampleConfig):
    """Samples of a `Blend` of toy size."""

    side: ClassVar[int] = 32

    def check(self, repairer: RepairerConfig, device: str) -> None:
        pass

    def supervise(
        self, scene: SampledScene, datamanager: GenFusionDataManager, repairer: RepairerConfig, total_steps: int
    ) -> Supervision:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            prior = Blend((self.side, self.side))
        return SampleSupervision(self, scene, datamanager, repairer, total_steps, prior)


def save_toy_prior(folder: Path) -> None:
    """A prior of the kind reconfusion of toy size and no training, whose samples are not empty; 32 x 32 pixels."""
    from genfusion_ns.priors.reconfusion.architecture import small_pipeline
    from genfusion_ns.priors.training.settings import ReconFusionSizes

    torch.manual_seed(0)
    pipeline = small_pipeline(
        ReconFusionSizes(
            size=(32, 32),
            channels=(8, 16),
            heads=2,
            features=8,
            rays=8,
            samples=4,
            hidden=16,
            encoder_channels=(8, 16),
            token_width=16,
            steps=2,
        )
    )
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.05)
    pipeline.save_pretrained(folder)
