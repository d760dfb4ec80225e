"""Checks of the intrinsics in transforms.json: each is a number at the top of the file or in every frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genfusion_ns.data.image_files import raise_for
from genfusion_ns.data.view_checks import is_number

_NEEDED = {"fl_x": 1e7, "fl_y": 1e7, "cx": 1e7, "cy": 1e7, "w": 1e5, "h": 1e5}
"""Intrinsics that every frame has, itself or from the top of the file, and their largest magnitude, in pixels."""
_SAME = 0.02
"""Relative difference between a frame's intrinsics and those at the top that autofocus explains."""
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def check_intrinsics(path: Path, content: Mapping[str, Any], frames: list[dict[str, Any]]) -> None:
    """Refuse intrinsics and lens distortion that are missing, no numbers, out of range or contradictory.

    Args:
        path: transforms.json, for the messages.
        content: what it contains.
        frames: its frames, whose names have been checked.

    Raises:
        CaptureError: with every such value.
    """
    problems: list[str] = []
    for key, largest in _NEEDED.items():
        for where, value in _values(key, content, frames):
            problem = _pixels_problem(key, value, largest)
            problems += [] if problem is None else [f"{key} {where} {problem}"]
    raise_for(
        problems,
        f"{path}: intrinsics that cannot be used",
        "fl_x, fl_y, cx, cy, w and h (pixels) must be numbers at the top of the file or in every frame.",
    )
    for holder, where in [(content, "at the top"), *((frame, f"of {frame['file_path']}") for frame in frames)]:
        problems += [
            f"{key} {where} is {holder[key]!r}" for key in _DISTORTION if key in holder and not is_number(holder[key])
        ]
        parameters = holder.get("distortion_params", [0] * 6)
        if not isinstance(parameters, list) or len(parameters) != 6 or not all(map(is_number, parameters)):
            problems.append(f"distortion_params {where} is {str(parameters)[:60]}")
    raise_for(
        problems,
        f"{path}: lens distortion that cannot be used",
        "k1 .. k4, p1 and p2 must be numbers, distortion_params a list of these six.",
    )


def _values(key: str, content: Mapping[str, Any], frames: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """What a needed intrinsic is and where: once at the top, or in every frame; frames that contradict the top too."""
    if key not in content:
        return [(f"of {frame['file_path']}", frame.get(key)) for frame in frames]
    other = [
        (f"of {frame['file_path']}", f"{frame[key]}, but {content[key]} at the top, which nerfstudio prefers")
        for frame in frames
        if key in frame and not _agree(frame[key], content[key])
    ]
    return [("at the top", content[key]), *other]


def _agree(own: object, top: object) -> bool:
    return own == top or (is_number(own) and is_number(top) and abs(own - top) <= _SAME * abs(top))


def _pixels_problem(key: str, value: object, largest: float) -> str | None:
    if value is None:
        return "is missing"
    if not is_number(value):
        return f"is {str(value)[:60]}"
    if key in ("fl_x", "fl_y") and not 0 < value <= largest:
        return f"is {value}, it must be positive" if value <= 0 else f"is {value}, too large for a pinhole camera"
    if key in ("w", "h") and not (value == int(value) and 1 <= value <= largest):
        return f"is {value}, it must be a whole number of pixels, 1..{largest:.0f}"
    return None if abs(value) <= largest else f"is {value}, far outside any image"
