"""Reconstructions without repair, trained in a temporary folder and looked at on the way."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer

from genfusion_ns.files import write_atomically
from genfusion_ns.fusion.clip_making.recipe import Difficulty
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.fusion.trainer import GenFusionTrainer

Snapshot = Callable[[GenFusionPipeline], None]


@dataclass(frozen=True)
class Presets:
    """Configurations that reconstructions start from."""

    whole: Any
    """That of the method genfusion, for whole photos."""
    masked: Any
    """That of the method genfusion-masked."""


@dataclass(frozen=True)
class PlainRun:
    """Settings of one reconstruction."""

    presets: Presets

    capture: Path
    """Folder of the capture."""
    parser: DataParserConfig
    """How it is read."""
    num_photos: int
    """Registered photos of the capture."""
    photos: Difficulty
    """Which of them, and how much of each, may be seen."""
    iterations: int
    """Steps."""
    seed: int
    """Of everything random."""

    def train(self, snapshots: dict[int, Snapshot] | None = None) -> GenFusionPipeline:
        """Train; call each snapshot after its step (0-based).

        Raises:
            ValueError: a capture that cannot be used.
        """
        calls = snapshots or {}
        with tempfile.TemporaryDirectory() as folder:
            config = self._config(Path(folder))
            random.seed(self.seed)
            np.random.seed(self.seed)  # noqa: NPY002  nerfstudio draws from the global generator
            torch.manual_seed(self.seed)
            writer.EVENT_WRITERS.clear()
            trainer: GenFusionTrainer = config.setup(local_rank=0, world_size=1)
            trainer.setup()
            pipeline: Any = trainer.pipeline

            def after(step: int) -> None:
                if step in calls:
                    calls[step](pipeline)

            trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], after))
            trainer.train()
        return pipeline

    def _config(self, folder: Path) -> Any:
        area = self.photos.masked_area
        config: Any = copy.deepcopy(self.presets.whole if area is None else self.presets.masked)
        manager = config.pipeline.datamanager
        config.data = manager.data = self.capture
        manager.dataparser = copy.deepcopy(self.parser)
        manager.split_file = _split_file(folder, self.photos.train_ids, self.num_photos)
        if area is not None:
            manager.masking.area, manager.masking.seed = area, self.seed
        config.pipeline.repairer.model = "none"
        config.max_num_iterations, config.machine.seed = self.iterations, self.seed
        config.vis = ""  # no event file: its writer thread outlives the temporary folder
        config.steps_per_eval_image = 0
        config.steps_per_save = self.iterations + 1
        config.output_dir, config.timestamp = folder, "run"
        config.set_timestamp()
        return config


def _split_file(folder: Path, train_ids: tuple[int, ...], num_photos: int) -> Path:
    """A split of these train views; the first of the others stands in for the test views, which nobody looks at."""
    held_out = min(set(range(num_photos)) - set(train_ids))
    path = folder / "split.json"
    write_atomically(path, json.dumps({"train_ids": list(train_ids), "test_ids": [held_out]}).encode())
    return path
