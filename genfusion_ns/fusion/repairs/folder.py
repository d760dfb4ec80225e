"""The folder that shows a stand-alone repair.

It holds ``frames/0000.png`` and so on (repaired), ``disparity/0000.png`` (16 bits, 65535 is a relative
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
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genfusion_ns import __version__
from genfusion_ns.data.media.video_writer import VideoWriter
from genfusion_ns.files import write_atomically
from genfusion_ns.fusion.repairs.sequence import RepairedPart
from genfusion_ns.fusion.repairs.sources import ClipSource
from genfusion_ns.geometry.images import side_by_side, to_bytes

RECORD_FILE = "repair.json"
MARKER_FILE = "INCOMPLETE"
_OWN = ("frames", "disparity", "repaired.mp4", "side_by_side.mp4", RECORD_FILE, MARKER_FILE)


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
        "This repair has not ended. Without a process that writes here, it was broken off.\n", encoding="utf-8"
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
    *,
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
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())
