"""Sparsity-aware growth: who may grow, and whose statistics go on, by gsplat's own refinement on real parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from genfusion_ns.models.densification import _GENERATED, _OBSERVED, SurfelStrategy


def scene(count: int) -> tuple[ParameterDict, dict[str, torch.optim.Optimizer]]:
    generator = torch.Generator().manual_seed(0)
    params = ParameterDict(
        {
            "means": Parameter(torch.randn(count, 3, generator=generator)),
            "scales": Parameter(torch.full((count, 3), -6.0)),
            "quats": Parameter(torch.randn(count, 4, generator=generator)),
            "opacities": Parameter(torch.zeros(count)),
        }
    )
    return params, {name: torch.optim.Adam([value], lr=0.0) for name, value in params.items()}


def info(gradient: Tensor) -> dict:
    """As a render has it in which surfels with a gradient of nan are not seen; the norm is what counts per view."""
    means2d = torch.zeros(1, len(gradient), 2, requires_grad=True)
    seen = ~gradient.isnan()
    means2d.grad = torch.stack([gradient.nan_to_num(), torch.zeros_like(gradient)], dim=-1)[None]
    return {"gradient_2dgs": means2d, "radii": seen[None].int(), "width": 2, "height": 2, "n_cameras": 1}


def strategy(**settings) -> SurfelStrategy:
    defaults = {"refine_start_iter": 0, "refine_every": 10, "reset_every": 10**6, "grow_grad2d": 0.1}
    return SurfelStrategy(**{**defaults, **settings})


@pytest.mark.parametrize(
    ("total", "step", "need"), [(7000, 0, 50), (7000, 1000, 60), (7000, 5000, 100), (7000, 7000, 100), (350, 0, 10)]
)
def test_needed_views_are_the_published_ones(total: int, step: int, need: int) -> None:
    assert strategy(sparsity_aware=True, total_steps=total).needed_views(step) == need


def test_only_surfels_seen_often_enough_grow_and_only_their_statistics_start_afresh() -> None:
    chosen = strategy(sparsity_aware=True, total_steps=350)  # 10 views are needed throughout
    params, optimizers = scene(4)
    state = chosen.initialize_state(1.0)
    # Steep and seen always; steep and seen every third step; flat and seen always; never seen.
    always, rarely = [torch.tensor([1.0, third, 0.01, torch.nan]) for third in (1.0, torch.nan)]
    sizes = []
    for step in range(1, 41):
        chosen.step_post_backward(params, optimizers, state, step, info_of(always if step % 3 == 0 else rarely, params))
        sizes.append(len(params["means"]))
    # Refinements at 10, 20, 30, 40: the first surfel grows at each; the second, seen 3, 6, 10 times, at 30.
    assert sizes[9] == 5 and sizes[19] > sizes[9]
    assert sizes[28] == sizes[19], "nothing grows between refinements"
    counts = state["count"]
    assert counts[2] == 40, "a surfel that never grew has lost nothing"
    assert counts[3] == 0
    assert counts[0] == 0 and counts[1] == 3, "those that grew start afresh"


def info_of(gradient: Tensor, params: ParameterDict) -> dict:
    """The first four surfels as given, children of growth unseen."""
    more = torch.full((len(params["means"]) - 4,), torch.nan)
    return info(torch.cat([gradient, more]))


def test_without_it_every_refinement_starts_afresh() -> None:
    chosen = strategy()
    params, optimizers = scene(4)
    state = chosen.initialize_state(1.0)
    for step in range(1, 11):
        chosen.step_post_backward(params, optimizers, state, step, info(torch.tensor([0.01, 0.01, 0.01, torch.nan])))
    assert (state["count"] == 0).all() and (state["grad2d"] == 0).all()


def test_generated_views_count_for_themselves() -> None:
    """A surfel that only generated views pull at grows; photos that see it calmly do not dilute that."""
    for aware in (False, True):
        chosen = strategy(sparsity_aware=aware, total_steps=350)
        params, optimizers = scene(2)
        state = chosen.initialize_state(1.0)
        for step in range(1, 11):
            chosen.accumulate_generated(params, state, step, info(torch.tensor([1.0, torch.nan])))
            chosen.step_post_backward(params, optimizers, state, step, info(torch.tensor([0.0, 0.0])))
        assert len(params["means"]) == 3
        assert not [name for name in state if name.startswith("kept_")]


@pytest.mark.parametrize(("observed", "generated", "grows"), [(0.15, 0.0, 1), (0.0, 0.15, 1), (0.09, 0.09, 0)])
def test_one_kind_of_view_suffices_for_growth_and_two_do_not_add_up(
    observed: float, generated: float, grows: int
) -> None:
    chosen = strategy(sparsity_aware=True, total_steps=350)
    params, optimizers = scene(4)
    state = chosen.initialize_state(1.0)
    for _ in range(10):
        for names, value in ((_OBSERVED, observed), (_GENERATED, generated)):
            chosen._accumulate(4, state, info(torch.tensor([value, 0.0, 0.0, 0.0])), names)
    assert chosen._grow_gs(params, optimizers, state, 10)[0] == grows


def test_a_gradient_counts_in_half_images() -> None:
    chosen = strategy(refine_start_iter=10**6)
    state = chosen.initialize_state(1.0)
    seen = {**info(torch.zeros(2)), "width": 40, "height": 20}
    seen["gradient_2dgs"].grad = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    chosen._update_state({"means": torch.zeros(2, 3)}, state, seen)
    assert state["grad2d"].tolist() == [20.0, 10.0]


def test_opacities_are_reset_when_the_settings_say_and_only_then() -> None:
    """gsplat's own strategy: 1.4 resets at step 0 as well, 1.5 never."""
    chosen = strategy(reset_every=20, refine_stop_iter=60, prune_opa=0.05)
    params, optimizers = scene(3)
    state = chosen.initialize_state(1.0)
    resets = []
    for step in range(80):
        with torch.no_grad():
            params["opacities"].fill_(2.0)
        params["opacities"].grad = torch.ones(3)
        optimizers["opacities"].step()
        chosen.step_post_backward(params, optimizers, state, step, info(torch.zeros(3)))
        opacities = torch.sigmoid(params["opacities"].detach())
        moments = optimizers["opacities"].state[params["opacities"]]["exp_avg"]
        if float(opacities.max()) < 0.5:
            resets.append(step)
            torch.testing.assert_close(opacities, torch.full((3,), 2 * 0.05))
        assert bool((moments == 0).all()) == (step in resets)
    assert resets == [20, 40]


