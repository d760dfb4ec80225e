"""From a video, photos or a capture to one page: stage after stage, none of them twice."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genfusion_ns.fusion.checkpoints import checkpoints_of
from genfusion_ns.fusion.whole_run.choice import Choice
from genfusion_ns.fusion.whole_run.facts import PosedCapture
from genfusion_ns.fusion.whole_run.flight import write_flight
from genfusion_ns.fusion.whole_run.journal import FORGOTTEN, Journal, Lock
from genfusion_ns.fusion.whole_run.planning import Planned, Planner
from genfusion_ns.fusion.whole_run.process import run_stage
from genfusion_ns.fusion.whole_run.rest_time import expected_seconds, time_to_go
from genfusion_ns.fusion.whole_run.stages import COMPACT_LIBRARY, with_checkpoints
from genfusion_ns.json_files import read_json

_RESUMED = ("capture", "train")
"""Stages that go on where they were stopped; others begin again."""
GO_ON = "rerun the same command to go on; what is done is kept"


def show_plan(planner: Planner) -> None:
    """Print what would be done, with the commands; nothing is written.

    Raises:
        ValueError: the capture or the folder cannot be used.
    """
    journal, capture = Journal(planner.places.out, planner.absolute), planner.capture()
    print(f"Plan for {', '.join(planner.inputs)}; everything goes into {planner.places.out}")
    ahead: set[str] = set()
    if capture is not None:
        _show_stage(capture, journal, planner, ahead)
    if capture is not None and "capture" in ahead:
        facts, reading = planner.expected(), ("nerfstudio-data", ())
        print(f"If all goes well {facts.photos} photos get poses; what follows is chosen anew when they have them:")
    else:
        posed = planner.read()
        facts, reading = posed.facts, posed.reading
    choice = planner.choice(journal, facts, capture)
    _say(choice)
    for planned in planner.stages(journal, facts, choice, reading, capture):
        _show_stage(planned, journal, planner, ahead)


def _show_stage(planned: Planned, journal: Journal, planner: Planner, ahead: set[str]) -> None:
    """One line; `ahead` are the stages to do so far, and gets this one where it is."""
    wanted = planner.settings
    if planned.is_done(journal) and planned.name not in wanted.redo and not ahead & set(planned.stage.needs):
        state = "done"
    elif planned.name not in wanted.chosen():
        state = "left out"
    else:
        state = "to do"
        ahead.add(planned.name)
    print(f"{planned.name:<9} {state:<9} $ {shlex.join(planned.stage.words)}")


def _say(choice: Choice) -> None:
    for reason in choice.reasons:
        print(f"   {reason}", flush=True)


def run_all(planner: Planner) -> None:
    """Do all stages that are to be done, and say where everything is.

    Raises:
        ValueError: a stage failed, or rests on one that is left out; the folder is not to be used.
        OSError: the disk is full or not writable.
        KeyboardInterrupt: the user stopped it.
    """
    with Lock(planner.places.out) as lock:
        journal = Journal(planner.places.out, planner.absolute)
        runner = _Runner(planner, journal, lock)
        runner.forget(planner.settings.redo)
        capture = planner.capture()
        if capture is not None:
            runner.settle(capture, "time to go is known once the photos have poses")
        posed = planner.read()
        choice = planner.choice(journal, posed.facts, capture)
        journal.keep_plan(planner.kept(choice, journal, posed.facts, capture))
        print(f"\n== Plan for {posed.facts.photos} photos with poses, {posed.facts.trained} of them to train on")
        _say(choice)
        runner.go_on(posed, choice, capture)
    _summary(planner, choice)


@dataclass(frozen=True)
class _Runner:
    planner: Planner
    journal: Journal
    lock: Lock

    def forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.journal.forget(name)
            if name == "capture":  # gf-capture would find its own records there
                shutil.rmtree(self.planner.places.capture, ignore_errors=True)

    def go_on(self, posed: PosedCapture, choice: Choice, capture: Planned | None) -> None:
        """All stages after the poses."""
        places = self.planner.places
        before = {"video": lambda: write_flight(places.flight, posed.c2w, posed.fov_y, choice.size)}
        seconds = expected_seconds(posed.facts, choice)
        number = 0
        while True:
            # Keys count how often earlier stages were made: they are known when the turn of a stage comes.
            stages = self.planner.stages(self.journal, posed.facts, choice, posed.reading, capture)
            if number == len(stages):
                return
            ahead = [one.name for one in stages[number:] if self._is_wanted(one) and not one.is_done(self.journal)]
            self.settle(stages[number], time_to_go(ahead, seconds), before.get(stages[number].name))
            number += 1

    def _is_wanted(self, planned: Planned) -> bool:
        return planned.name in self.planner.settings.chosen()

    def settle(self, planned: Planned, left: str, before: Callable[[], None] | None = None) -> None:
        """Do a stage where it is to be done, else say why not."""
        name, journal = planned.name, self.journal
        if planned.is_done(journal):
            print(f"\n== {name}: done ({journal.seconds(name):.0f} s)", flush=True)
            return
        record = journal.stage(name)
        if not self._is_wanted(planned):
            if name in ("capture", "train"):
                done = "was done with other settings or photos" if journal.is_done(name) else "is not done"
                raise ValueError(
                    f"the stages asked for need {name}, which {done}; name it in --stages, or leave it out of --skip"
                )
            print(f"\n== {name}: left out", flush=True)
            return
        goes_on = record is not None and record["key"] == planned.key and not record["done"]
        why = "goes on" if goes_on and name in _RESUMED else self._reason(planned)
        print(f"\n== {name}{f': {why}' if why else ''}{f' ({left})' if left else ''}", flush=True)
        if not (goes_on and name in _RESUMED):
            for path in planned.stage.clear:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if before is not None:
            before()
        self._do(planned)

    def _reason(self, planned: Planned) -> str:
        """Why a stage that was begun before begins again; empty where there is nothing to say."""
        record = self.journal.stage(planned.name)
        if record is None or (record["key"] == planned.key and not record["done"]):
            return ""
        if record["key"] == FORGOTTEN:
            return "again, as asked for"
        missing = [path for path in planned.stage.products if not path.exists()]
        if record["key"] == planned.key and missing:
            return f"again, {missing[0]} is gone"
        if record["words"] != list(planned.stage.words):
            new = [word for word in planned.stage.words if word not in record["words"]]
            old = [word for word in record["words"] if word not in planned.stage.words]
            return f"again, with {' '.join(new) or 'nothing'} instead of {' '.join(old) or 'nothing'}"
        return "again, what it is made from has changed"

    def _do(self, planned: Planned) -> None:
        name, journal, words = planned.name, self.journal, planned.stage.words
        journal.begin(name, planned.key, words)
        began = time.monotonic()
        try:
            if name == "train":
                words = self._resumed(planned)
            status = run_stage(words, self.lock.descriptor) if words else 0
        except BaseException:
            journal.stop(name, time.monotonic() - began)
            raise
        seconds = time.monotonic() - began
        missing = [str(path) for path in planned.stage.products if not path.exists()]
        if status != 0 or missing:
            journal.stop(name, seconds)
            what = f"failed with status {status}" if status != 0 else f"ended without {', '.join(missing)}"
            raise ValueError(f"{name} ({words[0]}) {what}; its own message stands above. Then {GO_ON}")
        journal.finish(name, seconds)
        print(f"== {name} took {seconds:.0f} s", flush=True)

    def _resumed(self, planned: Planned) -> tuple[str, ...]:
        """The training from its last checkpoint on; nothing where it was at its end when it was stopped."""
        config, last = planned.stage.products
        if config.exists() and last.exists():
            return ()
        folder = last.parent
        words = planned.stage.words
        return with_checkpoints(words, folder) if folder.is_dir() and checkpoints_of(folder) else words


def _summary(planner: Planner, choice: Choice) -> None:
    places = planner.places
    config = places.run(choice.method) / "config.yml"
    print("\nDone.")
    if places.metrics.is_file():
        print(f"  {'photos':<12}{_scores(places.metrics)}")
    for name, path in (
        ("page", places.report),
        ("video", places.video),
        ("splats", places.splat),
        ("compact", places.compact),
        ("mesh", places.mesh),
    ):
        if path.is_file():
            print(f"  {name:<12}{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if not planner.can_compress:
        print(f"  {'compact':<12}left out: pip install 'genfusion-ns[export]' ({COMPACT_LIBRARY})")
    print(f"  {'look around':<12}ns-viewer --load-config {config}")


def _scores(file: Path) -> str:
    results = read_json(file)["results"]
    numbers = {name: results[name].number() for name in ("psnr", "ssim", "lpips") if results[name].is_given}
    shown = ", ".join(f"{name.upper()} {value:.2f}" for name, value in numbers.items())
    held_out = results["held_out"].flag()
    return f"{shown} ({'held out' if held_out else 'trained on: none was held out'})"
