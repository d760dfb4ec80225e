"""The loss by which a generated view supervises the scene."""

import pytest
import torch
from tiny_model import generated_view, make_model

from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.supervision import generated_view_losses


def test_the_depth_weight_weighs_the_depth_term_alone():
    model = make_model(background_color="black").train()
    with torch.no_grad():
        model.gauss_params["opacities"].fill_(4.0)
        model.gauss_params["scales"].add_(1.0)
    terms = [
        generated_view_losses(model, generated_view(), weight, FusionConfig(depth_weight=depth, densify=False), False)
        for weight, depth in ((1.0, 0.1), (1.0, 0.2), (2.0, 0.1))
    ]
    first, deeper, heavier = ([t[name].item() for name in ("generated_rgb", "generated_depth")] for t in terms)
    assert first[1] > 0
    assert deeper == pytest.approx([first[0], 2 * first[1]], rel=1e-5)
    assert heavier == pytest.approx([2 * first[0], 2 * first[1]], rel=1e-5)
