"""The compact repairer: an identity before training, a well-behaved `VideoRepairer` always."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.ndimage import uniform_filter
from tiny_run import toy_network

from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.geometry.clips import Clip, ClipPair, RepairedClip, select_references
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.geometry.warping import fill_colours
from genfusion_ns.priors.base import VideoRepairer
from genfusion_ns.priors.compact.conditioning import condition_on, stack_pairs, target_of
from genfusion_ns.priors.compact.flow import euler_step, interpolate, sample_times, start_point, velocity
from genfusion_ns.priors.compact.repairer import WEIGHTS_FILE, CompactRepairer, usual_dtype
from genfusion_ns.priors.compact.unet import CompactUNet, _blurs
from genfusion_ns.priors.config import RepairerConfig, build_repairer
from genfusion_ns.priors.training import save_network

PAIR = procedural_pair(torch.Generator().manual_seed(0), frames=5, size=(64, 48))


def repair(repairer: VideoRepairer, clip: Clip = PAIR.artifact, seed: int = 0, photos: int = 2) -> RepairedClip:
    references = select_references(PAIR.references, list(range(photos)))
    return repairer.repair(clip, references, torch.Generator().manual_seed(seed))


def test_a_blur_gate_of_one_gives_the_blurred_clip() -> None:
    network = toy_network().eval()
    condition = condition_on(PAIR.artifact, PAIR.references)
    artifact = condition.artifact
    with torch.no_grad():
        network.blur_gate.bias[: network.config["patch_size"] ** 2] = 1  # of the finest blur, means of 3 x 3 pixels
        out = network(artifact[:, :4], artifact, condition.warped, condition.photos, torch.ones(1)).clean
    blurred = uniform_filter(artifact[0, :3].numpy(), size=(1, 1, 3, 3))
    assert (out[0, :3] - torch.from_numpy(blurred))[..., 1:-1, 1:-1].abs().max() < 1e-5
    assert torch.equal(out[0, 3], artifact[0, 3])


def test_blurs_are_centred_and_of_growing_width() -> None:
    ramp = torch.arange(96.0).expand(1, 3, 1, 96, 96)
    for image in (ramp, ramp.transpose(-1, -2)):
        change = _blurs(image)[..., 16:-16, 16:-16]
        assert change.abs().max() < 1e-4, "a ramp is its own mean, unless the mean is taken beside the pixel"
    noise = torch.randn(1, 3, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    spreads = (_blurs(noise) + noise[:, None])[..., 16:-16, 16:-16].std(dim=(0, 2, 3, 4, 5))
    assert torch.equal(spreads, spreads.sort(descending=True).values) and spreads[0] < 0.5


@pytest.mark.parametrize("steps", [1, 4])
def test_an_untrained_network_only_fills_holes(steps: int) -> None:
    repaired = repair(CompactRepairer(toy_network(), steps=steps))
    filled = fill_colours(PAIR.artifact.rgb, PAIR.artifact.alpha)
    assert (repaired.rgb - filled).abs().max() < 1e-5, "but for holes, which start from what surrounds them"
    code = encode_disparity(PAIR.artifact.depth, PAIR.artifact.alpha > 0.5, percentile=1.0)
    solid = PAIR.artifact.alpha > 0.5
    assert (repaired.disparity - code.disparity)[solid].abs().max() < 1e-5
    assert repaired.confidence.std() < 1e-6


def test_larger_clips_are_repaired_at_the_resolution_and_restored() -> None:
    repairer = CompactRepairer(toy_network(), steps=1, resolution=(32, 24))
    repaired = repair(repairer)
    assert repaired.rgb.shape == PAIR.artifact.rgb.shape
    filled = fill_colours(PAIR.artifact.rgb, PAIR.artifact.alpha)
    assert 0 < (repaired.rgb - filled).abs().mean() < 0.1


def test_the_order_of_the_photos_does_not_matter() -> None:
    repairer = CompactRepairer(toy_network(trained=True), steps=1)
    outputs = [
        repairer.repair(PAIR.artifact, select_references(PAIR.references, order), torch.Generator().manual_seed(0))
        for order in ([0, 1, 2], [2, 0, 1], [0, 1])
    ]
    assert torch.allclose(outputs[0].rgb, outputs[1].rgb, atol=1e-4)
    assert not torch.allclose(outputs[0].rgb, outputs[2].rgb, atol=1e-4)


def test_photos_matter_also_where_they_cannot_be_warped() -> None:
    repairer = CompactRepairer(toy_network(trained=True), steps=1)
    away = PAIR.references.viewmats.clone()
    away[:, :3] = torch.diag(torch.tensor([1.0, -1, -1])) @ away[:, :3]
    unseen = replace(PAIR.references, viewmats=away)
    assert not condition_on(PAIR.artifact, unseen).warped.any()
    dark = replace(unseen, rgb=unseen.rgb * 0.2)
    one, two = (repairer.repair(PAIR.artifact, r, torch.Generator().manual_seed(0)) for r in (unseen, dark))
    assert not torch.equal(one.rgb, two.rgb)


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32", "auto"])
def test_the_arithmetic_can_be_chosen_and_hardly_changes_the_repair(tmp_path: Path, name: str) -> None:
    network = toy_network(trained=True)
    save_network(network, tmp_path)
    chosen = build_repairer(RepairerConfig(model=str(tmp_path), steps=2, dtype=name), "cpu")
    assert isinstance(chosen, CompactRepairer)
    exact = repair(CompactRepairer(network, steps=2))
    repaired = repair(chosen)
    assert repaired.rgb.dtype == repaired.confidence.dtype == torch.float32
    for field in ("rgb", "disparity", "confidence"):
        assert torch.allclose(getattr(repaired, field), getattr(exact, field), atol=3e-2), field
    if name == "bf16":
        assert not torch.equal(repaired.rgb, exact.rgb)
    if name == "auto":
        assert chosen.dtype == usual_dtype(torch.device("cpu"))


def test_saving_and_loading_keeps_the_network(tmp_path: Path) -> None:
    network = toy_network(trained=True)
    save_network(network, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", WEIGHTS_FILE}
    loaded = build_repairer(RepairerConfig(model=str(tmp_path), steps=2), "cpu")
    assert isinstance(loaded, CompactRepairer)
    assert loaded.network.config["channels"] in ((16, 16, 32), [16, 16, 32])
    for key, value in loaded.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, network.state_dict()[key].half().float())
    assert torch.allclose(repair(loaded).rgb, repair(CompactRepairer(network, steps=2)).rgb, atol=2e-2)


def test_the_default_network_fits_its_budget(tmp_path: Path) -> None:
    network = CompactUNet()
    assert sum(parameter.numel() for parameter in network.parameters()) < 5e6
    save_network(network, tmp_path)
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 10e6


def test_wrong_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither auto, compact, none or reconfusion nor an existing folder"):
        build_repairer(RepairerConfig(model=str(tmp_path / "nothing")), "cpu")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        build_repairer(RepairerConfig(model=str(tmp_path)), "cpu")
    save_network(toy_network(trained=True), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"channels": [16, 16, 64]}))
    with pytest.raises(ValueError, match="does not fit"):
        CompactRepairer.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match="describes a AutoencoderKL"):
        CompactRepairer.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / WEIGHTS_FILE).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="does not fit"):
        CompactRepairer.from_folder(tmp_path)


def test_wrong_inputs_are_explained() -> None:
    repairer = CompactRepairer(toy_network(trained=True))
    with pytest.raises(ValueError, match=r"clip\.depth has shape"):
        repair(repairer, replace(PAIR.artifact, depth=PAIR.artifact.depth[:, :5]))
    with pytest.raises(ValueError, match="steps is 0"):
        CompactRepairer(toy_network(trained=True), steps=0)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        CompactRepairer(toy_network(trained=True), resolution=(8, 8))


def test_diffusers_is_imported_only_when_a_repairer_is_built() -> None:
    code = (
        "import sys; import genfusion_ns.priors.config, genfusion_ns.priors.base; "
        "print([name for name in ('diffusers', 'nerfstudio', 'accelerate') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_start_point_is_the_artifact_where_opaque_and_noise_where_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    artifact, noise = torch.rand(2, 4, 3, 8, 8, generator=generator), torch.randn(2, 4, 3, 8, 8, generator=generator)
    alpha = torch.zeros(2, 1, 3, 8, 8)
    alpha[:, :, :, :4] = 1
    start = start_point(artifact, alpha, noise, sigma_min=0.0, sigma_max=1.0)
    assert torch.equal(start[..., :4, :], artifact[..., :4, :])
    assert torch.equal(start[..., 4:, :], noise[..., 4:, :])
    half = start_point(artifact, alpha * 0.5, noise, sigma_min=0.2, sigma_max=0.8)[..., :4, :]
    assert torch.allclose(half, 0.5 * (artifact + noise)[..., :4, :])


def test_euler_steps_with_the_true_end_follow_the_line() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, start = (torch.randn(1, 4, 2, 4, 4, generator=generator) for _ in range(2))
    assert torch.allclose(velocity(start, clean, 1.0), start - clean)
    state = start
    for index in range(5):
        time, following = 1 - index / 5, 1 - (index + 1) / 5
        assert torch.allclose(state, interpolate(clean, start, torch.tensor([time])), atol=1e-5)
        assert torch.allclose(velocity(state, clean, time), start - clean, atol=1e-4)
        state = euler_step(state, clean, time, following)
    assert torch.allclose(state, clean, atol=1e-5)


def test_training_times_start_at_one_as_often_as_asked() -> None:
    times = sample_times(4000, 0.3, torch.Generator().manual_seed(0))
    assert times.min() >= 0.05
    assert times.max() == 1
    assert abs((times == 1).float().mean().item() - 0.3) < 0.03


def test_targets_share_the_disparity_code_of_their_artifact_clip() -> None:
    condition, target = stack_pairs([PAIR, PAIR])
    assert condition.warped.shape == (2, 3, 6, 5, 48, 64)
    code = condition.code
    disparity = target.clean[0, 3] / 2 + 0.5
    inverse = code.minimum + disparity * (code.maximum - code.minimum)
    unclamped = target.depth_known[0, 0] & (disparity > -0.49) & (disparity < 1.49)
    assert unclamped.float().mean() > 0.5
    assert torch.allclose(1 / inverse[unclamped], PAIR.clean.depth[..., 0][unclamped], rtol=1e-3)
    hidden = target_of(replace(PAIR.clean, alpha=torch.zeros_like(PAIR.clean.alpha)), code)
    assert not hidden.depth_known.any()
    assert hidden.colour_known.all(), "a photo's colours count where its depth does not"
    assert not target_of(
        replace(PAIR.clean, alpha=torch.zeros_like(PAIR.clean.alpha)), code, rendered=True
    ).colour_known.any()
    other = ClipPair(PAIR.artifact, PAIR.clean, select_references(PAIR.references, [0]))
    with pytest.raises(ValueError, match="must agree"):
        stack_pairs([PAIR, other])
