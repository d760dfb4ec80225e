"""ReconFusion's prior is trained by the loop of all generators: losses halve, it resumes exactly, its folders load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from reconfusion_toys import SIZES, TINY, blob_pair, toy_pipeline, toy_stable_diffusion
from tiny_capture import make_capture, write_transforms
from torch.utils.data import Dataset

from genfusion_ns.data.clips.pairs import Provenance, write_pair
from genfusion_ns.data.views.captures import CapturedViews, held_out_views, neighbours, read_views
from genfusion_ns.data.views.samples import MixedBatches, ViewSampling, clip_views
from genfusion_ns.fusion.generator_training import TrainReconFusionConfig, read_config, train_generator
from genfusion_ns.fusion.view_data import held_out_frames, middle
from genfusion_ns.geometry.cameras import project
from genfusion_ns.geometry.clips import ClipPair
from genfusion_ns.priors.reconfusion.loading import load_prior
from genfusion_ns.priors.reconfusion.pipeline import ReconFusionPipeline
from genfusion_ns.priors.training.reconfusion import Draws, ReconFusionObjective, ReconFusionTask, batch_views, train

torch.set_num_threads(1)
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "generator"


class Blobs(Dataset[list[ClipPair]]):
    """Batches of a few scenes of balls."""

    def __init__(self, batches: int, batch_size: int, size: int = 32) -> None:
        self.pairs = [blob_pair(seed, size) for seed in range(4)]
        self.batches, self.batch_size = batches, batch_size

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[ClipPair]:
        return [self.pairs[(index * self.batch_size + i) % len(self.pairs)] for i in range(self.batch_size)]


def run(output, config=TINY, pipeline=None):
    torch.manual_seed(config.seed)
    pipeline = pipeline or toy_pipeline(stirred=False)
    return train(pipeline, Blobs(config.steps, config.batch_size), [blob_pair(0)], output, config)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "training.jsonl").read_text().splitlines()]


def test_both_losses_halve_from_nothing(tmp_path):
    """Of noise, as in the paper, on pixels of 16 x 16 images."""
    pipeline = toy_pipeline(stirred=False, size=(16, 16), fold=1, channels=(32, 64))
    noise = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    pipeline.register_modules(scheduler=DDIMScheduler.from_config(pipeline.scheduler.config, **noise))
    config = replace(TINY, steps=50, batch_size=4, learning_rate=3e-3, warmup=5, ema=0.0, drop=0.0)
    config = replace(config, validate_every=50, checkpoint_every=50)
    scenes = Blobs(50, 4, size=16)
    batch = batch_views(scenes.pairs, 3, True)

    def parts(pipeline):
        objective = ReconFusionObjective(pipeline, [], config)
        objective.place(torch.device("cpu"), torch.float32)
        found = []
        for weight in (0.0, 1.0):
            objective.config = replace(config, colour_weight=weight)
            with torch.no_grad():
                values = [objective.loss(objective.network, batch, range(n, n + 4)) for n in range(9000, 9032, 4)]
            found.append(float(torch.stack(values).mean()))
        return found[0], found[1] - found[0]

    before = parts(pipeline)
    report = train(pipeline, scenes, scenes.pairs[:1], tmp_path, config)
    after = parts(load_prior(tmp_path))
    assert after[0] < 0.5 * before[0] and after[1] < 0.5 * before[1], (before, after)
    assert set(report.as_dict()) == {"psnr_render", "psnr_sample", "psnr_half", "psnr_features"}
    assert report.as_dict()["psnr_features"] > 15


def test_a_training_that_was_interrupted_goes_on_the_same(tmp_path):
    constant = replace(TINY, schedule="constant")
    run(tmp_path / "once", constant)
    run(tmp_path / "parts", replace(constant, steps=4, validate_every=4))
    run(tmp_path / "parts", constant)
    whole, parts = (load_prior(tmp_path / name) for name in ("once", "parts"))
    for name in ("unet", "pixelnerf", "image_encoder"):
        first, second = (getattr(pipeline, name).state_dict() for pipeline in (whole, parts))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert losses(tmp_path / "once") == losses(tmp_path / "parts")


def test_photos_are_dropped_as_often_as_asked_and_all_at_once():
    keep = torch.cat([Draws.of(0, range(n, n + 100), (1, 1, 1), 0.1, 1000).keep for n in range(0, 10_000, 100)])
    assert abs(float((keep == 0).float().mean()) - 0.1) < 0.01
    inputs = batch_views([blob_pair(0), blob_pair(1)], 3, True).inputs
    hidden = inputs.shown(torch.tensor([1.0, 0.0]))
    assert torch.equal(hidden.photos[0], inputs.photos[0]) and float(hidden.photos[1].abs().max()) == 0
    assert hidden.guide is not None and inputs.guide is not None
    assert torch.equal(hidden.guide[:, :4], inputs.guide[:, :4])


def test_draws_follow_from_the_numbers_of_samples():
    whole, half = (Draws.of(3, range(start, 8), (2, 4, 4), 0.5, 1000) for start in (0, 4))
    for name in ("timesteps", "noise", "keep"):
        assert torch.equal(getattr(whole, name)[4:], getattr(half, name))


def test_black_photos_do_not_train_the_colours():
    objective = ReconFusionObjective(toy_pipeline(), [], replace(TINY, drop=0.999999))
    objective.place(torch.device("cpu"), torch.float32)
    loss = objective.loss(objective.network, batch_views([blob_pair(0)], 3, True), range(1))
    loss.backward()
    last = objective.network.pixelnerf.of_all[-1].weight.grad
    assert float(last[1:4].abs().max()) == 0 and float(last[4:].abs().max()) > 0


def test_what_is_hidden_is_not_learned():
    pair = blob_pair(0)
    alpha = pair.clean.alpha.clone()
    alpha[:, :, :16] = 0
    wrong = pair.clean.rgb.clone()
    wrong[:, :, :16] = torch.rand(1, 32, 16, 3)
    hidden = replace(pair, clean=replace(pair.clean, alpha=alpha), rendered=True)
    other = replace(hidden, clean=replace(hidden.clean, rgb=wrong))
    objective = ReconFusionObjective(toy_pipeline(stirred=False), [], replace(TINY, colour_weight=0.0))
    objective.place(torch.device("cpu"), torch.float32)
    # With a first prediction of 0 the loss sees the targets alone.
    found = [float(objective.loss(objective.network, batch_views([one], 3, True), range(1))) for one in (hidden, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    shown = float(objective.loss(objective.network, batch_views([replace(other, rendered=False)], 3, True), range(1)))
    assert abs(shown - found[0]) > 1e-3


def test_of_a_stable_diffusion_vae_and_image_encoder_stay_as_they_are(tmp_path):
    toy_stable_diffusion(tmp_path / "base")
    config = TrainReconFusionConfig(
        output=tmp_path / "prior",
        initial=str(tmp_path / "base"),
        captures=(nerfstudio_capture(tmp_path / "capture"),),
        sampling=ViewSampling(references=(2, 2)),
        optimisation=replace(TINY, steps=2, batch_size=1, validate_every=2, gradient_checkpointing=True, ema=0.0),
        held_out_limit=1,
    )
    train_generator(config)
    trained, base = load_prior(tmp_path / "prior"), toy_stable_diffusion()
    for name in ("vae", "image_encoder"):
        before = getattr(base, name).state_dict()
        after = getattr(trained, name).state_dict()
        assert all(torch.equal(before[key].half().float(), after[key]) for key in before)
    moved = trained.unet.state_dict()["conv_in.weight"]
    assert float(moved[:, 4:].abs().max()) > 0
    again = replace(config, initial=str(tmp_path / "prior"), output=tmp_path / "further")
    train_generator(again)
    assert load_prior(tmp_path / "further").unet.config.in_channels == trained.unet.config.in_channels


def nerfstudio_capture(folder):
    capture = make_capture(folder)
    write_transforms(capture)
    return folder


def test_middles_of_captures_keep_their_cameras(tmp_path):
    capture = make_capture(tmp_path)
    write_transforms(capture)
    views = read_views(tmp_path, (16, 16))
    assert views.rgb.shape == (12, 16, 16, 3) and bool((views.seen == 255).all())
    for index in range(12):
        assert views.rgb[index, 8, 8].tolist() == list(capture.color(index))
    centre = torch.linalg.inv(views.viewmats[0]) @ torch.tensor([0.0, 0.0, 2.0, 1.0])
    pixel, _ = project(centre[:3], views.viewmats[0], views.Ks[0])
    torch.testing.assert_close(pixel, torch.tensor([8.0, 8.0]), atol=1e-3, rtol=0)
    assert float(views.Ks[0, 0, 0]) == pytest.approx(30.0 * 16 / 24)
    near = neighbours(views, 5, range(12))
    assert len(near) == 11 and set(near[:2]) == {4, 6}


def test_samples_of_captures_never_show_what_judges(tmp_path):
    views = read_views(nerfstudio_capture(tmp_path), (16, 16))
    judges = held_out_views(views, 3)
    kept = {tuple(pair.clean.rgb[0, 8, 8].tolist()) for pair in judges}
    batches = CapturedViews([views], (1, 3), batch_size=4, batches=30, seed=0)
    seen = set()
    for index in range(30):
        batch = batches[index]
        assert len({len(pair.references) for pair in batch}) == 1
        for pair in batch:
            images = [pair.clean.rgb[0], *pair.references.rgb]
            colours = [tuple(image[8, 8].tolist()) for image in images]
            assert len(set(colours)) == len(colours) and float(pair.artifact.alpha.max()) == 0
            seen |= set(colours)
    assert kept and not kept & seen and len(seen) == 12 - len(kept)
    assert torch.equal(batches[7][1].clean.rgb, batches[7][1].clean.rgb)


def test_clips_give_views_of_the_size_that_is_drawn(tmp_path):
    paths = [write_pair(tmp_path, f"c{i}", blob_pair(i, size=48), Provenance("balls", "none", i)) for i in range(2)]
    batches = clip_views(paths, ViewSampling(), (32, 32), batch_size=3, batches=5, seed=0)
    for index in range(5):
        for pair in batches[index]:
            assert pair.clean.size == pair.artifact.size == (32, 32) and len(pair.clean) == 1
    kept = held_out_frames(paths, (32, 32), 2)
    assert len(kept) == 4 and all(len(pair.references) == 2 for pair in kept)
    clip = middle(blob_pair(0, size=48).clean, (32, 16))
    assert clip.size == (32, 16)
    assert float(clip.Ks[0, 1, 2]) == pytest.approx(8)


def test_mixed_batches_follow_the_shares():
    class Constant(Dataset):
        def __init__(self, value):
            self.value = value

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            return self.value

    mixed = MixedBatches([Constant(0), Constant(1)], [0.75, 0.25], seed=0)
    found = [mixed[index] for index in range(1000)]
    assert len(mixed) == 1000 and 0.2 < sum(found) / 1000 < 0.3
    assert found == [mixed[index] for index in range(1000)]


def test_the_command_trains_on_clips_and_captures(tmp_path):
    for index in range(3):
        write_pair(tmp_path / "clips", f"c{index}", blob_pair(index), Provenance("balls", "none", index))
    config = TrainReconFusionConfig(
        output=tmp_path / "prior",
        clips=tmp_path / "clips",
        captures=(nerfstudio_capture(tmp_path / "capture"),),
        optimisation=replace(TINY, steps=3, validate_every=3),
        held_out_limit=1,
    )
    train_generator(config)
    assert (tmp_path / "prior" / "samples.png").is_file() and (tmp_path / "prior" / "training.yaml").is_file()
    assert load_prior(tmp_path / "prior").resolution == (32, 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clips": None}, "--clips"),
        ({"captures_share": 1.5}, "--captures-share is 1.5"),
        ({"held_out_limit": 0}, "--held-out-limit is 0"),
        ({"sampling": ViewSampling(references=(0, 3))}, "--sampling.references is 0 3"),
        ({"sampling": ViewSampling(references=(2, 4))}, "--sampling.references is 2 4"),
        ({"optimisation": replace(TINY, drop=1.0)}, "--optimisation.drop is 1.0"),
        ({"optimisation": replace(TINY, colour_weight=-1)}, "--optimisation.colour-weight is -1"),
        ({"optimisation": replace(TINY, network=replace(SIZES, size=(30, 32)))}, "multiples of 4"),
        ({"optimisation": replace(TINY, network=replace(SIZES, features=0))}, "features is 0"),
        ({"optimisation": replace(TINY, network=replace(SIZES, norm_groups=5))}, "norm-groups is 5"),
        ({"optimisation": replace(TINY, network=replace(SIZES, encoder_level=3))}, "encoder-level is 3"),
        ({"initial": "nowhere/to/be/found"}, "--initial nowhere/to/be/found"),
    ],
)
def test_settings_that_no_training_can_have_are_refused(tmp_path, changes, said):
    write_pair(tmp_path / "clips", "c0", blob_pair(0), Provenance("balls", "none", 0))
    write_pair(tmp_path / "clips", "c1", blob_pair(1), Provenance("balls", "none", 1))
    config = TrainReconFusionConfig(output=tmp_path / "prior", clips=tmp_path / "clips", optimisation=TINY)
    with pytest.raises((ValueError, FileNotFoundError), match=said.replace("(", r"\(")):
        train_generator(replace(config, **changes))


def test_the_shipped_settings_are_read():
    small, full = (read_config(CONFIGS / f"reconfusion_{name}.yaml") for name in ("small", "sd21"))
    assert isinstance(small, TrainReconFusionConfig) and isinstance(full, TrainReconFusionConfig)
    assert small.optimisation.network.size == (64, 64) and full.optimisation.network.size == (512, 512)
    assert full.optimisation.batch_size * full.optimisation.accumulation == 32
    small.optimisation.check()
    full.optimisation.check()


def test_the_task_holds_what_is_trained_and_nothing_else():
    pipeline: ReconFusionPipeline = toy_pipeline()
    names = {name.split(".")[0] for name, _ in ReconFusionTask(pipeline, frozen_encoder=True).named_parameters()}
    assert names == {"unet", "pixelnerf"}
    names = {name.split(".")[0] for name, _ in ReconFusionTask(pipeline, frozen_encoder=False).named_parameters()}
    assert names == {"unet", "pixelnerf", "image_encoder"}
