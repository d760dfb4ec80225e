"""Which of the 1000 time steps of training a sampling visits; free of heavy imports."""

from __future__ import annotations

from typing import Literal

import numpy as np

Spacing = Literal["uniform", "uniform_trailing"]


def spaced_timesteps(steps: int, spacing: Spacing, total: int = 1000) -> list[int]:
    """Time steps of a run in ascending order.

    "uniform" starts below the noisiest step and leaves 0 out (1, 41, ... 961 for 25); "uniform_trailing" ends at the
    noisiest one (39, 79, ... 999).

    >>> spaced_timesteps(4, "uniform"), spaced_timesteps(4, "uniform_trailing")
    ([1, 251, 501, 751], [249, 499, 749, 999])

    Raises:
        ValueError: an unknown spacing, a number of steps outside 1..`total`, or one for which "uniform" leaves 0..999.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"the number of steps is {steps}; it must be in 1..{total}")
    if spacing == "uniform":
        chosen = [step + 1 for step in range(0, total, total // steps)]
        if chosen[-1] >= total:
            raise ValueError(
                f"{steps} steps with uniform spacing would end at time step {chosen[-1]}, past {total - 1}; take "
                "another number of steps, such as 25, or the spacing uniform_trailing"
            )
        return chosen
    if spacing == "uniform_trailing":
        # numpy's own sequence, whose rounding decides the ties of the published lists.
        falling = np.arange(total, 0, -total / steps)[:steps]
        return [int(step) - 1 for step in np.round(falling[::-1])]
    raise ValueError(f"timestep spacing is {spacing!r}; it must be uniform or uniform_trailing")
