"""`GenFusionPipeline`: nerfstudio's pipeline, and what supervises the scene beyond its photos."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes, cameras_to_viewmats
from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.errors import CheckpointError
from genfusion_ns.files import write_atomically
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.contract import SupervisionConfig, TrainingRun
from genfusion_ns.fusion.photo_depth import MonoDepthConfig, PhotoDepths, photo_depths
from genfusion_ns.fusion.seed_depth import FLAG as SEED_DEPTH_FLAG
from genfusion_ns.fusion.seed_depth import SeedDepths
from genfusion_ns.fusion.supervised import DAMAGE, SupervisedPipeline
from genfusion_ns.messages import say
from genfusion_ns.models.seen_sides import PhotoViewmats
from genfusion_ns.models.surfel_model import GenFusionModel, GenFusionModelConfig
from genfusion_ns.priors.config import RepairerConfig
from genfusion_ns.stored_config import StoredConfig

_FOLDER = "genfusion"
"""Of the supervision, within the folder of a run."""
_FORMER_NAMES = {"loop": "supervision"}
"""Names in the state of checkpoints up to version 0.1, with those of today."""


@dataclass
class GenFusionPipelineConfig(StoredConfig, VanillaPipelineConfig):
    """Surfel reconstruction with a repairer in the loop."""

    _target: type = field(default_factory=lambda: GenFusionPipeline)
    datamanager: GenFusionDataManagerConfig = field(default_factory=GenFusionDataManagerConfig)
    """Views, splits and seed points."""
    model: GenFusionModelConfig = field(default_factory=GenFusionModelConfig)
    """The surfel scene."""
    fusion: SupervisionConfig = field(default_factory=FusionConfig)
    """What supervises the scene beyond its photos: when and where views are generated, and how much they weigh."""
    repairer: RepairerConfig = field(default_factory=RepairerConfig)
    """The video diffusion model that repairs rendered clips."""
    mono_depth: MonoDepthConfig = field(default_factory=MonoDepthConfig)
    """Depth of the photos from a model, as a loss on them."""
    seed_depth_weight: float = 0.0
    """Weight of the mean relative error of rendered depth where photos show points of structure from motion. It needs a
    capture with a COLMAP model, which says which photo shows which point; other captures do without."""


class GenFusionPipeline(SupervisedPipeline):
    """One photo per step, and what its supervision adds to that; see `genfusion_ns.fusion.contract`.

    Evaluation, viewer and renderer use this class too: for them it is a `VanillaPipeline` that builds no supervision.
    """

    config: GenFusionPipelineConfig
    datamanager: GenFusionDataManager  # type: ignore[assignment]
    method = "genfusion"
    checked = ("model", "fusion", "repairer", "datamanager", "mono_depth")
    resumed = frozenset({"strategy", "rng", "views", "supervision"})
    _photo_depths: PhotoDepths | None = None
    _seed_depths: SeedDepths | None = None

    def check_settings(self, config: GenFusionPipelineConfig, device: str) -> None:
        """See `SingleDevicePipeline.check_settings`."""
        config.model.check()
        config.fusion.check(config.repairer, device)
        config.mono_depth.check(config.repairer, device)
        if not 0 <= config.seed_depth_weight < math.inf:
            raise ValueError(f"{SEED_DEPTH_FLAG} is {config.seed_depth_weight}; it must be at least 0")

    @property
    def scene(self) -> GenFusionModel:
        """The surfel model."""
        return self.model  # type: ignore[return-value]

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Fix the schedules to the length of this run, build or restore its supervision, and hook that in."""
        trainer = training_callback_attributes.trainer
        if trainer is None:
            raise ValueError("the genfusion pipeline needs nerfstudio's trainer for its schedule; use ns-train")
        total = trainer.config.max_num_iterations
        self.scene.set_total_steps(total)
        self.scene.sample_photos_of(self._photos())
        folder = Path(trainer.base_dir) / _FOLDER
        if self.config.seed_depth_weight > 0:
            self._seed_depths = SeedDepths.of(self.datamanager, self.config.seed_depth_weight, self.device)
        run = TrainingRun(self.scene, self.datamanager, self.config.repairer, total, folder)
        supervision = self._supervision = self.config.fusion.setup(run)
        protocol = json.dumps(self.datamanager.protocol(), indent=1)
        write_atomically(folder / "protocol.json", protocol.encode(), "the protocol of the run")
        if self._loaded_state is not None:
            self._restore(self._loaded_state, trainer.config)
        if self.config.mono_depth.active:
            self._photo_depths = self._estimate_photo_depths(folder, trainer.config)
        return super().get_training_callbacks(training_callback_attributes) + self.callbacks_of(supervision, trainer)

    def _photos(self) -> PhotoViewmats:
        """What the 3D smoothing of the scene and the sides that photos see are measured by."""
        cameras = self.datamanager.whole_train_cameras
        return PhotoViewmats(*cameras_to_viewmats(cameras), camera_sizes(cameras))

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Losses of one photo, and those of the supervision, which also says how much the photo counts."""
        camera, photo = self.datamanager.next_train(step)
        outputs = self._model(camera)
        metrics = self.model.get_metrics_dict(outputs, photo)
        losses = self.model.get_loss_dict(outputs, photo, metrics)
        if self._photo_depths is not None and camera.metadata is not None:
            losses |= self._photo_depths.losses(outputs["render"], camera.metadata["cam_idx"])
        if self._seed_depths is not None and camera.metadata is not None:
            losses |= self._seed_depths.losses(outputs["render"], camera.metadata["cam_idx"])
        self.scene.observe_render(outputs["render"])
        if self._supervision is not None:
            weight = self._supervision.photo_weight(step, (camera.metadata or {})["cam_idx"])
            if weight != 1.0:
                losses["main_loss"] = weight * losses["main_loss"]
            more_losses, more_metrics = self._supervision.losses(step)
            losses |= more_losses
            metrics |= more_metrics
        return outputs, losses, metrics

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Mean metrics over the held-out views, by scale where there are several; in ns-eval also their origin."""
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        if len(self.datamanager.test_names) == 1:  # one view has no spread; NaN, which nerfstudio has, is no JSON
            metrics = {name: value for name, value in metrics.items() if not name.endswith("_std")}
        metrics["num_surfels"] = float(self.scene.num_points)
        if self.test_mode == "test":
            metrics |= self.datamanager.describe()
        return metrics

    def get_extra_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond parameters and optimisers; tensors, numbers and strings only."""
        if self._supervision is None:
            return {}
        state = {name: value for name, value in self.scene.strategy_state.items() if isinstance(value, Tensor)}
        return {
            "strategy": state,
            **self.random_state(),
            "views": json.dumps(self.datamanager.sampler_state()),
            "supervision": self._supervision.state(),
            **({} if self._photo_depths is None else {"mono_depth": self._photo_depths.digest}),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Keep the state until there is a supervision, which is after nerfstudio has loaded the checkpoint."""
        named = {_FORMER_NAMES.get(name, name): value for name, value in state.items()}
        self._loaded_state = named or None

    def _estimate_photo_depths(self, folder: Path, trainer_config: Any) -> PhotoDepths:
        """The depth of the train photos; that of the run that is resumed, where it has some."""
        earlier, digest = None, (self._loaded_state or {}).get("mono_depth")
        if isinstance(digest, str):
            earlier = (_folder_of_checkpoints(trainer_config).parent / _FOLDER, digest)
        return photo_depths(
            self.config.mono_depth,
            self.config.repairer,
            self.datamanager.cached_train,
            self.datamanager.train_names,
            torch.device(self.device),
            folder,
            earlier,
        )

    def _restore(self, state: dict[str, Any], trainer_config: Any) -> None:
        checkpoints = _folder_of_checkpoints(trainer_config)
        try:
            self.scene.strategy_state |= self._densification(state["strategy"])
            self.restore_random_state(state)
            views = json.loads(state["views"])
            self.supervision.restore(state["supervision"], checkpoints.parent / _FOLDER)
        except DAMAGE as error:
            raise CheckpointError(
                f"the checkpoint in {checkpoints} cannot be resumed: the state of its training is damaged "
                f"({type(error).__name__}: {error}); take another one or a copy"
            ) from error
        try:
            self.datamanager.load_sampler_state(views)
        except DAMAGE as error:
            say(f"The order of the train views starts afresh: {error}", "yellow")

    def _densification(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What densification has gathered of each surfel, on the device of the scene."""
        for name, value in state.items():
            if value.dim() and len(value) != self.scene.num_points:
                raise ValueError(f"{name} is of {len(value)} surfels, the scene has {self.scene.num_points}")
        return {name: value.to(self.device) for name, value in state.items()}


def _folder_of_checkpoints(trainer_config: Any) -> Path:
    """Of the checkpoint that a run goes on from."""
    return Path(trainer_config.load_dir or trainer_config.load_checkpoint.parent)
