"""The generator as a repairer, at toy size with random weights."""

import json
from dataclasses import replace

import pytest
import torch
from dynamicrafter_toys import toy_pipeline

from genfusion_ns.geometry.cameras import Clip, References
from genfusion_ns.geometry.clip_pairs import select_frames
from genfusion_ns.priors.base import VideoRepairer
from genfusion_ns.priors.dynamicrafter.images import fit_within, pad_to_multiple, there_and_back
from genfusion_ns.priors.dynamicrafter.repairer import DynamiCrafterRepairer, nearest_reference
from genfusion_ns.priors.dynamicrafter.sampling import Sampling

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


@pytest.mark.parametrize(("size", "frames"), [((128, 64), 4), ((96, 50), 1), ((30, 70), 5), ((200, 100), 2)])
def test_any_size_and_length_comes_back(repairer, size, frames):
    out = repaired(repairer, a_clip(frames, size))
    assert isinstance(repairer, VideoRepairer)
    for images, channels in ((out.rgb, 3), (out.disparity, 1), (out.confidence, 1)):
        assert images.shape == (frames, size[1], size[0], channels)
        assert images.min() >= 0
        assert images.max() <= 1


def test_same_seed_same_repair(repairer):
    first, again, other = (repaired(repairer, a_clip(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.rgb, again.rgb)
    assert torch.equal(first.confidence, again.confidence)
    assert not torch.equal(first.rgb, other.rgb)


def test_working_size_keeps_the_aspect():
    assert fit_within((960, 512), (960, 512)) == (960, 512)
    assert fit_within((1920, 1080), (960, 512)) == (910, 512)
    assert fit_within((100, 400), (960, 512)) == (128, 512)


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


def test_only_the_nearest_photo_matters(repairer):
    near, both = photos(), photos([(0.0, 0.0, 0.0), (9.0, 0.0, 0.0)])
    both.rgb[0] = near.rgb[0]
    assert torch.equal(repaired(repairer, a_clip(), near).rgb, repaired(repairer, a_clip(), both).rgb)


def test_nothing_to_repair(repairer):
    with pytest.raises(ValueError, match="0 frames and 1 photos"):
        repaired(repairer, select_frames(a_clip(), []))
    none = References(torch.zeros(0, 4, 4, 3), torch.zeros(0, 4, 4), torch.zeros(0, 3, 3))
    with pytest.raises(ValueError, match="3 frames and 0 photos"):
        repaired(repairer, a_clip(), none)


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


def test_released_repairer_works_again(repairer):
    before = repaired(repairer, a_clip())
    repairer.release()
    assert torch.equal(repaired(repairer, a_clip()).rgb, before.rgb)
