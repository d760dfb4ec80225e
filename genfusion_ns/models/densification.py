"""Growth and pruning of surfels: gsplat's default strategy, fed by observed and generated views.

Follows 3D Gaussian Splatting (SIGGRAPH 2023) section 5.2 through `gsplat.strategy.DefaultStrategy`, and in its
sparsity-aware form GenFusion (CVPR 2025): where photos show little, a surfel is seen by few of the views between two
refinements, too few to judge it by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import remove, reset_opa
from torch import Tensor
from torch.nn import ParameterDict

from genfusion_ns.geometry.free_space import Clearings
from genfusion_ns.models.run_length import PUBLISHED_STEPS

_OBSERVED = {"grad2d": "grad2d", "count": "count"}
_GENERATED = {"grad2d": "generated_grad2d", "count": "generated_count"}
_SIDES = ("width", "height")
_KEPT = "kept_"
"""Prefix of statistics that outlive a refinement; under a name of their own they are not cleared, but grow along."""
_FIRST_NEED, _LAST_NEED, _NEED_SLOPE = 50, 100, 70
_FEWEST = 10
_FORGET = 5
"""Statistics of a surfel start afresh when it was seen by this multiple of the last need (500 views)."""


@dataclass
class SurfelStrategy(DefaultStrategy):
    """`DefaultStrategy` that learns from observed and generated views, each with statistics of its own.

    A surfel grows where either kind of view asks for it. One common mean would let generated views, whose losses weigh
    less and whose images are smaller, hide what the photos ask for. Reads radii of shape [C, N] (gsplat 1.4) and
    [C, N, 2] (gsplat 1.5).
    """

    key_for_gradient: str = "gradient_2dgs"  # type: ignore[assignment]
    max_surfels: int = 0
    """No growth beyond this number, exactly; the surfels with the largest gradients grow. 0 means no limit."""
    sparsity_aware: bool = False
    """Surfels grow only when seen by `needed_views`; the statistics of the others go on through refinements."""
    total_steps: int = PUBLISHED_STEPS
    """Length of the run, for `needed_views`."""
    kept_empty: Clearings | None = None
    """Places in which no surfel outlives a refinement."""

    def needed_views(self, step: int) -> int:
        """Views that must have seen a surfel before it may grow, at this step of a sparsity-aware run.

        From 50 to 100 over the first five sevenths of a run of 7000 steps, as published; fewer in shorter runs, in
        which everything is seen less often, but never below 10.
        """
        need = min(_LAST_NEED, _FIRST_NEED + _NEED_SLOPE * step / self.total_steps)
        return max(_FEWEST, round(need * min(1.0, self.total_steps / PUBLISHED_STEPS)))

    @torch.no_grad()
    def step_post_backward(
        self, params: Any, optimizers: Any, state: dict[str, Any], step: int, info: dict[str, Any], packed: bool = False
    ) -> None:
        """After the backward pass of a step: take up its statistics, and refine or reset opacities when it is time.

        As the base class means it. Of gsplat's own, 1.5 never resets opacities (its test of the step binds wrongly),
        and 1.4 also does before the first refinement.
        """
        if step >= self.refine_stop_iter:
            return
        self._update_state(params, state, info, packed)
        settled = step % self.reset_every >= self.pause_refine_after_reset
        if step > self.refine_start_iter and step % self.refine_every == 0 and settled:
            self._refine(params, optimizers, state, step)
        if step > 0 and step % self.reset_every == 0:
            reset_opa(params=params, optimizers=optimizers, state=state, value=2.0 * self.prune_opa)

    def _refine(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> None:
        self._grow_gs(params, optimizers, state, step)
        self._prune_gs(params, optimizers, state, step)
        for name in _OBSERVED.values():
            state[name].zero_()
        for name in [name for name in state if name.startswith(_KEPT)]:  # what `_grow_gs` has put aside
            state[name.removeprefix(_KEPT)] = state.pop(name)
        torch.cuda.empty_cache()  # every parameter has another size now

    def accumulate_generated(
        self, params: ParameterDict, state: dict[str, Any], step: int, info: dict[str, Any]
    ) -> None:
        """Add the screen-space gradients of a generated view that has been back-propagated.

        Args:
            params: surfel parameters, the first axis of each is N.
            state: running statistics of `initialize_state`.
            step: training step, 0-based.
            info: of a `SurfelRender`.
        """
        if step < self.refine_stop_iter:
            self._accumulate(len(params["means"]), state, info, _GENERATED)

    @torch.no_grad()
    def empty_places(self, params: Any, optimizers: Any, state: dict[str, Any]) -> int:
        """Remove the surfels in the places that are kept empty; returns how many."""
        if self.kept_empty is None:
            return 0
        inside = self.kept_empty.hold(params["means"])
        if bool(inside.any()):
            remove(params=params, optimizers=optimizers, state=state, mask=inside)
        return int(inside.sum())

    def _prune_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> int:
        cleared = self.empty_places(params, optimizers, state)
        return cleared + super()._prune_gs(params, optimizers, state, step)

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        self._accumulate(len(params["means"]), state, info, _OBSERVED)

    @torch.no_grad()
    def _accumulate(
        self, num_surfels: int, state: dict[str, Any], info: dict[str, Any], names: Mapping[str, str]
    ) -> None:
        gradient: Tensor = info[self.key_for_gradient].grad
        radii = info["radii"]
        visible = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
        # Sizes stay Python numbers: a tensor of them would be an upload that the GPU waits for.
        along = [gradient[..., axis] * (0.5 * info[side] * info["n_cameras"]) for axis, side in enumerate(_SIDES)]
        sums = {"grad2d": (torch.stack(along, -1).norm(dim=-1) * visible).sum(0), "count": visible.sum(0)}
        for name, total in sums.items():
            if state.get(names[name]) is None:
                state[names[name]] = torch.zeros(num_surfels, device=gradient.device)
            state[names[name]] += total

    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        kinds = [names for names in (_OBSERVED, _GENERATED) if state.get(names["count"]) is not None]
        need = self.needed_views(step) if self.sparsity_aware else 1
        means = [
            torch.where(state[k["count"]] >= need, state[k["grad2d"]] / state[k["count"]].clamp_min(1), 0.0)
            for k in kinds
        ]
        grows = self._within_limit(torch.stack(means).amax(0))
        for kind in kinds:
            if self.sparsity_aware:
                done = (grows > self.grow_grad2d) | (
                    state[kind["count"]] > _FORGET * self.needed_views(self.total_steps)
                )
                state |= {_KEPT + name: state[name].masked_fill(done, 0.0) for name in kind.values()}
            elif kind is _GENERATED:
                for name in kind.values():
                    state.pop(name)
        # The base class divides by the count, and clears both after this refinement.
        state["grad2d"], state["count"] = grows, torch.ones_like(grows)
        return super()._grow_gs(params, optimizers, state, step)

    def _within_limit(self, grows: Tensor) -> Tensor:
        """Gradients of which no more exceed the threshold than there is room for; the largest stay. [N]

        A surfel that is cloned or split makes one more.
        """
        room = self.max_surfels - len(grows)
        if not self.max_surfels or int((grows > self.grow_grad2d).sum()) <= room:
            return grows
        chosen = grows.topk(max(room, 0)).indices
        return torch.zeros_like(grows).index_copy(0, chosen, grows[chosen])
