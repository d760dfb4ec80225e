"""The surfel model with anti-aliasing: what it draws, keeps and exports."""

from __future__ import annotations

import copy

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from tiny_model import make_model

from genfusion_ns.models.seen_sides import PhotoViewmats
from genfusion_ns.models.surfel_model import GenFusionModelConfig


def camera(scale: float) -> Cameras:
    c2w = torch.eye(4)[None, :3].clone()
    c2w[0, 2, 3] = 2.0
    sizes = {"width": int(32 * scale), "height": int(24 * scale)}
    return Cameras(c2w, fx=30.0 * scale, fy=30.0 * scale, cx=16.0 * scale, cy=12.0 * scale, **sizes)


def photos() -> PhotoViewmats:
    viewmats = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))[None].clone()
    viewmats[0, 2, 3] = 2.0
    return PhotoViewmats(viewmats, torch.tensor([[[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]]), [(320, 240)])


def test_at_a_fourth_of_the_size_mip_draws_what_the_whole_image_shows() -> None:
    errors = {}
    for antialias in ("none", "mip"):
        model = make_model(antialias=antialias, background_color="black").eval()
        model.gauss_params["scales"].data[:, :2] = torch.log(torch.tensor(0.008))
        model.gauss_params["opacities"].data[:] = 4.0
        whole = model.get_outputs_for_camera(camera(8.0))["rgb"]
        small = model.get_outputs_for_camera(camera(2.0))["rgb"]
        reduced = torch.nn.functional.avg_pool2d(whole.permute(2, 0, 1), 4).permute(1, 2, 0)
        errors[antialias] = float((small - reduced).square().mean())
    assert errors["mip"] < 0.25 * errors["none"]


def test_configs_from_before_there_was_a_choice_draw_as_they_did() -> None:
    config = GenFusionModelConfig(antialias="mip", smoothing_3d=True)
    state = {k: v for k, v in config.__dict__.items() if k not in ("antialias", "mip_kernel", "smoothing_3d")}
    old = GenFusionModelConfig.__new__(GenFusionModelConfig)
    old.__setstate__(state)
    assert (old.antialias, old.smoothing_3d) == ("none", False)


def test_a_kernel_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--pipeline\.model\.mip-kernel is -1; allowed are"):
        make_model(mip_kernel=-1)


def test_smoothing_is_measured_kept_and_exported() -> None:
    model = make_model(smoothing_3d=True)
    plain = model.surfels()
    assert torch.equal(model.smoothing, torch.zeros(200))
    model.sample_photos_of(photos())
    sigma = 0.2**0.5 * (2.0 - model.means[:, 2]) / 300
    torch.testing.assert_close(model.smoothing, sigma.detach() ** 2, atol=0, rtol=1e-5)
    smooth = model.surfels()
    assert (smooth.scales >= plain.scales).all() and (smooth.opacities <= plain.opacities).all()
    light = smooth.opacities * smooth.scales.prod(-1)
    torch.testing.assert_close(light, plain.opacities * plain.scales.prod(-1))
    # ns-export reads these two
    torch.testing.assert_close(model.scales[:, :2].exp(), smooth.scales)
    torch.testing.assert_close(model.opacities.sigmoid()[:, 0], smooth.opacities)
    assert torch.equal(model.scales[:, 2], model.gauss_params["scales"][:, 2])
    other = make_model(smoothing_3d=True)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other.smoothing, model.smoothing)
    other.sample_photos_of(PhotoViewmats(photos().viewmats, 2 * photos().Ks, [(640, 480)]))
    assert torch.equal(other.smoothing, model.smoothing), "what a checkpoint has kept is not measured anew"


def test_a_checkpoint_from_before_loads_without_smoothing() -> None:
    state = make_model().state_dict()
    state.pop("smoothing")
    for smoothing in (False, True):
        model = make_model(smoothing_3d=smoothing)
        model.load_state_dict(dict(state))
        assert not model.smoothing.any()


def test_without_smoothing_the_parameters_themselves_are_exported() -> None:
    model = make_model()
    model.sample_photos_of(photos())
    assert model.scales is model.gauss_params["scales"] and model.opacities is model.gauss_params["opacities"]
    assert len(model.smoothing) == 0
