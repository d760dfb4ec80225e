"""The plan of a run: its stages with the keys by which a rerun knows them, from settings, inputs and what is done."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.digests import digest_of
from genfusion_ns.fusion.whole_run.choice import CaptureFacts, Choice, Machine, choose
from genfusion_ns.fusion.whole_run.facts import (
    PosedCapture,
    expected_facts,
    has_poses,
    identity_of,
    published_generator,
    read_posed,
)
from genfusion_ns.fusion.whole_run.journal import Journal
from genfusion_ns.fusion.whole_run.settings import WholeRunSettings
from genfusion_ns.fusion.whole_run.speed import measured_speed
from genfusion_ns.fusion.whole_run.stages import (
    COMPACT_LIBRARY,
    Places,
    Stage,
    Trained,
    capture_stage,
    later_stages,
    report_stage,
    train_stage,
)

_ANYWHERE = Places(Path("OUT"))
"""Keys are of commands as they would be typed here, so that a run may be moved."""
_FRAMES_PER_MINUTE, _FEWEST_FRAMES = 4, 24


@dataclass(frozen=True)
class Planned:
    """A stage, and the key by which a rerun knows whether it is done."""

    stage: Stage
    key: str
    """Stands for its settings, what it is made from, and the stages that it rests on."""

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.stage.name

    def is_done(self, journal: Journal) -> bool:
        """It was ended with these settings, and what it left is there."""
        record = journal.stage(self.name)
        ended = record is not None and record["done"] and record["key"] == self.key
        return ended and all(path.exists() for path in self.stage.products)


class Planner:
    """What is to be done with the inputs of a user."""

    def __init__(
        self, settings: WholeRunSettings, inputs: Sequence[Path], extra: Sequence[str], optimizers: Mapping[str, Any]
    ) -> None:
        """
        Args:
            settings: what the user has decided.
            inputs: videos, photos and folders of photos, or one capture with poses.
            extra: further flags of ns-train.
            optimizers: of genfusion, by parameter group; for the measurement of this machine.

        Raises:
            ValueError: settings or inputs that cannot be used.
        """
        settings.check()
        if not inputs:
            raise ValueError("no input is given; name a video, a folder of photos, or a capture with poses")
        self.settings, self.inputs, self.extra = settings, [str(path) for path in inputs], tuple(extra)
        self.places = Places(settings.output or Path(f"{inputs[0].resolve().stem}_scene"))
        self.absolute = [os.path.abspath(path) for path in inputs]
        self.posed_input = has_poses(inputs)
        self.gpu = torch.cuda.is_available()
        self._identity = identity_of(inputs, self.places.out)
        self._optimizers = optimizers

    @property
    def data(self) -> str:
        """Folder of the capture that is trained on."""
        return self.inputs[0] if self.posed_input else str(self.places.capture)

    def capture(self) -> Planned | None:
        """Finding poses; None where the input has them."""
        if self.posed_input:
            return None
        settings = self._capture_settings()
        same = capture_stage(_ANYWHERE, self.absolute, settings).words
        key = digest_of([list(same), self._identity])
        return Planned(capture_stage(self.places, self.inputs, settings), key)

    def _capture_settings(self) -> CaptureFromPhotosSettings:
        """With fewer frames of a video where there is little time."""
        given = self.settings.capture
        if self.gpu or given.frames != CaptureFromPhotosSettings.frames:
            return given
        fitting = max(_FEWEST_FRAMES, round(_FRAMES_PER_MINUTE * self.settings.minutes))
        return replace(given, frames=min(given.frames, fitting))

    def expected(self) -> CaptureFacts:
        """Of a capture that is still to be made, if all goes well."""
        settings = self._capture_settings()
        paths = [Path(path) for path in self.inputs]
        return expected_facts(paths, settings.frames, settings.masks is not None, self.settings.hold_out)

    def read(self) -> PosedCapture:
        """The capture that is trained on.

        Raises:
            CaptureError: it cannot be used.
        """
        return read_posed(Path(self.data), self.settings.hold_out)

    def choice(self, journal: Journal, facts: CaptureFacts, capture: Planned | None) -> Choice:
        """How to train: as it was written down for the same wishes and photos, else chosen for the machine as it is."""
        found, wishes = journal.plan, self._wishes(facts, capture, journal)
        names = {field.name for field in fields(Choice)}
        if found is not None and found.get("for") == wishes and set(found.get("choice", ())) == names:
            kept = found["choice"]
            return Choice(**{**kept, "size": tuple(kept["size"]), "reasons": tuple(kept["reasons"])})
        return choose(facts, self._machine(), self.settings, journal.seconds("capture"))

    def kept(self, choice: Choice, journal: Journal, facts: CaptureFacts, capture: Planned | None) -> dict[str, Any]:
        """What to write down of a choice."""
        return {"for": self._wishes(facts, capture, journal), "choice": asdict(choice)}

    def _wishes(self, facts: CaptureFacts, capture: Planned | None, journal: Journal) -> str:
        wanted = self.settings
        wishes = [wanted.minutes, wanted.method, wanted.steps, wanted.downscale, wanted.rounds, wanted.hold_out]
        made = [] if capture is None else [capture.key, journal.made("capture")]
        return digest_of([wishes, made, list(asdict(facts).values()), self.gpu])

    def _machine(self) -> Machine:
        if self.gpu:
            return Machine(gpu=True, published=published_generator())
        if self.settings.steps is not None and self.settings.downscale is not None:
            return Machine(gpu=False)
        print("Measuring how fast this machine trains", flush=True)
        return Machine(gpu=False, speed=measured_speed(self._optimizers))

    def stages(
        self,
        journal: Journal,
        facts: CaptureFacts,
        choice: Choice,
        reading: tuple[str, tuple[str, ...]],
        capture: Planned | None,
    ) -> list[Planned]:
        """All from the training on, with their keys as things stand.

        Args:
            journal: what is done.
            facts: of the capture.
            choice: how it is trained.
            reading: subcommand of ns-train that reads it, and its flags.
            capture: finding the poses.
        """
        trained = Trained(self.data, facts.masked, *reading, choice, self.extra)
        same = replace(trained, data=self.absolute[0] if self.posed_input else str(_ANYWHERE.capture))
        needs = () if capture is None else ("capture",)
        keys = {} if capture is None else {"capture": capture.key}
        planned: list[Planned] = []

        def add(stage: Stage, same: Stage, *more: Any) -> None:
            rests_on = [[name, keys[name], journal.made(name)] for name in stage.needs]
            keys[stage.name] = digest_of([list(same.words), rests_on, *more])
            planned.append(Planned(stage, keys[stage.name]))

        add(
            train_stage(self.places, trained, needs),
            train_stage(_ANYWHERE, same, needs),
            *([] if capture is not None else [self._identity]),
        )
        method = choice.method
        for here, anywhere in zip(later_stages(self.places, method), later_stages(_ANYWHERE, method), strict=True):
            if here.name != "compact" or self.can_compress:
                add(here, anywhere)
        has = [one.name for one in planned if one.name in self.settings.chosen() or one.is_done(journal)]
        title = Path(self.absolute[0]).stem
        add(report_stage(self.places, method, title, has), report_stage(_ANYWHERE, method, title, has))
        return planned

    @property
    def can_compress(self) -> bool:
        """The library of the compact file is there, or the user insists."""
        return "compact" in self.settings.stages or importlib.util.find_spec(COMPACT_LIBRARY) is not None
