"""The contract of all samplers: what `ViewSampler` promises, on captures of every shape.

A new sampler gets one line in `SAMPLERS`; every promise then runs on it.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs.base_config import InstantiateConfig

from genfusion_ns import methods
from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras, SampledViews
from genfusion_ns.fusion.cameras.completion import CompletionSamplerConfig
from genfusion_ns.fusion.cameras.masked import MaskedSamplerConfig
from genfusion_ns.fusion.cameras.sparse import SparseSamplerConfig, ViewSampler
from genfusion_ns.geometry.cameras import look_at

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
RESOLUTION = (128, 80)


def observed(positions: Any, target: Any, size: tuple[int, int] = (96, 64)) -> PhotoCameras:
    positions = torch.as_tensor(positions, dtype=torch.float64)
    c2w = look_at(positions, torch.as_tensor(target, dtype=torch.float64).expand_as(positions), UP)
    K = torch.tensor([[90.0, 0, size[0] / 2], [0, 90, size[1] / 2], [0, 0, 1]], dtype=torch.float64)
    return PhotoCameras(c2w, K.expand(len(c2w), 3, 3).clone(), [size] * len(c2w))


def ring(count: int) -> list[list[float]]:
    angles = [2 * math.pi * index / count for index in range(count)]
    # An ellipse: the axes of a circle are as good one way as another.
    return [[1.4 * math.cos(angle), math.sin(angle), 0.3 + 0.1 * math.sin(angle + 1)] for angle in angles]


CAPTURES = {
    "one photo": observed([[1.0, 0.0, 0.2]], [0.0, 0.0, 0.0]),
    "two photos": observed([[1.0, 0.0, 0.2], [0.9, 0.5, 0.1]], [0.0, 0.0, 0.0]),
    "three in a row": observed([[-2.7, -1.2, 0.0], [-2.3, 0.1, 0.3], [-0.8, 0.9, -0.1]], [2.0, 0.2, 0.0]),
    "all around": observed(ring(20), [0.0, 0.0, 0.0]),
    "upright": observed(ring(7), [0.0, 0.0, 0.0], size=(64, 96)),
}


def camera_path(folder: Path) -> Path:
    poses = CAPTURES["all around"].c2w[3:15]
    frames = [{"camera_to_world": pose.flatten().tolist(), "fov": 60.0, "aspect": 1.5} for pose in poses]
    (folder / "path.json").write_text(json.dumps({"camera_type": "perspective", "camera_path": frames}))
    return folder / "path.json"


SAMPLERS: dict[str, InstantiateConfig] = {
    "sparse": SparseSamplerConfig(),
    "sparse, around": SparseSamplerConfig(kind="ellipse", num_frames=40),
    "sparse, where photos stand": SparseSamplerConfig(kind="arc", num_frames=40),
    "sparse, along": SparseSamplerConfig(kind="follow", num_frames=5),
    "masked": MaskedSamplerConfig(num_references=2),
    "completion, loop": CompletionSamplerConfig(num_frames=40),
    "completion, path": CompletionSamplerConfig(),
}
"""All samplers, by what they do."""


LOOPS = ("sparse, around", "sparse, where photos stand", "completion, loop")
"""No loop goes around where one camera looks."""


@pytest.fixture(params=SAMPLERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def config(name: str, tmp_path: Path) -> Any:
    if name == "completion, path":
        return replace(SAMPLERS[name], camera_path=camera_path(tmp_path))  # type: ignore[type-var]
    return SAMPLERS[name]


@pytest.fixture(params=CAPTURES)
def views(request: pytest.FixtureRequest, name: str) -> PhotoCameras:
    if request.param == "one photo" and name in LOOPS:
        return CAPTURES["two photos"]  # see `test_loops_need_more_than_one_photo`
    return CAPTURES[request.param]


def sample(config: Any, views: PhotoCameras, round: int = 0, seed: int = 0, is_clear: Any = None) -> SampledViews:
    sampler = config.setup(clip_length=16, resolution=RESOLUTION)
    return sampler.sample(views, round, torch.Generator().manual_seed(seed), is_clear)


def test_the_sampler_of_every_method_is_here() -> None:
    presets = (methods.genfusion, methods.genfusion_masked, methods.genfusion_completion)
    kinds = {type(each.config.pipeline.fusion.sampler) for each in presets}
    assert kinds == {type(config) for config in SAMPLERS.values()}
    for kind in kinds:
        assert issubclass(kind()._target, ViewSampler)
        assert yaml.load(yaml.dump(kind()), Loader=yaml.Loader) == kind()


@pytest.mark.parametrize("name", LOOPS)
def test_loops_need_more_than_one_photo(name: str) -> None:
    with pytest.raises(ValueError, match="no loop goes around it"):
        sample(SAMPLERS[name], CAPTURES["one photo"])


@pytest.mark.parametrize("round", [0, 3])
def test_cameras_windows_and_references_belong_together(config: Any, views: PhotoCameras, round: int) -> None:
    sampled = sample(config, views, round)
    count = len(sampled.c2w)
    assert count >= 1 and sampled.c2w.shape == (count, 4, 4) and sampled.K.shape == (count, 3, 3)
    assert [frame for window in sampled.windows for frame in window.new_frames(count)] == list(range(count))
    assert all(len(window.frames(count)) == 16 for window in sampled.windows)
    assert len(sampled.reference_ids) == len(sampled.windows)
    for ids in sampled.reference_ids:
        assert 1 <= len(ids) == len(set(ids)) <= config.num_references
        assert set(ids) <= set(range(len(views.c2w)))
    if sampled.photo_ids is not None:
        assert len(sampled.photo_ids) == count
    json.dumps(sampled.log)


def test_cameras_are_cameras(config: Any, views: PhotoCameras) -> None:
    sampled = sample(config, views)
    rotation = sampled.c2w[:, :3, :3].double()
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand_as(rotation), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all(), "no reflection"
    assert torch.equal(sampled.c2w[:, 3], torch.tensor([0.0, 0, 0, 1]).to(sampled.c2w).expand(len(rotation), 4))
    width, height = sampled.size
    assert width % 8 == height % 8 == 0
    assert width * height == pytest.approx(RESOLUTION[0] * RESOLUTION[1], rel=0.3)
    assert (sampled.K[:, [0, 1], [0, 1]] > 0).all() and torch.isfinite(sampled.c2w).all()
    assert ((sampled.K[:, :2, 2] / torch.tensor([width, height]).to(sampled.K) - 0.5).abs() < 0.1).all()


def test_nothing_but_the_generator_decides(config: Any, views: PhotoCameras) -> None:
    torch.manual_seed(1)
    first = sample(config, views, round=2, seed=3)
    state = torch.manual_seed(2).get_state()
    again = sample(config, views, round=2, seed=3)
    assert torch.equal(first.c2w, again.c2w) and torch.equal(first.K, again.K)
    assert first.log == again.log and first.reference_ids == again.reference_ids
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not drawn from"


def test_one_sampler_samples_any_round_in_any_order(config: Any, views: PhotoCameras) -> None:
    sampler = config.setup(clip_length=16, resolution=RESOLUTION)
    found = {}
    for round in (4, 0, 1, 4):
        sampled = sampler.sample(views, round, torch.Generator().manual_seed(round))
        assert torch.equal(found.setdefault(round, sampled.c2w), sampled.c2w)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "completion, path"])
@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_unit_of_length_does_not_matter(name: str, unit: float, views: PhotoCameras) -> None:
    scaled = replace(views, c2w=views.c2w.clone())
    scaled.c2w[:, :3, 3] *= unit
    expected, found = sample(SAMPLERS[name], views, 1), sample(SAMPLERS[name], scaled, 1)
    torch.testing.assert_close(found.c2w[:, :3, 3], unit * expected.c2w[:, :3, 3], rtol=1e-6, atol=1e-6 * unit)
    torch.testing.assert_close(found.c2w[:, :3, :3], expected.c2w[:, :3, :3], atol=1e-5, rtol=0)
    assert [sorted(ids) for ids in found.reference_ids] == [sorted(ids) for ids in expected.reference_ids]


def test_where_nothing_is_in_the_way_nothing_changes(config: Any, views: PhotoCameras) -> None:
    free = sample(config, views)
    clear = sample(config, views, is_clear=lambda poses: torch.ones(len(poses), dtype=torch.bool))
    torch.testing.assert_close(clear.c2w, free.c2w)


OUT_OF_RANGE = [
    (name, field, value)
    for name in ("sparse", "masked", "completion, loop")
    for kind in [SAMPLERS[name]._target]
    for field, value in [
        *((field, 0) for field in kind.counts),
        *((field, edge) for field, (low, high) in kind.ranges.items() for edge in (low - 1, high + 1, math.nan)),
    ]
]


@pytest.mark.parametrize(("name", "field", "value"), OUT_OF_RANGE)
def test_settings_out_of_range_are_refused_by_their_flag(name: str, field: str, value: float) -> None:
    flag = f"--pipeline.fusion.sampler.{field.replace('_', '-')}"
    with pytest.raises(ValueError, match=rf"{flag} is {value}; allowed are"):
        replace(SAMPLERS[name], **{field: value}).setup(clip_length=16, resolution=RESOLUTION)  # type: ignore[type-var]
