"""Mono depth: each photo gets its own frames back, alignment recovers scenes, transformers models load from folders."""

import json

import pytest
import torch
from depth_models import save_depth_model

from genfusion_ns.geometry.clips import Clip, References, RepairedClip
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.geometry.warping import warp_references
from genfusion_ns.priors.base import Capabilities
from genfusion_ns.priors.mono_depth import MonoDepth, RepairerMonoDepth, align_to_scene
from genfusion_ns.priors.mono_depth_transformers import TransformersMonoDepth
from genfusion_ns.priors.without_cameras import clip_without_cameras, photos_without_cameras

COUNTS = [1, 3, 5, 15, 16, 17, 40]


class RedIsDisparity:
    """A repairer whose disparity is the red of the same frame, so that a result tells which photo it was made of."""

    name = "red"
    capabilities = Capabilities(repairs=True, makes_depth=True)
    clip_length = 16
    resolution: tuple[int, int] = (32, 24)

    def __init__(self):
        self.lengths: list[int] = []
        self.photos: list[float] = []

    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        self.lengths.append(len(clip))
        self.photos.append(float(references.rgb[0, 0, 0, 0]))
        return RepairedClip(clip.rgb, clip.rgb[..., :1], clip.rgb[..., 1:2])

    def release(self) -> None:
        pass


def photos(count: int, height: int = 4, width: int = 6) -> torch.Tensor:
    """Photo i has red (i + 1) / 64 everywhere, and green half of it."""
    red = (torch.arange(count) + 1) / 64
    return torch.stack([red, red / 2, 0 * red], -1)[:, None, None].expand(count, height, width, 3).contiguous()


