"""`gf-demo`: the whole way on a generated capture, with the same commands that a user would type."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.programs import program_path, run_to_end

if TYPE_CHECKING:
    from genfusion_ns.fusion.held_out_sheet import EvaluatedRun

_SHARES = {"sample scene": 0.04, "without the loop": 0.26, "with the loop": 0.57, "evaluation": 0.07, "video": 0.06}
"""How the time divides among the stages, measured on two cores; for the rest time alone."""


@dataclass
class Demo:
    """Generate a sample capture, train on 9 of its views without and with the loop, compare, and render a video."""

    out: Path = Path("demo")
    """Folder for everything that the demo makes; an earlier demo in it is replaced."""
    iterations: int = 1500
    """Training steps of each of the two runs."""
    rounds: int = 3
    """Fusion rounds, at least 1."""
    layout: str = "orbit"
    """Layout of the sample scene: orbit or forward."""
    repairer: str = "auto"
    """Repairer of the rounds: auto, compact, or a folder, as in --pipeline.repairer.model."""

    def run(self) -> None:
        """Run all stages and say where the results are."""
        if self.rounds < 1 or self.iterations < 10 * self.rounds:
            raise SystemExit(
                f"--rounds is {self.rounds} and --iterations {self.iterations}; needed are 1 or more rounds, and ten "
                "iterations for each of them"
            )
        began = time.monotonic()
        self._runs: dict[str, EvaluatedRun] = {}
        every = self.iterations // (self.rounds + 1)
        rounds = ("--pipeline.fusion.start", every, "--pipeline.fusion.every", every)
        work: dict[str, Callable[[], None]] = {
            "sample scene": lambda: _command("gf-sample-scene", self._scene, "--layout", self.layout, "--overwrite"),
            "without the loop": lambda: self._train("without", "none"),
            "with the loop": lambda: self._train("loop", self.repairer, *rounds),
            "evaluation": self._evaluate,
            "video": self._video,
        }
        done = 0.0
        for number, (stage, act) in enumerate(work.items(), 1):
            elapsed = time.monotonic() - began
            rest = "" if done == 0 else f", about {max(1, round(elapsed * (1 - done) / done / 60))} min to go"
            print(f"\n== Stage {number} of {len(work)}: {stage}{rest}", flush=True)
            act()
            print(f"== {stage} took {time.monotonic() - began - elapsed:.0f} s", flush=True)
            done += _SHARES[stage]
        self._summary(time.monotonic() - began)

    @property
    def _scene(self) -> Path:
        return self.out / "scene"

    def _run(self, name: str) -> Path:
        return self.out / "runs" / "sample" / "genfusion" / name

    def _train(self, name: str, repairer: str, *words: object) -> None:
        shutil.rmtree(self._run(name), ignore_errors=True)
        _command(
            *("ns-train", "genfusion", "--data", self._scene, "--output-dir", self.out / "runs"),
            *("--experiment-name", "sample", "--timestamp", name, "--vis", "tensorboard"),
            *("--max-num-iterations", self.iterations, "--pipeline.datamanager.num-views", 9),
            *("--pipeline.repairer.model", repairer, *words),
        )

    def _evaluate(self) -> None:
        from genfusion_ns.fusion.held_out_sheet import EvaluatedRun, held_out_sheet

        for name, label in (("without", "without the loop"), ("loop", "with the loop")):
            results, images = self.out / f"eval_{name}.json", self.out / f"eval_{name}"
            shutil.rmtree(images, ignore_errors=True)
            _command(
                *("ns-eval", "--load-config", self._run(name) / "config.yml", "--output-path", results),
                *("--render-output-path", images),
            )
            self._runs[label] = EvaluatedRun.read(results, images)
        held_out_sheet(self._runs["without the loop"], self._runs["with the loop"]).save(self._picture)

    @property
    def _picture(self) -> Path:
        return self.out / "comparison.png"

    def _video(self) -> None:
        _command(
            *("ns-render", "interpolate", "--load-config", self._run("loop") / "config.yml"),
            *("--output-path", self.out / "video.mp4", "--frame-rate", 24, "--downscale-factor", 0.5),
            *("--rendered-output-names", "rgb", "--pose-source", "eval", "--interpolation-steps", 24),
        )

    def _summary(self, seconds: float) -> None:
        print(f"\nDone in {seconds / 60:.1f} minutes. Held-out views, photos that neither run has seen:")
        for name, run in self._runs.items():
            print(f"  {name:<18}{run.scores()}")
        folder = self._run("loop")
        for name, value in (
            ("picture", self._picture),
            ("video", self.out / "video.mp4"),
            ("rounds", folder / "genfusion"),
            ("look around", f"ns-viewer --load-config {folder / 'config.yml'}"),
        ):
            print(f"  {name:<18}{value}")


def _command(*words: object) -> None:
    text = [str(word) for word in words]
    print(f"\n$ {shlex.join(text)}", flush=True)
    status = run_to_end([program_path(text[0]), *text[1:]])
    if status != 0:
        raise SystemExit(f"{text[0]} failed with status {status}; its own message stands above")


def entrypoint() -> None:
    """Entry point of `gf-demo`."""
    run_program("gf-demo", lambda: tyro.cli(Demo).run())
