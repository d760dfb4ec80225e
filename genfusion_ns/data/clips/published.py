"""The layout of the training clips that GenFusion published: side-by-side video beside a file of disparities.

A scene is a folder with, for each of its parts and matched by sorted order,

* ``*.mp4``: frames of 2 W x H pixels, the ground truth in the left half, the artifact render in the right half;
* ``*depth_part*.npz``: one array [N, H, 2 W], disparity in 0..1 in the same halves, 0 where unknown.

The layout knows no cameras and no photos, and its colours have been through a video codec: a generator that warps
photos onto its clips cannot be trained from it. `clips` keeps all of that.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.array_files import DAMAGE, ArrayLayout, read_layout
from genfusion_ns.data.media.video_writer import VideoWriter
from genfusion_ns.files import replacing
from genfusion_ns.json_files import read_json

_TOLERANCE = 1e-3
_QUALITY = 9
_UNDECODABLE = (OSError, RuntimeError, StopIteration, ValueError, KeyError, ZeroDivisionError)
"""What imageio-ffmpeg, and arithmetic with what it says of a file, may raise where it is no video."""


@dataclass(frozen=True)
class FrameSequencePair:
    """T consecutive frames of an artifact clip and of its clean counterpart, at one size, without cameras."""

    artifact_rgb: Float[Tensor, "T H W 3"]
    """Colours in 0..1."""
    artifact_disparity: Float[Tensor, "T H W 1"]
    """Disparity in any positive unit, larger is nearer, 0 where unknown."""
    clean_rgb: Float[Tensor, "T H W 3"]
    """Colours in 0..1."""
    clean_disparity: Float[Tensor, "T H W 1"]
    """As `artifact_disparity`, in a unit of its own."""
    photos: Float[Tensor, "R h w 3"] | None = None
    """Photos near the clip, where the data set has them."""


class PublishedClip:
    """One part of a scene: a video and its disparities, read a window at a time."""

    def __init__(self, video: Path, depth: Path) -> None:
        self.video = video
        self.depth = depth
        self.name = str(video)

    def __len__(self) -> int:
        """Number of frames; raises ValueError where video and disparities disagree about it, or are damaged."""
        return self._shape[0]

    def read(self, start: int, count: int) -> FrameSequencePair:
        """Frames start .. start + count - 1.

        Raises:
            ValueError: damaged files, or a video and disparities of different sizes; the message names the file.
        """
        rgb = torch.from_numpy(self._decode(start, count)).float() / 255
        disparity = torch.from_numpy(_read_rows(self.depth, start, count))[..., None]
        if not bool(((disparity >= -_TOLERANCE) & (disparity <= 1 + _TOLERANCE)).all()):
            raise ValueError(f"{self.depth} has values from {disparity.min()} to {disparity.max()}; allowed are 0..1")
        disparity, middle = disparity.clamp(0, 1), rgb.shape[2] // 2
        return FrameSequencePair(
            rgb[:, :, middle:], disparity[:, :, middle:], rgb[:, :, :middle], disparity[:, :, :middle]
        )

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Frames, height and width of both halves together."""
        import imageio_ffmpeg

        shape = _array_shape(self.depth)
        try:
            counted, _ = imageio_ffmpeg.count_frames_and_secs(str(self.video))
        except _UNDECODABLE as error:
            raise ValueError(f"{self.video} cannot be read as a video: {error}") from error
        if counted != shape[0]:
            raise ValueError(f"{self.video} has {counted} frames, {self.depth} has disparities of {shape[0]}")
        return shape

    def _decode(self, start: int, count: int) -> np.ndarray:
        import imageio_ffmpeg

        reader: Any = imageio_ffmpeg.read_frames(str(self.video))
        try:
            header = next(reader)
            reader.close()
            # Half a frame early: the first frame at or after that time is the one wanted.
            seek = ["-ss", f"{max(start - 0.5, 0) / header['fps']:.6f}"]
            last = ["-frames:v", str(count)]
            reader = imageio_ffmpeg.read_frames(str(self.video), input_params=seek, output_params=last)
            width, height = next(reader)["size"]
            frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
        except _UNDECODABLE as error:
            raise ValueError(f"{self.video} cannot be decoded: {error}") from error
        finally:
            reader.close()
        if (len(frames), height, width) != (count, *self._shape[1:]):
            raise ValueError(
                f"{self.video} gave {len(frames)} frames of {width} x {height} pixels from frame {start} on; "
                f"{count} of {self._shape[2]} x {self._shape[1]} were expected, as {self.depth} has them"
            )
        return np.stack(frames)


def looks_published(path: Path) -> bool:
    """Whether `path` is a list of scenes (.json) or a folder with videos in it, at any depth."""
    return path.suffix == ".json" or (path.is_dir() and next(path.rglob("*.mp4"), None) is not None)


