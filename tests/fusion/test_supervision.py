"""The loss by which a generated view supervises the scene."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_model import generated_view, make_model

from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.rounds.generated_views import GeneratedView
from genfusion_ns.fusion.supervision import generated_view_losses
from genfusion_ns.models.surfel_model import GenFusionModel


def losses_of(model: GenFusionModel, view: GeneratedView, weight: float, blocks: int = 1, **settings: Any):
    config = FusionConfig(densify=False, **settings)
    return generated_view_losses(model, view, weight, config, transparent=False, blocks=blocks)


def test_the_depth_weight_weighs_the_depth_term_alone():
    model = make_model(background_color="black").train()
    with torch.no_grad():
        model.gauss_params["opacities"].fill_(4.0)
        model.gauss_params["scales"].add_(1.0)
    terms = [
        losses_of(model, generated_view(), weight, depth_weight=depth)
        for weight, depth in ((1.0, 0.1), (1.0, 0.2), (2.0, 0.1))
    ]
    first, deeper, heavier = ([t[name].item() for name in ("generated_rgb", "generated_depth")] for t in terms)
    assert first[1] > 0
    assert deeper == pytest.approx([first[0], 2 * first[1]], rel=1e-5)
    assert heavier == pytest.approx([2 * first[0], 2 * first[1]], rel=1e-5)


def test_detail_of_generated_views_that_leaves_the_means_of_blocks_changes_nothing():
    model = make_model(background_color="black").train()
    with torch.no_grad():
        model.gauss_params["opacities"].fill_(4.0)
        model.gauss_params["scales"].add_(1.0)
    view = generated_view()
    shown = model.render(view.viewmat[None], view.K[None], *view.size, background=torch.zeros(3)).rgb[0].detach()
    checks = torch.full((24, 32, 1), 25.0)
    checks[::2, ::2] = checks[1::2, 1::2] = -25.0
    middle = (shown * 255).clamp(26, 229)
    target = replace(view, rgb=(middle + checks).round().to(torch.uint8))
    plain = replace(view, rgb=middle.round().to(torch.uint8))

    def loss(view: GeneratedView, blocks: int) -> float:
        return losses_of(model, view, 1.0, blocks, ssim_weight=0.0)["generated_rgb"].item()

    assert loss(target, 1) > loss(plain, 1) + 0.05
    assert loss(target, 4) == pytest.approx(loss(plain, 4), abs=1e-3)


def test_regularizers_of_generated_views_keep_their_own_weight():
    model = make_model(background_color="black", distortion_weight=1.0, normal_weight=1.0, num_downscales=0).train()
    model.step = 80
    names = {"generated_distortion", "generated_normal"}
    assert not names & set(losses_of(model, generated_view(), 1.0))
    light, heavy = (losses_of(model, generated_view(), weight, regularize=True) for weight in (1.0, 2.0))
    assert names <= set(light)
    assert all(light[name] == heavy[name] > 0 for name in names)
    model.step = 0
    assert not names & set(losses_of(model, generated_view(), 1.0, regularize=True)), "as on photos, from a step on"
