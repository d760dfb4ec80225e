"""The loop: sample cameras where the scene is weak, render, repair, judge, store; and the loss that follows."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.data.generated_views import GeneratedView, GeneratedViewStore, StoreError, views_of_clip
from genfusion_ns.fusion.agreement import Agreement, photo_agreement
from genfusion_ns.fusion.observed import ObservedPhotos
from genfusion_ns.fusion.round_report import RoundRecord, write_round_report
from genfusion_ns.fusion.schedule import FusionSchedule
from genfusion_ns.fusion.view_samplers import SampledViews, SparseSampler, SparseSamplerConfig, clip_size
from genfusion_ns.geometry.cameras import Clip, References, RepairedClip, c2w_to_viewmat
from genfusion_ns.models.losses import disparity_loss, photometric_loss
from genfusion_ns.models.surfel_model import GenFusionModel
from genfusion_ns.priors.base import VideoRepairer
from genfusion_ns.priors.config import RepairerConfig, build_repairer

_STORE_FILE = "views.safetensors"
_COVERED = 0.5
"""Coverage above which the rendered depth of a pixel is supervised."""


@dataclass
class FusionConfig:
    """When rounds take place, where their cameras go and how their views are used."""

    start: int = -1
    """Step of the first round; -1: 1/7 of the run."""
    every: int = -1
    """Steps between rounds; -1: 1/7 of the run."""
    until: int = -1
    """No round and no generated view from this step on; -1: the end of the run."""
    weight: float = 0.5
    """Peak weight of the generated-view loss, reached midway between start and until."""
    depth_weight: float = 0.0
    """Weight of the disparity term within the generated-view loss; the compact repairer does not improve depth."""
    ssim_weight: float = 0.2
    """Share of the structural term in the colour loss of generated views, 0..1."""
    keep_rounds: int = 1
    """Views of this many newest rounds are supervised."""
    reject_margin: float = 0.5
    """A repaired clip that agrees with the photos by this many dB less than its render is rejected."""
    observed_margin: float = 0.5
    """A round after which the photos are reproduced by this many dB worse than before is withdrawn."""
    seed: int = 0
    """Seed of everything random in the rounds."""
    save_videos: bool = True
    """Write the clips of each round as mp4 files beside the contact sheet."""
    sampler: SparseSamplerConfig = field(default_factory=SparseSamplerConfig)
    """Camera paths of the rounds."""


@dataclass(frozen=True)
class _RepairedWindow:
    clip: Clip
    repaired: RepairedClip
    references: References
    agreement: Agreement
    rejected: str | None


class FusionLoop:
    """Holds the generated views of a run and renews them round by round; one per training run."""

    def __init__(
        self,
        config: FusionConfig,
        repairer_config: RepairerConfig,
        schedule: FusionSchedule,
        model: GenFusionModel,
        datamanager: GenFusionDataManager,
        folder: Path,
    ) -> None:
        self.config = config
        self.schedule = schedule
        self.store = GeneratedViewStore(config.keep_rounds)
        self.model = model
        self.folder = folder
        self._repairer_config = repairer_config
        self._repairer: VideoRepairer | None = None
        self._datamanager = datamanager
        self._photos: ObservedPhotos | None = None
        self._view_order = torch.Generator().manual_seed(config.seed)
        self._observed_psnr = float("nan")
        if not self.active:
            CONSOLE.print("Repairer: none. No rounds take place; the scene is fitted to the photos alone.")

    @property
    def active(self) -> bool:
        """Whether rounds take place: renders that are not repaired hold nothing that the scene does not know."""
        return self._repairer_config.model != "none"

    @property
    def photos(self) -> ObservedPhotos:
        """The train photos at clip resolution."""
        if self._photos is None:
            observed = self._datamanager.train_dataset.cameras[0]
            size = (int(observed.width.item()), int(observed.height.item()))
            self._photos = ObservedPhotos.of(
                self._datamanager, clip_size(size, self.repairer.resolution), self.model.device
            )
        return self._photos

    @property
    def repairer(self) -> VideoRepairer:
        """The repairer, built when it is first needed."""
        if self._repairer is None:
            self._repairer = build_repairer(self._repairer_config, self.model.device)
            reason = " (auto: the best that is installed)" if self._repairer_config.model == "auto" else ""
            CONSOLE.print(f"Repairer: {self._repairer.name}{reason}")
        return self._repairer

    def before_step(self, step: int) -> None:
        """Callback before each training step: a round when it is due, its control halfway to the next."""
        if not self.active:
            return
        if self.schedule.is_round(step):
            self.fuse_once(step)
        elif len(self.store) and (step - self.schedule.start) % self.schedule.every == self.schedule.every // 2:
            self._withdraw_if_harmful(step)

    @torch.no_grad()
    def fuse_once(self, step: int) -> RoundRecord:
        """One round: replace the generated views by repaired renders of the scene as it is now.

        Args:
            step: the training step about to begin.

        Returns:
            What was done, as it is written to ``round.json`` of the round's folder.
        """
        began = time.monotonic()
        index = self.schedule.round_index(step)
        seed = self.config.seed * 100_003 + index
        generator = torch.Generator().manual_seed(seed)
        photos, repairer = self.photos, self.repairer
        self._observed_psnr = photos.mean_psnr(self.model)
        sampled = SparseSampler(self.config.sampler, repairer.clip_length, repairer.resolution).sample(
            photos.observed_views(), index, generator, is_clear=photos.free_space(self.model)
        )
        windows = [self._repair_window(sampled, number, generator) for number in range(len(sampled.windows))]
        repairer.release()
        self._store(index, sampled, windows)
        record = self._record(index, step, seed, sampled, windows)
        folder = self.folder / f"round_{index:02d}"
        write_round_report(
            folder,
            record,
            [window.clip for window in windows],
            [window.repaired for window in windows],
            [window.references for window in windows],
            save_videos=self.config.save_videos,
        )
        self.store.save(folder / _STORE_FILE)
        kept = sum(window.rejected is None for window in windows)
        CONSOLE.print(
            f"Round {index} at step {step}: {kept} of {len(windows)} clips kept, {len(self.store)} generated views, "
            f"{time.monotonic() - began:.0f} s, see {folder}"
        )
        return record

    def _repair_window(self, sampled: SampledViews, number: int, generator: torch.Generator) -> _RepairedWindow:
        frames = sampled.windows[number].frames(len(sampled.c2w))
        clip = self.model.render_clip(c2w_to_viewmat(sampled.c2w[frames]), sampled.K[frames], sampled.size)
        references = self.photos.references(sampled.reference_ids[number])
        repaired = self.repairer.repair(clip, references, generator).to(self.model.device)
        agreement = photo_agreement(clip, repaired, references)
        trusted = replace(repaired, confidence=agreement.confidence)
        return _RepairedWindow(clip, trusted, references, agreement, agreement.verdict(self.config.reject_margin))

    def _store(self, index: int, sampled: SampledViews, windows: list[_RepairedWindow]) -> None:
        views: list[GeneratedView] = []
        for number, window in enumerate(windows):
            if window.rejected is None:
                first = sampled.windows[number].new_from
                last = first + len(sampled.windows[number].new_frames(len(sampled.c2w)))
                views += views_of_clip(
                    window.repaired, window.clip.viewmats, window.clip.Ks, index, number, range(first, last)
                )
        self.store.replace(index, views)

    def _record(
        self, index: int, step: int, seed: int, sampled: SampledViews, windows: list[_RepairedWindow]
    ) -> RoundRecord:
        names = self._datamanager.train_names
        return RoundRecord(
            round=index,
            step=step,
            seed=seed,
            repairer=self.repairer.name,
            c2w=sampled.c2w,
            Ks=sampled.K,
            windows=list(sampled.windows),
            reference_ids=[list(ids) for ids in sampled.reference_ids],
            reference_names=[[names[i] for i in ids] for ids in sampled.reference_ids],
            scores=[
                {
                    "artifact_psnr": window.agreement.artifact_psnr,
                    "repaired_psnr": window.agreement.repaired_psnr,
                    "seen": window.agreement.seen,
                    "confidence": float(window.agreement.confidence.mean()),
                }
                for window in windows
            ],
            rejected=[window.rejected for window in windows],
            details={"observed_psnr": self._observed_psnr, **sampled.log},
        )

    def _withdraw_if_harmful(self, step: int) -> None:
        psnr = self.photos.mean_psnr(self.model)
        if psnr >= self._observed_psnr - self.config.observed_margin:
            return
        index = self.schedule.round_index(step)
        CONSOLE.print(
            f"[yellow]Round {index} is withdrawn at step {step}: the photos are reproduced at {psnr:.2f} dB, before "
            f"the round it was {self._observed_psnr:.2f} dB (--pipeline.fusion.observed-margin)."
        )
        self.store.replace(index, [])
        self.store.save(self.folder / f"round_{index:02d}" / _STORE_FILE)

    def generated_losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss terms of one generated view, and metrics for the log; empty without generated views.

        The view also counts for densification.
        """
        weight = self.schedule.weight(step)
        if weight == 0 or len(self.store) == 0:
            return {}, {}
        view = self.store.sample(self._view_order).to(self.model.device)
        render = self.model.render(
            view.viewmat[None], view.K[None], *view.size, background=self.model.training_background()
        )
        self.model.observe_render(render, generated=True)
        confidence = view.confidence.float()
        colour = photometric_loss(render.rgb[0], view.rgb_float(), self.config.ssim_weight, confidence)
        losses = {"generated_rgb": weight * colour}
        if self.config.depth_weight > 0:
            covered = (render.alpha[0] > _COVERED) & (render.depth[0] > 0)
            depth = disparity_loss(render.depth[0], view.disparity.float(), covered, confidence)
            losses["generated_depth"] = weight * self.config.depth_weight * depth
        return losses, {"generated_weight": weight, "generated_views": len(self.store)}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, except the views themselves, which lie in the round's folder."""
        return {
            "rounds": json.dumps(self.store.rounds),
            "queue": json.dumps(self.store.queue),
            "view_order": self._view_order.get_state(),
            "observed_psnr": self._observed_psnr,
        }

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """Continue where `state` was taken, with the views of the run folder that it belongs to.

        Views that are missing or damaged cost the generated supervision until the next round, not the run.
        """
        self._view_order.set_state(state["view_order"].cpu())
        self._observed_psnr = state["observed_psnr"]
        rounds = json.loads(state["rounds"])
        if not self.active or not rounds:
            return
        path = folder / f"round_{rounds[-1]:02d}" / _STORE_FILE
        try:
            self.store = GeneratedViewStore.load(path)
            self.store.queue = json.loads(state["queue"])
        except StoreError as error:
            CONSOLE.print(f"[yellow]Training goes on without generated views until the next round: {error}")
            return
        self.store.save(self.folder / f"round_{rounds[-1]:02d}" / _STORE_FILE)
