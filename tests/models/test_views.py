"""Views for people: what covers holes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox
from test_surroundings import looking, seen_model

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


def share_of_the_wall(rgb: torch.Tensor) -> torch.Tensor:
    return ((rgb - AROUND) / (WALL - AROUND)).mean(dim=-1)


def test_a_wall_goes_on_into_holes_and_fades() -> None:
    alpha = torch.ones(48, 64, 1)
    alpha[:, 24:] = 0.0
    seen = view_of_a_wall(alpha).continued()
    share = share_of_the_wall(seen.rgb)
    assert torch.equal(share[:, :24], torch.ones(48, 24))
    assert (share[24, 24:].diff() <= 1e-6).all() and share[24, 25] > 0.8 and share[24, 63] < 0.2
    assert torch.equal(seen.alpha, alpha), "what is a hole is one still"


def test_frayed_edges_give_way_and_nothing_else_changes() -> None:
    alpha = torch.full((48, 64, 1), 0.96)
    alpha[:, 32:], alpha[:, 30:32] = 0.0, 0.4
    wall = view_of_a_wall(alpha)
    shreds = torch.where(alpha == 0.4, 0.0, wall.rgb)  # of some colour
    seen = replace(wall, rgb=shreds).continued()
    assert (share_of_the_wall(seen.rgb)[:, 30:32] > 0.7).all()
    assert torch.equal(seen.rgb[:, :30], wall.rgb[:, :30])


@pytest.mark.parametrize("coverage", [0.3, 0.6, 0.8])
def test_a_scene_that_is_whole_nowhere_stays_what_it_is(coverage: float) -> None:
    thin = view_of_a_wall(torch.full((24, 32, 1), coverage))
    torch.testing.assert_close(thin.continued().rgb, thin.rgb)


def test_what_is_composited_can_be_taken_apart_again() -> None:
    alpha = torch.linspace(1, 0, 32).expand(24, 32)[..., None]
    seen = view_of_a_wall(alpha).continued()
    rgba = without_background(seen.rgb, seen.alpha, seen.background)
    again = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]) * seen.background
    torch.testing.assert_close(again, seen.rgb, atol=0.02, rtol=0)
    assert seen.alpha.min() >= 0 and seen.alpha.max() <= 1


def _rendered(holes: str, **settings: object) -> dict[str, torch.Tensor]:
    model = seen_model()
    model.config.holes = holes
    for name, value in settings.items():
        setattr(model.config, name, value)
    model._take_measures()
    return model.get_outputs_for_camera(looking((0.05, 0.0, -1.0), width=40))


def test_models_continue_into_holes() -> None:
    continued, empty = _rendered("continued")["rgb"], _rendered("empty")["rgb"]
    whole = _rendered("empty")["accumulation"][..., 0] > 0.7
    assert whole.any() and not whole.all() and torch.equal(continued[whole], empty[whole])
    assert (continued - empty)[~whole].abs().max() > 0.02


@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_chosen_background_is_not_continued_into(colour: str) -> None:
    found = [_rendered(holes, background_color=colour)["rgb"] for holes in ("continued", "empty")]
    assert torch.equal(*found)


def test_the_viewer_and_boxes_have_their_holes_and_leave_what_is_behind_alone() -> None:
    model, camera = seen_model(), looking((0.05, 0.0, -1.0), width=40)
    viewmat, K = torch.eye(4), torch.tensor([[10.0, 0, 20], [0, 10, 3], [0, 0, 1]])
    before = model.around(viewmat, K, 40, 6)
    model.set_background(torch.tensor([0.1, 0.2, 0.3]))
    outputs = model.get_outputs_for_camera(camera)
    assert torch.equal(outputs["background"], torch.tensor([0.1, 0.2, 0.3]).expand_as(outputs["background"]))
    assert torch.equal(model.around(viewmat, K, 40, 6), before), "rounds do not depend on who looks on"
    model, box = seen_model(), OrientedBox(torch.eye(3), torch.zeros(3), torch.full((3,), 1e3))
    boxed = model.get_outputs_for_camera(camera, obb_box=box)["rgb"]
    torch.testing.assert_close(boxed, _rendered("empty")["rgb"])


def test_evaluation_with_gradients_renders() -> None:
    model = seen_model()
    assert model(looking((0.05, 0.0, -1.0), width=40))["rgb"].requires_grad
