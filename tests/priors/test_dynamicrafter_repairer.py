"""The generator as a repairer, at toy size with random weights."""

import json
from dataclasses import replace

import pytest
import torch
from dynamicrafter_toys import toy_pipeline

from genfusion_ns.geometry.clips import Clip, References, RepairedClip
from genfusion_ns.priors.base import repair_next
from genfusion_ns.priors.dynamicrafter.best_of import disagreement
from genfusion_ns.priors.dynamicrafter.clip_inputs import clip_inputs, seen_part
from genfusion_ns.priors.dynamicrafter.images import fit_within, pad_to_multiple, there_and_back
from genfusion_ns.priors.dynamicrafter.repairer import DynamiCrafterRepairer, is_short, nearest_reference
from genfusion_ns.priors.dynamicrafter.sampling import Sampling
from genfusion_ns.priors.identity import IdentityRepairer
from genfusion_ns.priors.without_cameras import clip_without_cameras

SHORT = Sampling(steps=2)


def poses(positions):
    viewmats = torch.eye(4).repeat(len(positions), 1, 1)
    viewmats[:, :3, 3] = -torch.tensor(positions)
    return viewmats


def a_clip(frames=3, size=(64, 64)):
    width, height = size
    generator = torch.Generator().manual_seed(0)
    return Clip(
        rgb=torch.rand(frames, height, width, 3, generator=generator),
        depth=torch.rand(frames, height, width, 1, generator=generator) + 1,
        alpha=torch.ones(frames, height, width, 1),
        viewmats=poses([[0.1 * i, 0.0, 0.0] for i in range(frames)]),
        Ks=torch.eye(3).repeat(frames, 1, 1),
    )


def photos(positions=((0.0, 0.0, 0.0),)):
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(len(positions), 40, 56, 3, generator=generator)
    return References(rgb, poses([list(p) for p in positions]), torch.eye(3).repeat(len(positions), 1, 1))


@pytest.fixture(scope="module")
def repairer():
    repairer = DynamiCrafterRepairer(toy_pipeline(), SHORT, resolution=(128, 64))
    repairer.clip_length = 4
    return repairer


def repaired(repairer, clip, references=None, seed=0):
    return repairer.repair(clip, photos() if references is None else references, torch.Generator().manual_seed(seed))


def test_working_size_keeps_the_aspect():
    assert fit_within((960, 512), (960, 512)) == (960, 512)
    assert fit_within((1920, 1080), (960, 512)) == (910, 512)
    assert fit_within((100, 400), (960, 512)) == (240, 960)
    assert fit_within((1080, 1920), (960, 512)) == (512, 910)
    assert fit_within((300, 300), (960, 512)) == (512, 512)


def test_padding_repeats_the_border_on_both_sides():
    video = torch.rand(2, 64, 80, 4)
    padded, (top, left) = pad_to_multiple(video, 64)
    assert (padded.shape, top, left) == ((2, 64, 128, 4), 0, 24)
    assert torch.equal(padded[:, :, 24:104], video)
    assert torch.equal(padded[:, :, :24], video[:, :, :1].expand(-1, -1, 24, -1))
    assert torch.equal(padded[:, :, 104:], video[:, :, -1:].expand(-1, -1, 24, -1))
    assert pad_to_multiple(padded, 64)[0].shape == padded.shape


def test_short_clips_go_on_backwards():
    assert there_and_back(3, 8) == [0, 1, 2, 1, 0, 1, 2, 1]
    assert there_and_back(1, 4) == [0, 0, 0, 0]
    assert there_and_back(5, 4) == [0, 1, 2, 3, 4]


def test_unseen_depth_does_not_count(repairer):
    clip = a_clip()
    alpha, depth = clip.alpha.clone(), clip.depth.clone()
    alpha[:, :, :20], depth[:, :, :20] = 0, 1e-3
    spoilt = repaired(repairer, replace(clip, alpha=alpha, depth=depth))
    depth[:, :, :20] = 7.0
    assert torch.equal(spoilt.rgb, repaired(repairer, replace(clip, alpha=alpha, depth=depth)).rgb)


