"""Which frames of a video make a capture: evenly spread over the motion of the camera, each the sharpest nearby."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.from_photos.video import Reading, frames_of, pixels_of

_SIDE = 320
"""Longer side of the frames that are judged."""
_CORNERS = 200
_STEP = 0.04
"""Motion between two chosen frames, as a share of the image's diagonal, where their number allows."""
_STILL = 0.02
"""Motion of the whole video below which there is nothing to reconstruct from."""
_MOVING = 0.8
"""Quantile of the motion of corners that stands for the picture's."""
_NOISE = 0.002
"""Motion that is taken for noise until more of it has come together."""
_JUMP = 0.25
"""What a frame counts of motion where nothing of the one before is found in it: a cut, or a fast turn."""


@dataclass(frozen=True)
class Judged:
    """What is known of each frame of a video."""

    sharpness: Float[np.ndarray, " T"]
    """Energy of the finest detail, relative to all contrast; comparable between neighbours only."""
    motion: Float[np.ndarray, " T"]
    """Motion of the picture since the frame before, as a share of its diagonal; 0 for the first.

    That of the corners that move more than four fifths do: on a walk around a subject the subject itself rests.
    """


def choose_frames(
    file: Path, most: int, advance: Callable[[], object] = lambda: None, reading: Reading | None = None
) -> list[int]:
    """Numbers of the frames of a video that a capture is made from.

    Args:
        file: a video.
        most: at most so many.
        advance: called for each frame.
        reading: notes how far the video could be read.

    Raises:
        CaptureError: it cannot be decoded, has too few frames, or the camera does not move.
    """
    reading = Reading() if reading is None else reading

    def greys() -> Iterable[UInt8[np.ndarray, "H W"]]:
        for frame in frames_of(file, reading):
            yield pixels_of(frame, _SIDE, grey=True)
            advance()

    judged = judge(greys())
    total = float(judged.motion.sum())
    if len(judged.motion) < 3:
        damage = f"{file} {reading.damage}. " if reading.damage else ""
        raise CaptureError(
            f"{damage}{file} has {len(judged.motion)} frame(s), at least 3 are needed; record 20 seconds or more"
        )
    if total < _STILL:
        raise CaptureError(
            f"{file}: the picture moves by {100 * total:.1f} % of its diagonal in all {len(judged.motion)} frames, so "
            "nothing tells depth. Record while walking around the subject, sideways rather than turning on the spot"
        )
    return spread(judged, most)


def judge(frames: Iterable[UInt8[np.ndarray, "H W"]]) -> Judged:
    """Sharpness and motion of grey frames in order, by Lucas and Kanade's tracking of corners (1981)."""
    sharpness, motion, before = [], [], None
    for frame in frames:
        sharpness.append(_sharpness(frame))
        moved = 0.0 if before is None else _motion(before, frame)
        motion.append(moved if moved >= _NOISE else 0.0)
        if before is None or moved >= _NOISE:
            before = frame
    return Judged(np.array(sharpness), np.array(motion))


def spread(judged: Judged, most: int) -> list[int]:
    """Frames at even steps of motion, each the sharpest of its step; at least 3, at most `most`."""
    path = np.cumsum(judged.motion)
    count = int(np.clip(np.ceil(path[-1] / _STEP - 1e-6), 3, min(most, len(path))))
    step = _steps(path, count)
    best = [
        int(members[np.argmax(judged.sharpness[members])])
        for k in range(count)
        if len(members := np.flatnonzero(step == k))
    ]
    missing = min(3, len(path)) - len(best)
    if missing > 0:  # a jump swallowed whole steps
        others = [
            frame for frame in np.linspace(0, len(path) - 1, len(best) + missing + 2).astype(int) if frame not in best
        ]
        best += [int(frame) for frame in others[:missing]]
    return sorted(best)


def _steps(path: Float[np.ndarray, " T"], count: int) -> Int[np.ndarray, " T"]:
    share = path / max(float(path[-1]), 1e-9)
    return np.minimum((share * count).astype(int), count - 1)


def _sharpness(frame: UInt8[np.ndarray, "H W"]) -> float:
    import cv2

    contrast = float(frame.std()) + 1.0
    return float(cv2.Laplacian(frame, cv2.CV_32F).std()) / contrast


def _motion(before: UInt8[np.ndarray, "H W"], frame: UInt8[np.ndarray, "H W"]) -> float:
    import cv2

    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 6)
    if corners is None:
        return 0.0  # a plain picture: nothing to tell motion by
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, frame, corners, None)  # type: ignore[call-overload]
    kept = status.reshape(-1) == 1
    if kept.sum() < max(5, len(corners) // 10):
        return _JUMP
    lengths = np.linalg.norm((found - corners).reshape(-1, 2)[kept], axis=1)
    return min(_JUMP, float(np.quantile(lengths, _MOVING)) / float(np.hypot(frame.shape[0], frame.shape[1])))
