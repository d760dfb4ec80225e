"""Samples of a prior at every step: schedules, cameras, gradients, exact resume, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from tiny_capture import make_capture, write_transforms
from tiny_run import make_trainer
from view_priors import Blend, BlendConfig

from genfusion_ns import perceptual
from genfusion_ns.fusion.cameras.novel import NovelCameras, NovelViewSettings, covering_frame, view_intrinsics
from genfusion_ns.fusion.samples.config import SampleConfig
from genfusion_ns.fusion.samples.losses import SampleLoss
from genfusion_ns.fusion.samples.scene import SurfelScene
from genfusion_ns.fusion.samples.schedule import SampleSchedule, level_weight, signal_share
from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.geometry.images import square_means
from genfusion_ns.geometry.novel_views import nearest_cameras
from genfusion_ns.methods import reconfusion
from genfusion_ns.priors.config import RepairerConfig

STEPS = 20


def trainer_of(capture: Path, output: Path, load_dir: Path | None = None, **settings) -> GenFusionTrainer:
    fusion = BlendConfig(**settings)
    trainer = make_trainer(capture, output, "none", STEPS, load_dir=load_dir, fusion=fusion, refine_every=5)
    trainer.config.steps_per_save = 5
    return trainer


def test_schedules_are_those_of_the_paper():
    schedule = SampleConfig().schedule(1000)
    assert (schedule.least_level(0), schedule.least_level(999)) == (1, 0)
    assert (schedule.weight_at(0), schedule.weight_at(999)) == pytest.approx((1, 0.1))
    assert schedule.weight_at(499) - schedule.weight_at(500) == pytest.approx(0.9 / 999)
    generator = torch.Generator().manual_seed(0)
    assert schedule.draw_level(0, generator) == 1
    levels = [schedule.draw_level(500, generator) for _ in range(2000)]
    least = schedule.least_level(500)
    assert least <= min(levels) < least + 0.01 and 0.99 < max(levels) <= 1
    assert sum(levels) / len(levels) == pytest.approx((1 + least) / 2, abs=0.01)
    assert 0 < min(schedule.draw_level(999, generator) for _ in range(2000)) < 0.01


def test_a_run_of_one_step_has_a_schedule():
    assert SampleSchedule(1, 1.0, 0.0, 2.0, 0.1).weight_at(0) == 2


def test_levels_weigh_by_their_signal_or_noise():
    assert [level_weight("const", level) for level in (0.1, 0.5, 1.0)] == [1, 1, 1]
    for level in (0.0, 0.3, 1.0):
        assert level_weight("alpha", level) == signal_share(level)
        assert level_weight("sigma", level) == 1 - signal_share(level)
    assert math.sqrt(signal_share(1.0)) == pytest.approx(0.068, abs=1e-3)
    shares = [signal_share(level / 20) for level in range(21)]
    assert shares == sorted(shares, reverse=True)


def test_a_sample_starts_from_the_render_of_a_novel_view_and_its_nearest_photos(capture_folder, tmp_path):
    trainer = trainer_of(capture_folder, tmp_path)
    supervision = trainer.pipeline.supervision
    supervision.before_step(0)
    (view, references, level), sample = supervision.prior.seen[0], supervision.latest
    assert view.size == (32, 32) and level == sample.level == 1 and not view.rgb.requires_grad
    assert bool(((view.depth == 0) | (view.alpha > 0)).all())
    photos = supervision.photos
    c2w = viewmat_to_c2w(sample.viewmat)
    assert list(sample.references) == nearest_cameras(photos.c2w, c2w, 2)
    assert torch.equal(references.rgb, photos.rgb[list(sample.references)])
    distances = (photos.c2w[:, :3, 3] - c2w[:3, 3]).norm(dim=1)
    assert float(distances.min()) > 1e-3, "it is no photo"
    again = trainer.pipeline.scene.render_clip(view.viewmat[None], view.K[None], view.size)
    assert torch.equal(again.rgb[0], view.rgb)


def test_small_views_are_means_of_pixels_as_small_as_those_of_the_photos(capture_folder, tmp_path):
    model = trainer_of(capture_folder, tmp_path).pipeline.scene
    size, viewmat = (8, 8), torch.eye(4)
    viewmat[2, 3] = 3.0
    K = torch.tensor([[10.0, 0, 4], [0, 10, 4], [0, 0, 1]])

    def view(focal: float):
        return SurfelScene(model, densify=False, transparent=False, focal=focal)

    fine = model.render_clip(viewmat[None], (K * torch.tensor([[4.0], [4], [1]]))[None], (32, 32))
    assert float(fine.alpha.max()) > 0.1
    plain = model.render_clip(viewmat[None], K[None], size)
    for focal, wanted in ((10.0, plain.rgb[0]), (40.0, square_means(fine.rgb[0], 4)), (400.0, None)):
        looked = view(focal).look(viewmat, K, size)
        if wanted is not None:
            assert torch.allclose(looked.rgb, wanted, atol=1e-6)
        assert looked.size == size and torch.equal(looked.K, K)
    looked = view(40.0).look(viewmat, K, size)
    assert not torch.allclose(looked.rgb, plain.rgb[0], atol=1e-3), "or it would not matter"
    seen = looked.alpha[..., 0] > 0.5
    assert bool(((looked.depth[seen] > 0.1) & (looked.depth[seen] < 10)).all())
    shown = view(40.0).show(viewmat, K, size)
    shown.sum().backward()
    assert shown.shape == (8, 8, 3) and float(model.means.grad.abs().sum()) > 0


def test_no_step_has_the_view_of_another_and_a_seed_has_its_own(capture_folder, tmp_path):
    def views(seed: int) -> torch.Tensor:
        supervision = trainer_of(capture_folder, tmp_path / str(seed), seed=seed).pipeline.supervision
        for step in range(5):
            supervision.before_step(step)
        return torch.stack([view.viewmat for view, _, _ in supervision.prior.seen])

    first = views(0)
    assert torch.equal(first, views(0)) and not torch.equal(first, views(1))
    assert len(first.flatten(1).unique(dim=0)) == 5


def test_the_gradient_reaches_the_scene_through_the_render_alone(capture_folder, tmp_path):
    trainer = trainer_of(capture_folder, tmp_path)
    pipeline = trainer.pipeline
    pipeline.train()
    supervision = pipeline.supervision
    supervision.before_step(0)
    losses, _ = supervision.losses(0)
    assert set(losses) == {"sample_rgb", "sample_lpips"}
    sum(losses.values()).backward()
    assert all(parameter.grad is None for parameter in supervision.prior.network.parameters())
    assert all(parameter.grad is None for parameter in supervision.loss._network.parameters())
    assert not supervision.latest.target.requires_grad
    for name in ("means", "features_dc", "opacities"):
        assert float(pipeline.scene.gauss_params[name].grad.abs().sum()) > 0, name


def test_its_terms_are_weighed_by_step_and_level(capture_folder, tmp_path):
    pipeline = trainer_of(capture_folder, tmp_path, sample_weight="sigma", weight=3.0, densify=False).pipeline
    pipeline.scene.config.background_color = "black"
    pipeline.scene.background_color.zero_()
    supervision, step = pipeline.supervision, 10
    supervision.before_step(step)
    losses, metrics = supervision.losses(step)
    sample = supervision.latest
    weight = 3.0 * (1 - 0.9 * step / (STEPS - 1)) * (1 - signal_share(sample.level))
    assert metrics == pytest.approx({"sample_weight": weight, "sample_level": sample.level})
    absolute = (sample.rendered - sample.target).abs().mean()
    assert losses["sample_rgb"].item() == pytest.approx(weight * absolute.item(), rel=1e-4)


def test_lpips_is_that_of_the_metric_and_has_a_gradient():
    generator = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, 40, 48, 3, generator=generator)
    image.requires_grad_()
    absolute, perceptual_term = SampleLoss(2.0, "alex", (48, 40), "cpu")(image, target)
    metric = perceptual.lpips_from_disk("alex")
    pair = [picture.permute(2, 0, 1)[None] for picture in (image.detach(), target)]
    assert perceptual_term.item() == pytest.approx(2 * metric(*pair).item(), rel=1e-5)
    assert absolute.item() == pytest.approx((image - target).abs().mean().item())
    (gradient,) = torch.autograd.grad(perceptual_term, image)
    assert float(gradient.abs().sum()) > 0


def test_samples_are_drawn_as_often_and_used_as_long_as_it_says(capture_folder, tmp_path):
    supervision = trainer_of(capture_folder, tmp_path, sample_every=4, reuse=2).pipeline.supervision
    used, drawn = [], []
    for step in range(9):
        supervision.before_step(step)
        used.append(bool(supervision.losses(step)[0]))
        drawn.append(len(supervision.prior.seen))
    assert used == [True, True, False, False, True, True, False, False, True]
    assert drawn == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert supervision.seconds_to_come(8) == pytest.approx(2 * supervision.seconds_to_come(15))
    assert supervision.seconds_to_come(STEPS - 1) == 0


def test_paused_samples_supervise_nothing(capture_folder, tmp_path):
    supervision = trainer_of(capture_folder, tmp_path).pipeline.supervision
    supervision.before_step(0)
    supervision.paused = True
    assert supervision.losses(0) == ({}, {})
    supervision.before_step(1)
    assert len(supervision.prior.seen) == 1 and supervision.seconds_to_come(1) == 0
    supervision.paused = False
    supervision.before_step(2)
    assert supervision.losses(2)[0]


@pytest.mark.parametrize("settings", [{}, {"sample_every": 4, "reuse": 4}], ids=["every step", "reused"])
def test_a_resumed_run_ends_as_one_that_was_never_stopped(capture_folder, tmp_path, settings):
    whole = trainer_of(capture_folder, tmp_path / "whole", **settings)
    whole.train()
    first = trainer_of(capture_folder, tmp_path / "first", **settings)

    def stop(step: int) -> None:
        first.stop_training = step >= 10

    first.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], stop))
    first.train()
    torch.manual_seed(99)  # a new process knows nothing of the old generators
    second = trainer_of(capture_folder, tmp_path / "second", first.checkpoint_dir, **settings)
    assert 0 < second._start_step <= 11
    second.train()
    ours, theirs = second.pipeline.supervision, whole.pipeline.supervision
    assert torch.equal(ours.latest.viewmat, theirs.latest.viewmat)
    for name, value in whole.pipeline.scene.gauss_params.items():
        torch.testing.assert_close(second.pipeline.scene.gauss_params[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_novel_cameras_stand_in_free_space(capture_folder, tmp_path):
    photos = trainer_of(capture_folder, tmp_path).pipeline.supervision.photos.whole
    cameras, asked = NovelCameras(photos, NovelViewSettings(), 0), []
    everywhere = torch.stack([cameras.next(lambda: lambda poses: poses.new_ones(len(poses)).bool()) for _ in range(50)])
    limit = float(everywhere[:, 0, 3].median())
    assert float(photos.c2w[:, 0, 3].min()) < limit

    def clear_test():
        asked.append(1)
        return lambda poses: poses[:, 0, 3] < limit

    free = NovelCameras(photos, NovelViewSettings(), 0)
    kept = torch.stack([free.next(clear_test) for _ in range(50)])
    assert bool((kept[:, 0, 3] < limit).all()) and len(asked) == 1
    stays = everywhere[:, 0, 3] < limit
    assert torch.equal(kept[stays], everywhere[stays])

    def nowhere():
        return lambda poses: (poses[:, None, :3, 3] - photos.c2w[None, :, :3, 3].to(poses)).norm(dim=-1).amin(1) < 1e-6

    for pose in [NovelCameras(photos, NovelViewSettings(), 0).next(nowhere) for _ in range(2)]:
        assert float((photos.c2w[:, :3, 3] - pose[:3, 3]).norm(dim=1).min()) < 1e-5


@pytest.mark.parametrize(("photo", "size"), [((640, 480), (64, 64)), ((480, 640), (64, 64)), ((33, 47), (64, 32))])
def test_views_lie_in_the_middle_of_photos_that_just_cover_them(photo, size, capture_folder, tmp_path):
    frame = covering_frame(photo, size)
    assert frame.size == size and all(whole >= side for whole, side in zip(frame.whole, size, strict=True))
    assert any(whole == side for whole, side in zip(frame.whole, size, strict=True))
    assert frame.whole[0] / frame.whole[1] == pytest.approx(photo[0] / photo[1], rel=0.02)


def test_intrinsics_of_views_are_those_of_the_photos(capture_folder, tmp_path):
    photos = trainer_of(capture_folder, tmp_path).pipeline.supervision.photos.whole  # 32 x 24, focal length 30
    _, K, whole = view_intrinsics(photos, (48, 48))
    assert whole[1, 1].item() == pytest.approx(60) and whole[0, 0].item() == pytest.approx(60)
    torch.testing.assert_close(K[:2, 2], torch.tensor([24.0, 24.0], dtype=K.dtype))


def split_capture(folder: Path, train: int, one_place: bool) -> Path:
    """A capture whose first views are those to train on, and may all stand where the first one stands."""
    capture = make_capture(folder, num_views=8)
    if one_place:
        place = -(capture.w2c[0, :3, :3].T @ capture.w2c[0, :3, 3])
        capture.w2c[:train, :3, 3] = -(capture.w2c[:train, :3, :3] @ place)
    write_transforms(capture)
    split = {"train_ids": list(range(train)), "test_ids": list(range(train, 8))}
    (folder / f"train_test_split_{train}.json").write_text(json.dumps(split))
    return folder


@pytest.mark.parametrize(("train", "message"), [(1, "at least 2 are needed"), (3, "several places")])
def test_photos_that_have_no_views_between_them_are_refused(tmp_path, train, message):
    capture = split_capture(tmp_path / "capture", train, one_place=True)
    with pytest.raises(ValueError, match=message):
        make_trainer(capture, tmp_path / "run", "none", views=train, fusion=BlendConfig())


def test_samples_too_small_for_lpips_are_refused(capture_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(BlendConfig, "side", 24)
    with pytest.raises(ValueError, match=r"24x24 pixels are too small .* 31 a side: --pipeline.fusion.lpips-weight 0"):
        make_trainer(capture_folder, tmp_path / "with", "none", fusion=BlendConfig())
    make_trainer(capture_folder, tmp_path / "without", "none", fusion=BlendConfig(lpips_weight=0.0))


def test_missing_weights_of_lpips_are_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .*--pipeline.fusion.lpips-weight 0"):
        make_trainer(tmp_path / "there is no capture", tmp_path, "none", fusion=SampleConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_every": 0}, "sample-every is 0"),
        ({"reuse": 2}, "reuse is 2, but a new sample is drawn every 1 steps"),
        ({"first_level": 1.5}, r"first-level is 1.5; allowed are 0..1"),
        ({"lpips_weight": -1.0}, "lpips-weight is -1"),
        ({"num_references": 0}, "num-references is 0"),
        ({"views": NovelViewSettings(up_jitter=7.0)}, "views.up-jitter is 7"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**settings).check(RepairerConfig(), "cpu")


@pytest.mark.parametrize("model", ["none", "compact"])
def test_a_prior_that_repairs_clips_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=f"{model} is a prior of the kind {model}.*gf-train-generator"):
        make_trainer(tmp_path / "there is no capture", tmp_path, model, fusion=SampleConfig())


def test_the_method_is_registered():
    from nerfstudio.plugins.registry import discover_methods

    methods, _ = discover_methods()
    config = methods["reconfusion"]
    assert config.max_num_iterations == 1000 and isinstance(config.pipeline.fusion, SampleConfig)
    assert type(config.pipeline) is type(reconfusion.config.pipeline)


def test_the_toy_prior_keeps_the_promise_of_priors():
    from genfusion_ns.priors.base import ViewPrior

    assert isinstance(Blend(), ViewPrior)


def test_photos_are_compared_by_a_charbonnier_loss_where_it_is_asked_for(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", fusion=BlendConfig(), photo_loss="charbonnier")
    pipeline = trainer.pipeline
    pipeline.train()
    outputs, losses, _ = pipeline.get_train_loss_dict(0)
    target, _ = pipeline.scene._target(outputs, {"image": torch.zeros(24, 32, 3, dtype=torch.uint8)})
    black = pipeline.scene.get_loss_dict(outputs, {"image": torch.zeros(24, 32, 3, dtype=torch.uint8)})
    expected = ((outputs["rgb"] - target).square() + 1e-6).sqrt().mean()
    assert black["main_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses["main_loss"].item() > 0
