"""Masked reconstruction inside the real pipeline: where a photo shows the pixel, the photo wins."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from PIL import Image
from tiny_capture import HEIGHT, WIDTH, make_capture, write_transforms
from tiny_model import make_model
from tiny_run import make_trainer

from genfusion_ns.data.crop_windows import CropWindow
from genfusion_ns.data.masking import MaskingConfig
from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras
from genfusion_ns.fusion.cameras.masked import MaskedSampler, MaskedSamplerConfig
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.rounds.maker import RoundMaker
from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.trajectories import ellipse_path
from genfusion_ns.methods import genfusion_masked


@pytest.fixture(scope="module")
def capture_folder(tmp_path_factory) -> Path:
    """Smooth pictures, so that resampling them changes little."""
    capture = make_capture(tmp_path_factory.mktemp("masked") / "capture")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for i, name in enumerate(capture.names):
        rgb = np.stack([8 * x, 10 * y, np.full_like(x, 20 * i)], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(capture.folder / "images" / name)
    write_transforms(capture)
    return capture.folder


def ring(count: int) -> torch.Tensor:
    base = torch.eye(4).repeat(4, 1, 1)
    base[:, :3, 3] = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [-3.0, 0, 0], [0, -3.0, 0.5]])
    for pose in base:
        backward = torch.nn.functional.normalize(pose[:3, 3], dim=0)
        right = torch.linalg.cross(torch.tensor([0.0, 0, 1]), backward)
        right = right / right.norm()
        pose[:3, :3] = torch.stack([right, torch.linalg.cross(backward, right), backward], dim=1)
    return ellipse_path(base, count)


@pytest.mark.parametrize("count", [1, 2, 5, 16, 37])
def test_every_train_camera_is_in_the_walk_with_its_whole_frame(count: int) -> None:
    c2w = ring(count)
    Ks = torch.eye(3).repeat(count, 1, 1)
    Ks[:, 0, 0] = torch.arange(count) + 50.0
    observed = PhotoCameras(c2w, Ks, [(64, 48)] * count)
    sampled = MaskedSampler(MaskedSamplerConfig(), 16, (32, 24)).sample(observed, 0, torch.Generator())
    assert sampled.photo_ids is not None and len(sampled.photo_ids) == len(sampled.c2w)
    stands_at = {photo: frame for frame, photo in enumerate(sampled.photo_ids) if photo is not None}
    assert sorted(stands_at) == list(range(count))
    for photo, frame in stands_at.items():
        assert torch.equal(sampled.c2w[frame], c2w[photo])
        assert sampled.K[frame, 0, 0] == Ks[photo, 0, 0] / 2, "the photo's own lens at clip size"
    assert sampled.size == (32, 24)
    assert count >= 16 or count == 1 or len(sampled.c2w) >= 16
    covered = sorted(f for w in sampled.windows for f in w.new_frames(len(sampled.c2w)))
    assert covered == list(range(len(sampled.c2w)))


def test_photos_in_wider_frames_of_the_same_place() -> None:
    """A window of a linear picture, looked at through the whole camera, is the picture where the window is."""
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    picture = torch.stack([x / 32, y / 24, torch.full_like(x, 0.5)], dim=-1)
    K = torch.tensor([[40.0, 0, 16], [0, 40, 12], [0, 0, 1]])
    cut = K.clone()
    cut[0, 2], cut[1, 2] = 16 - 6, 12 - 4
    pose = torch.eye(4)[None]
    views = PhotoCameras(pose, K[None], [(32, 24)])
    photos = PosedPhotos(picture[None, 4:16, 6:22], None, pose, cut[None], views)
    shown = photos.shown_from([0, None], torch.stack([K, K]), (32, 24))
    expected = torch.zeros(24, 32, dtype=torch.bool)
    expected[4:16, 6:22] = True
    assert torch.equal(shown.seen[0, ..., 0], expected)
    torch.testing.assert_close(shown.rgb[0][expected], picture[expected], atol=1e-5, rtol=0)
    assert not shown.seen[1].any()
    over = shown.over(torch.full((2, 24, 32, 3), 9.0))
    assert (over[1] == 9).all() and (over[0][~expected] == 9).all()


@pytest.mark.parametrize("size", [(320, 240), (60, 40)])
def test_surfaces_are_seen_at_a_small_size_one_photo_at_a_time(size: tuple[int, int]) -> None:
    model = make_model().eval()
    rendered: list[int] = []
    c2w = torch.eye(4).repeat(3, 1, 1)
    c2w[:, :3, 3] = torch.tensor([[0.0, 0, 2], [0.2, 0, 2], [0, 0.2, 2]])
    K = torch.tensor([[size[0], 0, size[0] / 2], [0, size[0], size[1] / 2], [0, 0, 1]])
    photos = PosedPhotos(
        torch.zeros(3, size[1], size[0], 3),
        None,
        c2w,
        K.expand(3, 3, 3),
        PhotoCameras(c2w, K.expand(3, 3, 3), [size] * 3),
    )
    render = model.render
    model.render = lambda viewmats, *rest: rendered.append(len(viewmats)) or render(viewmats, *rest)
    seen = photos.surfaces(model)
    assert rendered == [1, 1, 1]
    small = (128, 96) if size[0] > 128 else size
    together = render(c2w_to_viewmat(c2w), seen.Ks, *small)
    assert torch.equal(seen.depths, together.median_depth) and torch.equal(seen.alphas, together.alpha)
    torch.testing.assert_close(seen.Ks[0, :2] / small[0], K[:2] / size[0])


def test_what_is_shown_goes_on_over_shreds_in_the_rounds_of_masked_runs(capture_folder, generator_folder, tmp_path):
    method = copy.deepcopy(genfusion_masked)
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder), steps=9, method=method)
    trainer.train()
    loop, found = trainer.pipeline.supervision, []
    loop.model.gauss_params["opacities"].data.fill_(8.0)  # nothing is whole after so few steps
    loop.model.gauss_params["scales"].data[:, :2] += 1.0
    assert loop.model.has_surroundings
    assert loop.config.continued_weight == pytest.approx(0.1), "the generator is of the kind compact"
    for settings in (replace(loop.config, continued_weight=0.0), loop.config):
        maker = RoundMaker(settings, loop._run)
        found.append(maker.make(9, 0, maker.sample_scheduled, "Round").round.windows)
    more = 0
    for plain, continued in zip(*found, strict=True):
        changed = plain.repaired.confidence != continued.repaired.confidence
        assert not changed[plain.agreement.shown].any() and not changed[plain.clip.alpha <= 0.9].any()
        assert (continued.repaired.confidence[changed] <= 0.1).all() and (plain.repaired.confidence[changed] == 0).all()
        more += int(changed.sum())
    assert more > 0


def test_repaired_frames_supervise_what_the_photos_do_not_show(capture_folder, generator_folder, tmp_path):
    method = copy.deepcopy(genfusion_masked)
    method.config.pipeline.fusion.unshown_weight = 1.0  # as of generators that draw things where no photo looks
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder), steps=9, method=method)
    trainer.train()
    loop, manager = trainer.pipeline.supervision, trainer.pipeline.datamanager
    protocol = json.loads((trainer.base_dir / "genfusion" / "protocol.json").read_text())
    assert set(protocol["windows"]) == set(manager.train_names)
    assert loop.latest is not None and loop.latest.sampled.photo_ids is not None
    ids = loop.latest.sampled.photo_ids
    at_photos = 0
    for view in loop.store:
        assert view.size == (32, 24)
        photo = ids[loop.latest.sampled.windows[view.clip].start + view.frame]
        if photo is None:
            continue
        at_photos += 1
        w = CropWindow(*protocol["windows"][manager.train_names[photo]])
        inside = torch.zeros(24, 32, dtype=torch.bool)
        inside[w.y : w.y + w.height, w.x : w.x + w.width] = True  # clip and photo are of one size
        confidence = view.confidence[..., 0].float()
        assert (confidence[inside] == 0).all(), "the photo itself supervises these"
        # Outside, an identity generator leaves trust wherever something was rendered.
        assert (confidence[~inside] > 0).any()
        number = int(manager.train_names[photo].split("_")[1].split(".")[0])
        blue = view.rgb_float()[..., 2][inside]
        assert (blue - 20 * number / 255).abs().max() < 0.02, "the photo is what the frame shows there"
        viewmat = c2w_to_viewmat(manager.whole_train_cameras.camera_to_worlds)[photo]
        torch.testing.assert_close(view.viewmat, viewmat, atol=1e-5, rtol=1e-5)
    assert at_photos == 6


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_only_what_a_mask_leaves_visible_judges_the_scene(share: float) -> None:
    photos = torch.full((1, 8, 8, 3), 0.5)
    seen = (torch.arange(8) < 8 * share).view(1, 1, 8, 1).expand(1, 8, 8, 1)
    render = torch.where(seen, photos + 0.1, photos + 0.4)
    scene = SimpleNamespace(render_clip=lambda viewmats, Ks, size: SimpleNamespace(rgb=render))
    observed = PosedPhotos(photos, seen, torch.eye(4)[None], torch.eye(3)[None], whole=None)
    assert observed.mean_psnr(scene) == pytest.approx(20.0, abs=1e-3)


def test_hidden_pixels_count_in_no_loss_and_no_metric(capture_folder, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, : WIDTH // 2] = 255
    folder = tmp_path / "capture"
    capture = make_capture(folder)
    write_transforms(capture)
    (folder / "masks").mkdir()
    for name in capture.names:
        Image.fromarray(mask).save(folder / "masks" / name)
    masked = genfusion_masked.config.pipeline.datamanager.masking
    try:
        genfusion_masked.config.pipeline.datamanager.masking = MaskingConfig(source="masks")
        trainer = make_trainer(folder, tmp_path, "none", steps=30, method=genfusion_masked, num_downscales=0)
    finally:
        genfusion_masked.config.pipeline.datamanager.masking = masked
    pipeline = trainer.pipeline
    for callback in trainer.callbacks:
        callback.run_callback_at_location(0, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    camera, batch = pipeline.datamanager.next_train(0)
    spoiled = {**batch, "image": batch["image"].clone()}
    spoiled["image"][:, WIDTH // 2 :] = 31
    pipeline.scene.train()
    torch.manual_seed(3)
    outputs = pipeline.scene.get_outputs(camera)
    for compute in (
        lambda b: pipeline.scene.get_loss_dict(outputs, b)["main_loss"],
        lambda b: pipeline.scene.get_metrics_dict(outputs, b)["psnr"],
    ):
        assert compute(batch) == compute(spoiled)
    seen = {**batch, "image": batch["image"].clone()}
    seen["image"][:, 3] = 31
    assert (
        pipeline.scene.get_loss_dict(outputs, seen)["main_loss"]
        != pipeline.scene.get_loss_dict(outputs, batch)["main_loss"]
    )
    half = (outputs["rgb"].clamp(0, 1) - batch["image"] / 255)[:, : WIDTH // 2].square().mean()
    psnr = pipeline.scene.get_metrics_dict(outputs, batch)["psnr"]
    torch.testing.assert_close(psnr, -10 * torch.log10(half), atol=1e-3, rtol=0)
