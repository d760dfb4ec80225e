"""What a round did and decided, with all that is needed to do it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.windows import Window


@dataclass(frozen=True)
class RoundRecord:
    """All decisions of one round. Lists run over its W windows."""

    round: int
    """0-based count of rounds."""
    step: int
    """Training step about to begin."""
    seed: int
    """Seed of everything random in the round."""
    repairer: str
    c2w: Float[Tensor, "M 4 4"]
    """Camera path, camera-to-world, OpenGL axes, in the frame of the scene."""
    Ks: Float[Tensor, "M 3 3"]
    """Intrinsics in pixels of the clips."""
    windows: list[Window]
    reference_ids: list[list[int]]
    """Positions in the train split."""
    reference_names: list[list[str]]
    scores: list[dict[str, float]]
    """Named figures of each clip; sharpness and gradient_energy are those of the repaired clip over the rendered one,
    in the mean of its frames, see `genfusion_ns.models.sharpness`."""
    rejected: list[str | None]
    """Why a clip was rejected; None for accepted ones."""
    details: dict[str, Any] = field(default_factory=dict)
    """Figures of the whole round, among them the sampler's log."""
