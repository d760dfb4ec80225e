"""Growth and pruning of surfels: gsplat's default strategy, fed by observed and generated views.

Follows 3D Gaussian Splatting (SIGGRAPH 2023) section 5 through `gsplat.strategy.DefaultStrategy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor
from torch.nn import ParameterDict

_GENERATED = {"grad2d": "generated_grad2d", "count": "generated_count"}


@dataclass
class SurfelStrategy(DefaultStrategy):
    """`DefaultStrategy` that learns from observed and generated views, each with statistics of its own.

    A surfel grows where either kind of view asks for it. One common mean would let generated views, whose losses weigh
    less and whose images are smaller, hide what the photos ask for. Reads radii of shape [C, N] (gsplat 1.4) and
    [C, N, 2] (gsplat 1.5).
    """

    key_for_gradient: str = "gradient_2dgs"  # type: ignore[assignment]
    max_surfels: int = 0
    """No growth beyond this number; 0 means no limit."""

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

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        self._accumulate(len(params["means"]), state, info, {name: name for name in _GENERATED})

    @torch.no_grad()
    def _accumulate(
        self, num_surfels: int, state: dict[str, Any], info: dict[str, Any], names: Mapping[str, str]
    ) -> None:
        gradient: Tensor = info[self.key_for_gradient].grad
        radii = info["radii"]
        visible = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
        half_size = gradient.new_tensor([info["width"], info["height"]]) * 0.5 * info["n_cameras"]
        sums = {"grad2d": ((gradient * half_size).norm(dim=-1) * visible).sum(0), "count": visible.sum(0)}
        for name, total in sums.items():
            if state.get(names[name]) is None:
                state[names[name]] = torch.zeros(num_surfels, device=gradient.device)
            state[names[name]] += total

    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        if self.max_surfels and len(params["means"]) >= self.max_surfels:
            return 0, 0
        generated = [state.pop(name, None) for name in _GENERATED.values()]
        if generated[0] is not None and generated[1] is not None:
            means = [total / count.clamp_min(1) for total, count in ((state["grad2d"], state["count"]), generated)]
            # The base class divides by the count and clears both after this refinement.
            state["grad2d"], state["count"] = torch.maximum(*means), torch.ones_like(state["count"])
        return super()._grow_gs(params, optimizers, state, step)
