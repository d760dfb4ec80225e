"""`SampledNerfactoPipeline`: nerfacto, supervised by samples of an image prior (ReconFusion's own kind of backbone)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor

from genfusion_ns.data.multiscale.ray_datamanager import RayDataManager, RayDataManagerConfig
from genfusion_ns.errors import CheckpointError
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.samples.config import SampleConfig
from genfusion_ns.fusion.supervised import DAMAGE, SupervisedPipeline
from genfusion_ns.fusion.trainer import GenFusionTrainer, GenFusionTrainerConfig
from genfusion_ns.geometry.clips import RenderedView
from genfusion_ns.geometry.free_space import SeenSurfaces
from genfusion_ns.models.nerfacto import SparseNerfactoModel, SparseNerfactoModelConfig
from genfusion_ns.priors.config import RepairerConfig
from genfusion_ns.stored_config import StoredConfig


class NerfactoScene:
    """A radiance field as samples supervise it; see `SampledScene`."""

    def __init__(self, model: SparseNerfactoModel) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        """Of the field."""
        return self._model.device

    def look(self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]) -> RenderedView:
        """See `SampledScene.look`."""
        return self._model.look(viewmat, K, size)

    def show(
        self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
    ) -> Float[Tensor, "H W 3"]:
        """See `SampledScene.show`."""
        return self._model.show(viewmat, K, size)

    def surfaces(self, photos: PosedPhotos) -> SeenSurfaces:
        """See `SampledScene.surfaces`."""
        viewmats, Ks, size = photos.small_cameras()
        views = [self._model.look(viewmat, K, size) for viewmat, K in zip(viewmats, Ks, strict=True)]
        depths, alphas = torch.stack([view.depth for view in views]), torch.stack([view.alpha for view in views])
        return SeenSurfaces(viewmats, Ks, depths, alphas)


@dataclass
class SampledNerfactoPipelineConfig(StoredConfig, VanillaPipelineConfig):
    """nerfacto with samples of an image prior."""

    _target: type = field(default_factory=lambda: SampledNerfactoPipeline)
    datamanager: RayDataManagerConfig = field(default_factory=RayDataManagerConfig)
    """Views, splits and the pixels of each step."""
    model: SparseNerfactoModelConfig = field(default_factory=SparseNerfactoModelConfig)
    """The radiance field."""
    fusion: SampleConfig = field(default_factory=SampleConfig)
    """What supervises the scene beyond its photos."""
    repairer: RepairerConfig = field(default_factory=RepairerConfig)
    """The image prior."""


class SampledNerfactoPipeline(SupervisedPipeline):
    """One batch of rays per step, and a sample."""

    config: SampledNerfactoPipelineConfig
    datamanager: RayDataManager  # type: ignore[assignment]
    method = "reconfusion-nerfacto"
    checked = ("model", "fusion", "repairer", "datamanager")
    resumed = frozenset({"rng", "field", "supervision"})

    def check_settings(self, config: SampledNerfactoPipelineConfig, device: str) -> None:
        """See `SingleDevicePipeline.check_settings`."""
        config.fusion.check(config.repairer, device)

    @property
    def field_model(self) -> SparseNerfactoModel:
        """The radiance field."""
        return self.model  # type: ignore[return-value]

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Build or restore the supervision, and hook it in."""
        trainer = training_callback_attributes.trainer
        if trainer is None:
            raise ValueError("this pipeline needs nerfstudio's trainer for its schedule; use ns-train")
        scene, total = NerfactoScene(self.field_model), trainer.config.max_num_iterations
        supervision = self.config.fusion.supervise(scene, self.datamanager, self.config.repairer, total)
        self._supervision = supervision
        if self._loaded_state is not None:
            self._restore(self._loaded_state)
        return super().get_training_callbacks(training_callback_attributes) + self.callbacks_of(supervision, trainer)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Losses of the rays of a step, and those of the sample."""
        rays, batch = self.datamanager.next_train(step)
        outputs = self._model(rays)
        metrics = self.model.get_metrics_dict(outputs, batch)
        losses = self.model.get_loss_dict(outputs, batch, metrics)
        if self._supervision is not None:
            more_losses, more_metrics = self._supervision.losses(step)
            losses |= more_losses
            metrics |= more_metrics
        return outputs, losses, metrics

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Mean metrics over the held-out views; in ns-eval also the split."""
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        return metrics | (self.datamanager.describe() if self.test_mode == "test" else {})

    def get_extra_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond parameters and optimisers; tensors, numbers and strings only."""
        if self._supervision is None:
            return {}
        return {
            **self.random_state(),
            "field": self.field_model.training_state(),
            "supervision": self._supervision.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Keep the state until there is a supervision, which is after nerfstudio has loaded the checkpoint."""
        self._loaded_state = dict(state) or None

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.restore_random_state(state)
            self.field_model.restore_training(state["field"])
            self.supervision.restore(state["supervision"], Path())
        except DAMAGE as error:
            raise CheckpointError(
                f"the checkpoint cannot be resumed: the state of its training is damaged ({type(error).__name__}: "
                f"{error}); take another one or a copy"
            ) from error


@dataclass
class SampledNerfactoTrainerConfig(GenFusionTrainerConfig):
    """Settings of runs of nerfacto with samples."""

    _target: type = field(default_factory=lambda: SampledNerfactoTrainer)


class SampledNerfactoTrainer(GenFusionTrainer):
    """Checkpoints, Ctrl-C and resuming as for surfels."""

    pipeline: SampledNerfactoPipeline  # type: ignore[assignment]
    rate_flag = "--optimizers.fields.optimizer.lr"

    def check(self, config: GenFusionTrainerConfig) -> None:
        """All of nerfstudio's settings can train."""

    def setup_optimizers(self) -> Optimizers:
        """Optimisers as they are set; rates have no length."""
        self.settle_length(len(self.pipeline.datamanager.train_names))
        return Optimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())

    def trained_values(self) -> dict[str, Tensor]:
        """The networks."""
        return dict(self.pipeline.model.named_parameters())
