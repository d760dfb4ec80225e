"""Frames of a folder or a video, and depth maps beside them, read a few at a time: long ones need not fit in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.array_files import ArrayFileError, read_array
from genfusion_ns.data.captures.image_files import (
    PHOTO_ENDINGS,
    CaptureError,
    load_pixels,
    open_image,
    raise_for,
    read_header,
)


class FrameSequence(Protocol):
    """Frames of one size in order."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    fps: float | None
    """Frames per second, where the source has them."""

    def __len__(self) -> int: ...

    def read(self, frames: Sequence[int]) -> Float[Tensor, "T H W 3"]:
        """Colours in 0..1 of the frames with these numbers.

        Raises:
            CaptureError: a frame cannot be decoded.
        """
        ...


def natural_order(paths: Sequence[Path]) -> list[Path]:
    """Paths by name as people count: frame_2 before frame_10."""
    return sorted(paths, key=lambda path: _natural_key(path.name))


def _natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    parts = re.split(r"([0-9]+)", name)  # every second part is a number
    return [(text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)], name


class ImageFolder:
    """`FrameSequence` of the image files of one folder, in natural order; transparency is composed over black."""

    fps: float | None = None

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            CaptureError: no such folder, no images in it, damaged ones, or sizes that differ.
        """
        self.files = _files(folder, frozenset(PHOTO_ENDINGS), "images (png, jpg, webp, bmp, tif)")
        sizes = [_shown_size(file) for file in self.files]
        self.size = sizes[0]
        odd = [
            f"{file.name} is {w} x {h}" for file, (w, h) in zip(self.files, sizes, strict=True) if (w, h) != self.size
        ]
        raise_for(
            odd,
            f"{folder}: the frames of one sequence must have one size, {self.files[0].name} is "
            f"{self.size[0]} x {self.size[1]}",
            "Resize them, or repair each size from a folder of its own.",
        )

    def __len__(self) -> int:
        return len(self.files)

    def read(self, frames: Sequence[int]) -> Float[Tensor, "T H W 3"]:
        """See `FrameSequence.read`."""
        return torch.stack([read_photo(self.files[frame]) for frame in frames])


def read_photo(file: Path) -> Float[Tensor, "H W 3"]:
    """One image file, the right way up, colours in 0..1, transparency over black.

    Raises:
        CaptureError: it cannot be decoded.
    """
    pixels = torch.from_numpy(load_pixels(file, turn=True)).float() / 255
    return pixels[..., :3] * pixels[..., 3:] if pixels.shape[-1] == 4 else pixels


class VideoFile:
    """`FrameSequence` of a video, decoded with the ffmpeg that comes with imageio-ffmpeg.

    Frames are decoded in order and kept only back to the first one of the last call; asking for earlier ones decodes
    from the beginning.
    """

    def __init__(self, file: Path) -> None:
        """Decodes the video once to count its frames: what a header says of their number is often wrong.

        Raises:
            CaptureError: no such file, no video in it, or no frame.
        """
        if not file.is_file():
            raise CaptureError(f"{file} {'is a folder; use --frames' if file.is_dir() else 'does not exist'}")
        self.file = file
        self.size, self.fps = self._probe()
        self._length = sum(1 for _ in self._decode())
        if self._length == 0:
            raise CaptureError(f"{file} has no frame that ffmpeg can decode; convert it to mp4 (H.264) first")
        self._stream, self._next = self._decode(), 0
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self._length

    def read(self, frames: Sequence[int]) -> Float[Tensor, "T H W 3"]:
        """See `FrameSequence.read`."""
        first = min(frames)
        if first < self._next and first not in self._kept:
            self._stream, self._next, self._kept = self._decode(), 0, {}
        self._kept = {number: frame for number, frame in self._kept.items() if number >= first}
        while self._next <= max(frames):
            frame = next(self._stream, None)
            if frame is None:
                raise CaptureError(f"{self.file} ended at frame {self._next}, it had {self._length} before")
            if self._next >= first:
                self._kept[self._next] = frame
            self._next += 1
        return torch.from_numpy(np.stack([self._kept[frame] for frame in frames])).float() / 255

    def _probe(self) -> tuple[tuple[int, int], float | None]:
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(str(self.file))
        try:
            header = next(reader)
        except (OSError, RuntimeError, StopIteration) as error:
            reason = str(error).strip().splitlines()
            raise CaptureError(f"{self.file} is not a video that ffmpeg can read: {reason[-1:]}") from error
        finally:
            reader.close()
        return tuple(header["size"]), header["fps"] or None

    def _decode(self) -> Iterator[np.ndarray]:
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(str(self.file))
        next(reader)  # the header
        width, height = self.size
        for frame in reader:
            yield np.frombuffer(frame, dtype=np.uint8).reshape(height, width, 3)


class DepthFolder:
    """Depth maps of a sequence, one per frame in natural order: z depth in one linear unit for all, 0 where unknown.

    Files are ``.npy`` (numbers, [H, W] or [H, W, 1]; not finite or negative means unknown) or ``.png`` with one 16-bit
    channel. The unit does not matter.
    """

    def __init__(self, folder: Path, frames: int) -> None:
        """
        Args:
            folder: with one file per frame.
            frames: how many are needed.

        Raises:
            CaptureError: no such folder, no depth maps in it, or another number of them.
        """
        self.files = _files(folder, frozenset((".npy", ".png")), "depth maps (.npy, or .png of 16 bits)")
        if len(self.files) != frames:
            raise CaptureError(
                f"{folder} has {len(self.files)} depth maps for {frames} frames; give one for each, in the same order"
            )

    def read(self, frames: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "T H W 1"]:
        """Depth maps of the frames with these numbers, by nearest pixel at (width, height).

        Raises:
            CaptureError: a file that is no depth map.
        """
        maps = [torch.from_numpy(_depth(self.files[frame]))[None, None] for frame in frames]
        shape = (size[1], size[0])
        resized = [torch.nn.functional.interpolate(one, size=shape, mode="nearest-exact") for one in maps]
        return torch.cat(resized).permute(0, 2, 3, 1)


def _depth(file: Path) -> np.ndarray:
    allowed = "a depth map is a .npy file of numbers, [H, W] or [H, W, 1], or a .png file with one 16-bit channel"
    if file.suffix.lower() == ".npy":
        try:
            found = read_array(file)
        except ArrayFileError as error:
            raise CaptureError(f"{file} cannot be read ({error}); {allowed}") from error
    else:
        with open_image(file) as image:
            if not image.mode.startswith("I"):
                raise CaptureError(f"{file} has pixels of the Pillow mode {image.mode}; {allowed}")
            found = np.asarray(image)
    if found.ndim == 3 and found.shape[2] == 1:
        found = found[..., 0]
    if found.ndim != 2 or found.dtype.kind not in "fiu" or found.size == 0:
        raise CaptureError(f"{file} holds {found.dtype} of shape {found.shape}; {allowed}")
    depth = found.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def _files(folder: Path, endings: frozenset[str], what: str) -> list[Path]:
    if not folder.is_dir():
        raise CaptureError(f"{folder} {'is a file, not a folder' if folder.exists() else 'does not exist'}")
    files = [path for path in folder.iterdir() if path.suffix.lower() in endings and not path.name.startswith(".")]
    if not files:
        raise CaptureError(f"{folder} has no {what}; files in folders below it are not looked for")
    return natural_order(files)


def _shown_size(file: Path) -> tuple[int, int]:
    header = read_header(file)
    return header.swapped if header.is_turned else header.size
