"""Depth of sparse points as a loss: where they lie, what an error costs, and that a run follows them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_capture import FOCAL, HEIGHT, WIDTH, make_capture, write_colmap, write_transforms
from tiny_run import make_trainer

from genfusion_ns.fusion.seed_depth import SeedDepths
from genfusion_ns.geometry.cameras import resize_intrinsics
from genfusion_ns.methods import genfusion
from genfusion_ns.rendering.contract import Surfels
from genfusion_ns.rendering.surfels import rasterize_surfels


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A capture whose COLMAP model says which photo sees which point."""
    tiny = make_capture(tmp_path / "tracked")
    write_transforms(tiny)
    write_colmap(tiny)
    return tmp_path / "tracked"


def wall(distance: float) -> Surfels:
    """One large opaque surfel across the optical axis of a camera at the origin."""
    return Surfels(
        means=torch.tensor([[0.0, 0.0, distance]], requires_grad=True),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 2), 50.0),
        opacities=torch.ones(1),
        features_dc=torch.ones(1, 3),
    )


@pytest.mark.parametrize(
    ("distance", "error", "pull"), [(2.0, 0.0, None), (1.5, 0.25, -0.2), (3.0, 0.5, 0.2), (9.0, 1.0, 0.0)]
)
def test_a_relative_error_costs_as_much_at_every_size_of_the_render(
    distance: float, error: float, pull: float | None
) -> None:
    points = torch.tensor([[0.5, 0.5, 2.0], [0.25, 0.75, 2.0]])
    depths = SeedDepths([points, points[:0]], weight=0.4)
    K = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]])
    for size in ((32, 24), (16, 12)):
        surfels = wall(distance)
        render = rasterize_surfels(surfels, torch.eye(4)[None], resize_intrinsics(K, (32, 24), size)[None], *size)
        (loss,) = depths.losses(render, 0).values()
        assert float(loss.detach()) == pytest.approx(0.4 * error, abs=1e-4)
        assert depths.losses(render, 1) == {}
        loss.backward()
        if pull is not None:  # at 0 the error has a kink
            assert surfels.means.grad is not None
            assert float(surfels.means.grad[0, 2]) == pytest.approx(pull, abs=1e-3)


def test_where_nothing_is_rendered_nothing_pulls() -> None:
    depths = SeedDepths([torch.tensor([[0.5, 0.5, 2.0]])], weight=1.0)
    behind = wall(-1.0)
    K = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]])
    render = rasterize_surfels(behind, torch.eye(4)[None], K[None], 32, 24)
    assert float(depths.losses(render, 0)["seed_depth"].detach()) == 0


def test_points_lie_where_the_photos_that_see_them_show_them(tracked: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tracked, tmp_path / "run", "none")
    manager = trainer.pipeline.datamanager
    depths = SeedDepths.of(manager, 1.0, "cpu")
    assert depths is not None
    tiny = make_capture(tmp_path / "again")
    unit = float(manager.train_dataparser_outputs.dataparser_scale)
    for name, points in zip(manager.train_names, depths.views, strict=True):
        view = tiny.names.index(name)
        seen = tiny.seen[view]
        depth = tiny.points[seen] @ tiny.w2c[view, 2, :3] + tiny.w2c[view, 2, 3]
        wanted = np.concatenate([tiny.pixels(view)[seen] / [WIDTH, HEIGHT], unit * depth[:, None]], axis=1)
        np.testing.assert_allclose(np.sort(points.numpy(), 0), np.sort(wanted, 0), atol=1e-3 * FOCAL / WIDTH)


def test_a_run_follows_the_points(tracked: Path, tmp_path: Path) -> None:
    def error(weight: float) -> float:
        method = make_method(weight)
        trainer = make_trainer(tracked, tmp_path / str(weight), "none", steps=40, method=method, resolution=None)
        trainer.train()
        depths = SeedDepths.of(trainer.pipeline.datamanager, 1.0, "cpu")
        assert depths is not None and ("seed_depth" in trainer.pipeline.get_train_loss_dict(39)[1]) == (weight > 0)
        errors = []
        for _ in range(len(depths.views)):
            camera, _ = trainer.pipeline.datamanager.next_train(0)
            render = trainer.pipeline.model(camera)["render"]
            errors.append(float(depths.losses(render, camera.metadata["cam_idx"])["seed_depth"]))
        return sum(errors) / len(errors)

    assert error(5.0) < 0.8 * error(0.0)


def make_method(weight: float):
    """`genfusion` with this weight of the points."""
    import copy

    method = copy.copy(genfusion)
    method.config = copy.deepcopy(genfusion.config)
    method.config.pipeline.seed_depth_weight = weight
    return method


def test_a_capture_without_tracks_does_without(capture_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(capture_folder, tmp_path, "none")
    if trainer.pipeline.datamanager.seeds.seen_by is None:
        assert SeedDepths.of(trainer.pipeline.datamanager, 1.0, "cpu") is None


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_out_of_range_are_refused(weight: float, capture_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--pipeline\.seed-depth-weight"):
        make_trainer(capture_folder, tmp_path, "none", method=make_method(weight))