def list_published(path: Path) -> list[PublishedClip]:
    """All parts of all scenes, in order.

    Args:
        path: a scene folder, a folder with scene folders at any depth, or a JSON file with a list of scene folders,
            relative to the file and beside or below it.

    Raises:
        FileNotFoundError: no such path, or a listed scene that is not there.
        ValueError: not a list of names, a name that leads elsewhere, or a scene whose videos and disparity files do not
            pair up.
    """
    scenes = _read_list(path) if path.suffix == ".json" else sorted({video.parent for video in path.rglob("*.mp4")})
    clips = [clip for scene in scenes for clip in _parts(scene)]
    if not clips:
        raise FileNotFoundError(f"{path} holds no scene in the published layout: *.mp4 beside *depth_part*.npz")
    return clips


def write_published(folder: Path, part: int, frames: FrameSequencePair, frames_per_second: float = 30.0) -> None:
    """Write one part of a scene; the disparities come back exactly, the colours as the codec leaves them.

    Args:
        folder: the scene, made if needed.
        part: number of the part; files are named by it.
        frames: disparities in 0..1; photos are not part of the layout.
        frames_per_second: playing speed of the video.

    Raises:
        ValueError: disparities out of range, or halves of different shapes.
    """
    if frames.artifact_rgb.shape != frames.clean_rgb.shape:
        raise ValueError(
            f"artifact {tuple(frames.artifact_rgb.shape)} and clean {tuple(frames.clean_rgb.shape)} differ"
        )
    rgb = torch.cat([frames.clean_rgb, frames.artifact_rgb], dim=2)
    disparity = torch.cat([frames.clean_disparity, frames.artifact_disparity], dim=2)[..., 0].float().cpu()
    if not bool(((disparity >= 0) & (disparity <= 1)).all()):
        raise ValueError(f"disparities lie in {disparity.min()}..{disparity.max()}; the layout has 0..1")
    folder.mkdir(parents=True, exist_ok=True)
    size = (rgb.shape[2], rgb.shape[1])
    with VideoWriter(folder / f"video_part_{part:04d}.mp4", size, frames_per_second, _QUALITY) as video:
        video.append(rgb)
    path = folder / f"depth_part_{part:04d}.npz"
    with replacing(path) as unfinished:
        np.savez_compressed(unfinished, disparity=disparity.numpy())


def _parts(scene: Path) -> list[PublishedClip]:
    if not scene.is_dir():
        raise FileNotFoundError(f"{scene} does not exist or is no folder; a scene is a folder with *.mp4 files")
    videos = [path for path in sorted(scene.glob("*.mp4")) if not path.name.startswith(".")]
    depths = [path for path in sorted(scene.glob("*depth_part*.npz")) if not path.name.startswith(".")]
    if len(videos) != len(depths):
        raise ValueError(
            f"{scene} has {len(videos)} videos (*.mp4) and {len(depths)} disparity files (*depth_part*.npz); they "
            "belong together by sorted order, so there must be as many of one as of the other"
        )
    return [PublishedClip(video, depth) for video, depth in zip(videos, depths, strict=True)]


def _read_list(path: Path) -> list[Path]:
    what = "a list of names of scene folders, relative to the file"
    entries = read_json(path, f"Make it {what}.", what="the list of scenes").entries(what)
    return [entry.path_in(path.parent) for entry in entries]


def _array_shape(path: Path) -> tuple[int, int, int]:
    try:
        with _only_array(path) as (_, layout):
            return layout.shape[0], layout.shape[1], layout.shape[2]
    except DAMAGE as error:
        raise _unreadable(path, error) from error


def _read_rows(path: Path, start: int, count: int) -> Float[np.ndarray, "count H W2"]:
    """Rows of the only array in an npz file, decompressed no further than needed: whole ones are gigabytes."""
    try:
        with _only_array(path) as (stream, layout):
            shape, dtype = layout.shape, layout.dtype
            row = shape[1] * shape[2] * dtype.itemsize
            stream.seek(start * row, os.SEEK_CUR)
            content = stream.read(count * row)
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    if len(content) != count * row:
        raise _unreadable(path, f"it ends before frame {start + count}")
    return np.frombuffer(content, dtype).reshape(count, *shape[1:]).astype(np.float32)


@contextmanager
def _only_array(path: Path) -> Iterator[tuple[IO[bytes], ArrayLayout]]:
    """The numbers of the only array in an npz file, and how they lie."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} arrays, not one")
        with archive.open(names[0]) as stream:
            layout = read_layout(stream, archive.getinfo(names[0]).file_size, largest=None)
            shape, dtype = layout.shape, layout.dtype
            if layout.is_fortran or dtype.kind != "f" or len(shape) != 3 or shape[2] % 2:
                raise ValueError(f"it holds {dtype} of shape {shape}; wanted are floating-point numbers [N, H, 2 W]")
            yield stream, layout


def _unreadable(path: Path, reason: object) -> ValueError:
    return ValueError(f"{path} cannot be read as disparities of a part: {reason}")
