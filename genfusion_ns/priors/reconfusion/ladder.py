"""Sampling from any noise level down to none: DDIM (Song et al. 2021) without fresh noise, on a ladder of its own.

diffusers' `DDIMScheduler` has no list of time steps that begins at an arbitrary one, as ReconFusion's samples do
(section 4.2); its tables of noise levels are used. ``a`` is the cumulative alpha of a time step: a noisy sample is
z = sqrt(a) x + sqrt(1 - a) e of the clean one x and the noise e.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]
Predict = Callable[[Tensor, int], Tensor]
"""From a noisy sample and its time step to what the network says of it."""


def start_step(level: float, total: int) -> int:
    """The time step at which a sampling from a noise level begins.

    >>> start_step(1.0, 1000), start_step(0.5, 1000), start_step(1e-9, 1000)
    (999, 500, 1)

    Args:
        level: share of the time steps, above 0 and at most 1.
        total: time steps of the training.
    """
    return max(1, round(level * (total - 1)))


def ladder(level: float, steps: int, total: int) -> list[int]:
    """Time steps from noisy to clean, evenly spaced; the last is 0. Near the end some may repeat, which does nothing.

    >>> ladder(1.0, 4, 1000)
    [999, 749, 500, 250, 0]
    """
    start = start_step(level, total)
    return [round(start * (steps - step) / steps) for step in range(steps + 1)]


def add_noise(
    clean: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], a: Float[Tensor, "*B"]
) -> Float[Tensor, "B ..."]:
    """z; `a` is one number, or one for each sample of the batch."""
    a = a.to(clean)
    a = a.view(-1, *(1,) * (clean.dim() - 1)) if a.dim() else a
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def split(
    noisy: Float[Tensor, "*shape"], predicted: Float[Tensor, "*shape"], a: Float[Tensor, ""], kind: Prediction
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Clean sample and noise of what a network predicts, which is e or v = sqrt(a) e - sqrt(1 - a) x."""
    signal, spread = a.sqrt(), (1 - a).sqrt()
    if kind == "v_prediction":
        return signal * noisy - spread * predicted, signal * predicted + spread * noisy
    return (noisy - spread * predicted) / signal, predicted


def velocity(
    clean: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], a: Float[Tensor, " B"]
) -> Float[Tensor, "B ..."]:
    """v, what networks of v prediction are trained on (Salimans and Ho 2022)."""
    a = a.to(clean).view(-1, *(1,) * (clean.dim() - 1))
    return a.sqrt() * noise - (1 - a).sqrt() * clean


def guided(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance (Ho and Salimans 2022); scale 1 is the conditional prediction itself."""
    return conditional if scale == 1 else unconditional + scale * (conditional - unconditional)


def descend(
    noisy: Float[Tensor, "*shape"],
    steps: list[int],
    alphas: Float[Tensor, " total"],
    kind: Prediction,
    predict: Predict,
) -> Float[Tensor, "*shape"]:
    """The clean sample at the foot of a ladder.

    Since e and v follow from each other by the same straight line for both branches of a guidance, guiding v is
    guiding e.

    Args:
        noisy: at the first time step.
        steps: see `ladder`.
        alphas: ``a`` of all time steps.
        kind: what the network predicts.
        predict: the network, guidance included.
    """
    alphas = alphas.to(noisy)
    clean = noisy
    for step, following in pairwise(steps):
        clean, noise = split(noisy, predict(noisy, step), alphas[step], kind)
        noisy = alphas[following].sqrt() * clean + (1 - alphas[following]).sqrt() * noise
    return clean


def require_signal(alphas: Float[Tensor, " total"], kind: Prediction) -> None:
    """Refuse a table that ends in pure noise for a network that predicts noise, which says nothing of it.

    Raises:
        ValueError: it does.
    """
    if kind == "epsilon" and not bool((alphas > 0).all()):
        raise ValueError("a scheduler with zero terminal SNR needs v prediction; the noise of pure noise says nothing")


def alphas_of(scheduler: object) -> Float[Tensor, " total"]:
    """The table of a diffusers scheduler, in double precision."""
    return torch.as_tensor(scheduler.alphas_cumprod).double()  # pyright: ignore[reportAttributeAccessIssue]
