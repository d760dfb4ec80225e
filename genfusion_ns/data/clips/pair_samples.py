"""Augmented training samples of a generator, drawn from clip pairs on disk.

Every change moves pixels and cameras together, so that photos still warp onto the clean clip afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genfusion_ns.data.clips.pairs import read_packed, unpack
from genfusion_ns.geometry.clips import (
    ClipPair,
    crop_clip,
    mirror_clip,
    mirror_references,
    resize_clip,
    resize_references,
    select_frames,
    select_pair_frames,
    select_references,
)
from genfusion_ns.seeds import numbered_generator


@dataclass
class AugmentationConfig:
    """What a training sample may look like, compared with its clip on disk."""

    crop: tuple[int, int] = (128, 96)
    """Width and height in pixels of the random crop window; clips that are smaller are taken whole."""
    shrink: float = 0.5
    """Probability of shrinking the clip before it is cropped, so that a crop shows more of the frame, up to all."""
    frames: int = 8
    """Consecutive frames of a sample."""
    references: tuple[int, int] = (1, 4)
    """Fewest and most reference photos of a sample."""
    mirror: float = 0.5
    """Probability of reflecting scene and images left to right."""
    reverse: float = 0.5
    """Probability of playing the clip backwards."""
    colour_jitter: float = 0.15
    """Largest change of gain, gamma and offset, the same for artifact, clean clip and photos; 0 for none."""
    degrade: float = 0.05
    """Probability of replacing the artifact clip by a synthetic degradation of the clean clip."""


@dataclass(frozen=True)
class PairSource:
    """Clip pairs that are drawn from with a common probability."""

    paths: list[Path]
    """At least one."""
    share: float
    """Relative probability of this source."""


class ClipDataset(Dataset[list[ClipPair]]):
    """A stream of augmented batches: item i is the i-th batch, the same whenever and wherever it is asked for.

    The batches depend on the seed and their index alone, so that a resumed training sees what it would have seen.
    All samples of a batch agree in frames, number and size of photos, and in size where every clip exceeds the crop
    window.
    """

    def __init__(
        self,
        sources: list[PairSource],
        augmentation: AugmentationConfig,
        *,
        batch_size: int,
        batches: int,
        seed: int,
        degrade: Callable[[ClipPair, torch.Generator], ClipPair] | None = None,
        normals: bool = False,
    ) -> None:
        """
        Args:
            sources: clip pairs to draw from, with replacement.
            augmentation: see `AugmentationConfig`.
            batch_size: samples per batch.
            batches: length of the stream.
            seed: source of all choices.
            degrade: synthetic degradation, drawn with probability ``augmentation.degrade``.
            normals: read those of the artifact clips too, where they are stored.

        Raises:
            ValueError: a source is empty, or no source can be drawn.
        """
        if not sources or any(not source.paths for source in sources) or sum(s.share for s in sources) <= 0:
            raise ValueError(
                "a clip data set needs sources of at least one clip pair each, with a positive total share"
            )
        self.sources = sources
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.degrade = degrade
        self.normals = normals
        self._packed: dict[Path, ClipPair] = {}

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[ClipPair]:
        if not 0 <= index < self.batches:
            raise IndexError(f"batch {index} of a stream of {self.batches}")
        generator = numbered_generator(self.seed, index)
        count = _draw(*self.augmentation.references, generator)
        first, *others = [self._sample(count, generator) for _ in range(self.batch_size)]
        size = (first.references.rgb.shape[2], first.references.rgb.shape[1])
        return [first, *(replace(pair, references=resize_references(pair.references, size)) for pair in others)]

    def _sample(self, count: int, generator: torch.Generator) -> ClipPair:
        shares = torch.tensor([source.share for source in self.sources])
        paths = self.sources[int(torch.multinomial(shares, 1, generator=generator))].paths
        pair = augment(self._read(paths[_draw(0, len(paths) - 1, generator)]), self.augmentation, count, generator)
        if self.degrade is not None and _chance(self.augmentation.degrade, generator):
            pair = self.degrade(pair, generator)
        return pair

    def _read(self, path: Path) -> ClipPair:
        if path not in self._packed:
            self._packed[path] = read_packed(path, self.normals)
        return self._packed[path]


def augment(pair: ClipPair, config: AugmentationConfig, count: int, generator: torch.Generator) -> ClipPair:
    """A random part of a packed clip pair, seen through `count` photos; photos repeat where the pair has fewer."""
    pair = _cut(pair, config, generator)
    order = torch.randperm(len(pair.references), generator=generator)
    references = select_references(pair.references, order.repeat(-(-count // len(order)))[:count])
    artifact, clean = pair.artifact, pair.clean
    if _chance(config.reverse, generator):
        backwards = torch.arange(len(artifact) - 1, -1, -1)
        artifact, clean = select_frames(artifact, backwards), select_frames(clean, backwards)
    if _chance(config.mirror, generator):
        artifact, clean, references = mirror_clip(artifact), mirror_clip(clean), mirror_references(references)
    cut = replace(pair, artifact=artifact, clean=clean, references=references)
    return _jitter(cut, config.colour_jitter, generator)


def _cut(pair: ClipPair, config: AugmentationConfig, generator: torch.Generator) -> ClipPair:
    width, height = (min(a, b) for a, b in zip(config.crop, pair.artifact.size, strict=True))
    frames = min(config.frames, len(pair.artifact))
    first = _draw(0, len(pair.artifact) - frames, generator)
    pair = unpack(select_pair_frames(pair, slice(first, first + frames)))
    if _chance(config.shrink, generator):
        pair = _shrink(pair, (width, height), generator)
    x = _draw(0, pair.artifact.size[0] - width, generator)
    y = _draw(0, pair.artifact.size[1] - height, generator)
    artifact, clean = (crop_clip(clip, x, y, width, height) for clip in (pair.artifact, pair.clean))
    return replace(pair, artifact=artifact, clean=clean)


def _shrink(pair: ClipPair, least: tuple[int, int], generator: torch.Generator) -> ClipPair:
    """The clips of a pair at a size between their own and the smallest of the same aspect that covers `least`."""
    size = pair.artifact.size
    smallest = max(a / b for a, b in zip(least, size, strict=True))
    scale = smallest + (1 - smallest) * float(torch.rand((), generator=generator))
    small = (max(least[0], round(size[0] * scale)), max(least[1], round(size[1] * scale)))
    return replace(pair, artifact=resize_clip(pair.artifact, small), clean=resize_clip(pair.clean, small))


def _jitter(pair: ClipPair, strength: float, generator: torch.Generator) -> ClipPair:
    """Gain and offset per colour channel and one gamma, drawn once for the whole pair."""
    if strength == 0:
        return pair
    draw = (2 * torch.rand(7, generator=generator) - 1) * strength
    gain, offset, gamma = 1 + draw[:3], draw[3:6] / 3, torch.exp(draw[6])

    def change(rgb: Tensor) -> Tensor:
        return (rgb.clamp(min=1e-6) ** gamma.to(rgb) * gain.to(rgb) + offset.to(rgb)).clamp(0, 1)

    artifact, clean, photos = pair.artifact, pair.clean, pair.references
    return replace(
        pair,
        artifact=replace(artifact, rgb=change(artifact.rgb)),
        clean=replace(clean, rgb=change(clean.rgb)),
        references=replace(photos, rgb=change(photos.rgb)),
    )


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number in low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability
