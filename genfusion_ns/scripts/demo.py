"""`gf-demo`: the whole way on a generated capture, with the same commands that a user would type."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.scripts.programs import program_path, run_to_end


@dataclass
class Demo:
    """Generate a sample capture, train on 9 of its views with fusion rounds, evaluate, and render a video."""

    out: Path = Path("demo")
    """Folder for everything that the demo makes; an earlier demo in it is replaced."""
    iterations: int = 1500
    """Training steps."""
    rounds: int = 3
    """Fusion rounds, at least 1."""
    layout: str = "orbit"
    """Layout of the sample scene: orbit or forward."""
    repairer: str = "auto"
    """Repairer of the rounds: auto, compact, or a folder, as in --pipeline.repairer.model."""

    def run(self) -> None:
        """Run all steps and say where the results are."""
        if self.rounds < 1 or self.iterations < 10 * self.rounds:
            raise SystemExit(f"--rounds {self.rounds} needs at least {10 * max(self.rounds, 1)} --iterations")
        began = time.monotonic()
        scene, runs = self.out / "scene", self.out / "runs"
        run = runs / "sample" / "genfusion" / "demo"
        shutil.rmtree(run, ignore_errors=True)
        _command("gf-sample-scene", scene, "--layout", self.layout, "--overwrite")
        every = self.iterations // (self.rounds + 1)
        _command(
            *("ns-train", "genfusion", "--data", scene, "--output-dir", runs, "--experiment-name", "sample"),
            *("--timestamp", "demo", "--vis", "tensorboard", "--max-num-iterations", self.iterations),
            *("--pipeline.datamanager.num-views", 9, "--pipeline.repairer.model", self.repairer),
            *("--pipeline.fusion.start", every, "--pipeline.fusion.every", every),
        )
        config, results, video = run / "config.yml", self.out / "eval.json", self.out / "video.mp4"
        _command("ns-eval", "--load-config", config, "--output-path", results)
        _command(
            *("ns-render", "interpolate", "--load-config", config, "--output-path", video, "--frame-rate", 15),
            *("--rendered-output-names", "rgb", "normals", "--pose-source", "eval", "--interpolation-steps", 8),
        )
        picture = self._before_and_after(run)
        self._summary(run, results, video, picture, time.monotonic() - began)

    def _before_and_after(self, run: Path) -> Path:
        """The contact sheet of the clip that its repair improved most, measured against the photos that see it."""
        gains: dict[Path, float] = {}
        for record in (run / "genfusion").glob("round_*/round.json"):
            for number, window in enumerate(json.loads(record.read_text(encoding="utf-8"))["windows"]):
                scores = window["scores"]
                known = scores["artifact_psnr"] is not None  # null where no photo sees the clip
                gain = scores["repaired_psnr"] - scores["artifact_psnr"] if known else 0.0
                gains[record.parent / f"sheet_{number:02d}.png"] = gain
        picture = self.out / "before_after.png"
        shutil.copy2(max(gains, key=lambda sheet: gains[sheet]), picture)
        return picture

    def _summary(self, run: Path, results: Path, video: Path, picture: Path, seconds: float) -> None:
        metrics = json.loads(results.read_text(encoding="utf-8"))["results"]
        rows = [
            ("held-out views", f"PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f} ({results})"),
            ("video", str(video)),
            ("before and after", str(picture)),
            ("rounds", str(run / "genfusion")),
            ("look around", f"ns-viewer --load-config {run / 'config.yml'}"),
        ]
        print(f"\nDone in {seconds / 60:.1f} minutes.")
        for name, value in rows:
            print(f"  {name:<17}{value}")


def _command(*words: object) -> None:
    text = [str(word) for word in words]
    print(f"\n$ {shlex.join(text)}", flush=True)
    status = run_to_end([program_path(text[0]), *text[1:]])
    if status != 0:
        raise SystemExit(f"{text[0]} failed with status {status}; its own message stands above")


def entrypoint() -> None:
    """Entry point of `gf-demo`."""
    run_program("gf-demo", lambda: tyro.cli(Demo).run())
