"""`SampleSupervision`: a novel view is rendered, redrawn by a prior, and compared with it (ReconFusion section 4).

Everything random of a step follows from the seed and the number of the step; only the cameras that were drawn ahead and
the latest sample have to be kept for a resumed run.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import Trainer
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes
from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.fusion.cameras.novel import NovelCameras, covering_frame, view_intrinsics
from genfusion_ns.fusion.contract import Supervision, SupervisionPanel
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.samples.losses import SampleLoss
from genfusion_ns.fusion.samples.panel import attach_panel
from genfusion_ns.fusion.samples.prior import build_prior
from genfusion_ns.fusion.samples.sample import Sample
from genfusion_ns.fusion.samples.scene import SampledScene
from genfusion_ns.fusion.samples.schedule import level_weight
from genfusion_ns.fusion.samples.settings import FLAG, SampleSettings
from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.clips import SOLID_ALPHA, RenderedView
from genfusion_ns.geometry.free_space import ClearTest, clearance_test
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.geometry.novel_views import nearest_cameras
from genfusion_ns.messages import say
from genfusion_ns.priors.base import ViewPrior
from genfusion_ns.priors.config import RepairerConfig
from genfusion_ns.seeds import generator_of

_TIMED = 50
"""Latest samples that tell how long one takes."""


class SampleSupervision(Supervision):
    """Draws samples before steps and compares the scene with them; belongs to the thread that trains."""

    def __init__(
        self,
        config: SampleSettings,
        scene: SampledScene,
        datamanager: GenFusionDataManager,
        repairer: RepairerConfig,
        total_steps: int,
        prior: ViewPrior | None = None,
    ) -> None:
        """
        Args:
            config: when samples are drawn, where, and what they weigh.
            scene: what is supervised.
            datamanager: holds the photos.
            repairer: settings of the prior.
            total_steps: of the whole run.
            prior: what draws the samples; built from its settings where there is none.

        Raises:
            ValueError: photos all from one place, a path that the capture does not have, or a prior whose views are too
                small for the loss.
        """
        self.config, self.scene, self.total_steps = config, scene, total_steps
        self.prior: ViewPrior = build_prior(repairer, scene.device) if prior is None else prior
        self.schedule = config.schedule(total_steps)
        self.paused = False
        self.latest: Sample | None = None
        """The newest sample."""
        size = self.prior.resolution
        self.loss = SampleLoss(config.lpips_weight, config.lpips_net, size, scene.device)
        _ = datamanager.cached_train  # reading the photos is what undistorts and crops the cameras
        common = commonest_size(camera_sizes(datamanager.train_dataset.cameras))
        self.photos = PosedPhotos.of(datamanager, covering_frame(common, size).whole, scene.device)
        try:
            self.cameras = NovelCameras(self.photos.whole, config.views, config.seed)
        except ValueError as error:
            raise ValueError(f"{FLAG}.views.path {config.views.path}: {error}") from error
        self._K = view_intrinsics(self.photos.whole, size)[1].float().to(scene.device)
        self._seconds: deque[float] = deque(maxlen=_TIMED)
        say(f"Prior: {self.prior.name}, samples of {size[0]}x{size[1]} pixels, cameras: {self.cameras.views.kind}")

    @property
    def length(self) -> float:
        """Mean distance of the photos from what they look at, scene units."""
        return self.cameras.views.distance * self.cameras.views.scale

    def before_step(self, step: int) -> None:
        """Draw a sample when one is due; see `Supervision.before_step`."""
        if self.paused or step % self.config.sample_every:
            return
        began = time.monotonic()
        self.latest = self._draw(step)
        self._seconds.append(time.monotonic() - began)

    @torch.no_grad()
    def _draw(self, step: int) -> Sample:
        generator = generator_of(self.config.seed, "sample", step)
        level = self.schedule.draw_level(step, generator)
        c2w = self.cameras.next(self._clear_test)
        viewmat = c2w_to_viewmat(c2w).float().to(self.scene.device)
        view = self.scene.look(viewmat, self._K, self.prior.resolution)
        count = min(self.config.num_references, self.prior.num_references)
        chosen = nearest_cameras(self.photos.whole.c2w.to(c2w), c2w, count)
        target = self.prior.sample(self._as_given(view), self.photos.references(chosen), level, generator)
        return Sample(target.clamp(0, 1).to(view.rgb), viewmat, level, step, view.rgb, tuple(chosen))

    def _as_given(self, view: RenderedView) -> RenderedView:
        """As the prior gets it: where photos have alpha, the empty space is a black backdrop and no hole."""
        solid = view.alpha > (SOLID_ALPHA if self.photos.transparent else 0)
        alpha = torch.ones_like(view.alpha) if self.photos.transparent else view.alpha
        return replace(view, depth=torch.where(solid, view.depth, 0.0), alpha=alpha)

    def _clear_test(self) -> ClearTest:
        return clearance_test(self.scene.surfaces(self.photos).cpu())

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """``sample_rgb`` and, where it is weighed, ``sample_lpips``; nothing where no sample is to be followed."""
        sample = self.latest
        if self.paused or sample is None or not 0 <= step - sample.step < self.config.reuse:
            return {}, {}
        weight = self.schedule.weight_at(step) * level_weight(self.config.sample_weight, sample.level)
        image = self.scene.show(sample.viewmat, self._K, self.prior.resolution)
        absolute, perceptual = self.loss(image, sample.target)
        losses = {"sample_rgb": weight * absolute}
        if perceptual is not None:
            losses["sample_lpips"] = weight * perceptual
        return losses, {"sample_weight": weight, "sample_level": sample.level}

    def seconds_to_come(self, step: int) -> float:
        """What the samples after this step will take if they take as long as the latest."""
        if not self._seconds or self.paused:
            return 0.0
        every = self.config.sample_every
        ahead = max(0, (self.total_steps - 1) // every - step // every)
        return ahead * statistics.median(self._seconds)

    def state(self) -> dict[str, Any]:
        """See `Supervision.state`; the latest sample only where later steps follow it."""
        state: dict[str, Any] = {"cameras": self.cameras.state()}
        if self.latest is not None and self.config.reuse > 1:
            sample = self.latest
            state["sample"] = {
                "target": sample.target.cpu(),
                "viewmat": sample.viewmat.cpu(),
                "level": sample.level,
                "step": sample.step,
            }
        return state

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """See `Supervision.restore`; nothing lies in the folder."""
        self.cameras.restore(state["cameras"])
        kept = state.get("sample")
        if kept is not None:
            target, viewmat = (kept[name].to(self.scene.device) for name in ("target", "viewmat"))
            self.latest = Sample(target, viewmat, float(kept["level"]), int(kept["step"]))

    def attach_panel(self, trainer: Trainer) -> SupervisionPanel | None:
        """Show the latest sample in the trainer's viewer."""
        return attach_panel(trainer, self)
