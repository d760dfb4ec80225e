"""What a view prior is trained on, and what it is validated with: frames of clips, and photos of captures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.data import Dataset

from genfusion_ns.data.clips.pairs import read_pair
from genfusion_ns.data.views.samples import MixedBatches, ViewSampling, clip_views
from genfusion_ns.fusion.training_data import split_clips
from genfusion_ns.geometry.clips import Clip, ClipPair, crop_clip, resize_clip, select_pair_frames, select_references
from genfusion_ns.priors.training.validation import novel_frames
from genfusion_ns.ranges import require_ranges

_HELD_OUT_FRAMES = 2
"""Of each held-out clip."""


class ViewChoice(Protocol):
    """Settings that say which views there are; see `TrainReconFusionConfig`."""

    clips: Path | None
    captures: tuple[Path, ...]
    captures_share: float
    held_out_captures: tuple[str, ...]
    held_out_limit: int
    sampling: ViewSampling


@dataclass(frozen=True)
class ViewData:
    """Views by their use."""

    batches: Dataset[list[ClipPair]]
    """What is trained on."""
    held_out: list[ClipPair]
    """What judges."""


def view_data(
    choice: ViewChoice, size: tuple[int, int], photos: int, *, batch_size: int, batches: int, seed: int
) -> ViewData:
    """The views that a training is told of.

    Args:
        choice: see there.
        size: (width, height) of the views.
        photos: that a view is seen through at most.
        batch_size, batches, seed: of the training.

    Raises:
        FileNotFoundError: no clips.
        ValueError: neither clips nor captures, or ones that cannot be used; settings out of range.
    """
    check_choice(choice, photos)
    sources: list[Dataset[list[ClipPair]]] = []
    held_out: list[ClipPair] = []
    if choice.clips is not None:
        named = () if choice.captures else choice.held_out_captures
        split = split_clips(choice.clips, named, choice.held_out_limit)
        loop = {"batch_size": batch_size, "batches": batches, "seed": seed}
        sources.append(clip_views(split.training, choice.sampling, size, **loop))
        held_out += held_out_frames(split.held_out, size, photos)
    if choice.captures:
        # nerfstudio reads captures; clips do without it.
        from genfusion_ns.data.views.captures import CapturedViews, held_out_views, read_views

        read = [read_views(folder, size) for folder in choice.captures]
        sources.append(
            CapturedViews(read, choice.sampling.references, batch_size=batch_size, batches=batches, seed=seed)
        )
        kept = [pair for views in read for pair in held_out_views(views, photos)]
        held_out += kept[:: -(-len(kept) // choice.held_out_limit)]
    if len(sources) == 1:
        return ViewData(sources[0], held_out)
    shares = [1 - choice.captures_share, choice.captures_share]
    return ViewData(MixedBatches(sources, shares, seed), held_out)


def check_choice(choice: ViewChoice, photos: int) -> None:
    """Refuse settings that no training can have; errors as in `view_data`."""
    if choice.clips is None and not choice.captures:
        raise ValueError(
            "there is nothing to train on: give --clips, a folder of clips that gf-make-clips writes, or --captures, "
            "folders of photos with cameras"
        )
    require_ranges(choice, {"captures_share": (0, 1)})
    if choice.held_out_limit < 1:
        raise ValueError(f"--held-out-limit is {choice.held_out_limit}; at least 1 is needed")
    low, high = choice.sampling.references
    if not 1 <= low <= high <= photos:
        raise ValueError(
            f"--sampling.references is {low} {high}; allowed are 1..{photos}, the photos that the prior looks at, the "
            "fewest first"
        )


def held_out_frames(paths: Sequence[Path], size: tuple[int, int], photos: int) -> list[ClipPair]:
    """Frames of held-out clips that no photo was taken at, cut from their middle.

    Args:
        paths: of clip pairs.
        size: (width, height) of the views.
        photos: that each is seen through at most.
    """
    views = []
    for path in paths:
        pair = read_pair(path)
        references = select_references(pair.references, list(range(min(photos, len(pair.references)))))
        frames = novel_frames(pair).nonzero()[:, 0]
        places = (torch.arange(_HELD_OUT_FRAMES) + 0.5) / _HELD_OUT_FRAMES * len(frames)
        for frame in frames[places.long()].tolist():
            one = select_pair_frames(pair, slice(frame, frame + 1))
            views.append(ClipPair(middle(one.artifact, size), middle(one.clean, size), references, pair.rendered))
    return views


def middle(clip: Clip, size: tuple[int, int]) -> Clip:
    """The largest window of a shape in the middle of a clip, at (width, height) `size`."""
    scale = max(size[0] / clip.size[0], size[1] / clip.size[1])
    covering = (max(size[0], round(clip.size[0] * scale)), max(size[1], round(clip.size[1] * scale)))
    left, top = (covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2
    return crop_clip(resize_clip(clip, covering), left, top, *size)
