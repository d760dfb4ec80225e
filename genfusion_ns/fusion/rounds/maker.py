"""Makes rounds of the scene as it is now: cameras, renders, repairs, verdicts, and surfels where nothing was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from genfusion_ns.data.camera_conversion import camera_sizes
from genfusion_ns.fusion.cameras.clip_cameras import SampledViews
from genfusion_ns.fusion.cameras.framing import clip_size
from genfusion_ns.fusion.cameras.sparse import ViewSampler
from genfusion_ns.fusion.contract import TrainingRun
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.rounds.round import RepairedWindow, Round, repair_window, seed_windows
from genfusion_ns.fusion.rounds.settings import RoundSettings
from genfusion_ns.geometry.free_space import ClearTest, SeenSurfaces, clearance_test, clearings
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.messages import say
from genfusion_ns.priors.base import VideoRepairer
from genfusion_ns.priors.config import build_repairer
from genfusion_ns.seeds import round_seed, seeded_generator

Sample = Callable[[int, torch.Generator, ClearTest], SampledViews]
"""The cameras of a round, of its count, its generator and where cameras may stand."""


@dataclass(frozen=True)
class MadeRound:
    """A round whose views nobody holds yet."""

    round: Round
    cleared: int
    """Surfels around the train cameras that were removed before."""
    seed: Callable[[], list[dict[str, Any]]]
    """Insert surfels where its renders are empty; what came of each window, see `seed_windows`."""


class RoundMaker:
    """What rounds are made with, each built when it is first needed."""

    def __init__(self, settings: RoundSettings, run: TrainingRun) -> None:
        self._settings = settings
        self._run = run
        self._repairer: VideoRepairer | None = None
        self._sampler: ViewSampler | None = None
        self._photos: PosedPhotos | None = None

    @property
    def repairer(self) -> VideoRepairer:
        """The repairer of the run."""
        if self._repairer is None:
            self._repairer = build_repairer(self._run.repairer, self._run.scene.device)
            say(f"Repairer: {self._repairer.name}")
        return self._repairer

    @repairer.setter
    def repairer(self, repairer: VideoRepairer) -> None:
        self._repairer = repairer

    @property
    def photos(self) -> PosedPhotos:
        """The train photos at clip resolution."""
        if self._photos is None:
            datamanager = self._run.datamanager
            _ = datamanager.cached_train  # crop windows change the cameras when the photos are read
            size = clip_size(commonest_size(camera_sizes(datamanager.train_dataset.cameras)), self.repairer.resolution)
            self._photos = PosedPhotos.of(datamanager, size, self._run.scene.device)
        return self._photos

    @property
    def sampler(self) -> ViewSampler:
        """Where scheduled rounds look."""
        if self._sampler is None:
            repairer = self.repairer
            self._sampler = self._settings.sampler.setup(
                clip_length=repairer.clip_length,
                resolution=repairer.resolution,
                framing=self._settings.framing,
            )
        return self._sampler  # type: ignore[return-value]

    def sample_scheduled(self, index: int, generator: torch.Generator, is_clear: ClearTest) -> SampledViews:
        """The cameras of a scheduled round; a `Sample`."""
        return self.sampler.sample(self.photos.whole, index, generator, is_clear)

    def photos_psnr(self) -> float:
        """How well the scene reproduces the photos now, see `PosedPhotos.mean_psnr`."""
        return self.photos.mean_psnr(self._run.scene)

    @torch.no_grad()
    def make(self, step: int, index: int, sample: Sample, title: str, into_the_unseen: bool = False) -> MadeRound:
        """Render, repair and judge clips along sampled cameras.

        Args:
            step: the training step about to begin.
            index: count of the round; with the seed of the settings it decides everything random.
            sample: chooses the cameras.
            title: of the bar that counts the clips.
            into_the_unseen: see `RoundSettings.into_the_unseen`.
        """
        scene, photos = self._run.scene, self.photos
        seed = round_seed(self._settings.seed, index)
        generator = seeded_generator(seed)
        surfaces = cache(lambda: photos.surfaces(scene))  # not all rounds ask
        clear_test = cache(lambda: clearance_test(surfaces().cpu()))
        cleared = self._keep_empty(surfaces)
        sampled = sample(index, generator, lambda poses: clear_test()(poses))
        settings = self._settings.into_the_unseen() if into_the_unseen else self._settings
        asks = settings.unseen_only or (settings.continued_weight and scene.has_surroundings)
        seen = photos.unmasked(surfaces()) if asks else None
        made = Round(index, step, seed, sampled, self._repaired(sampled, settings, generator, title, seen))
        seeding = self._settings.seeding
        return MadeRound(made, cleared, lambda: seed_windows(scene, surfaces(), made.windows, seeding, generator))

    def _keep_empty(self, surfaces: Callable[[], SeenSurfaces]) -> int:
        """Have nothing grow around the train cameras; returns how many surfels that removed."""
        share = self._settings.clearing
        return self._run.scene.keep_empty(clearings(surfaces(), share) if share > 0 else None)

    def _repaired(
        self,
        sampled: SampledViews,
        config: RoundSettings,
        generator: torch.Generator,
        title: str,
        seen: SeenSurfaces | None,
    ) -> list[RepairedWindow]:
        windows: list[RepairedWindow] = []
        scene, photos, repairer = self._run.scene, self.photos, self.repairer
        try:
            for number in track(range(len(sampled.windows)), title, transient=True, console=CONSOLE):
                before = windows[-1] if windows else None
                window = repair_window(
                    scene,
                    photos,
                    repairer,
                    sampled,
                    number,
                    config=config,
                    generator=generator,
                    before=before,
                    seen=seen,
                )
                windows.append(window)
        finally:
            repairer.release()
        return windows
