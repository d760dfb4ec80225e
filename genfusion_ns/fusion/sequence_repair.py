"""Repair of a sequence of any length and size, window by window, and the folder that shows the result.

The folder holds ``frames/0000.png`` and so on (repaired), ``disparity/0000.png`` (16 bits, 65535 is a relative
disparity of 1, larger is nearer), ``repaired.mp4``, ``side_by_side.mp4`` (input left) and ``repair.json``. Relative
disparity is known up to a scale and a shift per window, whose first frame is ``start + new_from``; where the input had
depth, ``repair.json`` gives for each window the numbers of ``1 / depth = scale * value / 65535 + shift``. There is no
disparity of frames whose depth neither the input nor the repairer knows. While a repair runs, and when it was broken
off, the folder holds a file ``INCOMPLETE``.
"""

from __future__ import annotations

import io
import json
import math
import platform
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genfusion_ns import __version__
from genfusion_ns.data.atomic_write import write_atomically
from genfusion_ns.fusion.agreement import photo_agreement
from genfusion_ns.fusion.clip_sources import ClipSource, fit_area
from genfusion_ns.fusion.contact_sheet import to_bytes
from genfusion_ns.fusion.round_report import side_by_side
from genfusion_ns.fusion.video_files import VideoWriter
from genfusion_ns.geometry.cameras import Clip, References, RepairedClip
from genfusion_ns.geometry.clip_pairs import resize_clip, resize_images
from genfusion_ns.geometry.depth import align_scale_shift
from genfusion_ns.geometry.windows import Window, clip_windows
from genfusion_ns.priors.base import VideoRepairer

RECORD_FILE = "repair.json"
MARKER_FILE = "INCOMPLETE"
_OWN = ("frames", "disparity", "repaired.mp4", "side_by_side.mp4", RECORD_FILE, MARKER_FILE)
_SOLID_ALPHA = 0.5


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
    for window, following in zip(windows, [*windows[1:], None], strict=True):
        frames = list(range(window.start, window.start + window.length))
        references, names = source.references(frames)
        clip = source.clip(frames, generator)
        *images, scores = _repair_window(clip, source, repairer, references, generator, keep_detail)
        joined = _join(held, tuple(images), window.new_from)
        final = (following.start if following is not None else len(source)) - window.start
        held = tuple(x[final:] for x in joined)
        before, after, disparity = (x[:final] for x in joined)
        yield RepairedPart(window.start, before, after, disparity, window, names, scores)


def _repair_window(
    clip: Clip,
    source: ClipSource,
    repairer: VideoRepairer,
    references: References,
    generator: torch.Generator,
    keep_detail: bool,
) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """Frames before and after, relative disparity, scores."""
    small = resize_clip(clip, fit_area(source.size, repairer.resolution))
    repaired = repairer.repair(small, references, generator).to(small.rgb.device)
    before = clip.rgb.clamp(0, 1)
    if keep_detail:
        after = before + _enlarged(repaired.rgb - small.rgb.clamp(0, 1), source.size)
    else:
        after = _enlarged(repaired.rgb, source.size)
    disparity = _enlarged(repaired.disparity, source.size).clamp(0, 1)
    return before, after.clamp(0, 1), disparity, _scores(small, repaired, references, source.depth_unit is not None)


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
    known = (clip.depth > 0) & (clip.alpha > _SOLID_ALPHA)
    inverse = 1 / torch.where(known, clip.depth, 1.0)
    fit = align_scale_shift(repaired.disparity[None], inverse[None], known[None])
    return scores | {
        "seen_by_photos": agreement.seen,
        "artifact_psnr": agreement.artifact_psnr,
        "repaired_psnr": agreement.repaired_psnr,
        "disparity_scale": float(fit.scale[0]),
        "disparity_shift": float(fit.shift[0]),
        "disparity_inliers": float(fit.inlier_fraction[0]),
    }


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make the output folder ready and mark it as incomplete.

    Args:
        folder: made when missing.
        overwrite: remove what an earlier repair wrote there; nothing else is ever removed.

    Raises:
        FileExistsError: it is not empty and `overwrite` does not apply.
        NotADirectoryError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--output {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not ((folder / RECORD_FILE).is_file() or (folder / MARKER_FILE).is_file()):
            raise FileExistsError(f"--output {folder} is not empty and no earlier repair is in it; name another folder")
        if not overwrite:
            raise FileExistsError(f"--output {folder} holds an earlier repair; --overwrite replaces it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER_FILE).write_text(
        "This repair has not ended. Without a process that writes here, it was broken off.\n"
    )
    for name in _OWN[:-1]:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_repair(
    folder: Path,
    parts: Iterable[RepairedPart],
    source: ClipSource,
    fps: float,
    settings: dict[str, Any],
    with_disparity: bool = True,
) -> None:
    """Write the parts as they come into a folder made by `prepare_folder`, and mark it as complete.

    Args:
        folder: see the module.
        parts: of `repair_sequence`.
        source: of the parts.
        fps: frames per second of the videos.
        settings: written to ``repair.json`` as they are.
        with_disparity: False where that of the parts means nothing.

    Raises:
        RuntimeError: ffmpeg failed; the message carries its output.
        OSError: the disk is full or not writable.
    """
    digits = max(4, len(str(len(source) - 1)))
    windows: list[dict[str, Any]] = []
    with ExitStack() as videos:
        width, height = source.size
        gap = side_by_side(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)).shape[2] - 2
        repaired = videos.enter_context(VideoWriter(folder / "repaired.mp4", (width, height), fps))
        pair = videos.enter_context(VideoWriter(folder / "side_by_side.mp4", (2 * width + gap, height), fps))
        for part in parts:
            for offset, (frame, disparity) in enumerate(zip(part.after, part.disparity, strict=True)):
                name = f"{part.start + offset:0{digits}d}.png"
                _save_png(folder / "frames" / name, to_bytes(frame).numpy())
                if with_disparity:
                    _save_png(folder / "disparity" / name, _to_16_bits(disparity))
            repaired.append(part.after)
            pair.append(side_by_side(part.before, part.after))
            windows.append({**asdict(part.window), "references": part.references, "scores": _finite(part.scores)})
    record = {
        "settings": settings,
        "frames": len(source),
        "size": list(source.size),
        "fps": fps,
        "depth_unit": source.depth_unit,
        "windows": windows,
        "versions": {"genfusion_ns": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    write_atomically(folder / RECORD_FILE, json.dumps(record, indent=1).encode())
    (folder / MARKER_FILE).unlink()


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON has no not-a-number."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def _to_16_bits(disparity: Float[Tensor, "H W 1"]) -> np.ndarray:
    return (disparity[..., 0].double() * 65535).round().clamp(0, 65535).cpu().numpy().astype(np.uint16)


def _save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    path.write_bytes(encoded.getvalue())
