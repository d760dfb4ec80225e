"""What `ns-eval` measured of a run, as the page shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from genfusion_ns.json_files import JsonFileError, JsonValue, read_json

_WAY_OUT = "Give the file that ns-eval --output-path has written."
_METRICS = {
    "psnr": ("PSNR", "dB, more is better", 2),
    "ssim": ("SSIM", "more is better", 3),
    "lpips": ("LPIPS (AlexNet)", "less is better", 3),
    "lpips_vgg": ("LPIPS (VGG)", "less is better", 3),
    "sharpness": ("Sharpness", "detail over that of the photo; 1 is as much", 2),
    "gradient_energy": ("Gradient energy", "over that of the photo; 1 is as much", 2),
}


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    spread: str
    """Standard deviation over the views; empty where there is none."""
    meaning: str


@dataclass(frozen=True)
class Evaluation:
    """Means over views, and which views these were."""

    figures: tuple[Figure, ...]
    test_views: tuple[str, ...]
    train_views: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    """Split, seed points and checkpoint, by name."""
    step: int | None
    """Of the checkpoint that was measured."""
    run: str
    """Name of the folder of the run that was measured; empty where the file does not say."""


def find_evaluation(run: Path) -> Path | None:
    """The newest file of `ns-eval` in the folder of a run."""
    files = sorted(run.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    return next((file for file in files if _holds_results(file)), None)


def read_evaluation(file: Path) -> Evaluation:
    """What `ns-eval --output-path` wrote.

    Raises:
        JsonFileError: another file.
    """
    content = read_json(file, _WAY_OUT)
    results = content["results"]
    if not results["psnr"].is_given:
        results["psnr"].refuse("a number")
    checkpoint = Path(content["checkpoint"].text()) if content["checkpoint"].is_given else None
    digits = "".join(filter(str.isdigit, checkpoint.stem)) if checkpoint else ""
    return Evaluation(
        figures=tuple(_figures(results)),
        test_views=_names(results["test_views"]),
        train_views=_names(results["train_views"]),
        facts=tuple(_facts(results)),
        step=int(digits) if digits else None,
        run=checkpoint.parent.parent.name if checkpoint else "",
    )


def _holds_results(file: Path) -> bool:
    try:
        return read_json(file)["results"]["psnr"].is_given
    except JsonFileError:
        return False


def _figures(results: JsonValue) -> Iterator[Figure]:
    for name, (label, meaning, digits) in _METRICS.items():
        if not results[name].is_given:
            continue
        spread = results[f"{name}_std"]
        yield Figure(
            name=label,
            value=f"{results[name].number():.{digits}f}",
            spread=f"{spread.number():.{digits}f}" if spread.is_given else "",
            meaning=meaning,
        )


def _names(names: JsonValue) -> tuple[str, ...]:
    return tuple(name.text() for name in names.entries()) if names.is_given else ()


def _facts(results: JsonValue) -> Iterator[tuple[str, str]]:
    if results["split"].is_given:
        held_out = results["held_out"].flag() if results["held_out"].is_given else True
        yield "Split", results["split"].text() + ("" if held_out else "; these views were trained on as well")
    if results["seed_points"].is_given:
        words = [results["seed_points"].text()]
        if results["num_seed_points"].is_given:
            words.insert(0, f"{results['num_seed_points'].whole('a count', 0):,}")
        if results["seed_points_source"].is_given:
            words.append(f"({results['seed_points_source'].text()})")
        yield "Seed points", " ".join(words)
