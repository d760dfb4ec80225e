"""The methods with the published settings have every value that docs/published.md says, and can be used as methods."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from genfusion_ns import methods
from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras
from genfusion_ns.fusion.rounds.settings import RoundSettings
from genfusion_ns.geometry.cameras import look_at
from genfusion_ns.models.run_length import steps_of_run

PAGE = Path(__file__).parents[1] / "docs" / "published.md"
PRESETS = {
    "few photos": methods.genfusion_published,
    "masked": methods.genfusion_masked_published,
    "completion": methods.genfusion_completion_published,
}
SHARES = ("start", "every", "until", "regularize-from", "warmup-length", "stop-split-at", "sh-degree-interval")
"""Settings that are steps or shares of the run; the page has steps."""


def rows() -> list[tuple[str, dict[str, str]]]:
    """Settings and their values by task, as the page has them."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and re.fullmatch(r"`[\w.-]+`", cells[1]):
            found.append((cells[1].strip("`"), dict(zip(PRESETS, cells[2:], strict=True))))
    return found


def value_of(config: Any, path: str) -> Any:
    for part in path.split("."):
        name = part.replace("-", "_")
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


def shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("task", PRESETS)
def test_every_value_of_the_page_stands_in_the_method(task: str) -> None:
    config: Any = PRESETS[task].config
    wrong = {}
    for path, values in rows():
        if values[task] == "-":
            continue
        value = value_of(config, path)
        if path.rpartition(".")[2] in SHARES:
            value = steps_of_run(value, config.max_num_iterations)
        same = float(values[task]) == value if isinstance(value, int | float) and values[task][:1].isdigit() else None
        if not (shown(value) == values[task] if same is None else same):
            wrong[path] = (value, values[task])
    assert not wrong
    assert len(rows()) > 50


def test_the_page_has_what_the_official_scripts_set() -> None:
    """By flag, as README, batch_ours.py, batch_sparse.py and rotation.sh pass them."""
    published = {
        "max-num-iterations": (7000, 7000, 26000),
        "pipeline.fusion.start": (1000, 3000, 5000),
        "pipeline.fusion.every": (1000, 1000, 4000),
        "pipeline.fusion.until": (7000, 7000, 30000),
        "pipeline.fusion.weight": (1.0, 0.5, 1.0),
        "pipeline.model.ssim-lambda": (0.5, 0.8, 0.2),
        "pipeline.fusion.ssim-weight": (0.5, 0.8, 0.2),
        "pipeline.model.distortion-weight": (10, 0, 0),
        "pipeline.model.warmup-length": (100, 1000, 500),
        "pipeline.model.refine-every": (500, 100, 100),
        "pipeline.repairer.dynamicrafter.task-guidance-scale": (3.2, 3.2, 2.2),
    }
    page = dict(rows())
    for path, values in published.items():
        assert tuple(float(page[path][task]) for task in PRESETS) == values, path


@pytest.mark.parametrize(
    ("task", "rounds", "end"), [("few photos", 6, 0.0), ("masked", 4, 0.0), ("completion", 6, 0.48)]
)
@pytest.mark.parametrize("photos", [3, 150])
def test_rounds_and_weights_are_the_published_ones(task: str, rounds: int, end: float, photos: int) -> None:
    config: Any = PRESETS[task].config
    schedule = config.pipeline.fusion.schedule(config.max_num_iterations, photos)
    assert schedule.rounds_within(0, config.max_num_iterations) == rounds
    assert schedule.weight(config.max_num_iterations - 1) == pytest.approx(end, abs=0.005)
    peak = max(schedule.weight(step) for step in range(0, config.max_num_iterations, 100))
    assert peak == pytest.approx(config.pipeline.fusion.weight, rel=1e-3)


def test_photos_of_the_masked_task_are_cut_at_their_own_pixels() -> None:
    """960x540 photos: 960x512 of their pixels, at one of 29 heights; references are any photo."""
    count = 20
    positions = torch.stack([torch.cos(torch.arange(count) / 5), torch.sin(torch.arange(count) / 5)], -1).double()
    positions = torch.cat([positions, 0.1 * torch.ones(count, 1).double()], -1)
    c2w = look_at(positions, torch.zeros(count, 3).double(), torch.tensor([0.0, 0, 1]).double())
    K = torch.tensor([[800.0, 0, 480], [0, 800, 270], [0, 0, 1]]).double()
    cameras = PhotoCameras(c2w, K.expand(count, 3, 3).clone(), [(960, 540)] * count)
    fusion: Any = PRESETS["masked"].config.pipeline.fusion
    sampler = fusion.sampler.setup(clip_length=16, resolution=(960, 512), framing=fusion.framing)
    sampled = sampler.sample(cameras, 0, torch.Generator().manual_seed(0))
    assert sampled.size == (960, 512) and [len(ids) for ids in sampled.reference_ids] == [1] * 3
    assert sampled.corners is not None
    for number, (x, y) in enumerate(sampled.corners):
        assert x == 0 and 0 <= y <= 28
        torch.testing.assert_close(sampled.intrinsics(number)[0], K - torch.tensor([[0, 0, 0], [0, 0, y], [0, 0, 0]]))


@pytest.mark.parametrize("task", PRESETS)
def test_settings_come_back_from_their_file(task: str) -> None:
    fusion = PRESETS[task].config.pipeline.fusion
    again = yaml.load(yaml.dump(fusion), Loader=yaml.Loader)
    assert is_dataclass(again) and isinstance(again, RoundSettings) and again == fusion


def test_nerfstudio_finds_them_as_methods() -> None:
    """By the entry points of the package, which an installation has from its next installation on."""
    names = {"genfusion_published": "genfusion-published"}
    names |= {f"genfusion_{task}_published": f"genfusion-{task}-published" for task in ("masked", "completion")}
    entries = (PAGE.parents[1] / "pyproject.toml").read_text()
    assert all(f'{name} = "genfusion_ns.methods:{attribute}"' in entries for attribute, name in names.items())
    given = ",".join(f"{name}=genfusion_ns.methods:{attribute}" for attribute, name in names.items())
    code = (
        "from nerfstudio.plugins.registry import discover_methods\n"
        "methods, _ = discover_methods()\n"
        f"assert all(methods[name].method_name == name for name in {sorted(names.values())})"
    )
    environment = os.environ | {"NERFSTUDIO_METHOD_CONFIGS": given}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
