"""The contract of all estimators of depth: what `MonoDepth` promises.

A new estimator gets one line in `MAKERS`; every promise then runs on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from depth_models import save_depth_model
from dynamicrafter_toys import toy_pipeline

from genfusion_ns.priors.base import VideoRepairer
from genfusion_ns.priors.dynamicrafter.repairer import DynamiCrafterRepairer
from genfusion_ns.priors.dynamicrafter.sampling import Sampling
from genfusion_ns.priors.identity import IdentityRepairer
from genfusion_ns.priors.mono_depth import MonoDepth, MonoDisparity, RepairerMonoDepth
from genfusion_ns.priors.mono_depth_transformers import TransformersMonoDepth


@cache
def dynamicrafter() -> VideoRepairer:
    repairer = DynamiCrafterRepairer(toy_pipeline(), Sampling(steps=2), resolution=(64, 64))
    repairer.clip_length = 4
    return repairer


MAKERS: dict[str, Callable[[Path], MonoDepth]] = {
    "dynamicrafter": lambda _: RepairerMonoDepth(dynamicrafter()),
    "dynamicrafter, photo by photo": lambda _: RepairerMonoDepth(dynamicrafter(), per_view=True),
    "none": lambda _: RepairerMonoDepth(IdentityRepairer()),
    "depth anything": lambda folder: TransformersMonoDepth(save_depth_model(folder)),
    "depth anything, metric": lambda folder: TransformersMonoDepth(save_depth_model(folder, "metric")),
    "glpn": lambda folder: TransformersMonoDepth(save_depth_model(folder, "glpn")),
}
"""All estimators, at toy size with random weights."""


@pytest.fixture(scope="module", params=MAKERS)
def mono(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MonoDepth:
    return MAKERS[request.param](tmp_path_factory.mktemp("model"))


def photos(count: int = 2, width: int = 48, height: int = 40) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))


def estimate(mono: MonoDepth, images: torch.Tensor, seed: int = 0) -> MonoDisparity:
    return mono.estimate(images, torch.Generator().manual_seed(seed))


def test_declared_attributes(mono: MonoDepth) -> None:
    assert isinstance(mono, MonoDepth) and mono.name


@pytest.mark.parametrize(("count", "width", "height"), [(1, 48, 40), (3, 37, 61), (5, 64, 33)])
def test_any_number_and_size_keeps_its_shape(mono: MonoDepth, count: int, width: int, height: int) -> None:
    images = photos(count, width, height)
    found = estimate(mono, images)
    for values in (found.disparity, found.confidence):
        assert values.shape == (count, height, width, 1)
        assert values.dtype == images.dtype and values.device == images.device
        assert torch.isfinite(values).all()
    assert found.confidence.min() >= 0 and found.confidence.max() <= 1


def test_nothing_but_the_generator_decides(mono: MonoDepth) -> None:
    images = photos()
    before = images.clone()
    torch.manual_seed(1)
    first = estimate(mono, images)
    state = torch.manual_seed(2).get_state()
    again = estimate(mono, images)
    assert torch.equal(first.disparity, again.disparity) and torch.equal(first.confidence, again.confidence)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not drawn from"
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(0, 4, 6, 3), (2, 4, 6, 4), (4, 6, 3)])
def test_what_is_no_image_is_refused(mono: MonoDepth, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[N, H, W, 3\]"):
        estimate(mono, torch.zeros(shape))


def test_only_repairers_that_make_depth_have_something_to_say() -> None:
    for repairer in (dynamicrafter(), IdentityRepairer()):
        spread = estimate(RepairerMonoDepth(repairer), photos()).disparity.std()
        assert (spread > 0.02) == repairer.capabilities.makes_depth
