"""Results of runs with and without the loop, and the table made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from genfusion_ns.files import write_atomically
from genfusion_ns.json_files import JsonValue, parse_json

RESULTS_FILE = "results.jsonl"
SIDES = ("none", "compact")
"""Repairers of the runs without and with the loop."""
METRICS = ("psnr", "ssim", "lpips", "lpips_vgg", "sharpness")
"""Columns, as `ns-eval` names them."""
_HEADS = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "lpips_vgg": "LPIPS VGG", "sharpness": "sharpness"}

Results = dict["Run", dict[str, float]]


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


@dataclass(frozen=True)
class Row:
    """One line of the table: a capture, or the mean of all, in one task."""

    capture: str
    """`mean` for the mean of the captures above."""
    task: str
    none: Mapping[str, float]
    """Means over the seeds without the loop, by metric."""
    loop: Mapping[str, float]
    """The same with it."""
    gains: tuple[float, ...] = ()
    """Gain in PSNR of each seed, in dB; none in a mean of captures."""

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean of several captures."""
        return not self.gains

    @property
    def gain(self) -> float:
        """Gain in PSNR, in dB."""
        if self.gains:
            return fmean(self.gains)
        return self.loop["psnr"] - self.none["psnr"]


def read_results(folder: Path) -> Results:
    """The results that a bench has written so far.

    Raises:
        ValueError: a line of results.jsonl is damaged; the message names it.
    """
    file = folder / RESULTS_FILE
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    results: Results = {}
    for number, line in enumerate(lines, 1):
        content = parse_json(line, f"{file}, line {number}", "Remove the line to repeat its run.")
        run = Run(
            content["capture"].text(),
            content["task"].text(),
            content["seed"].whole("a seed", 0),
            content["repairer"].choice(SIDES),
        )
        metrics = {name: value for name, value in content.fields().items() if name not in asdict(run)}
        results[run] = {name: value.number() for name, value in metrics.items()}
    return results


def append_result(folder: Path, run: Run, result: Mapping[str, float]) -> None:
    """Add a finished run to the results of a bench."""
    with (folder / RESULTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**asdict(run), **result}) + "\n")


def rows_of(results: Results) -> list[Row]:
    """Means over the seeds for each capture and task, and over the captures for each task.

    Seeds count where both sides have a result; a metric counts where all of them have it.
    """
    pairs = {run: _other(run) for run in results if run.repairer == "none" and _other(run) in results}
    counted = [results[run] for pair in pairs.items() for run in pair]
    metrics = [name for name in METRICS if counted and all(name in result for result in counted)]
    rows: list[Row] = []
    for task in dict.fromkeys(run.task for run in results):
        here = {run: other for run, other in pairs.items() if run.task == task}
        captures = [
            _row(capture, task, [(results[a], results[b]) for a, b in here.items() if a.capture == capture], metrics)
            for capture in dict.fromkeys(run.capture for run in here)
        ]
        rows += captures
        if len(captures) > 1:
            none, loop = (
                {name: fmean(side[name] for side in sides) for name in metrics}
                for sides in ([row.none for row in captures], [row.loop for row in captures])
            )
            rows.append(Row("mean", task, none, loop))
    return rows


def _other(run: Run) -> Run:
    return Run(run.capture, run.task, run.seed, SIDES[1])


def _row(
    capture: str, task: str, pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], metrics: Sequence[str]
) -> Row:
    none, loop = ({name: fmean(pair[side][name] for pair in pairs) for name in metrics} for side in (0, 1))
    return Row(capture, task, none, loop, tuple(b["psnr"] - a["psnr"] for a, b in pairs))


def table_of(rows: Sequence[Row]) -> str:
    """Markdown table of both sides, without the loop -> with it, and the gain in PSNR with that of each seed.

    >>> row = Row("fox", "3 views", {"psnr": 18.0, "ssim": 0.55}, {"psnr": 18.6, "ssim": 0.58}, (0.5, 0.7))
    >>> print(table_of([row]), end="")
    | capture | task | PSNR | SSIM | gain in dB (of each seed) |
    | --- | --- | --- | --- | --- |
    | fox | 3 views | 18.00 → 18.60 | 0.550 → 0.580 | +0.60 (+0.50, +0.70) |
    """
    metrics = _metrics_of(rows)
    heads = ["capture", "task", *(_HEADS[name] for name in metrics), "gain in dB (of each seed)"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        seeds = f" ({', '.join(f'{gain:+.2f}' for gain in row.gains)})" if row.gains else ""
        gain = f"**{row.gain:+.2f}**" if row.is_mean else f"{row.gain:+.2f}{seeds}"
        sides = [f"{_shown(name, row.none[name])} → {_shown(name, row.loop[name])}" for name in metrics]
        lines.append([f"**{row.capture}**" if row.is_mean else row.capture, row.task, *sides, gain])
    return _markdown(lines)


def means_of(rows: Sequence[Row]) -> str:
    """Markdown table of the means over captures alone, a line for each task."""
    means = [row for row in rows if row.is_mean]
    metrics = _metrics_of(means)
    names = ", ".join(_HEADS[name] for name in metrics)
    lines = [["task", f"without the loop: {names}", "with the loop", "gain"], ["---"] * 4]
    for row in means:
        sides = [", ".join(_shown(name, side[name]) for name in metrics) for side in (row.none, row.loop)]
        lines.append([row.task, *sides, f"{row.gain:+.2f} dB"])
    return _markdown(lines)


def _metrics_of(rows: Sequence[Row]) -> list[str]:
    return [name for name in METRICS if rows and all(name in row.none and name in row.loop for row in rows)]


def _shown(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric in ("psnr", "sharpness") else f"{value:.3f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_table(folder: Path, results: Results) -> str:
    """Write table.md and table.json of a bench; the second holds the rows, see `read_rows`.

    Returns:
        The table in Markdown.
    """
    rows = rows_of(results)
    table = table_of(rows)
    write_atomically(folder / "table.md", table.encode())
    write_atomically(folder / "table.json", json.dumps({"rows": [_plain(row) for row in rows]}, indent=1).encode())
    return table


def _plain(row: Row) -> dict[str, object]:
    """Ready for JSON, with six digits: what differs in the seventh is no result."""
    sides = {side: {name: _six(value) for name, value in getattr(row, side).items()} for side in ("none", "loop")}
    return {"capture": row.capture, "task": row.task, **sides, "gains": [_six(gain) for gain in row.gains]}


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def read_rows(content: JsonValue) -> list[Row]:
    """Rows as `write_table` has written them."""
    return [
        Row(
            row["capture"].text(),
            row["task"].text(),
            {name: value.number() for name, value in row["none"].fields().items()},
            {name: value.number() for name, value in row["loop"].fields().items()},
            tuple(gain.number() for gain in row["gains"].entries()),
        )
        for row in content["rows"].entries()
    ]
