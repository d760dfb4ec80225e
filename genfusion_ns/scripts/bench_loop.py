"""`gf-bench-loop`: what the loop is worth on held-out views, by real runs with and without it.

Each run is an `ns-train` and an `ns-eval` of its own. Give every capture a generator that never saw it
(``--generators``) and the table is a leave-one-capture-out proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Annotated, Literal

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.benchmark.table import SIDES, Run, read_results, write_table


@dataclass
class BenchLoop:
    """Train with and without the loop and compare held-out views; finished runs are not repeated.

    Flags that are not listed here are handed to ns-train of both sides.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the runs, results.jsonl, table.md, table.json and pictures of held-out views of the first seed."""
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
        # Takes seconds to import, which --help should not.
        from genfusion_ns.fusion.benchmark.runs import Bench, BenchedCapture

        self._check()
        each = zip(self.captures, cycle(self.downscale_factors), cycle(self.generators), strict=False)
        captures = [BenchedCapture(*how) for how in each]
        runs = [
            Run(capture.name, task, seed, side)
            for seed in self.seeds
            for task in [*(f"{n} views" for n in self.views), *(["masked"] if self.masked else [])]
            for capture in self.captures
            for side in self.sides
        ]
        done = read_results(self.out)
        if self.none_from is not None:
            done |= {run: result for run, result in read_results(self.none_from).items() if run.repairer == "none"}
        bench = Bench(self.out, captures, self.steps, self.workers, flags)
        results, failed = bench.make(runs, done)
        asked = dict.fromkeys(replace(run, repairer=side) for run in runs for side in SIDES)
        print(write_table(self.out, {run: results[run] for run in asked if run in results}))
        bench.write_sheets([run for run in asked if run.seed == self.seeds[0]])
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


def entrypoint() -> None:
    """Entry point of `gf-bench-loop`."""
    bench, flags = tyro.cli(BenchLoop, return_unknown_args=True)
    run_program("gf-bench-loop", lambda: bench.run(flags))
