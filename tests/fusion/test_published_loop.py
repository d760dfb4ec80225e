"""The methods with the published settings train: with a toy of the published architecture and few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MadeOnce
from dynamicrafter_toys import TINY, random_pipeline
from tiny_run import make_trainer

from genfusion_ns import methods
from genfusion_ns.fusion.photo_depth import FILE
from genfusion_ns.fusion.rounds.generated_views import load_views


@pytest.fixture(scope="module")
def generator(made_once: MadeOnce) -> Path:
    return made_once("toy_dynamicrafter", lambda folder: random_pipeline(TINY).save_pretrained(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["genfusion_published", "genfusion_masked_published"])
def test_a_few_steps_of_each_task(name: str, capture_folder: Path, generator: Path, tmp_path: Path) -> None:
    method: Any = getattr(methods, name)
    config = replace(method.config, pipeline=replace(method.config.pipeline))
    sampler = config.pipeline.fusion.sampler
    if name == "genfusion_published":
        sampler = replace(sampler, num_frames=17)
    config.pipeline.fusion = replace(config.pipeline.fusion, sampler=sampler, every=0.5)
    trainer = make_trainer(
        capture_folder, tmp_path, str(generator), steps=7, method=replace(method, config=config), resolution=(64, 64)
    )
    trainer.train()
    folder = trainer.base_dir / "genfusion"
    record = json.loads((folder / "round_00" / "round.json").read_text())
    views = load_views(folder / "round_00" / "views.safetensors")
    assert views and all(view.size == (64, 64) for view in views)
    assert all(view.confidence.min() == 1 for view in views), "all pixels alike"
    assert all(len(window["references"]) == 1 for window in record["windows"])
    assert (folder / FILE).is_file() == (name == "genfusion_published")
    trainer.pipeline.scene.step = 6
    losses = trainer.pipeline.get_train_loss_dict(6)[1]
    assert all(torch.isfinite(loss) for loss in losses.values())
    expected = {"main_loss", "generated_rgb", "generated_depth"}
    if name == "genfusion_published":
        expected |= {"distortion", "generated_distortion", "mono_depth"}
    assert expected <= set(losses)
