"""The loss by which a generated view supervises the scene."""

import pytest
import torch
from test_surfel_model import make_model

from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.rounds.generated_views import GeneratedView
from genfusion_ns.fusion.supervision import generated_view_losses


def view() -> GeneratedView:
    """Noise, seen by a camera before the scene of `make_model`."""
    generator = torch.Generator().manual_seed(3)
    viewmat = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    viewmat[2, 3] = 2.0
    K = torch.tensor([[30.0, 0.0, 16.0], [0.0, 30.0, 12.0], [0.0, 0.0, 1.0]])
    rgb = (torch.rand(24, 32, 3, generator=generator) * 255).to(torch.uint8)
    disparity = torch.rand(24, 32, 1, generator=generator).half()
    return GeneratedView(viewmat, K, rgb, disparity, torch.ones(24, 32, 1).half(), round=0, clip=0, frame=0)


def test_the_depth_weight_weighs_the_depth_term_alone():
    model = make_model(background_color="black").train()
    with torch.no_grad():
        model.gauss_params["opacities"].fill_(4.0)
        model.gauss_params["scales"].add_(1.0)
    terms = [
        generated_view_losses(model, view(), weight, FusionConfig(depth_weight=depth, densify=False), False)
        for weight, depth in ((1.0, 0.1), (1.0, 0.2), (2.0, 0.1))
    ]
    first, deeper, heavier = ([t[name].item() for name in ("generated_rgb", "generated_depth")] for t in terms)
    assert first[1] > 0
    assert deeper == pytest.approx([first[0], 2 * first[1]], rel=1e-5)
    assert heavier == pytest.approx([2 * first[0], 2 * first[1]], rel=1e-5)
