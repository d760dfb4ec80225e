"""Samples of single views for training: one frame of a clip, or one photo of a capture, with photos to go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from genfusion_ns.data.clips.pair_samples import AugmentationConfig, ClipDataset, PairSource
from genfusion_ns.geometry.clips import ClipPair
from genfusion_ns.seeds import numbered_generator


@dataclass
class ViewSampling:
    """What samples look like."""

    references: tuple[int, int] = (1, 3)
    """Fewest and most photos of a sample."""
    shrink: float = 1.0
    """Clips: probability of shrinking the frame before it is cropped, so that a view shows more of it, up to all."""
    mirror: float = 0.5
    """Clips: probability of reflecting scene and images left to right."""
    colour_jitter: float = 0.15
    """Clips: largest change of gain, gamma and offset, the same for all images of a sample; 0 for none."""


class MixedBatches(Dataset[list[ClipPair]]):
    """Batches of several sources: which one a batch is of follows from its number."""

    def __init__(self, sources: Sequence[Dataset[list[ClipPair]]], shares: Sequence[float], seed: int) -> None:
        """
        Args:
            sources: all of the length of the training.
            shares: relative probabilities.
            seed: of the choice.
        """
        self.sources, self.shares, self.seed = sources, torch.tensor(shares), seed

    def __len__(self) -> int:
        return len(self.sources[0])  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> list[ClipPair]:
        chosen = torch.multinomial(self.shares, 1, generator=numbered_generator(self.seed, index))
        return self.sources[int(chosen)][index]


def clip_views(
    paths: list[Path], sampling: ViewSampling, size: tuple[int, int], *, batch_size: int, batches: int, seed: int
) -> ClipDataset:
    """Batches of single frames of clips.

    Args:
        paths: of clip pairs.
        sampling: see there.
        size: (width, height) of the views.
        batch_size, batches, seed: as in `ClipDataset`.
    """
    augmentation = AugmentationConfig(
        crop=size,
        shrink=sampling.shrink,
        frames=1,
        references=sampling.references,
        mirror=sampling.mirror,
        reverse=0.0,
        colour_jitter=sampling.colour_jitter,
        degrade=0.0,
    )
    return ClipDataset([PairSource(paths, 1.0)], augmentation, batch_size=batch_size, batches=batches, seed=seed)
