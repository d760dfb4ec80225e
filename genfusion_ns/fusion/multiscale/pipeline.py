"""`MipNerfPipeline`: nerfstudio's pipeline for mip-NeRF, with evaluation per scale and safe checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from genfusion_ns.data.multiscale.ray_datamanager import RayDataManager, RayDataManagerConfig
from genfusion_ns.fusion.checkpoints import checked_pipeline_state
from genfusion_ns.fusion.single_device import SingleDevicePipeline
from genfusion_ns.models.mipnerf.model import MipNerfModelConfig
from genfusion_ns.stored_config import StoredConfig


@dataclass
class MipNerfPipelineConfig(StoredConfig, VanillaPipelineConfig):
    """mip-NeRF on captures of one size or of several."""

    _target: type = field(default_factory=lambda: MipNerfPipeline)
    datamanager: RayDataManagerConfig = field(default_factory=RayDataManagerConfig)
    """Views, splits and the pixels of each step."""
    model: MipNerfModelConfig = field(default_factory=MipNerfModelConfig)
    """The radiance field."""


class MipNerfPipeline(SingleDevicePipeline):
    """One batch of cones per step; what a step draws depends on its number alone, so that nothing else is resumed."""

    config: MipNerfPipelineConfig
    datamanager: RayDataManager  # type: ignore[assignment]
    method = "mipnerf-multiscale"
    checked = ("model", "datamanager")

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Mean metrics over the held-out views, by scale where there are several; in ns-eval also the split."""
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        return metrics | (self.datamanager.describe() if self.test_mode == "test" else {})

    def get_extra_state(self) -> dict[str, Any]:
        """A place for the checksum of a checkpoint."""
        return {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Nothing beyond parameters and buffers."""

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load the pipeline's part of a checkpoint.

        Raises:
            CheckpointError: it is damaged.
            ValueError: it is not that of a run with these model settings.
        """
        state = checked_pipeline_state(loaded_state, step)
        try:
            super().load_pipeline(state, step)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint of step {step} does not belong to a mipnerf-multiscale run with these model settings: "
                f"{error}"
            ) from error

    def check_resumable(self) -> None:
        """Every checkpoint of this pipeline can be trained on."""
