"""The rounds of a run as its folder records them: verdicts, figures, cameras, frames before and after the repair."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from genfusion_ns.data.captures.image_files import CaptureError, open_image
from genfusion_ns.data.media.frame_sequences import VideoFile
from genfusion_ns.fusion.rounds.contact_sheet import frames_on_sheet
from genfusion_ns.fusion.rounds.report import RECORD_FILE, TITLE_LINES
from genfusion_ns.geometry.images import to_bytes
from genfusion_ns.json_files import JsonFileError, JsonValue, read_json

_QUALITY = 82
"""Of the pictures on WebP's scale."""


@dataclass(frozen=True)
class RecordedClip:
    """One clip of a round."""

    number: int
    frames: tuple[int, ...]
    """Of the path."""
    reason: str | None
    """Why it was rejected; None: it was accepted."""
    scores: dict[str, float]
    """By the names of `genfusion_ns.fusion.rounds.report.SCORES`."""
    photos: tuple[str, ...]
    """Names of the photos that the repairer was given."""


@dataclass(frozen=True)
class RecordedRound:
    """One round of a run."""

    index: int
    step: int
    repairer: str
    photos_psnr: float | None
    """Of the scene against the photos before the round, dB."""
    clips: tuple[RecordedClip, ...]
    poses: np.ndarray
    """Of the path, camera-to-world with OpenGL axes. [M, 4, 4]"""
    Ks: np.ndarray
    """Intrinsics in pixels. [M, 3, 3]"""
    folder: Path

    @property
    def accepted(self) -> int:
        """How many clips were not rejected."""
        return sum(clip.reason is None for clip in self.clips)

    def accepted_frames(self) -> list[int]:
        """Frames of the path that accepted clips show, each once."""
        return sorted({frame for clip in self.clips if clip.reason is None for frame in clip.frames})


@dataclass(frozen=True)
class Comparison:
    """One frame of a clip as WebP files."""

    rendered: bytes
    repaired: bytes
    size: tuple[int, int]
    """Width and height in pixels."""

    @property
    def bytes(self) -> int:
        """Of both."""
        return len(self.rendered) + len(self.repaired)


def rounds_of_run(run: Path) -> tuple[list[RecordedRound], list[str]]:
    """The rounds in the folder of a run that came to an end, and why others cannot be read.

    Args:
        run: the folder with config.yml.
    """
    rounds, problems = [], []
    for file in sorted(run.glob(f"genfusion/round_*/{RECORD_FILE}")):
        try:
            rounds.append(_read_round(file))
        except JsonFileError as error:
            problems.append(str(error))
    return sorted(rounds, key=lambda found: found.index), problems


def comparisons(folder: Path, clip: int, count: int) -> list[Comparison]:
    """Frames of a clip, evenly chosen from the first to the last, of its video or else of its contact sheet.

    Args:
        folder: of the round.
        clip: its number.
        count: frames at most.

    Returns:
        None at all where the round left neither of the files, or damaged ones.
    """
    video, sheet = folder / f"clip_{clip:02d}.mp4", folder / f"sheet_{clip:02d}.png"
    try:
        pairs = list(_of_video(video, count) if video.is_file() else _of_sheet(sheet, count))
    except CaptureError:
        return []
    return [Comparison(_webp(before), _webp(after), before.size) for before, after in pairs]


def _read_round(file: Path) -> RecordedRound:
    record = read_json(file, "Its round is left out.", what="the record")
    poses = np.array([_matrix(pose, 4) for pose in record["c2w"].entries()])
    clips = [_read_clip(number, clip, len(poses)) for number, clip in enumerate(record["windows"].entries())]
    psnr = record["details"]["photos_psnr"]
    return RecordedRound(
        index=record["round"].whole("a count", 0),
        step=record["step"].whole("a step", 0),
        repairer=record["repairer"].text(),
        photos_psnr=psnr.number() if psnr.is_given else None,
        clips=tuple(clips),
        poses=poses,
        Ks=np.array([_matrix(K, 3) for K in record["K"].entries()]),
        folder=file.parent,
    )


def _read_clip(number: int, clip: JsonValue, frames: int) -> RecordedClip:
    start, length = clip["start"].whole("a frame of the path", 0), clip["length"].whole("1 to 1000", 1, 1000)
    reason = clip["reason"]
    scores = clip["scores"].fields() if clip["scores"].is_given else {}
    return RecordedClip(
        number=number,
        frames=tuple(sorted({min(frame, frames - 1) for frame in range(start, start + length)})),
        reason=None if clip["accepted"].flag() else (reason.text() if reason.is_given else "no reason was recorded"),
        scores={name: value.number() for name, value in scores.items() if value.is_given},
        photos=tuple(photo["name"].text() for photo in clip["references"].entries()),
    )


def _matrix(rows: JsonValue, size: int) -> list[list[float]]:
    found = [[entry.number() for entry in row.entries()] for row in rows.entries()]
    if [len(row) for row in found] != [size] * size:
        rows.refuse(f"a matrix of {size} x {size} numbers")
    return found


def _of_video(file: Path, count: int) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Rendered left, repaired right."""
    video = VideoFile(file)
    for frame in _chosen(len(video), count):
        pixels = to_bytes(video.read([frame])[0]).numpy()
        half = pixels.shape[1] // 2
        yield Image.fromarray(pixels[:, :half]), Image.fromarray(pixels[:, half:])


def _of_sheet(file: Path, count: int) -> Iterator[tuple[Image.Image, Image.Image]]:
    if not file.is_file():
        return
    with open_image(file) as sheet:
        frames = frames_on_sheet(sheet, TITLE_LINES)
    yield from (frames[frame] for frame in _chosen(len(frames), count))


def _chosen(length: int, count: int) -> list[int]:
    """
    >>> _chosen(16, 3), _chosen(16, 1), _chosen(2, 3)
    ([0, 8, 15], [8], [0, 1])
    """
    if count == 1:
        return [length // 2][:length]
    return sorted(set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist())) if length else []


def _webp(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.convert("RGB").save(content, "WEBP", quality=_QUALITY, method=4)
    return content.getvalue()
