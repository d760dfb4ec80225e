"""Flow matching from an artifact clip to a clean clip.

The path is a straight line, x_t = (1 - t) x_0 + t x_1 with t from 1 to 0 (Lipman et al. 2023, equations 22 and 23 with
sigma_min 0; Liu et al. 2023, equation 1; both count t the other way round). Its start x_1 depends on the data: the
artifact clip, mixed with noise where the reconstruction saw little. The network estimates x_0; the velocity
dx/dt = x_1 - x_0 of the line through the current state is (x_t - x_0) / t.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def start_point(
    artifact: Float[Tensor, "B 4 T H W"],
    alpha: Float[Tensor, "B 1 T H W"],
    noise: Float[Tensor, "B 4 T H W"],
    sigma_min: float,
    sigma_max: float,
) -> Float[Tensor, "B 4 T H W"]:
    """x_1 = (1 - sigma) artifact + sigma noise with sigma = sigma_min + (1 - alpha) (sigma_max - sigma_min).

    Args:
        artifact: rgb and disparity in -1..1.
        alpha: coverage in 0..1; opaque pixels keep their content, uncovered ones start as noise.
        noise: standard normal.
        sigma_min: share of noise where alpha is 1, in 0..sigma_max.
        sigma_max: share of noise where alpha is 0, in sigma_min..1.
    """
    sigma = sigma_min + (1 - alpha) * (sigma_max - sigma_min)
    return (1 - sigma) * artifact + sigma * noise


def interpolate(
    clean: Float[Tensor, "B C T H W"], start: Float[Tensor, "B C T H W"], time: Float[Tensor, " B"]
) -> Float[Tensor, "B C T H W"]:
    """x_t on the line from the clean clip (time 0) to the start point (time 1).

    >>> clean, start = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    >>> interpolate(clean, start, torch.tensor([0.25])).item()
    0.25
    """
    time = time.view(-1, 1, 1, 1, 1)
    return (1 - time) * clean + time * start


def euler_step(
    state: Float[Tensor, "B C T H W"], clean: Float[Tensor, "B C T H W"], time: float, following: float
) -> Float[Tensor, "B C T H W"]:
    """State at the time `following` < `time` along the velocity that leads from `state` to `clean`.

    Half of the way down in time is half of the way to the estimate:

    >>> state, clean = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    >>> euler_step(state, clean, time=1.0, following=0.5).item()
    0.5
    """
    return state + (following - time) * velocity(state, clean, time)


def velocity(
    state: Float[Tensor, "B C T H W"], clean: Float[Tensor, "B C T H W"], time: float
) -> Float[Tensor, "B C T H W"]:
    """dx/dt of the straight line that passes `state` at `time` (0 < time <= 1) and ends in `clean` at time 0."""
    return (state - clean) / time


def sample_times(count: int, first_share: float, generator: torch.Generator) -> Float[Tensor, " B"]:
    """Training times: exactly 1 with probability `first_share`, else uniform in 0.05..1.

    Few-step sampling gains most from a good first estimate, and its confidence is read there.
    """
    uniform = 0.05 + 0.95 * torch.rand(count, generator=generator)
    first = torch.rand(count, generator=generator) < first_share
    return torch.where(first, torch.ones(count), uniform)
