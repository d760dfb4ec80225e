"""The fusion loop inside the real pipeline and trainer, at toy size, with an untrained (identity) generator."""

import json

import pytest
import torch
from tiny_run import make_trainer

from genfusion_ns.fusion.loop import FusionLoop
from genfusion_ns.fusion.rounds.generated_views import load_views
from genfusion_ns.fusion.rounds.trial import Trial
from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.geometry.clips import RepairedClip


def loop_of(trainer: GenFusionTrainer) -> FusionLoop:
    return trainer.pipeline.supervision


def test_a_run_fuses_when_due_and_learns_from_generated_views(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder))
    seen = []
    original = trainer.pipeline.get_train_loss_dict

    def watched(step):
        outputs, losses, metrics = original(step)
        seen.append(set(losses))
        return outputs, losses, metrics

    trainer.pipeline.get_train_loss_dict = watched
    trainer.train()
    assert all("generated_rgb" not in losses for losses in seen[:5])
    assert all("generated_rgb" in losses for losses in seen[5:8])
    records = [
        json.loads((trainer.base_dir / "genfusion" / f"round_{i:02d}" / "round.json").read_text()) for i in (0, 1)
    ]
    assert [record["step"] for record in records] == [4, 8]
    assert records[0]["seed"] != records[1]["seed"]
    train_names = set(trainer.pipeline.datamanager.train_names)
    windows = [window for record in records for window in record["windows"]]
    assert {reference["name"] for window in windows for reference in window["references"]} <= train_names
    # 20 frames are two windows of 16; every frame is stored once.
    views = load_views(trainer.base_dir / "genfusion" / "round_01" / "views.safetensors")
    assert all(window["accepted"] for window in records[1]["windows"])
    assert len(views) == 20


def test_rounds_repeat_exactly_and_differ_between_seeds(capture_folder, generator_folder, tmp_path):
    def cameras(seed):
        trainer = make_trainer(capture_folder, tmp_path / str(seed), str(generator_folder))
        loop_of(trainer).config.seed = seed
        record = loop_of(trainer).fuse_once(4)
        return record.c2w, [view.rgb for view in loop_of(trainer).store]

    first, again, other = cameras(1), cameras(1), cameras(2)
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    assert not torch.equal(first[0], other[0])


def test_clips_that_contradict_the_photos_are_rejected(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder), steps=30)
    loop = loop_of(trainer)
    loop.config.start = 1000
    trainer.train()  # something opaque must be there to contradict
    repairer = loop.maker.repairer

    class Inverting:
        name, clip_length, resolution, release = "inverting", 16, repairer.resolution, repairer.release

        def repair(self, clip, references, generator):
            clean = repairer.repair(clip, references, generator)
            return RepairedClip(1 - clean.rgb, clean.disparity, torch.ones_like(clean.confidence))

    loop.maker.repairer = Inverting()
    record = loop.fuse_once(4)
    judged = [score["seen"] > 0.02 for score in record.scores]
    assert any(judged), "no photo saw any clip: the test decides nothing"
    for reason, score in zip(record.rejected, record.scores, strict=True):
        worse = score["repaired_psnr"] < score["artifact_psnr"] - loop.config.reject_margin
        assert (reason is not None) == (worse and score["seen"] >= 0.02)


def test_a_round_after_which_the_photos_suffer_is_withdrawn(capture_folder, generator_folder, tmp_path):
    loop = loop_of(make_trainer(capture_folder, tmp_path, str(generator_folder)))
    loop.fuse_once(4)
    assert len(loop.store) == 20
    loop.before_step(6)
    assert len(loop.store) == 20, "an unchanged scene must keep its round"
    with torch.no_grad():
        loop.model.gauss_params["opacities"].fill_(-20.0)
        loop._trial = Trial(0, 40.0)
    loop.before_step(6)
    assert len(loop.store) == 0
    assert loop.losses(7) == ({}, {})


@pytest.mark.parametrize("densify", [True, False])
def test_generated_views_count_for_densification_unless_told_otherwise(
    capture_folder, generator_folder, tmp_path, densify
):
    loop = loop_of(make_trainer(capture_folder, tmp_path, str(generator_folder)))
    loop.config.densify = densify
    loop.fuse_once(4)
    losses, _ = loop.losses(6)
    assert "generated_rgb" in losses
    assert len(loop.model._generated_infos) == int(densify)


def test_without_confidence_all_pixels_count_alike(capture_folder, generator_folder, tmp_path):
    weights = {}
    for use in (True, False):
        loop = loop_of(make_trainer(capture_folder, tmp_path / str(use), str(generator_folder)))
        loop.config.use_confidence = use
        loop.fuse_once(4)
        weights[use] = torch.stack([view.confidence.float() for view in loop.store])
    assert (weights[False] == 1).all()
    assert 0 <= weights[True].min() < weights[True].max() <= 1


def test_none_takes_no_rounds_and_builds_no_repairer(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none")
    trainer.train()
    assert loop_of(trainer).maker._repairer is None
    assert [path.name for path in (trainer.base_dir / "genfusion").iterdir()] == ["protocol.json"]


def test_a_restored_loop_continues_with_the_same_views_in_the_same_order(capture_folder, generator_folder, tmp_path):
    loop = loop_of(make_trainer(capture_folder, tmp_path / "a", str(generator_folder)))
    loop.fuse_once(4)
    loop.losses(5)
    state = loop.state()
    other = loop_of(make_trainer(capture_folder, tmp_path / "b", str(generator_folder)))
    other.restore(state, loop.files.folder)
    assert other.store.state() == loop.store.state() and len(other.store) == 20
    for _ in range(25):
        ours, theirs = loop.store.sample(loop._view_order), other.store.sample(other._view_order)
        assert torch.equal(ours.rgb, theirs.rgb) and torch.equal(ours.viewmat, theirs.viewmat)


def test_missing_views_cost_a_message_not_the_run(capture_folder, generator_folder, tmp_path, capsys):
    loop = loop_of(make_trainer(capture_folder, tmp_path / "a", str(generator_folder)))
    loop.fuse_once(4)
    other = loop_of(make_trainer(capture_folder, tmp_path / "b", str(generator_folder)))
    other.restore(loop.state(), tmp_path / "nowhere")
    assert len(other.store) == 0
    assert "views.safetensors" in capsys.readouterr().out.replace("\n", "")
