"""`gf-bench-loop`: what the loop is worth on held-out views, by real runs with and without it.

Each run is an `ns-train` and an `ns-eval` of its own. Give every capture a generator that never saw it
(``--generators``) and the table is a leave-one-capture-out proof.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from genfusion_ns.errors import run_program
from genfusion_ns.json_files import parse_json
from genfusion_ns.scripts.programs import program_path, run_to_end

_METRICS = ("psnr", "ssim", "lpips", "lpips_vgg", "sharpness")


@dataclass(frozen=True)
class Run:
    """One run of the table."""

    capture: str
    task: str
    """`3 views`, ..., or `masked`."""
    seed: int
    repairer: str
    """`none` or `compact`."""

    @property
    def name(self) -> str:
        """Folder of its files."""
        return f"{self.capture}_{self.task.replace(' ', '_')}_s{self.seed}_{self.repairer}"


@dataclass
class BenchLoop:
    """Train with and without the loop and compare held-out views; finished runs are not repeated.

    Flags that are not listed here are handed to ns-train of both sides.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the runs, results.jsonl and table.md."""
    captures: tuple[Path, ...]
    """Captures in nerfstudio format."""
    downscale_factors: tuple[int, ...] = (1,)
    """Downscale factor of each capture, or one for all."""
    generators: tuple[str, ...] = ("compact",)
    """Generator of each capture (see --pipeline.repairer.model), or one for all."""
    views: tuple[int, ...] = (3, 6, 9)
    """Numbers of train views of the sparse runs."""
    masked: bool = True
    """Also run the masked task: every second view, a quarter of each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of runs, rounds and windows."""
    steps: int = 1000
    """Steps of each run."""
    sides: tuple[Literal["none", "compact"], ...] = ("none", "compact")
    """Which runs to make now: without the loop, with it, or both; the table needs both, from one call or several."""
    workers: int = 1
    """Runs at a time; each gets its share of the CPU cores."""
    none_from: Path | None = None
    """Folder of an earlier bench of the same captures and steps, whose runs without the loop are taken over."""

    def run(self, flags: Sequence[str]) -> None:
        """Make all runs, then write and print the table; exits with status 1 when a run failed."""
        self._check()
        runs = [
            Run(capture.name, task, seed, repairer)
            for seed in self.seeds
            for task in [*(f"{n} views" for n in self.views), *(["masked"] if self.masked else [])]
            for capture in self.captures
            for repairer in self.sides
        ]
        done = read_results(self.out)
        if self.none_from is not None:
            done |= {run: result for run, result in read_results(self.none_from).items() if run.repairer == "none"}
        open_runs = [run for run in runs if run not in done]
        failed: list[str] = []
        with ThreadPoolExecutor(self.workers) as pool, tqdm(total=len(open_runs), desc="runs") as progress:
            for run, result in zip(open_runs, pool.map(lambda run: self._one(run, flags), open_runs), strict=True):
                progress.update()
                if isinstance(result, str):
                    failed.append(result)
                    continue
                done[run] = result
                line = {**asdict(run), **result}
                with (self.out / "results.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                progress.write(f"{run.name}: {result['psnr']:.2f} dB, {result['ssim']:.4f}, {result['seconds']:.0f} s")
        asked = {replace(run, repairer=side) for run in runs for side in ("none", "compact")}
        table = table_of({run: result for run, result in done.items() if run in asked})
        (self.out / "table.md").write_text(table, encoding="utf-8")
        print(table)
        if failed:
            raise SystemExit("runs that failed:\n" + "\n".join(failed))

    def _check(self) -> None:
        for flag in ("downscale_factors", "generators"):
            if len(getattr(self, flag)) not in (1, len(self.captures)):
                raise SystemExit(
                    f"--{flag.replace('_', '-')} has {len(getattr(self, flag))} entries; give one, or one for each of "
                    f"the {len(self.captures)} captures"
                )
        names = [capture.name for capture in self.captures]
        if len(set(names)) != len(names):
            raise SystemExit(f"--captures have the names {names}, which must differ")
        for capture in self.captures:
            if not (capture / "transforms.json").is_file():
                raise SystemExit(f"{capture} has no transforms.json; --captures takes folders in nerfstudio format")
        self.out.mkdir(parents=True, exist_ok=True)

    def _one(self, run: Run, flags: Sequence[str]) -> dict[str, float] | str:
        """Results of one run, or why there are none."""
        place = [capture.name for capture in self.captures].index(run.capture)
        factor, generator = (values[place % len(values)] for values in (self.downscale_factors, self.generators))
        folder = self.out / "runs" / run.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        method = "genfusion-masked" if run.task == "masked" else "genfusion"
        task: tuple[Any, ...] = ("--pipeline.datamanager.masking.seed", run.seed)
        if run.task != "masked":
            task = ("--pipeline.datamanager.num-views", run.task.split()[0])
        began = time.monotonic()
        train = self._command(
            folder,
            *("ns-train", method, "--data", self.captures[place], "--output-dir", folder, "--experiment-name", "run"),
            *("--timestamp", "bench", "--vis", "tensorboard", "--max-num-iterations", self.steps),
            *("--machine.seed", run.seed, "--pipeline.fusion.seed", run.seed, *task),
            *("--pipeline.repairer.model", generator if run.repairer == "compact" else "none", *flags),
            *("nerfstudio-data", "--downscale-factor", factor),
        )
        seconds = time.monotonic() - began
        results = folder / "eval.json"
        config = folder / "run" / method / "bench" / "config.yml"
        if train != 0 or self._command(folder, "ns-eval", "--load-config", config, "--output-path", results) != 0:
            return f"{run.name}: see {folder / 'log.txt'}"
        numbers = json.loads(results.read_text(encoding="utf-8"))["results"]
        return {name: numbers[name] for name in _METRICS if name in numbers} | {"seconds": seconds}

    def _command(self, folder: Path, program: str, *arguments: object) -> int:
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        with (folder / "log.txt").open("ab") as log:
            return run_to_end(
                [program_path(program), *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT, env=environment
            )


def read_results(folder: Path) -> dict[Run, dict[str, float]]:
    """The results that a bench has written so far.

    Raises:
        ValueError: a line of results.jsonl is damaged; the message names it.
    """
    file = folder / "results.jsonl"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    results = {}
    for number, line in enumerate(lines, 1):
        content = parse_json(line, f"{file}, line {number}", "Remove the line to repeat its run.")
        run = Run(
            content["capture"].text(),
            content["task"].text(),
            content["seed"].whole("a seed", 0),
            content["repairer"].choice(("none", "compact")),
        )
        metrics = {name: value for name, value in content.fields().items() if name not in asdict(run)}
        results[run] = {name: value.number() for name, value in metrics.items()}
    return results


def table_of(results: dict[Run, dict[str, float]]) -> str:
    """Markdown table: mean over the seeds for each capture and task, then over the captures, with the gain in PSNR.

    Seeds count where both sides have a result.
    """
    metrics = [name for name in _METRICS if results and all(name in result for result in results.values())]
    heads = ", ".join(name.upper().replace("_", " ") for name in metrics)
    lines = [f"| capture | task | seeds | none: {heads} | loop: {heads} | gain in dB |", "|---|---|---|---|---|---|"]
    tasks = list(dict.fromkeys(run.task for run in results))
    captures = list(dict.fromkeys(run.capture for run in results))
    for task in tasks:
        rows = []
        for capture in captures:
            seeds = [
                run.seed
                for run in results
                if (run.capture, run.task, run.repairer) == (capture, task, "none")
                and Run(capture, task, run.seed, "compact") in results
            ]
            if not seeds:
                continue
            means = [
                [_mean([results[Run(capture, task, seed, side)][name] for seed in seeds]) for name in metrics]
                for side in ("none", "compact")
            ]
            rows.append(means)
            lines.append(_row(capture, task, len(seeds), *means))
        if len(rows) > 1:
            none, loop = (
                [_mean(list(column)) for column in zip(*side, strict=True)] for side in zip(*rows, strict=True)
            )
            lines.append(_row("**mean**", task, None, none, loop))
    return "\n".join(lines) + "\n"


def _row(capture: str, task: str, seeds: int | None, none: list[float], loop: list[float]) -> str:
    sides = [f"{side[0]:.2f}" + "".join(f", {value:.4f}" for value in side[1:]) for side in (none, loop)]
    return f"| {capture} | {task} | {seeds or ''} | {sides[0]} | {sides[1]} | {loop[0] - none[0]:+.2f} |"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def entrypoint() -> None:
    """Entry point of `gf-bench-loop`."""
    bench, flags = tyro.cli(BenchLoop, return_unknown_args=True)
    run_program("gf-bench-loop", lambda: bench.run(flags))
