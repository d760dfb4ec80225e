"""Training samples of a generator that takes frames and relative disparity alone: no cameras, one reference image.

The same stream is drawn from clip pairs of `gf-make-clips` (see `clips`) and from folders in the layout that GenFusion
published (see `published_clips`). Disparity is coded as in a repair: min-max over the known pixels of the window that
the sample shows, 0 where unknown (GenFusion's inference; its training took the values as they were in the files).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from genfusion_ns.data.clips.pairs import is_pair, list_pairs, read_packed, unpack
from genfusion_ns.data.clips.published import FrameSequencePair, list_published, looks_published
from genfusion_ns.geometry.clips import SOLID_ALPHA, ClipPair, select_pair_frames
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.seeds import numbered_generator


@dataclass(frozen=True)
class FrameBatch:
    """B samples of one size, ready for a generator without cameras."""

    artifact_rgb: Float[Tensor, "B T H W 3"]
    """Colours in 0..1."""
    artifact_disparity: Float[Tensor, "B T H W 1"]
    """Min-max coded over the known pixels of each sample, 0..1; 0 is farthest or unknown."""
    clean_rgb: Float[Tensor, "B T H W 3"]
    """Colours in 0..1."""
    clean_disparity: Float[Tensor, "B T H W 1"]
    """Coded like `artifact_disparity`, by its own range."""
    clean_known: Bool[Tensor, "B T H W 1"]
    """Where the clean disparity is known and can be trusted."""
    reference: Float[Tensor, "B H W 3"]
    """The image that conditions each sample, stretched to the size of the frames; colours in 0..1."""

    def __len__(self) -> int:
        return self.artifact_rgb.shape[0]


@dataclass
class FrameAugmentation:
    """How a sample may differ from the frames on disk."""

    random_crop: bool = True
    """Cut the largest window with the shape of the sample at a random place; otherwise the whole frame is stretched."""
    photos: float = 0.5
    """Probability that the reference is a photo stored with the clip, where there are any; else it is a clean frame,
    any of the sample."""
    mirror: float = 0.0
    """Probability of turning frames and reference left to right."""
    reverse: float = 0.0
    """Probability of playing the sample backwards; the temporal layers of GenFusion's network do not know the order."""


