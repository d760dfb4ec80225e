"""The start of the loop: an object that was made of an image, trained on by the same command that a user would type."""

from __future__ import annotations

import shlex
from pathlib import Path

from genfusion_ns.programs import program_path, run_to_end


def fit_object(folder: Path, runs: Path, steps: int) -> None:
    """Run ``ns-train genfusion`` on the capture of one object.

    Args:
        folder: of the object.
        runs: folder for the runs; that of this object is RUNS/<name of folder>/genfusion/image.
        steps: of training.

    Raises:
        ValueError: it failed; its own message stands above.
    """
    words = [
        *("ns-train", "genfusion", "--data", str(folder), "--output-dir", str(runs)),
        *("--experiment-name", folder.name, "--timestamp", "image", "--vis", "tensorboard"),
        *("--max-num-iterations", str(steps)),
    ]
    print(f"\n$ {shlex.join(words)}", flush=True)
    status = run_to_end([program_path(words[0]), *words[1:]])
    if status != 0:
        raise ValueError(f"{words[0]} on {folder} failed with status {status}; its own message stands above")
    config = runs / folder.name / "genfusion" / "image" / "config.yml"
    print(f"{folder}: ns-viewer, ns-render, ns-eval and ns-export take --load-config {config}", flush=True)