def test_nearest_photo_by_place_and_direction():
    clip = a_clip()
    assert nearest_reference(clip, photos([(3.0, 0.0, 0.0), (0.1, 0.0, 0.0), (-1.0, 0.0, 0.0)])) == 1
    turned = photos([(0.1, 0.0, 0.0), (0.5, 0.0, 0.0)])
    turned.viewmats[0, :3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    turned.viewmats[0, :3, 3] = torch.tensor([0.1, 0.0, 0.0])
    assert nearest_reference(clip, turned) == 1


@pytest.mark.parametrize("covered", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_photo_is_the_same_in_any_unit(seed, covered):
    generator = torch.Generator().manual_seed(seed)
    clip = a_clip()
    clip.alpha.fill_(float(covered))
    shown = photos(torch.randn(12, 3, generator=generator).tolist())
    for viewmat, turn in zip(shown.viewmats, 0.8 * torch.randn(12, generator=generator), strict=True):
        viewmat[0, [0, 2]] = torch.stack([turn.cos(), turn.sin()])
        viewmat[2, [0, 2]] = torch.stack([-turn.sin(), turn.cos()])

    def scaled(viewmats, unit):
        return torch.cat([torch.cat([viewmats[:, :3, :3], unit * viewmats[:, :3, 3:]], -1), viewmats[:, 3:]], 1)

    chosen = {
        nearest_reference(
            replace(clip, viewmats=scaled(clip.viewmats, unit), depth=unit * clip.depth),
            replace(shown, viewmats=scaled(shown.viewmats, unit)),
        )
        for unit in (1e-3, 1.0, 1e3)
    }
    assert len(chosen) == 1


def test_only_the_nearest_photo_matters(repairer):
    near, both = photos(), photos([(0.0, 0.0, 0.0), (9.0, 0.0, 0.0)])
    both.rgb[0] = near.rgb[0]
    assert torch.equal(repaired(repairer, a_clip(), near).rgb, repaired(repairer, a_clip(), both).rgb)


def test_settings_are_checked(repairer):
    with pytest.raises(ValueError, match=r"\(100, 64\); both sides must be multiples of 64"):
        DynamiCrafterRepairer(repairer.pipeline, resolution=(100, 64))
    with pytest.raises(ValueError, match="the device is cpu"):
        DynamiCrafterRepairer(repairer.pipeline, resolution=(64, 64), offload=True)


def test_folders(repairer, tmp_path):
    with pytest.raises(FileNotFoundError, match="gf-convert-generator"):
        DynamiCrafterRepairer.from_folder(tmp_path)
    repairer.pipeline.save_pretrained(tmp_path)
    loaded = DynamiCrafterRepairer.from_folder(tmp_path, SHORT, resolution=(128, 64))
    loaded.clip_length = 4
    torch.testing.assert_close(repaired(loaded, a_clip()).rgb, repaired(repairer, a_clip()).rgb, atol=1e-4, rtol=0)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"unet has no .safetensors file: the folder is incomplete"):
        DynamiCrafterRepairer.from_folder(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ValueError, match="describes a StableDiffusionPipeline"):
        DynamiCrafterRepairer.from_folder(tmp_path)


def first_frames(repaired_clip, count):
    return RepairedClip(repaired_clip.rgb[:count], repaired_clip.disparity[:count], repaired_clip.confidence[:count])


def test_known_frames_keep_their_latents(repairer):
    pipeline, clip = repairer.pipeline, a_clip(4)
    known = RepairedClip(clip.rgb[:2], torch.rand(2, 64, 64, 1), torch.ones(2, 64, 64, 1))
    inputs = clip_inputs(clip, known, (64, 64), 6, 64)
    assert inputs.known.places == [0, 1, 5]  # six frames are 0 1 2 3 2 1
    assert torch.equal(inputs.known.video[2], inputs.known.video[1])
    out = pipeline(
        inputs.video[..., :3],
        inputs.video[..., 3:],
        photos().rgb,
        SHORT,
        torch.Generator().manual_seed(0),
        known=inputs.known,
    )
    video = (inputs.known.video * 2 - 1).permute(3, 0, 1, 2)[None]
    assert torch.equal(out.latents[:, :, [0, 1, 5]], pipeline.encode_video(video, sample=False))
    assert not out.variance[:, :, [0, 1, 5]].any()
    assert out.variance[:, :, 2:5].all()


def test_windows_follow_each_other_where_the_repairer_can(repairer):
    clip, before = a_clip(4), RepairedClip(*(torch.rand(4, 64, 64, c) for c in (3, 1, 1)))

    def following(repairer, before, overlap):
        return repair_next(
            repairer, before, overlap, clip=clip, references=photos(), generator=torch.Generator().manual_seed(0)
        )

    alone = repaired(repairer, clip)
    assert torch.equal(following(repairer, before, 1).rgb[:1], before.rgb[3:])
    for unconnected in ((None, 1), (before, 0), (before, 4)):
        assert torch.equal(following(repairer, *unconnected).rgb, alone.rgb)
    assert torch.equal(following(IdentityRepairer(), before, 1).rgb, clip.rgb)


def test_clips_of_unknown_depth_get_the_middle_of_the_range():
    clip = clip_without_cameras(torch.rand(2, 64, 64, 3))
    assert (clip_inputs(clip, None, (64, 64), 2, 64).video[..., 3] == 0.5).all()
    rendered = replace(clip, alpha=torch.zeros_like(clip.alpha))
    assert not clip_inputs(rendered, None, (64, 64), 2, 64).video[..., 3].any()


def test_known_disparity_is_brought_into_the_code_of_the_clip():
    clip = a_clip(4)
    code = clip_inputs(clip, None, (64, 64), 4, 64).video[..., 3:]
    known = RepairedClip(clip.rgb[:2], 0.3 * code[:2] + 0.5, torch.ones(2, 64, 64, 1))
    aligned = clip_inputs(clip, known, (64, 64), 4, 64).known.video[..., 3:]
    torch.testing.assert_close(aligned, code[:2], atol=1e-4, rtol=0)
    unrelated = replace(known, disparity=torch.rand(2, 64, 64, 1))
    kept = clip_inputs(clip, unrelated, (64, 64), 4, 64).known.video[..., 3:]
    assert torch.equal(kept, unrelated.disparity)


def test_known_frames_must_begin_the_clip(repairer):
    clip = a_clip(3)
    for count, size in ((3, 64), (0, 64), (1, 32)):
        known = RepairedClip(*(torch.rand(count, size, size, c) for c in (3, 1, 1)))
        with pytest.raises(ValueError, match=rf"{count} known frames of {size} x {size} do not begin a clip of 3"):
            repairer.repair_after(known, clip, photos(), torch.Generator())


def evaluations(pipeline, clip, sampling, **options):
    """Output of the pipeline and the time steps at which the network was asked."""
    asked = []
    handle = pipeline.unet.register_forward_pre_hook(lambda _, inputs: asked.append(int(inputs[1][0])))
    inputs = clip_inputs(clip, None, clip.size, 1, 64)
    out = pipeline(
        inputs.video[..., :3],
        inputs.video[..., 3:],
        photos().rgb,
        sampling,
        torch.Generator().manual_seed(0),
        alpha=options.get("alpha", inputs.alpha),
    )
    handle.remove()
    return out, asked


def test_covered_clips_start_below_pure_noise_and_stay_nearer_to_their_latents(repairer):
    pipeline, clip = repairer.pipeline, a_clip(2)
    free = Sampling(steps=10, guidance_scale=1.0, sample_condition=False)
    half = replace(free, start_noise=0.5)
    low = replace(free, start_noise=0.1)
    (all_free, asked), (out, asked_half), (near, asked_low) = (
        evaluations(pipeline, clip, sampling) for sampling in (free, half, low)
    )
    assert asked == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert asked_half == [501, 401, 301, 201, 101, 1]
    assert asked_low == [101, 1]
    video = clip_inputs(clip, None, (64, 64), 1, 64).video
    latents = pipeline.encode_video((video * 2 - 1).permute(3, 0, 1, 2)[None], sample=False)
    distances = [(end.latents - latents).square().mean() for end in (near, out, all_free)]
    assert distances[0] < distances[1] < distances[2]


def test_empty_pixels_start_from_pure_noise(repairer):
    pipeline, clip = repairer.pipeline, a_clip(2)
    low = Sampling(steps=10, guidance_scale=1.0, sample_condition=False, start_noise=0.1)
    empty, asked = evaluations(pipeline, clip, low, alpha=torch.zeros(2, 64, 64, 1))
    full, _ = evaluations(pipeline, clip, replace(low, start_noise=1.0))
    assert len(asked) == 10
    assert torch.equal(empty.latents, full.latents)
    alpha = torch.ones(2, 64, 64, 1)
    alpha[:, :, :32] = 0
    mixed, asked = evaluations(pipeline, clip, low, alpha=alpha)
    assert len(asked) == 10
    video = clip_inputs(clip, None, (64, 64), 1, 64).video
    latents = pipeline.encode_video((video * 2 - 1).permute(3, 0, 1, 2)[None], sample=False)
    error = (mixed.latents - latents).square().mean((0, 1, 2, 3))
    assert error[:4].min() > 2 * error[4:].max()


def test_starting_from_renders_needs_their_coverage(repairer):
    low = replace(SHORT, start_noise=0.5)
    with pytest.raises(ValueError, match="coverage"):
        evaluations(repairer.pipeline, a_clip(), low, alpha=None)


def test_the_best_of_several_is_one_of_them_and_the_best(repairer):
    clip, references = a_clip(), photos()
    generator = torch.Generator().manual_seed(0)
    draws = [repairer.repair(clip, references, generator) for _ in range(3)]
    several = DynamiCrafterRepairer(repairer.pipeline, SHORT, resolution=(128, 64), samples=3)
    several.clip_length = 4
    kept = repaired(several, clip, references)
    scores = [disagreement(draw.rgb, clip, references) for draw in draws]
    assert torch.equal(kept.rgb, draws[scores.index(min(scores))].rgb)
    assert len(set(scores)) == 3


def test_disagreement_listens_to_photos_before_renders_and_ignores_what_is_empty():
    clip = a_clip(2, (32, 32))
    clip = replace(clip, rgb=torch.full_like(clip.rgb, 0.25), depth=torch.full_like(clip.depth, 2.0))
    K = torch.tensor([[32.0, 0, 16], [0, 32, 16], [0, 0, 1]])
    clip = replace(clip, viewmats=torch.eye(4).repeat(2, 1, 1), Ks=K.repeat(2, 1, 1))
    behind = torch.eye(4)[None].clone()
    behind[0, 2, 3] = -1e6
    grey = torch.full((1, 32, 32, 3), 0.75)
    here, away = References(grey, torch.eye(4)[None], K[None]), References(grey, behind, K[None])
    render, photo = clip.rgb, torch.full_like(clip.rgb, 0.75)
    assert disagreement(render, clip, away) == pytest.approx(0.0, abs=1e-6)
    assert disagreement(photo, clip, away) == pytest.approx(0.5, abs=1e-6)
    assert disagreement(photo, clip, here) == pytest.approx(0.0, abs=1e-5)
    assert disagreement(render, clip, here) == pytest.approx(0.5, abs=1e-5)
    empty = replace(clip, alpha=torch.zeros_like(clip.alpha))
    assert disagreement(photo, empty, here) == 0.0


def test_masked_photos_show_only_what_is_seen():
    references = photos([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0)])
    assert torch.equal(seen_part(references, 1), references.rgb[1:])
    seen = torch.zeros(2, 40, 56, 1, dtype=torch.bool)
    seen[0, 10:20, 5:30] = True
    seen[0, 12, 7] = False
    masked = replace(references, seen=seen)
    part = seen_part(masked, 0)
    assert part.shape == (1, 10, 25, 3)
    inside = seen[0, 10:20, 5:30, 0]
    assert torch.equal(part[0][inside], references.rgb[0, 10:20, 5:30][inside])
    torch.testing.assert_close(part[0, 2, 2], part[0][inside].mean(0))
    assert torch.equal(seen_part(masked, 1), references.rgb[1:])


def test_values_that_are_not_finite_never_leave_the_generator():
    pipeline = toy_pipeline()
    repairer = DynamiCrafterRepairer(pipeline, SHORT)
    repairer.clip_length = 2
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"vae gave NaN or infinity in torch.float32: the weights are damaged"):
        repaired(repairer, a_clip(2))
    with torch.no_grad():
        pipeline.unet.conv_out.bias.fill_(torch.inf)
    with pytest.raises(RuntimeError, match="unet gave NaN"):
        repaired(repairer, a_clip(2))


def test_overflow_of_half_precision_names_the_types_that_help():
    pipeline = toy_pipeline()
    repairer = DynamiCrafterRepairer(pipeline, SHORT)
    repairer.clip_length = 2
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.mul_(1e6)
    pipeline.vae.half()
    with pytest.raises(RuntimeError, match=r"vae gave NaN or infinity in torch.float16: bf16 or fp32 \(--pipeline"):
        repaired(repairer, a_clip(2))


def test_memory_is_short_below_half():
    assert is_short(10, 24) and not is_short(60, 80)
