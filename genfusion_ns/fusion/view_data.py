"""What a view prior is validated with: frames of clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from genfusion_ns.data.clips.pairs import read_pair
from genfusion_ns.geometry.clips import Clip, ClipPair, crop_clip, resize_clip, select_pair_frames, select_references
from genfusion_ns.priors.training.validation import novel_frames

_HELD_OUT_FRAMES = 2
"""Of each held-out clip."""


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
