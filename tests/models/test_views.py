"""Views for people: what covers holes."""

from __future__ import annotations

import torch
from tiny_model import make_model

from genfusion_ns.models.views import View, without_background

AROUND = torch.tensor([0.2, 0.4, 0.6])
WALL = torch.tensor([0.9, 0.5, 0.1])


def view_of_a_wall(alpha: torch.Tensor, depth: torch.Tensor | None = None) -> View:
    """A wall of one colour with this coverage [H, W, 1], before one colour."""
    height, width = alpha.shape[:2]
    one, three = torch.zeros(height, width, 1), torch.zeros(height, width, 3)
    depth = torch.full_like(alpha, 2.0) if depth is None else depth
    background = AROUND.expand_as(three)
    rgb = alpha * WALL + (1 - alpha) * background
    return View(rgb, alpha, depth * (alpha > 0), depth, three, three, one, background)


def test_a_wall_goes_on_into_holes_and_fades() -> None:
    alpha = torch.ones(48, 64, 1)
    alpha[:, 24:] = 0.0
    seen = view_of_a_wall(alpha).continued()
    share = ((seen.rgb - AROUND) / (WALL - AROUND)).mean(dim=-1)
    torch.testing.assert_close(share[:, :23], torch.ones(48, 23), atol=5e-3, rtol=0)
    assert (share[24, 24:].diff() <= 1e-6).all() and share[24, 25] > 0.8 and share[24, 63] < 0.2
    assert torch.equal(seen.alpha, alpha), "what is a hole is one still"


def test_frayed_edges_give_way_and_nothing_else_changes() -> None:
    alpha = torch.ones(48, 64, 1)
    alpha[:, 32:], alpha[:, 30:32] = 0.0, 0.6
    frayed = view_of_a_wall(alpha)
    frayed = View(**{**vars(frayed), "rgb": torch.where((alpha == 0.6), 0.0, frayed.rgb)})  # shreds of some colour
    seen = frayed.continued()
    assert (seen.alpha[:, 30:32] == 0).all()
    torch.testing.assert_close(seen.rgb[:, 31], WALL.expand(48, 3), atol=0.15, rtol=0)
    assert torch.equal(seen.rgb[:, :30], frayed.rgb[:, :30])


def test_a_view_without_holes_is_the_same() -> None:
    whole = view_of_a_wall(torch.full((12, 16, 1), 0.99))
    assert whole.continued() is whole


def test_what_is_composited_can_be_taken_apart_again() -> None:
    alpha = torch.rand(24, 32, 1, generator=torch.Generator().manual_seed(0))
    seen = view_of_a_wall(alpha).continued()
    rgba = without_background(seen.rgb, seen.alpha, seen.background)
    again = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]) * seen.background
    torch.testing.assert_close(again, seen.rgb, atol=1e-5, rtol=0)


def test_models_continue_only_before_colours_of_photos() -> None:
    from test_surroundings import looking, seen_model

    model = seen_model()
    camera = looking((0.05, 0.0, -1.0), width=40)
    continued = model.get_outputs_for_camera(camera)
    model.config.holes = "empty"
    empty = model.get_outputs_for_camera(camera)
    hole = empty["accumulation"][..., 0] < 0.5
    assert hole.any() and not hole.all()
    assert (continued["rgb"] - empty["rgb"])[hole].abs().max() > 1e-3
    plain = make_model().eval()
    found = [plain.get_outputs_for_camera(camera)["rgb"]]
    plain.config.holes = "empty"
    assert torch.equal(plain.get_outputs_for_camera(camera)["rgb"], found[0])
