"""What every repairer promises, and what it says it can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from genfusion_ns.geometry.clips import Clip, References, RepairedClip


@dataclass(frozen=True)
class Capabilities:
    """What a repairer can do. Whoever uses one asks for these, never for its name.

    One more is a protocol, because it comes with a method: `ContinuingRepairer`. Nothing is taken for granted: a prior
    says what it can.
    """

    repairs: bool = False
    """It changes clips for the better; without, a round would teach a scene what it knows already."""
    fills_holes: bool = False
    """It gives colours and depth where the render is empty; without, empty pixels come back as they are."""
    makes_depth: bool = False
    """Its disparity is made of the colours, also where the clip's depth is unknown or wrong; without, it is the depth
    of the clip, at best completed in holes, and nearly constant for clips of unknown depth."""
    makes_confidence: bool = False
    """Its confidence says how sure it is of each pixel; without, confidence is the coverage of the render."""
    needs_cameras: bool = False
    """It works by warping photos into the clip: frames without cameras hardly change."""
    one_size: bool = False
    """It was trained at its resolution alone, and is at its best on frames that fill it."""
    detail: int = 1
    """Side in pixels of the smallest blocks whose mean colour it gets right; finer detail of its is not worth teaching
    to a scene that photos have fitted."""


@runtime_checkable
class VideoRepairer(Protocol):
    """Turns an artifact clip into a plausible clean one, conditioned on real photos.

    Shape-preserving, stateless between calls, deterministic under the generator; a plain object, not an nn.Module of
    the scene, so that scene checkpoints stay small.
    """

    name: str
    """Shown in logs and written beside each round."""
    capabilities: Capabilities
    """What it can do, whatever its weights."""
    clip_length: int
    """Frames per call."""
    resolution: tuple[int, int]
    """(width, height) at which clips should be rendered for it; any size is accepted."""

    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        """Repair one clip.

        Args:
            clip: artifact clip of any size, rgb in 0..1, depth in scene units.
            references: at least one photo, in the scene frame of the clip.
            generator: source of all randomness, on the CPU.

        Returns:
            A clip of the same T, H, W, on the clip's device.
        """
        ...

    def release(self) -> None:
        """Free device memory until the next call."""
        ...


@runtime_checkable
class ContinuingRepairer(VideoRepairer, Protocol):
    """A repairer that can go on from frames that are repaired already, so that neighbouring windows agree.

    A capability of its own, because a repairer without it could only ignore such frames.
    """

    def repair_after(
        self, known: RepairedClip, clip: Clip, references: References, generator: torch.Generator
    ) -> RepairedClip:
        """Repair one clip whose first frames an earlier call has repaired.

        Args:
            known: its first frames, fewer than it has, of its size; disparity in whatever scale and shift they had.
            clip, references, generator: see `VideoRepairer.repair`.

        Returns:
            As `VideoRepairer.repair`; the first frames are the known ones, their disparity in the scale and shift of
            this clip.
        """
        ...


def repair_next(
    repairer: VideoRepairer,
    before: RepairedClip | None,
    overlap: int,
    *,
    clip: Clip,
    references: References,
    generator: torch.Generator,
) -> RepairedClip:
    """Repair one window of a path so that it agrees with the one before, where the repairer can do that.

    Args:
        repairer: any; one that cannot go on from known frames repairs the window by itself.
        before: the window before, repaired; None where there is none, or where it must not be followed.
        overlap: how many of its last frames are the first of `clip`, see `Window.new_from`.
        clip, references, generator: see `VideoRepairer.repair`.
    """
    if before is None or not 0 < overlap < len(clip) or not isinstance(repairer, ContinuingRepairer):
        return repairer.repair(clip, references, generator)
    known = RepairedClip(before.rgb[-overlap:], before.disparity[-overlap:], before.confidence[-overlap:])
    return repairer.repair_after(known, clip, references, generator)
