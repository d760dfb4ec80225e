"""Growth and pruning of surfels: gsplat's default strategy, fed by more than one view per step.

Follows 3D Gaussian Splatting (SIGGRAPH 2023) section 5 through `gsplat.strategy.DefaultStrategy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor
from torch.nn import ParameterDict


@dataclass
class SurfelStrategy(DefaultStrategy):
    """`DefaultStrategy` that accumulates the statistics of several renders before it refines.

    The observed and the generated view of a step both count, so that regions which only generated views show are
    densified too. Reads radii of shape [C, N] (gsplat 1.4) and [C, N, 2] (gsplat 1.5).
    """

    key_for_gradient: str = "gradient_2dgs"  # type: ignore[assignment]
    max_surfels: int = 0
    """No growth beyond this number; 0 means no limit."""

    def accumulate(self, params: ParameterDict, state: dict[str, Any], step: int, info: dict[str, Any]) -> None:
        """Add the screen-space gradients of one render that has been back-propagated.

        Args:
            params: surfel parameters, the first axis of each is N.
            state: running statistics of `initialize_state`.
            step: training step, 0-based.
            info: of a `SurfelRender`.
        """
        if step < self.refine_stop_iter and info[self.key_for_gradient].grad is not None:
            self._update_state(params, state, info)  # type: ignore[arg-type]

    @torch.no_grad()
    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        gradient: Tensor = info[self.key_for_gradient].grad
        num_surfels = len(params["means"])
        radii = info["radii"]
        radius = radii.amax(-1) if radii.dim() == 3 else radii
        visible = (radius > 0) if radii.dim() == 2 else (radii > 0).all(-1)
        half_size = gradient.new_tensor([info["width"], info["height"]]) * 0.5 * info["n_cameras"]
        norm = (gradient * half_size).norm(dim=-1) * visible
        for name in ("grad2d", "count"):
            if state[name] is None:
                state[name] = torch.zeros(num_surfels, device=gradient.device)
        state["grad2d"] += norm.sum(0)
        state["count"] += visible.sum(0)
        if self.refine_scale2d_stop_iter > 0:
            relative = (radius * visible).amax(0) / float(max(info["width"], info["height"]))
            previous = state.get("radii")
            state["radii"] = relative if previous is None else torch.maximum(previous, relative)

    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        if self.max_surfels and len(params["means"]) >= self.max_surfels:
            return 0, 0
        return super()._grow_gs(params, optimizers, state, step)
