"""Training runs that are killed and resumed, and how far their results are apart."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genfusion_ns.programs import program_path

if TYPE_CHECKING:
    import torch

    Outcome = tuple[dict[str, torch.Tensor], dict[str, str]]
    """Final parameters of the surfels, and the digest of each round's generated views that the run still knows."""

MOMENTS = ("step", "round", "checkpoint")
"""When a run can be killed: somewhere, while a round is made, while a checkpoint is written."""

_PARAMETERS = "_model.gauss_params."
_ATTEMPTS = 3
"""To kill a run before its end."""


@dataclass(frozen=True)
class KillableRuns:
    """Runs of one capture with the same settings, each by its name."""

    data: Path
    """A capture."""
    output: Path
    """Folder for the runs."""
    method: str
    """Method to train."""
    steps: int
    """Length of a run; rounds and checkpoints are spread over it."""
    flags: tuple[str, ...] = ()
    """Further flags of ns-train."""

    def finish(self, name: str, *more: str) -> None:
        """Train to the end, with more flags of ns-train.

        Raises:
            SystemExit: ns-train failed.
        """
        process = self._start(name, *more)
        if process.wait() != 0:
            raise SystemExit(f"ns-train failed with status {process.returncode}; see {self._log(name)}")

    def resume(self, name: str, killed: str) -> bool:
        """Train to the end from where a killed run was; returns False where it had no checkpoint and began again."""
        checkpoints = self._run_folder(killed) / "nerfstudio_models"
        found = any(checkpoints.glob("step-*.ckpt"))
        self.finish(name, *(("--load-dir", str(checkpoints)) if found else ()))
        return found

    def kill(self, name: str, moment: str, after: float) -> str:
        """Start a run and kill it, earlier when it was at its end before.

        Args:
            name: of the run.
            moment: one of `MOMENTS`.
            after: share of the run after which a moment "step" comes.

        Returns:
            Where it was, for people.

        Raises:
            SystemExit: it could not be killed in time, or failed by itself.
        """
        for attempt in range(_ATTEMPTS):
            where = self._kill(name, moment, after / 2**attempt)
            if where is not None:
                return where
            shutil.move(self._run_folder(name), self._run_folder(f"{name}_{attempt}_too_late"))
        raise SystemExit(
            f"{name} was at its end {_ATTEMPTS} times before it could be killed in a {moment}; give more than "
            f"{self.steps} --steps"
        )

    def _start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        period = max(10, self.steps // 7)
        words = [
            *("ns-train", self.method, "--data", self.data, "--output-dir", self.output, "--experiment-name", "run"),
            *("--timestamp", name, "--vis", "tensorboard", "--max-num-iterations", self.steps),
            *("--steps-per-save", period + 3, "--pipeline.fusion.start", period, "--pipeline.fusion.every", period),
            *("--pipeline.model.refine-every", 10, "--logging.steps-per-log", 1, *self.flags, *more),
        ]
        self._run_folder(name).mkdir(parents=True)
        with self._log(name).open("wb") as log:
            return subprocess.Popen(
                [program_path("ns-train"), *map(str, words[1:])], stdout=log, stderr=subprocess.STDOUT
            )

    def _kill(self, name: str, moment: str, after: float) -> str | None:
        """Start a run and kill it; returns where it was, for people, or None when it was at its end."""
        process = self._start(name)
        folder = self._run_folder(name)
        rounds = folder / "genfusion"

        def has_checkpoint() -> bool:
            return any((folder / "nerfstudio_models").glob("*.ckpt"))

        def writes_checkpoint() -> bool:
            return any(folder.glob(".step-*.part.ckpt")) and has_checkpoint()

        def makes_round() -> bool:
            return has_checkpoint() and any(not (r / "round.json").exists() for r in rounds.glob("round_*"))

        conditions: dict[str, Callable[[], bool]] = {"round": makes_round, "checkpoint": writes_checkpoint}
        goal = round(after * self.steps)
        condition = conditions.get(moment, lambda: self._step(name) >= goal)
        while process.poll() is None and not condition():
            time.sleep(0 if moment == "checkpoint" else 0.002)
        process.send_signal(signal.SIGKILL)
        if process.wait() not in (0, -signal.SIGKILL):
            raise SystemExit(f"ns-train failed with status {process.returncode}; see {self._log(name)}")
        if (folder / "nerfstudio_models" / f"step-{self.steps - 1:09d}.ckpt").exists():
            return None
        return f"after step {self._step(name)}"

    def _step(self, name: str) -> int:
        """The last step that the log of a run shows."""
        text = self._log(name).read_text(errors="replace", encoding="utf-8")
        steps = [word[0] for line in text.splitlines() if (word := line.split()) and len(word) > 1 and "%" in word[1]]
        return int(steps[-1]) if steps and steps[-1].isdigit() else 0

    def _run_folder(self, name: str) -> Path:
        return self.output / "run" / self.method / name

    def _log(self, name: str) -> Path:
        return self.output / "run" / self.method / name / "log.txt"

    def outcome(self, name: str) -> Outcome:
        """What a finished run ended with."""
        import torch  # takes seconds, which --help should not

        path = max((self._run_folder(name) / "nerfstudio_models").glob("step-*.ckpt"))
        state = torch.load(path, map_location="cpu", weights_only=True)["pipeline"]
        parameters = {key: value for key, value in state.items() if key.startswith(_PARAMETERS)}
        held = {str(entry[0]) for entry in json.loads(state["_extra_state"]["supervision"]["store"])["held"]}
        digests = json.loads(state["_extra_state"]["supervision"]["digests"])
        return parameters, {index: digest for index, digest in digests.items() if index in held}


def difference(expected: Outcome, found: Outcome, tolerance: float) -> str | None:
    """What sets two outcomes apart, for people, or None where nothing does; tolerance is absolute and relative."""
    import torch

    if expected[1] != found[1]:
        return "other generated views"
    for name, value in expected[0].items():
        other = found[0][name]
        if value.shape != other.shape:
            return f"{name} has shape {tuple(other.shape)} instead of {tuple(value.shape)}"
        if not torch.allclose(value, other, rtol=tolerance, atol=tolerance):
            return f"{name} differs by {float((value - other).abs().max()):.3g}"
    return None
