"""What generators are trained on, and what they are validated with: which clips of a folder are which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.clips.frame_samples import FrameClip, largest_crop, open_frame_clips, over_known_range
from genfusion_ns.data.clips.pair_samples import PairSource
from genfusion_ns.data.clips.pairs import Provenance, list_pairs, read_provenance, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.data.clips.published import list_published, looks_published
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.priors.training.validation import HeldOutFrames
from genfusion_ns.seeds import numbered_generator


@dataclass(frozen=True)
class Split:
    """Clips by their use."""

    training: list[Path]
    """At least one."""
    held_out: list[Path]
    """At least one, spread over those that are kept for validation."""


def split_clips(folder: Path, held_out_captures: Sequence[str], limit: int) -> Split:
    """Divide the clips of a folder.

    Args:
        folder: see `open_frame_clips`.
        held_out_captures: captures (in the published layout scenes) kept for validation; every 10th clip without any.
        limit: most clips used in validation.

    Raises:
        FileNotFoundError: no clips.
        ValueError: an unknown capture, or nothing left to train on.
    """
    published = looks_published(folder)
    paths = sorted({clip.video.parent for clip in list_published(folder)}) if published else list_pairs(folder)
    if held_out_captures:
        names = {path: path.name if published else read_provenance(path).capture for path in paths}
        unknown = sorted(set(held_out_captures) - set(names.values()))
        if unknown:
            known = sorted(set(names.values()))
            raise ValueError(f"--held-out-captures {unknown} are not in {folder}, which has {known}")
        held_out = [path for path in paths if names[path] in held_out_captures]
    else:
        held_out = paths[::10]
    training = [path for path in paths if path not in set(held_out)]
    if not training:
        raise ValueError(f"all {len(paths)} clips of {folder} are held out; nothing is left to train on")
    stride = -(-len(held_out) // limit)
    return Split(training, held_out[::stride])


def compact_sources(
    clips: Path | None, procedural: list[Path], share: float, held_out_captures: Sequence[str], limit: int
) -> tuple[list[PairSource], list[Path]]:
    """Training sources and held-out clips of the compact generator.

    Args:
        clips: see `split_clips`; procedural clips alone without.
        procedural: see `make_procedural`.
        share: of training samples that are procedural, where there are other clips.
        held_out_captures, limit: see `split_clips`.

    Raises:
        ValueError: too few clips; others as in `split_clips`.
    """
    if clips is None:
        if len(procedural) < 2:
            raise ValueError("without --clips, --procedural must be at least 2: one to train on, one to hold out")
        kept = max(1, min(limit, len(procedural) // 10))
        return [PairSource(procedural[kept:], 1.0)], procedural[:kept]
    split = split_clips(clips, held_out_captures, limit)
    sources = [PairSource(split.training, 1 - share)]
    if procedural and share > 0:
        sources.append(PairSource(procedural, share))
    return sources, split.held_out


def make_procedural(folder: Path, count: int, seed: int) -> list[Path]:
    """Procedural clip pairs of a folder; those that exist already are kept."""
    paths = []
    for index in range(count):
        path = folder / f"world_{seed}_{index:04d}.npz"
        if not path.is_file():
            generator = numbered_generator(seed, index)
            write_pair(folder, path.stem, procedural_pair(generator), Provenance("procedural", "none", seed))
        paths.append(path)
    return paths


class HeldOutWindows(Sequence[HeldOutFrames]):
    """The end of each clip, for validation, with the clip's first clean frame as its photo; read when asked for."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], frames: int, limit: int) -> None:
        """
        Args:
            paths: see `open_frame_clips`.
            size: (width, height) that the largest window of this shape in the middle of the frames is resampled to.
            frames: of a window; shorter clips are taken whole, and their first frame does not count.
            limit: most clips.
        """
        self.clips, self.size, self.frames = open_frame_clips(paths)[:limit], size, frames

    def __len__(self) -> int:
        return len(self.clips)

    @overload
    def __getitem__(self, index: int) -> HeldOutFrames: ...

    @overload
    def __getitem__(self, index: slice) -> list[HeldOutFrames]: ...

    def __getitem__(self, index: int | slice) -> HeldOutFrames | list[HeldOutFrames]:
        if isinstance(index, slice):
            return [_last_frames(clip, self.size, self.frames) for clip in self.clips[index]]
        return _last_frames(self.clips[index], self.size, self.frames)


def _last_frames(clip: FrameClip, size: tuple[int, int], frames: int) -> HeldOutFrames:
    count = min(frames, len(clip))
    start = len(clip) - count
    photo = clip.read(0, 1).clean_rgb[0]
    pair = clip.read(start, count)
    novel = torch.arange(start, start + count) > 0
    clean = _cut(pair.clean_disparity, size, nearest=True)
    sides = (
        (pair.artifact_rgb, _cut(pair.artifact_disparity, size, nearest=True)),
        (pair.clean_rgb, clean),
    )
    artifact, truth = (
        torch.cat([_cut(rgb, size).clamp(0, 1), over_known_range(inverse)], dim=-1) for rgb, inverse in sides
    )
    return HeldOutFrames(artifact, truth, clean > 0, photo, novel if bool(novel.any()) else ~novel)


def _cut(images: Float[Tensor, "T H W C"], size: tuple[int, int], nearest: bool = False) -> Tensor:
    height, width = images.shape[1:3]
    wide, high = largest_crop(width, height, size)
    left, top = (width - wide) // 2, (height - high) // 2
    return resize_images(images[:, top : top + high, left : left + wide], size, nearest)
