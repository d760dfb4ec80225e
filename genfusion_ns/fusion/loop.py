"""The loop: rounds of repaired views when they are due or asked for; and the views of them that supervise.

What a round is lies in `genfusion_ns.fusion.rounds`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.engine.trainer import Trainer
from PIL import Image
from torch import Tensor

from genfusion_ns.errors import message_of
from genfusion_ns.fusion.cameras.clip_cameras import SampledViews
from genfusion_ns.fusion.cameras.framing import Framing
from genfusion_ns.fusion.cameras.sparse import views_towards
from genfusion_ns.fusion.contract import Supervision, SupervisionPanel, TrainingRun
from genfusion_ns.fusion.panel.panel import attach_panel
from genfusion_ns.fusion.rounds.files import RoundFiles, round_folder
from genfusion_ns.fusion.rounds.generated_views import GeneratedView, GeneratedViewStore
from genfusion_ns.fusion.rounds.maker import RoundMaker, Sample
from genfusion_ns.fusion.rounds.record import RoundRecord
from genfusion_ns.fusion.rounds.report import write_round_report
from genfusion_ns.fusion.rounds.round import RepairedWindow, Round
from genfusion_ns.fusion.rounds.settings import RoundSettings
from genfusion_ns.fusion.rounds.steering import Action, LoopStatus, Requests
from genfusion_ns.fusion.rounds.summary import RoundSummary
from genfusion_ns.fusion.rounds.trial import Trial
from genfusion_ns.fusion.supervision import generated_view_losses
from genfusion_ns.geometry.free_space import Clearings, ClearTest
from genfusion_ns.messages import Colour, say
from genfusion_ns.priors.config import find_repairer
from genfusion_ns.seeds import seeded_generator

_Keep = Callable[[int, list[GeneratedView]], object]
"""What becomes of the views of a round."""
_REQUESTED_SHARE = 0.5
"""Views that the user asked for weigh at least this share of what is set, where the schedule says less, and beside many
photos too."""


class FusionLoop(Supervision):
    """Holds the generated views of a run and renews them round by round; one per training run.

    `fuse_once`, `complete_from` and `drop` act at once and belong to the thread that trains; from other threads, such
    as those of the viewer, hand them to `request`.
    """

    def __init__(self, config: RoundSettings, run: TrainingRun) -> None:
        """
        Raises:
            ValueError: the schedule does not fit the length of the run.
        """
        self._can = find_repairer(run.repairer, run.scene.device).capabilities
        self.config = config = config.suited_to(self._can)
        self.model = run.scene
        self.schedule = config.schedule(run.total_steps, len(run.datamanager.train_names))
        self.maker = RoundMaker(config, run)
        self.store = GeneratedViewStore(config.keep_rounds)
        self.paused = False
        self.latest: Round | None = None
        """The newest round, with its clips."""
        self.files = RoundFiles(run.folder)
        self._run = run
        self._view_order = seeded_generator(config.seed)
        self._requests = Requests(partial(self._say, colour="red"))
        self._next_round = 0
        self._trial: Trial | None = None
        self._requested: set[int] = set()
        self._completions: dict[int, tuple[list[list[float]], float]] = {}
        self._dropped: set[tuple[int, int]] = set()
        self._lost: list[int] = []
        self._seconds: list[float] = []
        self._message = ""

    @property
    def active(self) -> bool:
        """Whether rounds take place: renders that are not repaired hold nothing that the scene does not know."""
        return self._can.repairs

    def status(self, step: int) -> LoopStatus:
        """What the loop is doing at this step."""
        return LoopStatus(
            active=self.active,
            paused=self.paused,
            rounds=self._next_round,
            next_step=self.schedule.next_round(step) if self.active and not self.paused else None,
            weight=self._weight(step) if len(self.store) else 0.0,
            views=len(self.store),
            waiting=len(self._requests),
            message=self._message,
        )

    def request(self, action: Action) -> None:
        """Have `action(step)` carried out by the training thread before its next step; any thread may ask."""
        self._requests.ask(action)

    def before_step(self, step: int) -> None:
        """What was asked for, a round when it is due, its trial halfway on; see `Supervision.before_step`."""
        self._requests.carry_out(step)
        if not self.active:
            return
        while self._lost:
            self._make_anew(step, self._lost[0])
            del self._lost[0]
        if self.schedule.is_round(step) and not self.paused:
            self.fuse_once(step)
        elif self.schedule.is_control(step, self.model.config.refine_every):
            self._withdraw_if_harmful(step)

    def seconds_to_come(self, step: int) -> float:
        """What the scheduled rounds after this step will take if they take as long as those so far."""
        if not self._seconds or self.paused:
            return 0.0
        ahead = self.schedule.rounds_within(step + 1, self._run.total_steps)
        return ahead * statistics.median(self._seconds)  # the first one may have compiled something

    def fuse_once(self, step: int, requested: bool = False) -> RoundRecord:
        """One round: replace the generated views by repaired renders of the scene as it is now.

        Args:
            step: the training step about to begin.
            requested: by a person; the views then count also outside the schedule.

        Returns:
            What was done, as it is written to ``round.json`` of the round's folder.

        Raises:
            ValueError: the repairer repairs nothing.
        """
        self._require_active()
        index, number = self._take_index(requested), self.schedule.rounds_within(0, step + 1)
        title = f"Round {number} of {self.schedule.rounds_within(0, self._run.total_steps)}"
        return self._fuse(step, index, self.store.replace, "Round on request" if requested else title)

    def _fuse(self, step: int, index: int, keep: _Keep, title: str) -> RoundRecord:
        if self._trial is None or index >= self._trial.round:
            self._trial = Trial(index, self.maker.photos_psnr())
        return self._round(step, index, self.maker.sample_scheduled, keep, title=title)

    def _make_anew(self, step: int, index: int) -> None:
        """Make a round whose views were lost, in its place among the others."""

        def keep(index: int, views: list[GeneratedView]) -> None:
            self.store.mend(index, [view for view in views if (index, view.clip) not in self._dropped])

        title = f"Round {index} anew"
        if index in self._completions:
            self._complete(step, index, keep, title)
        else:
            self._fuse(step, index, keep, title)

    def complete_from(self, step: int, c2w: Float[Tensor, "rows 4"], fov_y: float) -> RoundRecord:
        """Generate the views between the nearest train view and a camera, and keep them whatever rounds follow.

        Args:
            step: the training step about to begin.
            c2w: the camera, OpenGL axes, in the frame of the scene; 3 or 4 rows.
            fov_y: its vertical angle of view in radians.

        Raises:
            ValueError: the pose is not rigid or not finite, the angle not between 0 and pi, or the repairer repairs
                nothing.
        """
        self._require_active()
        index = self._take_index(requested=True)
        self._completions[index] = (torch.as_tensor(c2w).tolist(), float(fov_y))
        return self._complete(step, index, partial(self.store.replace, pin=True), "Completion from a camera")

    @property
    def _framing(self) -> Framing:
        return "fit" if self.config.framing == "auto" else self.config.framing

    def _complete(self, step: int, index: int, keep: _Keep, title: str) -> RoundRecord:
        c2w, fov_y = self._completions[index]

        def sampled(index: int, _: torch.Generator, __: ClearTest) -> SampledViews:
            repairer, target = self.maker.repairer, torch.tensor(c2w)
            cameras = self.maker.photos.whole
            length, resolution = repairer.clip_length, repairer.resolution
            return views_towards(cameras, target, fov_y, length, resolution, framing=self._framing)

        return self._round(step, index, sampled, keep, title=title, completes=True)

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

    def _round(
        self, step: int, index: int, sample: Sample, keep: _Keep, *, title: str, completes: bool = False
    ) -> RoundRecord:
        repairer = self.maker.repairer  # building it is not what the next round will take
        began = time.monotonic()
        folder = round_folder(self.files.folder, index)
        say(f"{title} before step {step}, to {folder.parent.name}/{folder.name} of the run")
        trial = self._trial
        photos_psnr = trial.photos_psnr if trial and trial.round == index else self.maker.photos_psnr()
        made = self.maker.make(step, index, sample, title, into_the_unseen=completes)
        views = made.round.views()
        self.files.save(index, views)  # first of all: what is not on the disk would be lost with the process
        self.latest, self.results = made.round, self.results + 1
        keep(index, views)
        details = {"photos_psnr": photos_psnr, "requested": index in self._requested, "cleared_surfels": made.cleared}
        if self.config.seeding.enabled or completes:
            details["seeding"] = made.seed()
        record = made.round.record(repairer.name, self._run.datamanager.train_names, details)
        sheets = self._report(folder, record, made.round.windows)
        self._seconds.append(time.monotonic() - began)
        summary = RoundSummary.of(record, self._seconds[-1])
        summary.publish(step, sheets)
        self._say(f"{title} ({folder.name}): {summary.line()}", wrap=False)
        return record

    def _report(self, folder: Path, record: RoundRecord, windows: list[RepairedWindow]) -> list[Image.Image]:
        """Write what the round did, and give its contact sheets; training needs none of it, and goes on without."""
        try:
            return write_round_report(
                folder,
                record,
                [window.clip for window in windows],
                [window.repaired for window in windows],
                [window.references for window in windows],
                save_videos=self.config.save_videos,
            )
        except (OSError, RuntimeError) as error:
            say(f"The report of round {record.round} is not complete, training goes on: {message_of(error)}", "yellow")
            return []

    def _withdraw_if_harmful(self, step: int) -> None:
        trial = self._trial
        if trial is None or trial.round not in self.store.rounds:
            return
        complaint = trial.complaint(self.maker.photos_psnr(), self.config.withdraw_margin)
        if complaint is not None:
            self.store.drop(trial.round)
            self._say(f"Round {trial.round} is withdrawn at step {step}: {complaint}.", "yellow")

    def _weight(self, step: int) -> float:
        weight = self.schedule.weight(step)
        if self._requested.intersection(self.store.rounds):
            weight = max(weight, _REQUESTED_SHARE * self.config.weight)
        return weight

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss terms of one generated view (see `generated_view_losses`) and metrics; without views none."""
        weight = self._weight(step)
        if weight == 0 or len(self.store) == 0:
            return {}, {}
        view = self.store.sample(self._view_order).to(self.model.device)
        losses = generated_view_losses(
            self.model,
            view,
            weight,
            self.config,
            transparent=self._run.datamanager.transparent,
            blocks=self.config.blocks,
        )
        return losses, {"generated_weight": weight, "generated_views": len(self.store)}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, except the views themselves, which lie in the folders of their rounds."""
        kept_empty = self.model.strategy.kept_empty
        return {
            "store": json.dumps(self.store.state()),
            "digests": json.dumps(self.files.digests),
            "view_order": self._view_order.get_state(),
            "next_round": self._next_round,
            "judged": json.dumps(self._trial and [self._trial.round, self._trial.photos_psnr]),
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
        self._trial = None if judged is None else Trial(judged[0], judged[1])
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

    def attach_panel(self, trainer: Trainer) -> SupervisionPanel | None:
        """Show the rounds in the trainer's viewer, with buttons for what people can ask for."""
        return attach_panel(trainer, self)

    def _require_active(self) -> None:
        if not self.active:
            model = self._run.repairer.model
            raise ValueError(
                f"no round can take place: --pipeline.repairer.model is {model}, which repairs nothing; name another"
            )

    def _say(self, message: str, colour: Colour = "", wrap: bool = True) -> None:
        say(message, colour, wrap)
        self._message = message
