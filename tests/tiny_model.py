"""A surfel model of 200 surfels, and a generated view before it."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.data.scene_box import SceneBox

from genfusion_ns.fusion.rounds.generated_views import GeneratedView
from genfusion_ns.models.surfel_model import GenFusionModel, GenFusionModelConfig


def make_model(**changes: Any) -> GenFusionModel:
    """A model in a flat box, with the surfels of our own methods; `changes` are those of its config."""
    torch.manual_seed(0)
    points = torch.rand(200, 3) * torch.tensor([1.0, 1.0, 0.2]) - torch.tensor([0.5, 0.5, 0.1])
    colours = torch.randint(0, 256, (200, 3)).float()
    config = GenFusionModelConfig(**({"unseen_sides": "hidden", "largest_size": 0.04} | changes))
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    model = config.setup(scene_box=box, num_train_data=3, seed_points=(points, colours), device="cpu", metadata={})
    model.set_total_steps(100)
    return model


def generated_view() -> GeneratedView:
    """Noise, seen by a camera before the scene of `make_model`."""
    generator = torch.Generator().manual_seed(3)
    viewmat = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    viewmat[2, 3] = 2.0
    K = torch.tensor([[30.0, 0.0, 16.0], [0.0, 30.0, 12.0], [0.0, 0.0, 1.0]])
    rgb = (torch.rand(24, 32, 3, generator=generator) * 255).to(torch.uint8)
    disparity = torch.rand(24, 32, 1, generator=generator).half()
    return GeneratedView(viewmat, K, rgb, disparity, torch.ones(24, 32, 1).half(), round=0, clip=0, frame=0)
