"""Multi-scale data sets of Blender objects and of any other capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from genfusion_ns.data.captures.formats import dataparser_of
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.multiscale.blender import BlenderSource
from genfusion_ns.data.multiscale.metadata import FILE, StoredImage, encoded, read_metadata
from genfusion_ns.data.multiscale.photos import PhotoSource
from genfusion_ns.data.multiscale.transforms import write_transforms
from genfusion_ns.files import replacing_files

Source = BlenderSource | PhotoSource


@dataclass(frozen=True)
class Job:
    """One capture to be converted."""

    source: Path
    output: Path

    @property
    def name(self) -> str:
        """Of the object."""
        return self.output.name


def planned(data: Path, out: Path, names: Sequence[str] = ()) -> list[Job]:
    """The captures in a folder, or the folder itself where it is one.

    Args:
        data: a capture, or a folder of captures.
        out: folder for one folder per capture.
        names: of the captures in `data` that are wanted; all by default.

    Raises:
        CaptureError: there are none, or not those that were named.
    """
    if not data.is_dir():
        raise CaptureError(f"--data {data} {'is a file, not a folder' if data.exists() else 'does not exist'}")
    if _is_capture(data) and not names:
        return [Job(data, out / data.resolve().name)]
    found = {folder.name: folder for folder in sorted(data.iterdir()) if folder.is_dir() and _is_capture(folder)}
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise CaptureError(
            f"--data {data} has no capture {' or '.join(missing)}".rstrip()
            + f"; it has {', '.join(found) if found else 'none'}. A capture has transforms_train.json (Blender), "
            "transforms.json (nerfstudio) or a COLMAP model"
        )
    return [Job(folder, out / name) for name, folder in found.items() if not names or name in names]


def _is_capture(folder: Path) -> bool:
    try:
        dataparser_of(folder)
    except CaptureError:
        return False
    return True


def is_done(job: Job, levels: int) -> bool:
    """Whether an earlier conversion has ended; its metadata are written last.

    Raises:
        CaptureError: it ended with other levels.
    """
    if not (job.output / FILE).is_file():
        return False
    images = [image for part in read_metadata(job.output).values() for image in part]
    found = 1 + max((image.level for image in images), default=-1)
    if found != levels:
        raise CaptureError(
            f"{job.output} is done with {found} levels, and --n-down is {levels}; give --overwrite to make it anew"
        )
    return True


def open_source(folder: Path, downscale: int = 1) -> Source:
    """The images of a capture, Blender ones as the published conversion reads them; others as this package does.

    Raises:
        CaptureError: the capture cannot be used.
    """
    if (folder / "transforms_train.json").is_file():
        return BlenderSource(folder, downscale)
    return PhotoSource(folder, downscale)


def convert(source: Source, output: Path, levels: int, advance: Callable[[], None] = lambda: None) -> int:
    """Write the data set of one capture, completely or not at all.

    Args:
        source: its images.
        output: folder to write.
        levels: sizes of each image, each half of the one before.
        advance: called for each image of the capture.

    Returns:
        How many images were written.

    Raises:
        CaptureError: an image cannot be used.
        WriteError: the disk is full or not writable.
    """
    splits: dict[str, list[StoredImage]] = {}
    with replacing_files(output, "the data set", "start again; what is done is kept") as folder:
        for split in source.splits:
            (folder / f"images_{split}").mkdir()
            splits[split] = []
            for number, (image, cut) in enumerate(source.images(split, levels)):
                for stored, pixels in _stored(f"images_{split}/{number:03d}", image, cut):
                    Image.fromarray(pixels).save(folder / stored.file_path)
                    splits[split].append(stored)
                advance()
        source.write_points(folder)
        write_transforms(splits, folder)
        (folder / FILE).write_bytes(encoded(splits))
    return sum(map(len, splits.values()))


def _stored(
    name: str, image: StoredImage, cut: Sequence[UInt8[np.ndarray, "h w C"]]
) -> Iterator[tuple[StoredImage, UInt8[np.ndarray, "h w C"]]]:
    """Each level of an image with its camera."""
    for level, pixels in enumerate(cut):
        fx, fy, cx, cy = (value / 2**level for value in image.intrinsics)
        yield (
            StoredImage(
                f"{name}_d{level}.png",
                image.cam2world,
                (pixels.shape[1], pixels.shape[0]),
                (fx, fy, cx, cy),
                image.near,
                image.far,
                level,
            ),
            pixels,
        )
