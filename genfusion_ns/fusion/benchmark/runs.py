"""The runs of a bench: `ns-train` and `ns-eval` as a user would call them, several at a time, none of them twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genfusion_ns.fusion.benchmark.table import METRICS, SIDES, Results, Run, append_result
from genfusion_ns.fusion.held_out_sheet import EvaluatedRun, held_out_sheet
from genfusion_ns.programs import program_path, run_to_end


@dataclass(frozen=True)
class BenchedCapture:
    """A capture of a bench, and how its runs read it."""

    folder: Path
    downscale_factor: int
    generator: str
    """Repairer of its runs with the loop, see ``--pipeline.repairer.model``."""


@dataclass(frozen=True)
class Bench:
    """Where the runs of a bench lie, and what they have in common."""

    out: Path
    captures: Sequence[BenchedCapture]
    """Their folders have different names."""
    steps: int
    workers: int
    """Runs at a time; each gets its share of the CPU cores."""
    flags: Sequence[str]
    """Further flags of ns-train, for both sides."""

    def make(self, runs: Sequence[Run], done: Results) -> tuple[Results, list[str]]:
        """Make the runs that are not done, writing down each result as it comes.

        Returns:
            All results, those done before among them; and a line for each run that failed.
        """
        results, failed = dict(done), []
        waiting = [run for run in runs if run not in done]
        with ThreadPoolExecutor(self.workers) as pool, tqdm(total=len(waiting), desc="runs") as progress:
            for run, result in zip(waiting, pool.map(self._result_of, waiting), strict=True):
                progress.update()
                if isinstance(result, str):
                    failed.append(result)
                    continue
                results[run] = result
                append_result(self.out, run, result)
                progress.write(f"{run.name}: {result['psnr']:.2f} dB, {result['ssim']:.4f}, {result['seconds']:.0f} s")
        return results, failed

    def _result_of(self, run: Run) -> dict[str, float] | str:
        """Metrics of one run, or why there are none."""
        capture = next(capture for capture in self.captures if capture.folder.name == run.capture)
        folder = self._folder(run)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        method = "genfusion-masked" if run.task == "masked" else "genfusion"
        task: tuple[Any, ...] = ("--pipeline.datamanager.masking.seed", run.seed)
        if run.task != "masked":
            task = ("--pipeline.datamanager.num-views", run.task.split()[0])
        began = time.monotonic()
        trained = self._command(
            folder,
            *("ns-train", method, "--data", capture.folder, "--output-dir", folder, "--experiment-name", "run"),
            *("--timestamp", "bench", "--vis", "tensorboard", "--max-num-iterations", self.steps),
            *("--machine.seed", run.seed, "--pipeline.fusion.seed", run.seed, *task),
            *("--pipeline.repairer.model", "none" if run.repairer == "none" else capture.generator, *self.flags),
            *("nerfstudio-data", "--downscale-factor", capture.downscale_factor),
        )
        seconds = time.monotonic() - began
        config, results = folder / "run" / method / "bench" / "config.yml", folder / _RESULTS
        evaluation = ("--load-config", config, "--output-path", results, "--render-output-path", folder / _PICTURES)
        if trained != 0 or self._command(folder, "ns-eval", *evaluation) != 0:
            return f"{run.name}: see {folder / 'log.txt'}"
        numbers = json.loads(results.read_text(encoding="utf-8"))["results"]
        return {name: numbers[name] for name in METRICS if name in numbers} | {"seconds": seconds}

    def _command(self, folder: Path, program: str, *arguments: object) -> int:
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        with (folder / "log.txt").open("ab") as log:
            return run_to_end(
                [program_path(program), *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def _folder(self, run: Run) -> Path:
        return self.out / "runs" / run.name

    def write_sheets(self, runs: Sequence[Run]) -> list[Path]:
        """A picture of held-out views (photo, without, with the loop) for each pair of runs that lies here."""
        written = []
        for run in runs:
            sides = [self._folder(replace(run, repairer=side)) for side in SIDES]
            if run.repairer != SIDES[0] or not all(any((side / _PICTURES).glob("*.png")) for side in sides):
                continue
            path = self.out / "pictures" / f"{run.name.removesuffix('_none')}.png"
            path.parent.mkdir(exist_ok=True)
            without, loop = (EvaluatedRun.read(side / _RESULTS, side / _PICTURES) for side in sides)
            held_out_sheet(without, loop).save(path)
            written.append(path)
        return written


_RESULTS, _PICTURES = "eval.json", "held_out"
"""What `ns-eval` writes into the folder of a run."""
