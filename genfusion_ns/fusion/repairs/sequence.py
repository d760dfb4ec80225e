"""Repair of a sequence of any length and size, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.fusion.agreement import photo_agreement
from genfusion_ns.fusion.repairs.sources import ClipSource
from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, References, RepairedClip, resize_clip
from genfusion_ns.geometry.depth import align_scale_shift
from genfusion_ns.geometry.images import fit_area, resize_images
from genfusion_ns.geometry.windows import Window, clip_windows
from genfusion_ns.priors.base import VideoRepairer, repair_next


@dataclass(frozen=True)
class RepairedPart:
    """Consecutive frames that are final."""

    start: int
    """Number of the first of them in the sequence."""
    before: Float[Tensor, "T H W 3"]
    after: Float[Tensor, "T H W 3"]
    disparity: Float[Tensor, "T H W 1"]
    """Relative, 0..1, up to one scale and shift per window."""
    window: Window
    """The window that was repaired last; its ``new_frames`` have its disparity."""
    references: list[str]
    """Photos that conditioned it."""
    scores: dict[str, float]
    """Figures of the whole window."""


def repair_windows(num_frames: int, length: int, overlap: int) -> list[Window]:
    """Windows that cover a sequence, neighbours sharing at least `overlap` frames.

    Args:
        num_frames: frames of the sequence; up to `length` of them make a single, shorter window.
        length: frames per window.
        overlap: at most half of the length is used.
    """
    shared = min(overlap, length // 2)
    windows, covered = [], 0
    # Without the shared frames at the end, each window brings length - shared frames of its own.
    for start in (window.start for window in clip_windows(max(num_frames - shared, 1), length - shared)):
        windows.append(Window(start, max(covered - start, 0), min(length, num_frames)))
        covered = start + length
    return windows


def repair_sequence(
    source: ClipSource,
    repairer: VideoRepairer,
    generator: torch.Generator,
    overlap: int = 4,
    keep_detail: bool = True,
) -> Iterator[RepairedPart]:
    """Repair a sequence window by window; the parts, one per window, together hold every frame once, in order.

    Frames that windows share fade from the earlier to the later one. Their disparity, which cannot be averaged over
    windows, is that of the earlier.

    Args:
        source: frames of any size; they are shrunk to the area that the repairer is made for, and its result is
            enlarged again.
        repairer: gets clips of its length, of a shorter sequence all frames.
        generator: source of all randomness, on the CPU.
        overlap: frames shared by neighbouring windows at least.
        keep_detail: enlarge the change that the repairer makes instead of its pictures, so that detail finer than its
            resolution survives, artifacts among it.
    """
    windows = repair_windows(len(source), repairer.clip_length, overlap)
    held: tuple[Tensor, ...] = ()
    last: RepairedClip | None = None
    for window, following in zip(windows, [*windows[1:], None], strict=True):
        frames = list(range(window.start, window.start + window.length))
        references, names = source.references(frames)
        clip = source.clip(frames, generator)
        small = resize_clip(clip, fit_area(source.size, repairer.resolution))
        last = repair_next(repairer, last, window.new_from, clip=small, references=references, generator=generator).to(
            small.rgb.device
        )
        scores = _scores(small, last, references, source.depth_unit is not None)
        joined = _join(held, _full_size(clip, small, last, keep_detail), window.new_from)
        final = (following.start if following is not None else len(source)) - window.start
        held = tuple(x[final:] for x in joined)
        before, after, disparity = (x[:final] for x in joined)
        yield RepairedPart(window.start, before, after, disparity, window, names, scores)


def _full_size(clip: Clip, small: Clip, repaired: RepairedClip, keep_detail: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Frames before and after, relative disparity, at the size of the clip."""
    before = clip.rgb.clamp(0, 1)
    if keep_detail:
        after = before + _enlarged(repaired.rgb - small.rgb.clamp(0, 1), clip.size)
    else:
        after = _enlarged(repaired.rgb, clip.size)
    disparity = _enlarged(repaired.disparity, clip.size).clamp(0, 1)
    return before, after.clamp(0, 1), disparity


def _join(held: tuple[Tensor, ...], images: tuple[Tensor, ...], shared: int) -> tuple[Tensor, ...]:
    """Frames (before, after, disparity) of a window, whose first `shared` are the held ones of the window before it."""
    if shared == 0:
        return images
    weight = (torch.arange(shared, device=images[1].device) + 1).view(-1, 1, 1, 1) / (shared + 1)
    faded = torch.lerp(held[1], images[1][:shared], weight.to(images[1]))
    before, disparity = (torch.cat([held[k], images[k][shared:]]) for k in (0, 2))
    return before, torch.cat([faded, images[1][shared:]]), disparity


def _enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    return images if images.shape[1:3] == (size[1], size[0]) else resize_images(images, size)


def _scores(clip: Clip, repaired: RepairedClip, references: References, has_depth: bool) -> dict[str, float]:
    change = (repaired.rgb - clip.rgb.clamp(0, 1)).square().mean().sqrt()
    scores = {"change_rms": float(change), "confidence": float(repaired.confidence.mean())}
    if not has_depth:
        return scores
    agreement = photo_agreement(clip, repaired, references.to(clip.rgb.device))
    known = (clip.depth > 0) & (clip.alpha > SOLID_ALPHA)
    inverse = 1 / torch.where(known, clip.depth, 1.0)
    fit = align_scale_shift(repaired.disparity[None], inverse[None], known[None])
    return scores | {
        "seen_by_photos": agreement.shown_share,
        "artifact_psnr": agreement.artifact_psnr,
        "repaired_psnr": agreement.repaired_psnr,
        "disparity_scale": float(fit.scale[0]),
        "disparity_shift": float(fit.shift[0]),
        "disparity_inliers": float(fit.inlier_fraction[0]),
    }
