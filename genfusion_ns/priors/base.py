"""What every prior promises: repairers of clips, with what they say they can do, and priors of single views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.clips import Clip, References, RenderedView, RepairedClip


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


@runtime_checkable
class ViewPrior(Protocol):
    """Draws what one view should show, from its render and posed photos.

    Deterministic under the generator; a plain object, not an nn.Module of the scene, so that scene checkpoints stay
    small.
    """

    name: str
    """Shown in logs."""
    resolution: tuple[int, int]
    """(width, height) of the views it draws, in pixels."""
    num_references: int
    """Photos that it is conditioned on at most."""

    def sample(
        self, view: RenderedView, references: References, level: float, generator: torch.Generator
    ) -> Float[Tensor, "H W 3"]:
        """Draw one view.

        Args:
            view: the render, of the resolution of the prior.
            references: at least one photo of any size, the nearest first, in the scene frame of the view; those
                beyond `num_references` are not looked at.
            level: share of the noise at which the drawing starts, above 0 and at most 1: 1 starts from pure noise,
                little keeps the render nearly as it is.
            generator: source of all randomness, on the CPU.

        Returns:
            Colours in 0..1 on the view's device, without gradient.

        Raises:
            ValueError: a view of another size, no photo, or a level out of range.
        """
        ...

    def release(self) -> None:
        """Free device memory until the next call."""
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
