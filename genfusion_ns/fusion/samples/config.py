"""`SampleConfig`: samples of an image prior at every step as the supervision of a run."""

from __future__ import annotations

from dataclasses import dataclass

from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.fusion.contract import Supervision, TrainingRun
from genfusion_ns.fusion.samples.scene import SampledScene, SurfelScene
from genfusion_ns.fusion.samples.settings import SampleSettings
from genfusion_ns.priors.config import RepairerConfig


@dataclass
class SampleConfig(SampleSettings):
    """Samples of an image prior: how often, from which noise level, at which cameras, and what they weigh."""

    def setup(self, run: TrainingRun) -> Supervision:
        """See `SupervisionConfig.setup`; of a run on surfels."""
        data = run.datamanager
        _ = data.cached_train  # reading the photos is what undistorts and crops the cameras
        focal = float(data.train_dataset.cameras.fx.mean())
        scene = SurfelScene(run.scene, densify=self.densify, transparent=data.transparent, focal=focal)
        return self.supervise(scene, data, run.repairer, run.total_steps)

    def supervise(
        self, scene: SampledScene, datamanager: GenFusionDataManager, repairer: RepairerConfig, total_steps: int
    ) -> Supervision:
        """The supervision of any scene; errors as of `setup`."""
        from genfusion_ns.fusion.samples.supervision import SampleSupervision

        return SampleSupervision(self, scene, datamanager, repairer, total_steps)
