"""The head that selects among sources: what it copies, what it leaves alone, and what it cannot paint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.ndimage import uniform_filter
from tiny_run import toy_network
from torch import Tensor

from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.geometry.clips import RepairedClip, crop_clip, select_frames, select_references
from genfusion_ns.geometry.warping import fill_colours
from genfusion_ns.priors.compact.conditioning import condition_on
from genfusion_ns.priors.compact.repairer import WEIGHTS_FILE, CompactRepairer
from genfusion_ns.priors.compact.selection import SelectionHead, _fade
from genfusion_ns.priors.compact.unet import CompactUNet
from genfusion_ns.priors.training import save_network

PAIR = procedural_pair(torch.Generator().manual_seed(0), frames=5, size=(64, 48))


def selecting(trained: bool = True) -> CompactUNet:
    """A selecting network of toy size; `trained` stirs the layers that start at zero."""
    torch.manual_seed(0)
    network = CompactUNet(channels=(16, 16, 32), reference_channels=8, output="selection")
    if trained:
        head = network.selection
        layers = (head.slow, head.scores, head.photo_score, head.log_variance, head.from_features, head.from_reference)
        for layer in layers:
            torch.nn.init.normal_(layer.weight, std=0.2)
    return network


def repair(repairer: CompactRepairer, seed: int = 0, photos: int = 2) -> RepairedClip:
    references = select_references(PAIR.references, list(range(photos)))
    return repairer.repair(PAIR.artifact, references, torch.Generator().manual_seed(seed))


def test_an_untrained_selection_is_nearly_the_render() -> None:
    repaired = repair(CompactRepairer(selecting(trained=False)))
    filled = fill_colours(PAIR.artifact.rgb, PAIR.artifact.alpha)
    assert (repaired.rgb - filled).abs().mean() < 0.04
    assert repaired.confidence.std() < 1e-6


def test_a_selection_needs_neither_noise_nor_several_steps() -> None:
    network = selecting()
    one, many = (repair(CompactRepairer(network, steps=steps), seed=steps) for steps in (1, 3))
    for field in ("rgb", "disparity", "confidence"):
        assert torch.allclose(getattr(one, field), getattr(many, field), atol=1e-5), field


def selected(scores: dict[int, float], photo: float, photos: Tensor, valid: Tensor | None = None) -> Tensor:
    """Colours of a head whose scores are constant: those of the render's candidates by index, the others very low."""
    torch.manual_seed(0)
    head = SelectionHead(4, 4).eval()
    with torch.no_grad():
        head.scores.bias.fill_(-50.0)
        for index, score in scores.items():
            head.scores.bias[index] = score
        head.photo_score.bias.fill_(photo)
        count, (height, width) = photos.shape[1], photos.shape[-2:]
        ones = torch.ones(1, count, 1, height, width)
        warped = torch.cat([photos, ones if valid is None else valid, ones, ones], dim=2)
        artifact = torch.cat([ARTIFACT[:, :, :height, :width], torch.ones(1, 2, height, width)], dim=1)
        features = torch.zeros(1, 4, height // 4, width // 4)
        return head(features, torch.zeros(1, count, 4, height // 4, width // 4), artifact, warped)[0][:, :3]


ARTIFACT = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_photo_that_is_selected_is_copied_pixel_by_pixel() -> None:
    photos = torch.rand(1, 2, 3, 48, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    chosen = selected({}, 50.0, photos)
    assert torch.allclose(chosen, photos.mean(dim=1), atol=1e-5), "two alike share"
    single = selected({}, 50.0, photos[:, :1])
    assert torch.allclose(single, photos[:, 0], atol=1e-5)


def test_a_render_that_is_selected_stays_as_it_is_and_may_be_sharpened() -> None:
    photos = torch.zeros(1, 1, 3, 48, 64)
    assert torch.allclose(selected({}, -50.0, photos), ARTIFACT, atol=1e-5)
    blurred = torch.from_numpy(uniform_filter(ARTIFACT.numpy(), size=(1, 1, 3, 3)))
    inner = (..., slice(1, -1), slice(1, -1))
    sharpened = selected({0: 50.0}, -50.0, photos)
    assert torch.allclose(sharpened[inner], (2 * ARTIFACT - blurred)[inner], atol=1e-4)
    assert torch.allclose(selected({1: 50.0}, -50.0, photos)[inner], blurred[inner], atol=1e-4)


def test_what_is_generated_has_no_detail() -> None:
    """It is bilinear between points eight pixels apart: no grid of patches shows, and no noise."""
    network = selecting().eval()
    with torch.no_grad():
        network.selection.scores.weight.zero_()
        network.selection.photo_score.weight.zero_()
        network.selection.scores.bias.fill_(-50.0)
        network.selection.scores.bias[5] = 50.0  # the generated colour
        network.selection.photo_score.bias.fill_(-50.0)
        condition = condition_on(PAIR.artifact, PAIR.references)
        artifact = condition.artifact
        colours = network(artifact[:, :4], artifact, condition.warped, condition.photos, torch.ones(1)).clean[:, :3]
    assert colours.std() > 0.05
    for axis, length in ((-1, 64), (-2, 48)):
        bends = colours.diff(n=2, dim=axis).abs().movedim(axis, 0).flatten(1).amax(dim=1) > 1e-4
        places = (torch.arange(1, length - 1)[bends] % 8).unique().tolist()
        assert set(places) <= {3, 4}, "it bends in the middle between two of the points alone"


def test_a_photo_fades_towards_the_border_of_what_it_shows() -> None:
    valid = torch.zeros(1, 1, 1, 48, 64)
    valid[..., 24:] = 1
    fade = _fade(valid)[0, 0, 0, 24]
    assert not fade[:24].any() and fade[40:].min() > 0.999
    steps = fade.diff()[23:40]
    assert (steps >= -1e-6).all() and steps.max() < 0.2
    photos = torch.ones(1, 1, 3, 48, 64)
    image = selected({}, 4.0, photos * valid, valid)
    assert torch.allclose(image[..., :24], ARTIFACT[..., :24], atol=1e-3)
    assert image[..., 44:].min() > 0.9


@pytest.mark.parametrize(("frames", "width", "height"), [(1, 64, 48), (3, 37, 29), (5, 16, 9)])
def test_any_length_and_size_keeps_its_shape(frames: int, width: int, height: int) -> None:
    clip = crop_clip(select_frames(PAIR.artifact, slice(0, frames)), 0, 0, width, height)
    references = select_references(PAIR.references, [0])
    repaired = CompactRepairer(selecting()).repair(clip, references, torch.Generator().manual_seed(0))
    assert repaired.rgb.shape == (frames, height, width, 3)
    for values in (repaired.rgb, repaired.disparity, repaired.confidence):
        assert values.shape[:3] == clip.rgb.shape[:3] and values.min() >= 0 and values.max() <= 1


def test_the_order_of_the_photos_does_not_matter() -> None:
    repairer = CompactRepairer(selecting())
    outputs = [
        repairer.repair(PAIR.artifact, select_references(PAIR.references, order), torch.Generator().manual_seed(0)).rgb
        for order in ([0, 1, 2], [2, 0, 1], [0, 1])
    ]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-4)
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-4)


def test_depth_is_left_as_it_was_rendered() -> None:
    condition = condition_on(PAIR.artifact, PAIR.references)
    artifact = condition.artifact
    with torch.no_grad():
        clean = selecting()(artifact[:, :4], artifact, condition.warped, condition.photos, torch.ones(1)).clean
    assert torch.equal(clean[:, 3], artifact[:, 3])
    assert not torch.allclose(clean[:, :3], artifact[:, :3], atol=1e-2)


def test_without_the_u_net_only_what_is_near_counts() -> None:
    network = selecting()
    condition = condition_on(PAIR.artifact, PAIR.references)
    changed = condition.artifact.clone()
    changed[..., 48:] = 0.3
    with torch.no_grad():
        alone, other = (
            network(x[:, :4], x, condition.warped, condition.photos, torch.ones(1), head_only=True).clean
            for x in (condition.artifact, changed)
        )
    assert torch.allclose(alone[..., :24], other[..., :24], atol=1e-6)
    assert not torch.allclose(alone[..., 48:], other[..., 48:], atol=1e-2)


def test_an_untaught_u_net_changes_nothing() -> None:
    network = selecting(trained=False).eval()
    condition = condition_on(PAIR.artifact, PAIR.references)
    inputs = (condition.artifact[:, :4], condition.artifact, condition.warped, condition.photos, torch.ones(1))
    with torch.no_grad():
        alone, whole = (network(*inputs, head_only=head_only) for head_only in (True, False))
    assert torch.allclose(alone.clean, whole.clean, atol=1e-5)
    assert torch.allclose(alone.log_variance, whole.log_variance, atol=1e-5)


def test_the_default_network_fits_its_budget(tmp_path: Path) -> None:
    save_network(CompactUNet(output="selection"), tmp_path)
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 10e6


def test_configs_from_before_there_was_a_choice_of_heads_still_load(tmp_path: Path) -> None:
    network = toy_network(trained=True)
    save_network(network, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("output") == "correction"
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = CompactRepairer.from_folder(tmp_path)
    assert torch.allclose(repair(loaded).rgb, repair(CompactRepairer(network)).rgb, atol=2e-2)


def test_unknown_heads_are_refused(tmp_path: Path) -> None:
    save_network(toy_network(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"output": "painting"}))
    with pytest.raises(ValueError, match="output is 'painting'; allowed: correction or selection"):
        CompactRepairer.from_folder(tmp_path)
    with pytest.raises(ValueError, match="output is 'painting'"):
        CompactUNet(output="painting")  # pyright: ignore[reportArgumentType]
