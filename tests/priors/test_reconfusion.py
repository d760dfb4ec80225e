"""ReconFusion's prior: its ladder, PixelNeRF, the start from Stable Diffusion, guidance, folders and what it draws."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from reconfusion_toys import SIZES, blob_pair, orbit, toy_pipeline, toy_stable_diffusion, turned, view_and_photos
from transformers import CLIPVisionModelWithProjection

from genfusion_ns.geometry.clips import References, select_references
from genfusion_ns.priors.base import ViewPrior
from genfusion_ns.priors.config import RepairerConfig, build_repairer, check_repairer
from genfusion_ns.priors.reconfusion.architecture import SD21_UNET, extended_unet, from_stable_diffusion, small_pipeline
from genfusion_ns.priors.reconfusion.folder import check_prior_folder
from genfusion_ns.priors.reconfusion.initial import starting_pipeline
from genfusion_ns.priors.reconfusion.inputs import ViewInputs, depth_range, stack_inputs, view_guide, view_inputs
from genfusion_ns.priors.reconfusion.ladder import add_noise, alphas_of, descend, ladder, split, velocity
from genfusion_ns.priors.reconfusion.loading import load_prior
from genfusion_ns.priors.reconfusion.pipeline import ReconFusionPipeline
from genfusion_ns.priors.reconfusion.pixelnerf import PixelNerf, composite, lift_rays, read_images
from genfusion_ns.priors.reconfusion.prior import ReconFusionPrior
from genfusion_ns.priors.training.settings import ReconFusionSizes
from genfusion_ns.seeds import seeded_generator

torch.set_num_threads(1)


def table() -> torch.Tensor:
    return alphas_of(toy_stable_diffusion().scheduler)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("level", [1.0, 0.5, 0.1, 0.003])
def test_the_true_noise_leads_back_to_the_clean_image(level, kind):
    generator = seeded_generator(0)
    clean, noise = (torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    alphas, steps = table(), ladder(level, 10, 1000)
    answers = {
        "epsilon": lambda z, step: noise,
        "v_prediction": lambda z, step: velocity(clean, noise, alphas[step].expand(2)),
    }
    found = descend(add_noise(clean, noise, alphas[steps[0]]), steps, alphas, kind, answers[kind])
    assert float((found - clean).abs().max()) < 1e-13


def test_the_ladder_ends_clean_and_never_climbs():
    for level in torch.linspace(0.001, 1, 40).tolist():
        steps = ladder(level, 10, 1000)
        assert len(steps) == 11 and steps[-1] == 0 and steps == sorted(steps, reverse=True)
        assert steps[0] == max(1, round(level * 999))


def test_guiding_v_is_guiding_the_noise():
    generator = seeded_generator(1)
    z, shown, hidden = (torch.randn(4, dtype=torch.float64, generator=generator) for _ in range(3))
    a = torch.tensor(0.3, dtype=torch.float64)
    noises = [split(z, v, a, "v_prediction")[1] for v in (shown, hidden)]
    noise = noises[1] + 3 * (noises[0] - noises[1])
    by_noise, _ = split(z, noise, a, "epsilon")
    by_v, _ = split(z, hidden + 3 * (shown - hidden), a, "v_prediction")
    torch.testing.assert_close(by_noise, by_v)


def batch(seed: int = 0, photos: int = 3, guided: bool = True) -> ViewInputs:
    return stack_inputs([view_inputs(*view_and_photos(seed, photos=photos), photos, guided)])


@pytest.mark.parametrize("photos", [1, 2, 5])
def test_pixelnerf_takes_any_number_of_photos_in_any_order(photos):
    nerf = toy_pipeline().pixelnerf
    view, references = view_and_photos(photos=photos)
    order = list(reversed(range(photos)))
    found = [
        nerf(stack_inputs([view_inputs(view, given, photos, False)]))
        for given in (references, select_references(references, order))
    ]
    torch.testing.assert_close(found[0].features, found[1].features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0].colours, found[1].colours, atol=1e-5, rtol=1e-4)
    assert float(found[0].features.std()) > 1e-3


def test_frame_and_unit_of_the_scene_do_not_matter():
    view, references = view_and_photos()
    shift, scale = torch.tensor([4.0, -7.0, 2.0]), 3.0
    moved = [turned(poses, 1.1, shift, scale) for poses in (view.viewmat, references.viewmats)]
    there = replace(view, viewmat=moved[0], depth=scale * view.depth)
    inputs = [
        view_inputs(view, references, 3, True),
        view_inputs(there, References(references.rgb, moved[1], references.Ks), 3, True),
    ]
    for name in ("poses", "near", "far"):
        torch.testing.assert_close(*(getattr(one, name) for one in inputs), atol=1e-4, rtol=1e-4)
    assert inputs[0].guide is not None and inputs[1].guide is not None
    assert float(((inputs[0].guide - inputs[1].guide).abs() > 0.01).float().mean()) < 0.01  # borders may tip over
    nerf = toy_pipeline().pixelnerf
    found = [nerf(stack_inputs([one])) for one in inputs]
    torch.testing.assert_close(found[0].features, found[1].features, atol=1e-3, rtol=1e-2)


def test_a_photo_of_the_view_itself_is_put_back_in_its_place():
    view, references = view_and_photos(photos=2)
    K = view.K
    same = References(references.rgb[:1], view.viewmat[None], K[None])
    inputs = stack_inputs([view_inputs(view, same, 1, False)])
    lifted = lift_rays(inputs, 8, 16)
    assert bool(lifted.seen.all())
    read = read_images(inputs.photos[:, 0], lifted.places[:, 0]).view(1, 64, 16, 3)
    cells = (torch.arange(8) + 0.5) / 8
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    wanted = read_images(inputs.photos[:, 0], torch.stack([x, y], -1).view(1, 64, 2))
    density = torch.zeros(1, 64, 16)
    density[..., 9] = 1e6
    found = composite(density, read, lifted.steps)
    assert float((found - wanted).abs().max()) < 1e-4


def test_photos_that_look_away_are_not_read():
    view, references = view_and_photos()
    away = references.viewmats[:1].clone()
    away[:, [0, 2]] = -away[:, [0, 2]]  # turned round on the spot
    both = References(
        torch.cat([references.rgb, 1 - references.rgb[:1]]),
        torch.cat([references.viewmats, away]),
        torch.cat([references.Ks, references.Ks[:1]]),
    )
    inputs = stack_inputs([view_inputs(view, both, 4, True)])
    lifted = lift_rays(inputs, 8, 12)
    assert not bool(lifted.seen[:, 3].any()) and bool(lifted.seen[:, 0].any())
    nerf = toy_pipeline().pixelnerf
    other = replace(inputs, photos=torch.cat([inputs.photos[:, :3], torch.rand(1, 1, 3, 32, 32)], dim=1))
    torch.testing.assert_close(nerf(inputs).features, nerf(other).features)


def test_the_focus_lies_within_the_range_of_depths():
    view, references = view_and_photos()
    for spread in (0.1, 0.5, 1.5):
        viewmats = orbit(torch.tensor([0.0, -spread, spread]))
        photos = References(references.rgb[:2], viewmats[1:], references.Ks[:2])
        inputs = view_inputs(replace(view, viewmat=viewmats[0]), photos, 2, False)
        baseline = 6 * torch.tensor(spread / 2).sin()
        focus = float(viewmats[0, :3, 3].norm() / baseline)
        assert float(inputs.near) < 0.5 * focus < 2 * focus < float(inputs.far)
    parallel = torch.eye(4).repeat(2, 1, 1)
    parallel[:, 0, 3] = torch.tensor([1.0, -1.0])
    near, far = depth_range(parallel)
    assert 0 < float(near) < 2 < float(far) < 100


def test_the_guide_is_the_view_where_depth_and_photo_are_right():
    pair = blob_pair(3)
    view, references = view_and_photos(3)
    whole = replace(view, depth=pair.clean.depth[0], alpha=(pair.clean.depth[0] > 0).float(), rgb=pair.clean.rgb[0])
    guide = view_guide(whole, references)
    assert guide.shape[0] == 15
    ball = (whole.depth > 0)[..., 0]
    well = ball & (guide[7] > 0.9)
    error = (guide[4:7] - pair.clean.rgb[0].permute(2, 0, 1)).abs().mean(0)
    assert int(well.sum()) > 50 and float(error[well].median()) < 0.05
    assert bool((guide[7] >= guide[11]).all())
    hidden = view_guide(whole, replace(references, rgb=torch.zeros_like(references.rgb)))
    assert float(hidden[[4, 5, 6, 8, 9, 10, 12, 13, 14]].abs().max()) == 0
    torch.testing.assert_close(hidden[[3, 7, 11]], guide[[3, 7, 11]])


@pytest.mark.parametrize("token_width", [32, 24])
def test_at_first_the_denoiser_says_what_the_base_says(token_width):
    base = toy_stable_diffusion(token_width=token_width).unet
    unet = extended_unet(base, 7, token_width)
    z, f = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 16, 16)
    tokens = torch.randn(2, 3, 32)
    with torch.no_grad():
        wanted = base(z, 400, tokens).sample
        if token_width != 32:
            assert unet.encoder_hid_proj.weight.shape == (32, 24)
            unet.encoder_hid_proj = None
            unet.register_to_config(encoder_hid_dim_type=None)
        assert torch.equal(unet(torch.cat([z, f], dim=1), 400, tokens).sample, wanted)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_stable_diffusion_becomes_a_prior(tmp_path, prediction):
    toy_stable_diffusion(tmp_path, prediction=prediction)
    pipeline = starting_pipeline(str(tmp_path), None, (32, 32))
    assert pipeline.scheduler.config.prediction_type == prediction
    assert pipeline.unet.config.in_channels == 4 + 128
    assert pipeline.latents.shape((32, 32)) == (4, 16, 16)
    drawn = pipeline(*view_and_photos(), 0.4, seeded_generator(0), steps=2)
    assert drawn.shape == (32, 32, 3) and bool(torch.isfinite(drawn).all())


def test_the_full_size_on_no_memory():
    with torch.device("meta"):
        unet = extended_unet(UNet2DConditionModel(**SD21_UNET), 128, 1024)
        nerf = PixelNerf()
        photos, tokens = torch.zeros(1, 3, 3, 512, 512), torch.zeros(1, 3, 1024)
        assert unet(torch.zeros(1, 132, 64, 64), torch.zeros(1), tokens).sample.shape == (1, 4, 64, 64)
        inputs = ViewInputs(
            photos, torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 3, 3), torch.zeros(1, 3, 3), torch.ones(1), torch.ones(1)
        )
        found = nerf.eval()(inputs)
    assert round(sum(p.numel() for p in unet.parameters()) / 1e5) == 8663
    assert found.features.shape == (1, 128, 64, 64) and found.colours.shape == (1, 3, 64, 64)
    assert 8e6 < sum(p.numel() for p in nerf.encoder.parameters()) < 13e6


def test_the_small_size_fits_the_package():
    with torch.device("meta"):
        parts = small_pipeline(ReconFusionSizes())
    networks = (parts.unet, parts.pixelnerf, parts.image_encoder)
    assert sum(2 * p.numel() for network in networks for p in network.parameters()) < 10e6


def test_scale_1_is_the_conditional_branch_and_black_photos_are_the_other():
    pipeline, inputs = toy_pipeline(), batch()
    noisy = torch.randn(1, 12, 16, 16)
    with torch.no_grad():
        both = pipeline.predict(torch.cat([noisy, noisy]), 500, pipeline.condition(inputs.twice()))
        alone = pipeline.predict(noisy, 500, pipeline.condition(inputs))
        view, references = view_and_photos()
        black = replace(references, rgb=torch.zeros_like(references.rgb))
        hidden = stack_inputs([view_inputs(view, black, 3, True)])
        without = pipeline.predict(noisy, 500, pipeline.condition(hidden))
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[1:], without, atol=1e-5, rtol=1e-4)
    assert float((both[0] - both[1]).abs().max()) > 1e-4
    noise = torch.randn(1, 12, 16, 16)
    render = torch.rand(1, 3, 32, 32)
    drawn = [pipeline.draw(inputs, render, noise, 0.7, 3, scale) for scale in (1.0, 1.0 + 1e-6, 3.0)]
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-4, rtol=1e-3)
    assert float((drawn[0] - drawn[2]).abs().max()) > 1e-3


def test_a_folder_comes_back_with_the_same_samples(tmp_path):
    pipeline = toy_pipeline()
    pipeline.save_pretrained(tmp_path / "prior")
    parts = json.loads((tmp_path / "prior" / "model_index.json").read_text())
    assert parts["pixelnerf"] == ["genfusion_ns.priors.reconfusion.pixelnerf", "PixelNerf"]
    view, references = view_and_photos()
    drawn = []
    for found in (pipeline, load_prior(tmp_path / "prior"), ReconFusionPipeline.from_pretrained(tmp_path / "prior")):
        found.set_progress_bar_config(disable=True)
        drawn.append(found(view, references, 0.8, seeded_generator(5)))
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    facts = check_prior_folder(tmp_path / "prior")
    assert facts.resolution == (32, 32) and facts.size_multiple == pipeline.size_multiple == 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("priors") / "prior"
    toy_pipeline().save_pretrained(path)
    return path


def test_a_run_finds_checks_and_builds_it(folder):
    config = RepairerConfig(model=str(folder), steps=2)
    assert check_repairer(config, "cpu").kind == "reconfusion"
    prior = build_repairer(config, "cpu")
    assert isinstance(prior, ViewPrior) and isinstance(prior, ReconFusionPrior)
    assert prior.resolution == (32, 32) and prior.num_references == 3
    view, references = view_and_photos()
    first, again = (prior.sample(view, references, 1.0, seeded_generator(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (32, 32, 3) and not first.requires_grad
    assert float(first.min()) >= 0 and float(first.max()) <= 1
    assert not torch.equal(first, prior.sample(view, references, 1.0, seeded_generator(4)))
    prior.release()
    assert torch.equal(first, prior.sample(view, references, 1.0, seeded_generator(3)))


def test_pure_noise_knows_nothing_of_the_render_and_little_noise_keeps_it(folder):
    prior = ReconFusionPrior(load_prior(folder), steps=4, guidance_scale=1.0)
    view, _ = view_and_photos()
    noise = torch.randn(1, 12, 16, 16, generator=seeded_generator(0))
    inputs, render = batch(), 2 * view.rgb.permute(2, 0, 1)[None] - 1
    pure = [prior.pipeline.draw(inputs, images, noise, 1.0) for images in (render, -render)]
    traced = [prior.pipeline.draw(inputs, images, noise, 0.9, pure_noise=False) for images in (render, -render)]
    near = prior.pipeline.draw(inputs, render, noise, 0.003)
    assert not torch.equal(traced[0], traced[1])
    assert torch.equal(pure[0], pure[1])
    assert float((near - render).abs().mean()) < 0.2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda view, photos: (replace(view, rgb=view.rgb[:16], depth=view.depth[:16]), photos, 1.0), r"32, 16"),
        (lambda view, photos: (view, select_references(photos, []), 1.0), "none"),
        (lambda view, photos: (view, photos, 0.0), "level is 0.0"),
        (lambda view, photos: (view, photos, 1.5), "level is 1.5"),
        (lambda view, photos: (view, photos, float("nan")), "level is nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused(folder, change, said):
    prior = ReconFusionPrior.from_folder(folder)
    view, photos, level = change(*view_and_photos())
    with pytest.raises(ValueError, match=said):
        prior.sample(view, photos, level, seeded_generator(0))


def test_one_photo_of_another_size_at_the_place_of_the_view_is_enough(folder):
    prior = ReconFusionPrior.from_folder(folder, steps=1)
    view, _ = view_and_photos()
    photo = References(torch.rand(1, 20, 50, 3), view.viewmat[None], view.K[None], torch.rand(1, 20, 50, 1) > 0.2)
    drawn = prior.sample(view, photo, 1.0, seeded_generator(0))
    assert bool(torch.isfinite(drawn).all())


def test_the_image_encoder_gives_one_token_per_photo():
    pipeline = toy_pipeline()
    assert isinstance(pipeline.image_encoder, CLIPVisionModelWithProjection)
    with torch.no_grad():
        assert pipeline.condition(batch(photos=2)).tokens.shape == (1, 2, SIZES.token_width)


def test_sizes_from_stable_diffusion_have_no_guide():
    parts = toy_stable_diffusion()
    pipeline = from_stable_diffusion(parts.unet, parts.vae, parts.scheduler, parts.image_encoder, (32, 32))
    assert not pipeline.facts.guided and pipeline.facts.steps == 10 and pipeline.facts.guidance_scale == 3.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_the_cpu_draws(folder):
    view, references = view_and_photos()
    drawn = [
        ReconFusionPrior.from_folder(folder, device, dtype=torch.float32).sample(
            view.to(device), references.to(device), 0.6, seeded_generator(0)
        )
        for device in ("cpu", "cuda")
    ]
    assert drawn[1].is_cuda
    torch.testing.assert_close(drawn[0], drawn[1].cpu(), atol=1e-2, rtol=0)
    half = ReconFusionPrior.from_folder(folder, "cuda").sample(view, references, 1.0, seeded_generator(0))
    assert not half.is_cuda and bool(torch.isfinite(half).all())
