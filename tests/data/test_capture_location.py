"""Runs are used from other folders, and after their data or they themselves were moved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from broken_captures import make_tiny
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.captures.location import config_file, located
from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.data.view_selection import select_views
from genfusion_ns.fusion.trainer import GenFusionTrainerConfig
from genfusion_ns.methods import genfusion


def run_config(data: Path | None) -> GenFusionTrainerConfig:
    """What `ns-train genfusion --data DATA` makes."""
    config = genfusion.config
    assert isinstance(config, GenFusionTrainerConfig)
    config = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    config.data = config.pipeline.datamanager.data = data
    config.experiment_name, config.timestamp = "x", "now"
    return config


def test_config_files_name_everything_by_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(tmp_path / "capture")
    (tmp_path / "mine.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    config = run_config(Path("capture"))
    config.pipeline.datamanager.split_file = Path("mine.json")
    config.save_config()
    file = tmp_path / "outputs/x/genfusion/now/config.yml"
    monkeypatch.chdir("/")
    saved = yaml.load(file.read_text(), Loader=yaml.Loader)
    assert saved.data == saved.pipeline.datamanager.data == tmp_path / "capture"
    assert saved.pipeline.datamanager.split_file == tmp_path / "mine.json"
    assert saved.get_base_dir() == file.parent
    config = run_config(None)
    config.output_dir, config.pipeline.datamanager.split_file = tmp_path / "o", Path("in_the_data.json")
    config.save_config()
    assert config.pipeline.datamanager.split_file == Path("in_the_data.json")


@pytest.mark.parametrize(
    ("named", "there", "config"),
    [
        ("/away/project/data/cap", "project/data/cap", "project/outputs/x/genfusion/now/config.yml"),
        ("data/cap", "project/data/cap", "project/outputs/x/genfusion/now/config.yml"),
        ("/away/data/cap", "run/cap", "run/config.yml"),
        ("../cap", "runs/cap", "runs/a/b/config.yml"),
        ("/away/cap", "project/cap", "project/outputs/cap/genfusion/now/config.yml"),
        ("/away/cap/transforms.json", "run/transforms.json", "run/config.yml"),
    ],
)
def test_data_that_were_moved_with_the_run(tmp_path: Path, named: str, there: str, config: str) -> None:
    (tmp_path / there).mkdir(parents=True)
    assert located(Path(named), tmp_path / config) == tmp_path / there


def test_data_that_are_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cap", "run/cap"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert located(Path("cap"), tmp_path / "run/config.yml") == tmp_path / "cap"
    assert located(Path("gone"), None) == tmp_path / "gone", "a new run says itself that its --data are not there"


def test_data_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GenFusionDataManagerConfig(data=tmp_path / "cap", dataparser=NerfstudioDataParserConfig())
    monkeypatch.setattr("sys.argv", ["ns-eval", "--load-config", str(tmp_path / "run/config.yml")])
    said = (
        rf"run/config.yml: its key pipeline.datamanager.data names {re.escape(str(tmp_path))}/cap, which does not exist"
    )
    with pytest.raises(CaptureError, match=said):
        config.setup(device="cpu")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ns-eval", "--load-config", "a/config.yml"], Path("a/config.yml")),
        (["ns-render", "dataset", "--load-config=a/config.yml", "--x"], Path("a/config.yml")),
        (["ns-train", "genfusion", "--data", "x"], None),
        (["ns-eval", "--load-config"], None),
    ],
)
def test_the_config_of_a_command(monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: Path | None) -> None:
    monkeypatch.setattr("sys.argv", arguments)
    assert config_file() == expected


def test_checkpoints_of_a_run_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config(None)
    config.output_dir = tmp_path / "before"
    here = tmp_path / "after/config.yml"
    monkeypatch.setattr("sys.argv", ["ns-eval", "--load-config", str(here)])
    named = tmp_path / "before/x/genfusion/now/nerfstudio_models"
    assert config.get_checkpoint_dir() == named
    (here.parent / "nerfstudio_models").mkdir(parents=True)
    assert config.get_checkpoint_dir() == here.parent / "nerfstudio_models"
    named.mkdir(parents=True)
    assert config.get_checkpoint_dir() == named


def test_a_split_file_that_was_moved_with_the_data(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"train_ids": [0, 1], "test_ids": [2]}')
    split = select_views(["a", "b", "c"], tmp_path, split_file=Path("/away/mine.json"))
    assert split.train_ids == (0, 1)