class FrameClip(Protocol):
    """Frames of an artifact clip beside those of the clean one, read when asked for."""

    name: str
    """For messages."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def read(self, start: int, count: int) -> FrameSequencePair:
        """Frames start .. start + count - 1; raises ValueError where the files are damaged."""
        ...


class StoredPair:
    """`FrameClip` of one clip pair of `gf-make-clips`; kept in memory in its types on disk once it was read."""

    def __init__(self, path: Path) -> None:
        """Args: path: as `list_pairs` gives it."""
        self.path = path
        self.name = str(path)
        self._packed: ClipPair | None = None

    def __len__(self) -> int:
        return len(self._pair().artifact)

    def read(self, start: int, count: int) -> FrameSequencePair:
        """See `FrameClip.read`."""
        pair = unpack(select_pair_frames(self._pair(), slice(start, start + count)))
        return FrameSequencePair(
            artifact_rgb=pair.artifact.rgb,
            artifact_disparity=_inverse(pair.artifact.depth, pair.artifact.alpha),
            clean_rgb=pair.clean.rgb,
            clean_disparity=_inverse(pair.clean.depth, pair.clean.alpha),
            photos=pair.references.rgb,
        )

    def _pair(self) -> ClipPair:
        if self._packed is None:
            self._packed = read_packed(self.path)
        return self._packed


def open_frame_clips(paths: Sequence[Path]) -> list[FrameClip]:
    """All clips under `paths`.

    Args:
        paths: each is a clip pair or a data set of `gf-make-clips` (see `list_pairs`), or one in the published layout:
            a scene folder, a folder of them, or a JSON list of scene folders (see `list_published`).

    Raises:
        FileNotFoundError: nothing there.
        ValueError: files that belong to no layout.
    """
    clips: list[FrameClip] = []
    for path in paths:
        if is_pair(path):
            clips.append(StoredPair(path))
        elif looks_published(path):
            clips += list_published(path)
        else:
            clips += [StoredPair(pair) for pair in list_pairs(path)]
    return clips


class FrameClipDataset(Dataset[FrameBatch]):
    """A stream of batches: item i is the i-th batch, the same whenever and wherever it is asked for.

    Batches depend on the seed and their index alone: workers need no seeds of their own, and a resumed training sees
    what it would have seen.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        *,
        frames: int = 16,
        batch_size: int = 1,
        batches: int = 1000,
        seed: int = 0,
        augmentation: FrameAugmentation | None = None,
    ) -> None:
        """
        Args:
            paths: see `open_frame_clips`; every clip is drawn with the same probability.
            size: (width, height) of the samples in pixels.
            frames: consecutive frames of a sample, from a random start.
            batch_size: samples per batch.
            batches: length of the stream.
            seed: source of all choices.
            augmentation: see its fields.

        Raises:
            FileNotFoundError: no clips.
            ValueError: files that are no clips.
        """
        self.clips = open_frame_clips(paths)
        if not self.clips:
            raise FileNotFoundError("no clips to train from: no paths were given")
        self.size, self.frames, self.seed = size, frames, seed
        self.batches, self.batch_size = batches, batch_size
        self.augmentation = augmentation or FrameAugmentation()

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> FrameBatch:
        if not 0 <= index < self.batches:
            raise IndexError(f"batch {index} of a stream of {self.batches}")
        generator = numbered_generator(self.seed, index)
        samples = [self._sample(generator) for _ in range(self.batch_size)]
        return FrameBatch(*(torch.stack(parts) for parts in zip(*samples, strict=True)))

    def _sample(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The fields of one `FrameBatch` entry, in order."""
        clip = self.clips[_draw(len(self.clips), generator)]
        if len(clip) < self.frames:
            raise ValueError(f"{clip.name} has {len(clip)} frames; samples need {self.frames}, set frames to less")
        pair = clip.read(_draw(len(clip) - self.frames + 1, generator), self.frames)
        # Every number is drawn whether it is used or not: one option leaves the others' choices alone.
        picks = torch.rand(7, generator=generator)
        reference = _reference(pair, self.augmentation.photos, picks[0], picks[1])
        rows, columns = self._crop(pair.clean_rgb.shape[2], pair.clean_rgb.shape[1], picks[2], picks[3])
        backwards = bool(picks[4] < self.augmentation.reverse)
        mirrored = bool(picks[5] < self.augmentation.mirror)

        def framed(images: Tensor, nearest: bool) -> Tensor:
            images = resize_images(images[:, rows, columns], self.size, nearest)
            images = images.flip(0) if backwards else images
            return images.flip(2) if mirrored else images

        artifact, clean = (framed(disparity, True) for disparity in (pair.artifact_disparity, pair.clean_disparity))
        reference = resize_images(reference[None], self.size)[0]
        return (
            framed(pair.artifact_rgb, False).clamp(0, 1),
            over_known_range(artifact),
            framed(pair.clean_rgb, False).clamp(0, 1),
            over_known_range(clean),
            clean > 0,
            (reference.flip(1) if mirrored else reference).clamp(0, 1),
        )

    def _crop(self, width: int, height: int, x: Tensor, y: Tensor) -> tuple[slice, slice]:
        """Rows and columns of the part of the frames that a sample shows; x and y in 0..1 place it."""
        if not self.augmentation.random_crop:
            return slice(0, height), slice(0, width)
        wide, high = largest_crop(width, height, self.size)
        left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
        return slice(top, top + high), slice(left, left + wide)


def _reference(pair: FrameSequencePair, photos: float, kind: Tensor, which: Tensor) -> Float[Tensor, "h w 3"]:
    images = pair.photos if pair.photos is not None and kind < photos else pair.clean_rgb
    return images[min(int(which * len(images)), len(images) - 1)]


def _inverse(depth: Float[Tensor, "T H W 1"], alpha: Float[Tensor, "T H W 1"]) -> Float[Tensor, "T H W 1"]:
    known = (depth > 0) & (alpha > SOLID_ALPHA)
    return torch.where(known, 1.0 / torch.where(known, depth, 1.0), 0.0)


def largest_crop(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the largest crop window with the shape of `size` in frames of this size, in pixels."""
    aspect = size[0] / size[1]
    return min(width, round(height * aspect)), min(height, round(width / aspect))


def over_known_range(disparity: Float[Tensor, "T H W 1"]) -> Float[Tensor, "T H W 1"]:
    """Disparity in any unit, 0 where unknown, as 0..1 over the range of its known pixels."""
    # `encode_disparity` takes depth, so the values are inverted for it.
    known = disparity > 0
    return encode_disparity(torch.where(known, 1.0 / torch.where(known, disparity, 1.0), 0.0), known).disparity


def _draw(count: int, generator: torch.Generator) -> int:
    """A whole number in 0..count - 1."""
    return int(torch.randint(0, count, (), generator=generator))
