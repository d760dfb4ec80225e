"""Cuts a camera path into the fixed-length clips that a video repairer takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """`length` consecutive frames of a path, some of which an earlier window may already hold."""

    start: int
    """Path index of the first frame."""
    new_from: int
    """Index within the window of the first frame that no earlier window holds: keep ``clip[new_from:]``."""
    length: int
    """Frames in the window."""

    def frames(self, num_frames: int) -> list[int]:
        """Path indices of all frames; a path shorter than the window repeats its last frame."""
        return [min(self.start + offset, num_frames - 1) for offset in range(self.length)]

    def new_frames(self, num_frames: int) -> range:
        """Path indices that this window alone answers for, without repeats."""
        return range(self.start + self.new_from, min(self.start + self.length, num_frames))


def clip_windows(num_frames: int, length: int = 16, max_windows: int | None = None) -> list[Window]:
    """The fewest windows that cover a path, ceil(num_frames / length), with the unavoidable overlap spread evenly.

    The official rule makes num_frames // 16 + 2 windows, up to two of which hold nothing new.

    Args:
        num_frames: frames of the path; below `length` there is one window, to be padded, see `Window.frames`.
        length: frames per window.
        max_windows: with fewer than needed, this many windows spread over the path; the frames between belong to none.

    Returns:
        Windows in path order. Without `max_windows`, their `new_frames` are a partition of the path.

    Raises:
        ValueError: any argument below 1.

    >>> [(window.start, list(window.new_frames(20))[:3]) for window in clip_windows(20, length=16)]
    [(0, [0, 1, 2]), (4, [16, 17, 18])]
    """
    for name, value in (("num_frames", num_frames), ("length", length), ("max_windows", max_windows)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    count = -(-num_frames // length)
    if max_windows is not None:
        count = min(count, max_windows)
    slack = max(num_frames - length, 0)
    starts = [0] if count == 1 else [round(slack * index / (count - 1)) for index in range(count)]
    windows, covered = [], 0
    for start in starts:
        windows.append(Window(start, max(covered - start, 0), length))
        covered = start + length
    return windows


def published_windows(num_frames: int, length: int = 16) -> list[Window]:
    """The windows of GenFusion, num_frames // length + 2 of them; up to two hold nothing new.

    Where its rule would leave the end of a long path out (from about 16 times `length` frames on), and for paths below
    `length`, those of `clip_windows`.

    Args:
        num_frames: frames of the path.
        length: frames per window.

    Raises:
        ValueError: as `clip_windows`.

    >>> [window.start for window in published_windows(85)]
    [0, 12, 24, 36, 48, 60, 69]
    """
    fewest = clip_windows(num_frames, length)
    count = num_frames // length + 2
    overlap = count * length - num_frames
    step = length - overlap // (count - 1)
    if num_frames < length or overlap < count:
        return fewest
    starts = [index * step for index in range(count - 1)] + [num_frames - length]
    covered, windows = 0, []
    for start in starts:
        windows.append(Window(start, min(max(covered - start, 0), length), length))
        covered = max(covered, start + length)
    return windows
