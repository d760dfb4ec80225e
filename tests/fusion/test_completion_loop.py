"""Scene completion and rounds on request, inside the real pipeline."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from tiny_run import make_trainer

from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.geometry.clips import RepairedClip
from genfusion_ns.methods import genfusion_completion


def begun(trainer: GenFusionTrainer) -> GenFusionTrainer:
    """The trainer right before its first step."""
    for callback in trainer.callbacks:
        if callback.func != trainer.pipeline.supervision.before_step:
            callback.run_callback_at_location(0, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    return trainer


def test_rounds_walk_along_the_path_and_test_views_stay_out(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder), steps=16, method=genfusion_completion)
    trainer.train()
    folder = trainer.base_dir / "genfusion"
    records = [json.loads((folder / f"round_{i:02d}" / "round.json").read_text()) for i in range(3)]
    assert [record["details"]["kind"] for record in records] == ["loop"] * 3
    assert [record["details"]["path_frames"] for record in records] == [[0, 16], [16, 32], [32, 48]]
    manager = trainer.pipeline.datamanager
    used = {r["name"] for record in records for window in record["windows"] for r in window["references"]}
    assert used <= set(manager.train_names)
    assert not set(manager.train_names) & set(manager.test_names)
    assert all("seeding" in record["details"] for record in records)
    assert trainer.pipeline.supervision.store.rounds == [0, 1, 2] or any(
        not window["accepted"] for record in records for window in record["windows"]
    )


class Painting:
    """Repairs every clip to one surface at the mean rendered depth: something to put where nothing is."""

    name, clip_length, resolution = "painting", 16, (32, 24)

    def repair(self, clip, references, generator):
        solid = clip.alpha > 0.5
        ramp = torch.linspace(0.4, 0.6, clip.depth.shape[2])[None, None, :, None].expand_as(clip.depth)
        inverse = 1 / torch.where(solid, clip.depth, torch.inf)
        low, high = inverse[solid].min(), inverse[solid].max()
        disparity = torch.where(solid, 0.1 + 0.8 * (inverse - low) / (high - low), ramp)
        return RepairedClip(clip.rgb.clamp(0, 1), disparity, torch.ones_like(clip.alpha))

    def release(self):
        pass


def test_surfels_appear_where_renders_are_empty_and_training_goes_on(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(
        capture_folder, tmp_path, str(generator_folder), steps=20, method=genfusion_completion, refine_every=3
    )
    loop = trainer.pipeline.supervision
    loop.maker.repairer, loop.schedule = Painting(), replace(loop.schedule, every=50)
    loop.config.seeding.min_pixels, loop.config.seeding.min_inliers = 50, 0.1
    loop.config.reject_margin = 100.0
    with torch.no_grad():  # one half of the scene is solid, so that depth can be aligned, the other empty
        parameters = trainer.pipeline.scene.gauss_params
        left = parameters["means"][:, :1] < parameters["means"][:, :1].median()
        parameters["opacities"].copy_(torch.where(left, 4.0, -12.0))
        parameters["scales"][:, :2] += 1.0
    counts: list[int] = []
    original = loop.fuse_once

    def counted(step, requested=False):
        counts.append(trainer.pipeline.scene.num_points)
        record = original(step, requested)
        counts.append(trainer.pipeline.scene.num_points)
        return record

    loop.fuse_once = counted
    trainer.train()
    record = json.loads((trainer.base_dir / "genfusion" / "round_00" / "round.json").read_text())
    (log,) = record["details"]["seeding"]
    assert log["inserted"] > 0, log
    assert log["inserted"] - record["details"]["cleared_surfels"] == counts[1] - counts[0]
    assert log["reason"] is None
    means = trainer.pipeline.scene.gauss_params["means"]
    assert torch.isfinite(means).all()
    optimizer = trainer.optimizers.optimizers["means"]
    assert optimizer.param_groups[0]["params"][0] is means
    assert optimizer.state[means]["exp_avg"].shape == means.shape
    assert trainer.pipeline.scene.num_points != counts[-1], "pruned or densified afterwards"


def test_completing_from_a_camera_is_kept_whatever_comes_after(capture_folder, generator_folder, tmp_path):
    trainer = begun(make_trainer(capture_folder, tmp_path, str(generator_folder)))
    loop = trainer.pipeline.supervision
    train = loop.maker.photos.whole
    target = train.c2w[2].clone()
    target[:3, 3] += 0.2 * target[:3, 2]
    record = loop.complete_from(1, target, math.radians(50))
    torch.testing.assert_close(record.c2w[-1], target)
    start = record.details["from_view"]
    torch.testing.assert_close(record.c2w[0], train.c2w[start], atol=1e-5, rtol=1e-5)
    assert record.details["requested"] is True
    height = loop.latest.sampled.size[1]
    assert record.Ks[-1, 1, 1] == pytest.approx(height / 2 / math.tan(math.radians(25)))
    assert len(loop.store) == 16 and loop.store.pinned == {0}
    assert loop.schedule.weight(1) == 0
    losses, metrics = loop.losses(1)
    assert losses["generated_rgb"] > 0
    assert metrics["generated_weight"] == loop.config.weight / 2 > loop.schedule.peak_weight
    loop.fuse_once(4)
    loop.fuse_once(8)
    assert loop.store.rounds == [0, 2], "the scheduled round went, the requested one stayed"
    assert loop.drop(0, 0) == 16
    assert loop.store.rounds == [2]


def test_what_a_person_asks_to_complete_needs_no_photo_to_speak_for_it(capture_folder, generator_folder, tmp_path):
    loop = begun(make_trainer(capture_folder, tmp_path, str(generator_folder))).pipeline.supervision
    loop.config.least_shown, loop.config.unshown_weight = 1.0, 0.0
    record = loop.complete_from(1, loop.maker.photos.whole.c2w[2], math.radians(50))
    assert record.rejected == [None] and record.scores[0]["seen"] < 1
    assert len(loop.store) == 16
    assert all("no photo speaks" in reason for reason in loop.fuse_once(4).rejected)


def test_requests_wait_for_the_next_step_and_bad_ones_do_no_harm(capture_folder, generator_folder, tmp_path, capsys):
    trainer = begun(make_trainer(capture_folder, tmp_path, str(generator_folder)))
    loop = trainer.pipeline.supervision
    loop.request(lambda step: loop.complete_from(step, torch.full((4, 4), torch.nan), 1.0))
    loop.request(lambda step: loop.complete_from(step, torch.eye(4), 7.0))
    loop.request(lambda step: loop.fuse_once(step, requested=True))
    status = loop.status(0)
    assert (status.waiting, status.rounds, status.views, status.next_step) == (3, 0, 0, 4)
    loop.before_step(1)
    said = " ".join(capsys.readouterr().out.split())
    assert "not a rigid, finite one" in said and "must lie between 0 and 180" in said
    status = loop.status(1)
    assert (status.waiting, status.views) == (0, 20)
    assert status.weight == loop.config.weight / 2, "asked for, so it counts at once"
    assert status.message.startswith("Round on request (round_02): photos ")
    loop.paused = True
    loop.before_step(4)
    assert loop.status(4).rounds == 3 and loop.status(4).next_step is None
    loop.paused = False
    loop.before_step(8)
    assert loop.status(8).rounds == 4


def test_a_camera_path_that_no_round_could_use_is_refused_at_the_start(capture_folder, tmp_path):
    method = copy.deepcopy(genfusion_completion)
    method.config.pipeline.fusion.sampler.camera_path = tmp_path / "nowhere.json"
    with pytest.raises(ValueError, match="nowhere"):
        make_trainer(capture_folder, tmp_path / "out", "none", method=method)


def test_there_is_nothing_to_control_without_training_or_repairer(capture_folder, tmp_path):
    pipeline = make_trainer(capture_folder, tmp_path, "none").pipeline
    loop, pipeline._supervision = pipeline._supervision, None
    with pytest.raises(ValueError, match="loaded to evaluate or render"):
        _ = pipeline.supervision
    with pytest.raises(ValueError, match=r"repairer.model is none"):
        loop.fuse_once(3)
