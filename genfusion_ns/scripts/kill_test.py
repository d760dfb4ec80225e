"""`gf-kill-test`: kill -9 real training runs at bad moments, resume them, and compare them with one never killed."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.killed_runs import MOMENTS, KillableRuns, difference


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
        if not self.data.exists():
            raise SystemExit(f"--data {self.data} does not exist; gf-sample-scene makes a capture")
        if self.steps < 40 or set(self.moments) - set(MOMENTS):
            raise SystemExit(
                f"--steps {self.steps} must be 40 or more, --moments {self.moments} any of {', '.join(MOMENTS)}"
            )
        shutil.rmtree(self.output, ignore_errors=True)
        runs = KillableRuns(self.data, self.output, self.method, self.steps, tuple(flags))
        chance = random.Random(self.seed)
        runs.finish("whole")
        expected = runs.outcome("whole")
        failures = 0
        for number, moment in enumerate(self.moments):
            name = f"{number}_{moment}"
            where = runs.kill(f"{name}_killed", moment, chance.uniform(0.2, 0.9))
            resumed = runs.resume(f"{name}_resumed", f"{name}_killed")
            found = difference(expected, runs.outcome(f"{name}_resumed"), self.tolerance)
            failures += found is not None
            verdict = "equal to the run that was never killed" if found is None else f"DIFFERS: {found}"
            print(f"{moment:<10} killed {where}, {'resumed' if resumed else 'begun again'}: {verdict}", flush=True)
        print(f"{len(self.moments) - failures} of {len(self.moments)} resumed runs are exact")
        if failures:
            raise SystemExit(1)


def entrypoint() -> None:
    """Entry point of `gf-kill-test`."""
    test, flags = tyro.cli(KillTest, return_unknown_args=True)
    run_program("gf-kill-test", lambda: test.run(flags))