@pytest.mark.parametrize("per_view", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_each_photo_gets_its_own_frames(count, per_view):
    repairer = RedIsDisparity()
    images = photos(count)
    found = RepairerMonoDepth(repairer, per_view).estimate(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.disparity, images[..., :1])
    torch.testing.assert_close(found.confidence, images[..., 1:2])
    assert set(repairer.lengths) == {16}, "the network was trained on clips of 16 frames"
    assert len(repairer.lengths) == (count if per_view else -(-count // 16))


def test_results_of_repeated_frames_are_averaged():
    class Counting(RedIsDisparity):
        def repair(self, clip, references, generator):
            number = torch.arange(len(clip), dtype=torch.float32).view(-1, 1, 1, 1).expand_as(clip.alpha)
            return RepairedClip(clip.rgb, number, clip.alpha)

    found = RepairerMonoDepth(Counting()).estimate(photos(4), torch.Generator())
    assert found.disparity[:, 0, 0, 0].tolist() == [1.5, 5.5, 9.5, 13.5]  # runs of four frames each


def test_the_conditioning_photo_is_drawn_from_the_clip_by_the_generator():
    def drawn(seed):
        repairer = RedIsDisparity()
        RepairerMonoDepth(repairer).estimate(photos(40), torch.Generator().manual_seed(seed))
        return [round(64 * red) - 1 for red in repairer.photos]

    assert drawn(3) == drawn(3)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1
    for index, (first, last) in enumerate([(0, 15), (12, 27), (24, 39)]):
        assert first <= drawn(3)[index] <= last


def test_neutral_depth_is_opaque_and_has_no_code():
    clip = clip_without_cameras(photos(3))
    assert bool((clip.alpha == 1).all())
    code = encode_disparity(clip.depth, clip.alpha > 0.5)
    assert float(code.maximum) == 0 and bool((code.disparity == 0).all())


@pytest.mark.parametrize("depth", [0.01, 1.0, 65535.0, 1e6])
def test_photos_without_cameras_are_never_warped(depth):
    clip = clip_without_cameras(photos(2), torch.full((2, 4, 6, 1), depth))
    warped = warp_references(clip.depth, clip.viewmats, clip.Ks, photos_without_cameras(photos(3)))
    assert not warped.valid.any()
    same_camera = References(photos(1), clip.viewmats[:1], clip.Ks[:1])
    assert warp_references(clip.depth, clip.viewmats, clip.Ks, same_camera).valid.any(), "the check can fail"


def scene(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    depth = 1 + 9 * torch.rand(3, 20, 30, 1, generator=generator)
    scale = torch.tensor([0.5, 2.0, 7.0]).view(3, 1, 1, 1)
    shift = torch.tensor([-1.0, 0.0, 3.0]).view(3, 1, 1, 1)
    return depth, scale / depth + shift, generator


def test_alignment_recovers_depth_per_image_also_where_the_scene_has_none():
    depth, disparity, generator = scene()
    valid = torch.rand(depth.shape, generator=generator) < 0.6
    rendered = torch.where(valid, depth, torch.nan)
    aligned = align_to_scene(disparity, rendered, valid)
    torch.testing.assert_close(aligned.depth, depth, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(aligned.scale, 1 / torch.tensor([0.5, 2.0, 7.0]), rtol=1e-4, atol=0)
    assert bool((aligned.inlier_share == 1).all())


def test_alignment_stands_a_third_of_wrong_depth_and_says_so():
    depth, disparity, generator = scene()
    wrong = torch.rand(depth.shape, generator=generator) < 1 / 3
    rendered = torch.where(wrong, 0.3, depth)
    aligned = align_to_scene(disparity, rendered, torch.ones_like(wrong))
    torch.testing.assert_close(aligned.depth, depth, rtol=0.01, atol=0)
    assert bool((aligned.inlier_share - 2 / 3).abs().max() < 0.1)


def test_pixels_without_confidence_neither_vote_nor_get_depth():
    depth, disparity, _ = scene()
    confidence = torch.ones_like(depth)
    confidence[:, :15] = 0.2
    garbage = disparity.clone()
    garbage[:, :15] = torch.inf
    aligned = align_to_scene(garbage, depth, torch.ones_like(depth).bool(), confidence)
    assert bool((aligned.depth[:, :15] == 0).all())
    torch.testing.assert_close(aligned.depth[:, 15:], depth[:, 15:], rtol=1e-3, atol=1e-3)


def test_noise_is_not_taken_for_depth():
    depth, _, generator = scene()
    aligned = align_to_scene(torch.rand(depth.shape, generator=generator), depth, torch.ones_like(depth).bool())
    assert bool((aligned.depth == 0).all()) and bool((aligned.inlier_share < 0.5).all())


def test_images_that_do_not_agree_get_no_depth():
    depth, disparity, _ = scene()
    valid = torch.ones_like(depth).bool()
    valid[2, 1:] = False
    valid[2, 0, 10:] = False  # ten pixels
    aligned = align_to_scene(torch.stack([-disparity[0], 0 * disparity[1], disparity[2]]), depth, valid)
    assert bool((aligned.depth == 0).all())
    assert float(aligned.inlier_share[2]) == 0


def test_depth_far_beyond_the_compared_is_unknown():
    disparity = torch.linspace(0, 1, 600).view(1, 20, 30, 1)
    depth = 1 / torch.where(disparity > 0.5, disparity, 1.0)  # compared between depths 1 and 2
    aligned = align_to_scene(disparity, depth, disparity > 0.5)
    known = aligned.depth > 0
    assert bool((known == (disparity > 0.05)).all(-1).float().mean() > 0.99)
    assert float(aligned.depth.max()) <= 20.1


def test_alignment_refuses_shapes_that_differ():
    ones = torch.ones(2, 4, 6, 1)
    with pytest.raises(ValueError, match="one shape"):
        align_to_scene(ones, ones[:1], ones.bool())


@pytest.mark.parametrize("kind", ["relative", "metric", "glpn"])
def test_transformers_model_from_a_folder(tmp_path, kind):
    from transformers import pipeline

    folder = save_depth_model(tmp_path, kind)
    images = torch.rand(2, 50, 70, 3, generator=torch.Generator().manual_seed(0))
    mono = TransformersMonoDepth(folder)
    assert isinstance(mono, MonoDepth)
    found = mono.estimate(images, torch.Generator())
    assert found.disparity.shape == found.confidence.shape == (2, 50, 70, 1)
    assert bool(torch.isfinite(found.disparity).all()) and bool((found.confidence == 1).all())
    assert bool((found.disparity >= 0).all()) and float(found.disparity.std()) > 0

    from PIL import Image

    picture = Image.fromarray((images[1] * 255).round().byte().numpy())
    expected = pipeline("depth-estimation", model=str(folder))(picture)["predicted_depth"]
    ours = found.disparity[1, ..., 0]
    if kind != "relative":  # these give depth: nearer must come out larger
        ours = 1 / ours
    assert float(ours.std()) > 1e-3 * float(ours.mean())
    # The library resizes bicubically, so the two agree but for edges.
    assert torch.corrcoef(torch.stack([ours.flatten(), expected.flatten()]))[0, 1] > 0.95


def test_pickled_weights_are_not_read(tmp_path):
    from safetensors.torch import load_file

    folder = save_depth_model(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors.*hf download"):
        TransformersMonoDepth(folder)


def test_unknown_kinds_and_missing_models_are_explained(tmp_path, monkeypatch):
    folder = save_depth_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a usable depth-estimation model"):
        TransformersMonoDepth(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ValueError, match=r"of the kind 'bert'.*Known kinds: depth_anything, dpt, glpn"):
        TransformersMonoDepth(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="hf download nobody/no-such-model --local-dir FOLDER"):
        TransformersMonoDepth("nobody/no-such-model")
