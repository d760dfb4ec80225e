"""`MipNerfTrainer`: the trainer of this package for mip-NeRF, with settings for machines without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from genfusion_ns.data.multiscale.ray_datamanager import USUAL_RAYS
from genfusion_ns.fusion.multiscale.pipeline import MipNerfPipeline, MipNerfPipelineConfig
from genfusion_ns.fusion.trainer import GenFusionTrainer, GenFusionTrainerConfig
from genfusion_ns.messages import say
from genfusion_ns.models.mipnerf.model import PAPER

PAPER_STEPS = 1_000_000
PAPER_RATES = (5e-4, 5e-6)
"""Learning rates at the start and at the end."""
SMALL = {"width": 64, "depth": 4, "view_width": 32, "degrees": 10, "num_samples": 24}
"""Sizes of the network and samples without a GPU."""
SMALL_RAYS, SMALL_STEPS, SMALL_RATES = 512, 3000, (5e-3, 5e-4)


@dataclass
class MipNerfTrainerConfig(GenFusionTrainerConfig):
    """Settings of 0 are those of the paper with a GPU, and small ones without; config.yml holds what they are."""

    _target: type = field(default_factory=lambda: MipNerfTrainer)
    max_num_iterations: int = 0
    """Steps of the whole run; 0: 1000000 with a GPU, 3000 without."""

    def save_config(self) -> None:
        """Write config.yml, with the settings that are used on this machine."""
        self.resolve()
        super().save_config()

    def resolve(self) -> None:
        """Replace all settings of 0 and say what is chosen; again and again it changes nothing more."""
        cuda = self.machine.device_type == "cuda" and torch.cuda.is_available()
        chosen: dict[str, object] = {}
        held: Any = self.pipeline
        assigned = [(held.model, name, PAPER[name] if cuda else SMALL[name]) for name in PAPER]
        rays = USUAL_RAYS if cuda else SMALL_RAYS
        assigned += [(held.datamanager, "train_num_rays_per_batch", rays)]
        assigned += [(self, "max_num_iterations", PAPER_STEPS if cuda else SMALL_STEPS)]
        group = self.optimizers["fields"]
        first, last = PAPER_RATES if cuda else SMALL_RATES
        assigned += [(group["optimizer"], "lr", first), (group["scheduler"], "lr_final", last)]
        for owner, name, value in assigned:
            if getattr(owner, name) == 0:
                setattr(owner, name, value)
                chosen[name] = value
        if held.model.precision == "auto":
            chosen["precision"] = held.model.precision = "float32" if cuda or not _multiplies_bfloat16() else "bfloat16"
        if chosen and not cuda:
            say(
                "Without a GPU mipnerf-multiscale is smaller than in the paper: "
                + ", ".join(f"{name.replace('_', '-')} {value}" for name, value in chosen.items())
            )


class MipNerfTrainer(GenFusionTrainer):
    """Checkpoints, Ctrl-C and resuming as for surfels."""

    config: MipNerfTrainerConfig
    pipeline: MipNerfPipeline  # type: ignore[assignment]
    rate_flag = "--optimizers.fields.optimizer.lr"

    def __init__(self, config: MipNerfTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        if not isinstance(config.pipeline, MipNerfPipelineConfig):
            raise ValueError("the trainer of mipnerf-multiscale trains nothing else")
        config.resolve()
        super().__init__(config, local_rank, world_size)

    def check(self, config: GenFusionTrainerConfig) -> None:
        """All of nerfstudio's settings can train."""

    def setup_optimizers(self) -> Optimizers:
        """Optimisers as they are set; rates have no length."""
        self.settle_length(len(self.pipeline.datamanager.train_names))
        return Optimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())

    @property
    def results(self) -> int:
        """Nothing is made beside the training."""
        return 0

    def seconds_to_come(self, step: int) -> float:
        """Nothing takes place beside the steps."""
        return 0.0

    def trained_values(self) -> dict[str, Tensor]:
        """The network."""
        return dict(self.pipeline.model.named_parameters())


def _multiplies_bfloat16() -> bool:
    """Whether the processor has units for matrices of bfloat16; torch says so under a name of its own."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(asked()) if asked is not None else False
