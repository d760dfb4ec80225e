"""Surfels are shown from the sides from which photos look at them, and from both where no photo does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from tiny_model import generated_view, make_model

from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.models.seen_sides import BACK, FRONT, PhotoViewmats, surfel_normals
from genfusion_ns.models.surfel_model import GenFusionModel

K = torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
BEFORE = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
BEFORE[2, 3] = 2.0
"""At z = 2 on the axis, looking back at the origin."""
BEHIND = torch.eye(4)
BEHIND[2, 3] = 2.0
"""At z = -2, looking along z."""


def photos(*viewmats: torch.Tensor) -> PhotoViewmats:
    return PhotoViewmats(torch.stack(viewmats), K.expand(len(viewmats), 3, 3), [(32, 24)] * len(viewmats))


def wall(*viewmats: torch.Tensor, **settings: Any) -> GenFusionModel:
    """Opaque surfels that face along z or against it, in front of one photo or several."""
    model = make_model(background_color="black", **settings).eval()
    model.gauss_params["means"].data[:, :2] *= 0.6
    model.gauss_params["quats"].data[:100] = torch.tensor([1.0, 0, 0, 0])
    model.gauss_params["quats"].data[100:] = torch.tensor([0.0, 1, 0, 0])
    model.gauss_params["scales"].data[:, :2] = torch.log(torch.tensor(0.1))
    model.gauss_params["opacities"].data[:] = 3.0
    model.gauss_params["means"].data[:, 2] = 0.0
    model.sample_photos_of(photos(*viewmats))
    model.look()
    return model


def coverage(model: GenFusionModel, viewmat: torch.Tensor) -> float:
    c2w = viewmat_to_c2w(viewmat[None])[:, :3]
    camera = Cameras(c2w, fx=30.0, fy=30.0, cx=16.0, cy=12.0, width=32, height=24)
    return float(model.get_outputs_for_camera(camera)["accumulation"].mean())


def test_a_wall_that_photos_see_from_one_side_is_not_shown_from_the_other() -> None:
    model = wall(BEFORE)
    facing = surfel_normals(model.gauss_params["quats"])[:, 2] > 0
    assert torch.equal(model.sides, torch.where(facing, FRONT, BACK).to(torch.uint8))
    assert coverage(model, BEFORE) > 0.25
    assert coverage(model, BEHIND) == 0.0
    assert model.render_clip(torch.stack([BEFORE, BEHIND]), K.expand(2, 3, 3), (32, 24)).alpha[1].sum() == 0


def test_seen_from_both_sides_it_is_shown_from_both() -> None:
    model = wall(BEFORE, BEHIND)
    assert (model.sides == FRONT | BACK).all()
    assert coverage(model, BEHIND) == pytest.approx(coverage(model, BEFORE), rel=1e-3)


def layers(model: GenFusionModel, *viewmats: torch.Tensor) -> torch.Tensor:
    """A layer of surfels behind a wall that hides it from a photo before it; which ones are the layer."""
    means, behind = model.gauss_params["means"], torch.arange(200) >= 150
    means.data[behind, :2] *= 0.2
    means.data[behind, 2] = -1.0
    model.gauss_params["scales"].data[~behind, :2] = torch.log(torch.tensor(0.4))
    model.sample_photos_of(photos(*viewmats))
    model.look()
    return behind


def test_a_layer_that_others_hide_is_shown_from_the_side_of_the_photo_too() -> None:
    model = wall(BEFORE)
    behind = layers(model, BEFORE)
    facing = surfel_normals(model.gauss_params["quats"])[:, 2] > 0
    assert torch.equal(model.sides, torch.where(facing, FRONT, BACK).to(torch.uint8))
    assert coverage(model, BEHIND) == 0.0, "it would stand before the camera like a veil"
    assert bool(model.shown_from(BEFORE)[behind].all()), "where the wall ends, it is what is seen"


def test_what_a_photo_sees_is_not_shown_from_where_another_has_it_hidden() -> None:
    model = wall(BEFORE)
    behind = layers(model, BEFORE, BEHIND)
    assert bool(model.shown_from(BEHIND)[behind].all())
    facing = surfel_normals(model.gauss_params["quats"])[:, 2] > 0
    seen = torch.where(facing, BACK, FRONT).to(torch.uint8)
    assert torch.equal(model.sides[behind], seen[behind]), "from the side that sees it, not from the hidden one"


def test_what_is_in_no_picture_is_shown_from_everywhere() -> None:
    model = wall(BEFORE)
    means, outside = model.gauss_params["means"], torch.arange(200) >= 150
    means.data[outside, 0] += 50.0
    model.look()
    assert (model.sides[outside] == 0).all() and (model.sides[~outside] > 0).all()
    for viewmat in (BEFORE, BEHIND):
        assert bool(model.shown_from(viewmat)[outside].all())


def test_shown_as_discs_from_both_sides_where_that_is_asked() -> None:
    model = wall(BEFORE, unseen_sides="shown")
    assert coverage(model, BEHIND) == pytest.approx(coverage(model, BEFORE), rel=1e-3)


def test_checkpoints_keep_the_sides_and_older_ones_have_none() -> None:
    model = wall(BEFORE)
    state = copy.deepcopy(model.state_dict())
    other = make_model(background_color="black").eval()
    other.load_state_dict(copy.copy(state))
    assert torch.equal(other.sides, model.sides)
    assert coverage(other, BEHIND) == 0.0
    del state["sides"]
    other.load_state_dict(state)
    assert other.shown_from(BEHIND) is None
    assert coverage(other, BEHIND) > 0.25


def test_of_many_photos_the_sides_are_found_for_checkpoints_and_change_nothing_in_the_run() -> None:
    model = wall(*[BEFORE] * 31)
    few = wall(BEFORE)
    state = copy.deepcopy(model.state_dict())
    assert torch.equal(state["sides"], few.sides)
    assert len(model.sides) == 0 and coverage(model, BEHIND) > 0.25
    resumed = make_model(background_color="black").eval()
    resumed.load_state_dict(state)
    assert coverage(resumed, BEHIND) == 0.0, "as it is shown after the run"
    resumed.sample_photos_of(photos(*[BEFORE] * 31))
    assert coverage(resumed, BEHIND) == pytest.approx(coverage(model, BEHIND)), "as the run goes on"


def test_generated_views_teach_only_what_they_show() -> None:
    model = wall(BEFORE).train()
    view = generated_view()
    for viewmat, taught in ((view.viewmat, True), (BEHIND, False)):
        render = model.render_shown(viewmat, view.K, *view.size)
        model.observe_render(render, generated=True)
        model.gauss_params["opacities"].grad = None
        render.rgb.sum().backward()
        assert render.info["radii"].shape[1] == model.num_points
        assert bool(model.gauss_params["opacities"].grad.abs().sum() > 0) == taught


@pytest.mark.parametrize(("others", "last", "many"), [(True, False, False), (False, True, False), (False, True, True)])
def test_sides_follow_the_surfels_through_a_run(others, last, many, monkeypatch) -> None:
    model = wall(*[BEFORE] * (31 if many else 1)).train()
    step = model.strategy.total_steps - 1 if last else 5
    info = model.render(BEFORE[None], K[None], 32, 24)
    model.observe_render(info)
    info.rgb.sum().backward()
    model.optimizers = dict.fromkeys(model.gauss_params)

    def refine(params: torch.nn.ParameterDict, **_: Any) -> None:
        if others:  # as many go as come
            for name in ("means", "quats"):
                params[name] = torch.nn.Parameter(params[name].detach().flip(0))

    monkeypatch.setattr(model.strategy, "step_post_backward", refine)
    before = model.sides
    model.step_post_backward(step)
    facing = surfel_normals(model.gauss_params["quats"])[:, 2] > 0
    assert torch.equal(model.sides, torch.where(facing, FRONT, BACK).to(torch.uint8))
    assert torch.equal(model.sides, before) == (not others and not many)
