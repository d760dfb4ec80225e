"""The loop: sample cameras where the scene is weak, render, repair, judge, store; and draw the views that supervise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes
from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.errors import message_of, wants_traceback
from genfusion_ns.fusion.cameras.clip_cameras import SampledViews, clip_size
from genfusion_ns.fusion.cameras.sparse import ViewSampler, views_towards
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.photos import ObservedPhotos
from genfusion_ns.fusion.rounds.files import RoundFiles, round_folder
from genfusion_ns.fusion.rounds.generated_views import GeneratedView, GeneratedViewStore
from genfusion_ns.fusion.rounds.record import RoundRecord
from genfusion_ns.fusion.rounds.report import write_round_report
from genfusion_ns.fusion.rounds.round import RepairedWindow, Round, repair_window, seed_windows
from genfusion_ns.fusion.schedule import FusionSchedule
from genfusion_ns.fusion.supervision import generated_view_losses
from genfusion_ns.geometry.free_space import Clearings, ClearTest, SeenSurfaces, clearance_test, clearings
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.messages import Colour, say
from genfusion_ns.models.surfel_model import GenFusionModel
from genfusion_ns.priors.base import VideoRepairer
from genfusion_ns.priors.config import RepairerConfig, build_repairer
from genfusion_ns.seeds import round_seed, seeded_generator

_Sample = Callable[[int, torch.Generator, ClearTest], SampledViews]
"""The cameras of a round, of its count, its generator and where cameras may stand."""
_Keep = Callable[[int, list[GeneratedView]], object]
"""What becomes of the views of a round."""
_REQUESTED_SHARE = 0.5
"""Views that the user asked for weigh at least this share of the peak, also where the schedule says less."""


@dataclass(frozen=True)
class LoopStatus:
    """What the loop is doing, for people who watch it."""

    active: bool
    """False: the repairer is none and no round ever takes place."""
    paused: bool
    rounds: int
    """Rounds made so far."""
    next_step: int | None
    """Step before which the next scheduled round takes place; None when there is none left."""
    weight: float
    """Of the generated-view loss now."""
    views: int
    """Generated views that are supervised now."""
    waiting: int
    """Requests that will be carried out before the next step."""
    message: str
    """What happened last."""


class FusionLoop:
    """Holds the generated views of a run and renews them round by round; one per training run.

    `fuse_once`, `complete_from` and `drop` act at once and belong to the thread that trains; from other threads, such
    as those of the viewer, hand them to `request`.
    """

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
        self.paused = False
        self.latest: Round | None = None
        """The newest round, with its clips."""
        self.files = RoundFiles(folder)
        self._repairer_config = repairer_config
        self._repairer: VideoRepairer | None = None
        self._sampler: ViewSampler | None = None
        self._datamanager = datamanager
        self._photos: ObservedPhotos | None = None
        self._view_order = seeded_generator(config.seed)
        self._requests: SimpleQueue[Callable[[int], object]] = SimpleQueue()
        self._next_round = 0
        self._judged: tuple[int, float] | None = None
        self._requested: set[int] = set()
        self._completions: dict[int, tuple[list[list[float]], float]] = {}
        self._dropped: set[tuple[int, int]] = set()
        self._lost: list[int] = []
        self._message = ""
        if not self.active:
            say("Repairer: none. No rounds take place; the scene is fitted to the photos alone.")

    @property
    def active(self) -> bool:
        """Whether rounds take place: renders that are not repaired hold nothing that the scene does not know."""
        return self._repairer_config.model != "none"

    @property
    def photos(self) -> ObservedPhotos:
        """The train photos at clip resolution."""
        if self._photos is None:
            _ = self._datamanager.cached_train  # crop windows change the cameras when the photos are read
            size = clip_size(
                commonest_size(camera_sizes(self._datamanager.train_dataset.cameras)), self.repairer.resolution
            )
            self._photos = ObservedPhotos.of(self._datamanager, size, self.model.device)
        return self._photos

    @property
    def repairer(self) -> VideoRepairer:
        """The repairer, built when it is first needed."""
        if self._repairer is None:
            self._repairer = build_repairer(self._repairer_config, self.model.device)
            say(f"Repairer: {self._repairer.name}")
        return self._repairer

    @property
    def sampler(self) -> ViewSampler:
        """Where scheduled rounds look."""
        if self._sampler is None:
            repairer = self.repairer
            self._sampler = self.config.sampler.setup(clip_length=repairer.clip_length, resolution=repairer.resolution)
        return self._sampler  # type: ignore[return-value]

    def status(self, step: int) -> LoopStatus:
        """What the loop is doing at this step."""
        return LoopStatus(
            active=self.active,
            paused=self.paused,
            rounds=self._next_round,
            next_step=self.schedule.next_round(step) if self.active and not self.paused else None,
            weight=self._weight(step) if len(self.store) else 0.0,
            views=len(self.store),
            waiting=self._requests.qsize(),
            message=self._message,
        )

    def request(self, action: Callable[[int], object]) -> None:
        """Have `action(step)` carried out by the training thread before its next step; any thread may ask."""
        self._requests.put(action)

    def before_step(self, step: int) -> None:
        """Callback before each training step: what was asked for, a round when it is due, its control halfway on."""
        while not self._requests.empty():
            self._carry_out(self._requests.get(), step)
        if not self.active:
            return
        while self._lost:
            self._make_anew(step, self._lost[0])
            del self._lost[0]
        if self.schedule.is_round(step) and not self.paused:
            self.fuse_once(step)
        elif self.schedule.is_control(step, self.model.config.refine_every):
            self._withdraw_if_harmful(step)

    def _carry_out(self, action: Callable[[int], object], step: int) -> None:
        try:
            action(step)
        except Exception as error:  # a wish that cannot be granted must not end the run
            if wants_traceback():
                CONSOLE.print_exception()
            self._say(f"This could not be done: {message_of(error)}", "red")

    def fuse_once(self, step: int, requested: bool = False) -> RoundRecord:
        """One round: replace the generated views by repaired renders of the scene as it is now.

        Args:
            step: the training step about to begin.
            requested: by a person; the views then count also outside the schedule.

        Returns:
            What was done, as it is written to ``round.json`` of the round's folder.

        Raises:
            ValueError: the repairer is none.
        """
        self._require_active()
        return self._fuse(step, self._take_index(requested), self.store.replace)

    def _fuse(self, step: int, index: int, keep: _Keep) -> RoundRecord:
        if self._judged is None or index >= self._judged[0]:
            self._judged = (index, self.photos.mean_psnr(self.model))
        return self._round(step, index, self._sampled_by_schedule, keep, seeds=False)

    def _make_anew(self, step: int, index: int) -> None:
        """Make a round whose views were lost, in its place among the others."""

        def keep(index: int, views: list[GeneratedView]) -> None:
            self.store.mend(index, [view for view in views if (index, view.clip) not in self._dropped])

        if index in self._completions:
            self._complete(step, index, keep)
        else:
            self._fuse(step, index, keep)

    def complete_from(self, step: int, c2w: Float[Tensor, "rows 4"], fov_y: float) -> RoundRecord:
        """Generate the views between the nearest train view and a camera, and keep them whatever rounds follow.

        Args:
            step: the training step about to begin.
            c2w: the camera, OpenGL axes, in the frame of the scene; 3 or 4 rows.
            fov_y: its vertical angle of view in radians.

        Raises:
            ValueError: the pose is not rigid or not finite, the angle not between 0 and pi, or the repairer is none.
        """
        self._require_active()
        index = self._take_index(requested=True)
        self._completions[index] = (torch.as_tensor(c2w).tolist(), float(fov_y))
        return self._complete(step, index, partial(self.store.replace, pin=True))

    def _complete(self, step: int, index: int, keep: _Keep) -> RoundRecord:
        c2w, fov_y = self._completions[index]

        def sampled(index: int, _: torch.Generator, __: ClearTest) -> SampledViews:
            repairer = self.repairer
            target = torch.tensor(c2w)
            return views_towards(self.photos.whole, target, fov_y, repairer.clip_length, repairer.resolution)

        return self._round(step, index, sampled, keep, seeds=True)

    def drop(self, round: int, clip: int | None = None) -> int:
        """Supervise one clip of a round, or all of them, no longer; returns how many views that were."""
        dropped = self.store.drop(round, clip)
        if clip is not None:
            self._dropped.add((round, clip))
        what = f"round {round}" if clip is None else f"clip {clip} of round {round}"
        self._say(f"Dropped {what}: {dropped} generated views, {len(self.store)} remain")
        return dropped

    def _take_index(self, requested: bool) -> int:
        index = self._next_round
        self._next_round += 1
        if requested:
            self._requested.add(index)
        return index

    def _sampled_by_schedule(self, index: int, generator: torch.Generator, is_clear: ClearTest) -> SampledViews:
        return self.sampler.sample(self.photos.whole, index, generator, is_clear)

    @torch.no_grad()
    def _round(self, step: int, index: int, sample: _Sample, keep: _Keep, seeds: bool) -> RoundRecord:
        began = time.monotonic()
        seed = round_seed(self.config.seed, index)
        generator = seeded_generator(seed)
        photos, repairer = self.photos, self.repairer
        surfaces = cache(lambda: photos.surfaces(self.model))  # masked rounds never ask
        clear_test = cache(lambda: clearance_test(surfaces().cpu()))
        cleared = self._keep_empty(surfaces)
        sampled = sample(index, generator, lambda poses: clear_test()(poses))
        done = Round(index, step, seed, sampled, self._repaired(index, sampled, generator))
        views = done.views()
        self.files.save(index, views)  # first of all: what is not on the disk would be lost with the process
        self.latest = done
        keep(index, views)
        observed = self._judged[1] if self._judged else photos.mean_psnr(self.model)
        details = {"observed_psnr": observed, "requested": index in self._requested, "cleared_surfels": cleared}
        if self.config.seeding.enabled or seeds:
            details["seeding"] = seed_windows(self.model, surfaces(), done.windows, self.config.seeding, generator)
            say(f"Surfels seeded where the scene was empty; it has {self.model.num_points}")
        record = done.record(repairer.name, self._datamanager.train_names, details)
        folder = round_folder(self.files.folder, index)
        self._report(folder, record, done.windows)
        kept = sum(window.rejected is None for window in done.windows)
        self._say(
            f"Round {index} at step {step}: {kept} of {len(done.windows)} clips kept, {len(self.store)} generated "
            f"views, {time.monotonic() - began:.0f} s, see {folder.parent.name}/{folder.name} of the run"
        )
        return record

    def _repaired(self, index: int, sampled: SampledViews, generator: torch.Generator) -> list[RepairedWindow]:
        windows: list[RepairedWindow] = []
        repairer = self.repairer
        try:
            for number in track(range(len(sampled.windows)), f"Round {index}", transient=True, console=CONSOLE):
                before = windows[-1] if windows else None
                windows.append(
                    repair_window(self.model, self.photos, repairer, sampled, number, self.config, generator, before)
                )
        finally:
            repairer.release()
        return windows

    def _report(self, folder: Path, record: RoundRecord, windows: list[RepairedWindow]) -> None:
        """Write what the round did; training needs none of it, and goes on without."""
        try:
            write_round_report(
                folder,
                record,
                [window.clip for window in windows],
                [window.repaired for window in windows],
                [window.references for window in windows],
                save_videos=self.config.save_videos,
            )
        except (OSError, RuntimeError) as error:
            say(f"The report of round {record.round} is not complete, training goes on: {message_of(error)}", "yellow")

    def _keep_empty(self, surfaces: Callable[[], SeenSurfaces]) -> int:
        """Have nothing grow around the train cameras; returns how many surfels that removed."""
        share = self.config.clearing
        return self.model.keep_empty(clearings(surfaces(), share) if share > 0 else None)

    def _withdraw_if_harmful(self, step: int) -> None:
        if self._judged is None or self._judged[0] not in self.store.rounds:
            return
        index, before = self._judged
        psnr = self.photos.mean_psnr(self.model)
        if psnr >= before - self.config.observed_margin:
            return
        self.store.drop(index)
        self._say(
            f"Round {index} is withdrawn at step {step}: the photos are reproduced at {psnr:.2f} dB, before "
            f"the round it was {before:.2f} dB (--pipeline.fusion.observed-margin).",
            "yellow",
        )

    def _weight(self, step: int) -> float:
        weight = self.schedule.weight(step)
        if self._requested.intersection(self.store.rounds):
            weight = max(weight, _REQUESTED_SHARE * self.config.weight)
        return weight

    def generated_losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss terms of one generated view (see `generated_view_losses`) and metrics; without views none."""
        weight = self._weight(step)
        if weight == 0 or len(self.store) == 0:
            return {}, {}
        view = self.store.sample(self._view_order).to(self.model.device)
        losses = generated_view_losses(self.model, view, weight, self.config, self._datamanager.transparent)
        return losses, {"generated_weight": weight, "generated_views": len(self.store)}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, except the views themselves, which lie in the folders of their rounds."""
        kept_empty = self.model.strategy.kept_empty
        return {
            "store": json.dumps(self.store.state()),
            "digests": json.dumps(self.files.digests),
            "view_order": self._view_order.get_state(),
            "next_round": self._next_round,
            "judged": json.dumps(self._judged),
            "requested": json.dumps(sorted(self._requested)),
            "completions": json.dumps({i: c for i, c in self._completions.items() if i in self.store.pinned}),
            "dropped": json.dumps(sorted(self._dropped)),
            "kept_clear": None if kept_empty is None else (kept_empty.centers, kept_empty.radii),
        }

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """Continue where `state` was taken, with the views of the run folder that it belongs to.

        Rounds whose views are missing or damaged are made anew before the first step.
        """
        self._view_order.set_state(state["view_order"].cpu())
        self._next_round = int(state["next_round"])
        judged = json.loads(state["judged"])
        self._judged = None if judged is None else (judged[0], judged[1])
        self._requested = set(json.loads(state["requested"]))
        completions = json.loads(state.get("completions", "{}"))  # as below
        self._completions = {int(index): (c2w, fov_y) for index, (c2w, fov_y) in completions.items()}
        kept_empty = state.get("kept_clear")  # checkpoints from before there were clearings have none
        self.model.strategy.kept_empty = None if kept_empty is None else Clearings(*kept_empty)
        if not self.active:
            return
        stored = json.loads(state["store"])
        digests = {int(index): digest for index, digest in json.loads(state["digests"]).items()}
        lost = self.files.adopt(folder, digests, sorted({index for index, _, _ in stored["held"]}))
        self._dropped = {(index, clip) for index, clip in json.loads(state.get("dropped", "[]"))}
        for index, reason in lost.items():
            anew = index not in stored["pinned"] or index in self._completions
            what = "the round is made anew" if anew else "and this older checkpoint does not say where it looked"
            say(f"The generated views of round {index} are lost, {what}: {reason}", "yellow")
            if not anew:
                stored["pinned"].remove(index)
        if lost:
            stored["held"] = [key for key in stored["held"] if key[0] not in lost]
            stored["queue"] = []
        # In their order, so that the newest is the one that is judged.
        self._lost = sorted({*stored["newest"], *stored["pinned"]}.intersection(lost))
        self.store.restore(stored, self.files.load)

    def _require_active(self) -> None:
        if not self.active:
            raise ValueError("no round can take place: --pipeline.repairer.model is none; choose another to generate")

    def _say(self, message: str, colour: Colour = "") -> None:
        say(message, colour)
        self._message = message
