"""The training command in processes of its own: killed and started again, and spread over two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dynamicrafter_toys import toy_pipeline
from safetensors.torch import load_file

from genfusion_ns.data.clips.pairs import Provenance, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.fusion.generator_training import read_config, train_generator

pytestmark = pytest.mark.slow

MODULE = "genfusion_ns.scripts.train_generator"
WEIGHTS = {
    "compact": "diffusion_pytorch_model.safetensors",
    "dynamicrafter": "unet/diffusion_pytorch_model.safetensors",
}
LOOPS: dict[str, dict[str, Any]] = {
    "compact": {"learning_rate": 1e-3, "warmup": 0, "network": {"channels": [16, 16, 32], "reference_channels": 8}},
    "dynamicrafter": {"learning_rate": 1e-4, "precision": "no", "size": [64, 64], "frames": 4, "validation_steps": 1},
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    for index in range(4):
        pair = procedural_pair(torch.Generator().manual_seed(index), frames=5, size=(64, 64))
        write_pair(folder / "clips", f"clip_{index}", pair, Provenance(f"world{index}", "none", index))
    toy_pipeline().save_pretrained(folder / "toy")
    return folder


def config_file(material: Path, folder: Path, kind: str, **loop: Any) -> Path:
    """The config of a training that writes to `folder`."""
    settings = {
        "generator": kind,
        "clips": str(material / "clips"),
        "held_out_captures": ["world0"],
        "output": str(folder),
        "threads": 1,
        "optimisation": {"batch_size": 1, "accumulation": 1, **LOOPS[kind], **loop},
    }
    if kind == "compact":
        settings |= {"procedural_share": 0.0, "augmentation": {"crop": [32, 32], "frames": 4, "references": [1, 2]}}
    else:
        settings |= {"initial": str(material / "toy")}
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    return path


def start(*command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]


def curve(folder: Path) -> list[dict[str, float]]:
    path = folder / "training.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.mark.parametrize(("kind", "steps", "every"), [("compact", 40, 10), ("dynamicrafter", 8, 2)])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    material: Path, tmp_path: Path, kind: str, steps: int, every: int
) -> None:
    loop = {"steps": steps, "checkpoint_every": every, "ema": 0.9}
    killed = config_file(material, tmp_path / "killed", kind, **loop)
    process = start(MODULE, str(killed))
    while len(curve(tmp_path / "killed")) <= every and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    seen = len(curve(tmp_path / "killed"))
    assert every < seen < steps, "the training was over before it could be killed"
    finish(start(MODULE, str(killed)))
    train_generator(read_config(config_file(material, tmp_path / "whole", kind, **loop)))
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    one, other = (load_file(tmp_path / name / WEIGHTS[kind]) for name in ("killed", "whole"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", ["compact", "dynamicrafter"])
def test_two_processes_take_the_steps_of_one_with_twice_the_batches(material: Path, tmp_path: Path, kind: str) -> None:
    two = config_file(material, tmp_path / "two", kind, steps=3)
    finish(start("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", MODULE, str(two)))
    assert (tmp_path / "two" / "checkpoint-3" / "random_states_1.pkl").is_file(), "there was one process"
    train_generator(read_config(config_file(material, tmp_path / "one", kind, steps=3, accumulation=2)))
    for step, expected in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert step == pytest.approx(expected, rel=1e-3)
    one, other = (load_file(tmp_path / name / WEIGHTS[kind]) for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=2e-3, rtol=2e-2)
