"""A run of twelve steps with two rounds, for the page of `gf-report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_run import make_trainer


def make_report_run(made_once: Any, capture: Path, generator: Path) -> Path:
    """The folder of the run; to read only."""

    def train(folder: Path) -> None:
        trainer: Any = make_trainer(capture, folder, str(generator), steps=12)
        trainer.config.save_config()
        trainer.train()

    (checkpoints,) = made_once("report_run", train).rglob("nerfstudio_models")
    return checkpoints.parent
