"""Runs of released versions go on working: they are evaluated, rendered and resumed.

``fixtures/runs`` holds one small run of each version: its settings, its last checkpoint and the newest round's views.
The capture and the generator that it was made with are made anew.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup
from tiny_capture import make_capture, write_transforms
from tiny_run import save_toy_generator

from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.trainer import GenFusionTrainerConfig
from genfusion_ns.methods import genfusion, genfusion_completion, genfusion_masked
from genfusion_ns.stored_config import StoredConfig

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
VERSIONS = sorted(path.name for path in RUNS.iterdir())
STEP = 9
"""The last one of each run."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A working directory with what the runs were made from."""
    folder = tmp_path_factory.mktemp("inputs")
    write_transforms(make_capture(folder / "capture", num_points=40))
    save_toy_generator(folder / "generator")
    return folder


@pytest.fixture
def config_file(request, inputs, tmp_path, monkeypatch) -> Path:
    """config.yml of a run, with the capture where it was."""
    for name in ("capture", "generator"):
        (tmp_path / name).symlink_to(inputs / name)
    shutil.copytree(RUNS / request.param, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    (path,) = Path("runs").rglob("config.yml")
    return path


@pytest.mark.parametrize("config_file", VERSIONS, indirect=True)
def test_an_older_run_is_evaluated_and_rendered(config_file):
    _, pipeline, checkpoint, step = eval_setup(config_file)
    assert step == STEP and checkpoint.name == f"step-{STEP:09d}.ckpt"
    saved = torch.load(checkpoint, weights_only=True)["pipeline"]["_model.gauss_params.means"]
    assert torch.equal(pipeline.scene.gauss_params["means"].detach().cpu(), saved)
    metrics = pipeline.get_average_eval_image_metrics(step)
    assert metrics["num_surfels"] == len(saved) and 5 < metrics["psnr"] < 50
    camera = pipeline.datamanager.eval_dataset.cameras[0:1].to(pipeline.device)
    outputs = pipeline.model.get_outputs_for_camera(camera)
    assert outputs["rgb"].shape == (24, 32, 3) and outputs["rgb"].isfinite().all()


@pytest.mark.parametrize("config_file", VERSIONS, indirect=True)
def test_an_older_run_is_resumed(config_file, capsys):
    config = yaml.load(config_file.read_text(), Loader=yaml.Loader)
    config.load_dir, config.max_num_iterations = config.get_checkpoint_dir(), STEP + 3
    config.output_dir, config.vis = Path("resumed"), ""
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    assert trainer._start_step == STEP + 1
    assert trainer.pipeline.supervision.store.rounds == [1], "its views are those of the newest round"
    assert "are lost" not in capsys.readouterr().out
    trainer.train()
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == [f"step-{STEP + 2:09d}.ckpt"]


@pytest.mark.parametrize("config_file", VERSIONS, indirect=True)
def test_the_settings_of_today_go_on_with_an_older_run_at_its_own_rates(config_file):
    config = yaml.load(config_file.read_text(), Loader=yaml.Loader)
    saved = torch.load(config.get_checkpoint_dir() / f"step-{STEP:09d}.ckpt", weights_only=True)
    config.load_dir, config.max_num_iterations = config.get_checkpoint_dir(), STEP + 3
    config.output_dir, config.vis = Path("resumed"), ""
    config.optimizers = copy.deepcopy(genfusion.config.optimizers)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    assert trainer._start_step == STEP + 1
    assert set(trainer.optimizers.schedulers) == set(saved["schedulers"])
    trainer.train()
    for name, schedule in saved["schedulers"].items():
        assert trainer.optimizers.schedulers[name].base_lrs == schedule["base_lrs"]
    for name, state in saved["optimizers"].items():
        after = trainer.optimizers.optimizers[name].param_groups[0]["lr"]
        assert after <= state["param_groups"][0]["lr"] * 1.0001, f"no rate has grown, {name}"


def test_an_older_run_keeps_surfels_of_any_size_that_look_alike_from_both_sides():
    text = yaml.dump(genfusion.config)
    lines = [line for line in text.splitlines() if not line.strip().startswith(("largest_size:", "unseen_sides:"))]
    assert len(lines) == len(text.splitlines()) - 2
    config = yaml.load("\n".join(lines), Loader=yaml.Loader)
    model = config.pipeline.model
    assert (model.largest_size, model.unseen_sides) == (0.0, "shown")
    assert genfusion.config.pipeline.model.largest_size > 0


def stored_parts(value: Any) -> list[Any]:
    """All objects of this package that YAML writes for a config."""
    parts = [value] if dataclasses.is_dataclass(value) and type(value).__module__.startswith("genfusion_ns") else []
    entries = vars(value).values() if dataclasses.is_dataclass(value) else []
    entries = [*entries, *(value.values() if isinstance(value, dict) else ())]
    return parts + [part for entry in entries for part in stored_parts(entry)]


CONFIGS = [genfusion.config, genfusion_masked.config, genfusion_completion.config]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method_name)
def test_every_field_that_a_config_lacks_takes_its_default(config):
    parts = stored_parts(config)
    assert len({type(part) for part in parts}) >= 9
    for part in parts:
        assert isinstance(part, StoredConfig), type(part)
        for field in dataclasses.fields(part):
            has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            if not has_default:
                continue
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
            restored = object.__new__(type(part))
            restored.__setstate__({name: value for name, value in vars(part).items() if name != field.name})
            assert str(vars(restored)[field.name]) == str(default), f"{type(part).__name__}.{field.name}"
            kept = {name: value for name, value in vars(restored).items() if name != field.name}
            assert kept == {name: value for name, value in vars(part).items() if name != field.name}


def test_a_field_that_was_renamed_keeps_its_value():
    text = yaml.dump(FusionConfig(withdraw_margin=2.5)).replace("withdraw_margin", "observed_margin")
    config = yaml.load(text, Loader=yaml.Loader)
    assert config == FusionConfig(withdraw_margin=2.5) and "observed_margin" not in vars(config)


def test_a_config_without_a_later_field_loads(tmp_path):
    text = yaml.dump(genfusion.config)
    lines, skipped = [], None
    for line in text.splitlines():  # masking is an object, and came later than the datamanager
        indent = len(line) - len(line.lstrip())
        skipped = indent if line.strip().startswith("masking:") else skipped
        if skipped is not None and (indent > skipped or line.strip().startswith("masking:")):
            continue
        skipped = None
        lines.append(line)
    assert len(lines) < len(text.splitlines()) - 3
    config = yaml.load("\n".join(lines), Loader=yaml.Loader)
    assert isinstance(config, GenFusionTrainerConfig)
    assert config.pipeline.datamanager.masking == genfusion.config.pipeline.datamanager.masking
