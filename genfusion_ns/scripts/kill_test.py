"""`gf-kill-test`: kill -9 real training runs at bad moments, resume them, and compare them with one never killed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.programs import program_path

if TYPE_CHECKING:
    import torch

_PARAMETERS = "_model.gauss_params."
_ATTEMPTS = 3
"""To kill a run before its end."""


@dataclass
class KillTest:
    """Resume must be exact: every run that was killed and resumed has to end as the one that was left alone.

    Works with any capture and method, on the CPU; on a GPU sums are not reproducible to the last bit, see tolerance.
    Flags that are not listed here are handed to ns-train.
    """

    data: Path
    """A capture, such as one made by gf-sample-scene."""
    output: Path = Path("kill_test")
    """Folder for the runs; an earlier test in it is replaced."""
    method: str = "genfusion"
    """Method to train."""
    steps: int = 150
    """Length of the run; rounds and checkpoints are spread over it."""
    moments: tuple[str, ...] = ("step", "step", "round", "checkpoint")
    """When to kill, one run each: step (somewhere), round (while one is made) or checkpoint (while one is written)."""
    seed: int = 0
    """Decides where a run is killed."""
    tolerance: float = 1e-5
    """Largest difference of any parameter between two runs, absolute and relative."""

    def run(self, flags: list[str]) -> None:
        """Run everything with these further flags of ns-train; exits with status 1 when a resumed run differs."""
        self._flags = flags
        if not self.data.exists():
            raise SystemExit(f"--data {self.data} does not exist; gf-sample-scene makes a capture")
        if self.steps < 40 or set(self.moments) - {"step", "round", "checkpoint"}:
            raise SystemExit(
                f"--steps {self.steps} must be 40 or more, --moments {self.moments} any of step, round, checkpoint"
            )
        shutil.rmtree(self.output, ignore_errors=True)
        chance = random.Random(self.seed)
        _finish(self._start("whole"), self._log("whole"))
        expected = self._result("whole")
        failures = 0
        for number, moment in enumerate(self.moments):
            name = f"{number}_{moment}"
            where = self._killed(f"{name}_killed", moment, chance.uniform(0.2, 0.9))
            checkpoints = self._run_folder(f"{name}_killed") / "nerfstudio_models"
            has_checkpoint = any(checkpoints.glob("step-*.ckpt"))
            resume = ("--load-dir", str(checkpoints)) if has_checkpoint else ()
            _finish(self._start(f"{name}_resumed", *resume), self._log(f"{name}_resumed"))
            difference = self._difference(expected, self._result(f"{name}_resumed"))
            failures += difference is not None
            verdict = "equal to the run that was never killed" if difference is None else f"DIFFERS: {difference}"
            print(
                f"{moment:<10} killed {where}, {'resumed' if has_checkpoint else 'begun again'}: {verdict}", flush=True
            )
        print(f"{len(self.moments) - failures} of {len(self.moments)} resumed runs are exact")
        if failures:
            raise SystemExit(1)

    def _killed(self, name: str, moment: str, after: float) -> str:
        """Start a run and kill it, earlier when it was at its end before; returns where it was, for people."""
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
            *("--pipeline.model.refine-every", 10, "--logging.steps-per-log", 1, *self._flags, *more),
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

    def _result(self, name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Final parameters of the surfels, and the digest of each round's generated views that the run still knows."""
        import torch  # takes seconds, which --help should not

        path = max((self._run_folder(name) / "nerfstudio_models").glob("step-*.ckpt"))
        state = torch.load(path, map_location="cpu", weights_only=True)["pipeline"]
        parameters = {key: value for key, value in state.items() if key.startswith(_PARAMETERS)}
        held = {str(entry[0]) for entry in json.loads(state["_extra_state"]["supervision"]["store"])["held"]}
        digests = json.loads(state["_extra_state"]["supervision"]["digests"])
        return parameters, {index: digest for index, digest in digests.items() if index in held}

    def _difference(
        self,
        expected: tuple[dict[str, torch.Tensor], dict[str, str]],
        found: tuple[dict[str, torch.Tensor], dict[str, str]],
    ) -> str | None:
        import torch

        if expected[1] != found[1]:
            return "other generated views"
        for name, value in expected[0].items():
            other = found[0][name]
            if value.shape != other.shape:
                return f"{name} has shape {tuple(other.shape)} instead of {tuple(value.shape)}"
            if not torch.allclose(value, other, rtol=self.tolerance, atol=self.tolerance):
                return f"{name} differs by {float((value - other).abs().max()):.3g}"
        return None


def _finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        raise SystemExit(f"ns-train failed with status {process.returncode}; see {log}")


def entrypoint() -> None:
    """Entry point of `gf-kill-test`."""
    test, flags = tyro.cli(KillTest, return_unknown_args=True)
    run_program("gf-kill-test", lambda: test.run(flags))