@pytest.mark.parametrize("aware", [False, True])
def test_growth_ends_exactly_at_the_limit_with_the_largest_gradients(aware: bool) -> None:
    chosen = strategy(max_surfels=9, sparsity_aware=aware, total_steps=350)
    params, optimizers = scene(6)
    with torch.no_grad():
        params["scales"][0] = 0.0  # large: it is split, the others are cloned
    parents = params["means"].detach().clone()
    gradients = torch.tensor([0.9, 0.2, 0.8, 0.3, 0.7, 0.01])  # five would grow, there is room for three
    state = chosen.initialize_state(1.0)
    for step in range(1, 11):
        chosen.step_post_backward(params, optimizers, state, step, info(gradients))
    assert len(params["means"]) == 9
    twins = [int((params["means"] == parent).all(-1).sum()) for parent in parents]
    assert twins == [0, 1, 2, 1, 2, 1]
    if aware:  # those that had no room keep what they have gathered
        waiting = (params["means"] == parents[[1, 3, 5], None]).all(-1).any(0)
        assert torch.equal(state["count"], torch.where(waiting, 10.0, 0.0))
    for step in range(11, 31):  # no room is left
        chosen.step_post_backward(params, optimizers, state, step, info(torch.ones(9)))
    assert len(params["means"]) == 9
