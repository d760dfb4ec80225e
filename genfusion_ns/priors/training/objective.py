"""What the loop needs to know of a generator to train it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genfusion_ns.priors.training.validation import Judgement

Batch = TypeVar("Batch", contravariant=True)


class Objective(Protocol[Batch]):
    """What is trained, and to what end."""

    @property
    def network(self) -> nn.Module:
        """The module whose parameters are trained, those that require gradients."""
        ...

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move what is not trained to the device of the training, in the type of its mixed precision."""
        ...

    def loss(self, network: nn.Module, batch: Batch, numbers: range) -> Float[Tensor, ""]:
        """Mean loss of one batch.

        Args:
            network: `network`, as accelerate wraps it.
            batch: an item of the data set.
            numbers: numbers of its samples, from which all that is random follows.
        """
        ...

    def write(self, weights: dict[str, Tensor], folder: Path) -> None:
        """Write the folder that ``--pipeline.repairer.model`` takes; `weights` is a state of `network`."""
        ...

    def validate(self, weights: dict[str, Tensor]) -> Judgement:
        """Repair held-out clips with a state of `network`."""
        ...
