"""The written record of a round: what was rendered, generated and decided, with all that is needed to do it again.

A round's folder holds ``round.json`` and, per clip, ``sheet_NN.png`` and ``clip_NN.mp4`` (rendered left, repaired
right). Each file is written completely or not at all, ``round.json`` last: a folder without it is an unfinished round.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genfusion_ns import __version__
from genfusion_ns.data.media.clip_videos import write_video
from genfusion_ns.files import write_atomically
from genfusion_ns.fusion.rounds.contact_sheet import Verdict, contact_sheet, encode_png
from genfusion_ns.fusion.rounds.record import RoundRecord
from genfusion_ns.geometry.clips import Clip, References, RepairedClip
from genfusion_ns.geometry.images import side_by_side

RECORD_FILE = "round.json"


def write_round_report(
    folder: Path,
    record: RoundRecord,
    clips: list[Clip],
    repaired: list[RepairedClip],
    references: list[References],
    *,
    save_videos: bool = True,
) -> list[Image.Image]:
    """Write the record of a round; files of an earlier attempt at the same round are replaced, others left alone.

    Args:
        folder: made when missing.
        record: see `RoundRecord`.
        clips: artifact clip of each window.
        repaired: its repaired clip.
        references: the photos given to the repairer for it.
        save_videos: False leaves out the mp4 files.

    Returns:
        The contact sheet of each clip, as it was written.

    Raises:
        ValueError: lists of different lengths.
        RuntimeError: ffmpeg could not encode a clip; the message carries its output.
    """
    lengths = {
        "windows": len(record.windows),
        "reference_ids": len(record.reference_ids),
        "reference_names": len(record.reference_names),
        "scores": len(record.scores),
        "rejected": len(record.rejected),
        "clips": len(clips),
        "repaired": len(repaired),
        "references": len(references),
    }
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the record of round {record.round} needs one entry per window in every list, got {lengths}")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [folder / RECORD_FILE, *folder.glob("sheet_*.png"), *folder.glob("clip_*.mp4")]:
        stale.unlink(missing_ok=True)
    sheets: list[Image.Image] = []
    for number, (clip, repair, photos) in enumerate(zip(clips, repaired, references, strict=True)):
        sheet = contact_sheet(clip, repair, photos, _title(record, number), record.reference_names[number])
        write_atomically(folder / f"sheet_{number:02d}.png", encode_png(sheet))
        sheets.append(sheet)
        if save_videos:
            write_video(folder / f"clip_{number:02d}.mp4", side_by_side(clip.rgb, repair.rgb))
    write_atomically(folder / RECORD_FILE, json.dumps(_record_json(record), indent=1).encode())
    return sheets


TITLE_LINES = 3
"""Of a contact sheet of a round."""
SCORES = {
    "artifact_psnr": "photos against rendered (dB)",
    "repaired_psnr": "against repaired (dB)",
    "seen": "share that photos show",
    "confidence": "mean confidence",
    "coverage": "mean coverage",
    "sharpness": "sharpness over that of the render",
    "gradient_energy": "gradient energy",
}
"""What the scores of a clip are, in words."""


def _title(record: RoundRecord, number: int) -> list[str | Verdict]:
    window, reason = record.windows[number], record.rejected[number]
    scores = ", ".join(f"{SCORES.get(name, name)} {value:.4g}" for name, value in record.scores[number].items())
    return [
        f"round {record.round}, step {record.step}, clip {number + 1} of {len(record.windows)}: "
        f"path frames {window.start} to {window.start + window.length - 1}, {record.repairer}, seed {record.seed}",
        Verdict(reason),
        scores,
    ]


def _record_json(record: RoundRecord) -> dict[str, Any]:
    windows = [
        {
            **asdict(window),
            "references": [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)],
            "scores": scores,
            "accepted": reason is None,
            "reason": reason,
        }
        for window, ids, names, scores, reason in zip(
            record.windows,
            record.reference_ids,
            record.reference_names,
            record.scores,
            record.rejected,
            strict=True,
        )
    ]
    return _plain(
        {
            "round": record.round,
            "step": record.step,
            "seed": record.seed,
            "repairer": record.repairer,
            "windows": windows,
            "details": record.details,
            "versions": {
                "genfusion_ns": __version__,
                "nerfstudio": version("nerfstudio"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "conventions": "c2w: camera-to-world, OpenGL axes (x right, y up, z backward); K: pixels, centres at +0.5",
            "c2w": record.c2w,
            "K": record.Ks,
        }
    )


def _plain(value: Any) -> Any:
    """What JSON can hold; infinite and undefined numbers, which it cannot, become null."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.as_posix()
    return value
