"""The photos of a capture on disk: upright, with names that every program takes, and what is known of each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genfusion_ns.data.captures.image_files import CaptureError, load_pixels, open_image, read_header
from genfusion_ns.data.captures.mask_files import MaskError
from genfusion_ns.data.from_photos.exif import PhotoFacts, film_to_pixels, read_facts
from genfusion_ns.data.from_photos.frames import choose_frames
from genfusion_ns.data.from_photos.masks import MaskSource
from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.data.from_photos.sources import Source, plain, unused
from genfusion_ns.data.from_photos.video import Reading, frames_of, number_of_frames, pixels_of

MIN_PHOTOS = 3
_QUALITY = 95
_SIMPLE = ("RGB", "L", "RGBA")
"""Modes of Pillow that every program reads."""
Advance = Callable[[], object]
Begin = Callable[[str, int | None], Advance]
"""Says what is done next and in how many steps, where their number is known; what it returns is called at each."""


@dataclass(frozen=True)
class Photo:
    """One photo of a capture."""

    name: str
    """Of its file in the capture's folder of images."""
    origin: str
    """What the user knows it as."""
    source: int
    """Number of the input that it came from."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    focal: float | None
    """Focal length in pixels, where it is known."""
    camera: str
    """Photos of one input with the same text here were taken by the same camera."""
    from_video: bool
    has_mask: bool
    """There is a mask for its features."""


@dataclass(frozen=True)
class Refused:
    """A photo that could not be taken up, or a video not to its end."""

    origin: str
    reason: str


@dataclass(frozen=True)
class PhotoSet:
    """All photos of a capture."""

    photos: tuple[Photo, ...]
    refused: tuple[Refused, ...]
    damaged: tuple[Refused, ...] = ()
    """Videos of which only a part could be read."""

    def as_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {
            "photos": [asdict(photo) for photo in self.photos],
            "refused": [asdict(one) for one in self.refused],
            "damaged": [asdict(one) for one in self.damaged],
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> PhotoSet:
        """What `as_json` gave."""
        photos = [Photo(**{**photo, "size": tuple(photo["size"])}) for photo in content["photos"]]
        refused, damaged = (tuple(Refused(**one) for one in content.get(kind, [])) for kind in ("refused", "damaged"))
        return PhotoSet(tuple(photos), refused, damaged)


def gather(
    sources: list[Source], settings: CaptureFromPhotosSettings, folder: Path, feature_masks: Path, begin: Begin
) -> PhotoSet:
    """Write the photos of all inputs upright into `folder`, and masks for their features into another.

    Args:
        sources: inputs.
        settings: how many frames; masks; focal length.
        folder: exists and is empty.
        feature_masks: exists and is empty; gets NAME.png for each photo that has a mask, black where nothing is wanted.
        begin: of the progress.

    Raises:
        CaptureError: nothing of an input, or too little of all, can be used.
    """
    masks = MaskSource.of(settings.masks, any(source.is_video for source in sources))
    writer = _Writer(folder, feature_masks, masks, settings)
    for number, source in enumerate(sources):
        if source.is_video:
            writer.add_video(number, source, begin)
        else:
            writer.add_photos(number, source, begin)
    found = PhotoSet(tuple(writer.photos), tuple(writer.refused), tuple(writer.damaged))
    if len(found.photos) < MIN_PHOTOS:
        reasons = "".join(f"; {one.origin}: {one.reason}" for one in (*found.refused, *found.damaged)[:3])
        raise CaptureError(
            f"{', '.join(str(source.path) for source in sources)}: {len(found.photos)} photo(s) can be used, at least "
            f"{MIN_PHOTOS} are needed and 20 or more are good{reasons}. Take photos from places a step apart, so that "
            "each shows much of what its neighbours show"
        )
    return found


class _Writer:
    """Writes photos and the masks of their features, and notes what is known of each."""

    def __init__(
        self, folder: Path, masks_folder: Path, masks: MaskSource, settings: CaptureFromPhotosSettings
    ) -> None:
        self.photos: list[Photo] = []
        self.refused: list[Refused] = []
        self.damaged: list[Refused] = []
        self._folder, self._masks_folder, self._masks, self._settings = folder, masks_folder, masks, settings
        self._stems: set[str] = set()

    def add_photos(self, number: int, source: Source, begin: Begin) -> None:
        """Take up the photos of an input; those that cannot be read are noted."""
        advance = begin(f"photos of {source.path}", len(source.files))
        for file in source.files:
            try:
                self.photos.append(self._photo(file, source.prefix, number))
            except MaskError:
                raise
            except CaptureError as error:
                self.refused.append(Refused(str(file), str(error).removeprefix(f"{file} ")))
            advance()

    def add_video(self, number: int, source: Source, begin: Begin) -> None:
        """Take up the frames of a video that are worth it."""
        (file,) = source.files
        total, reading = number_of_frames(file), Reading()
        chosen = choose_frames(file, self._settings.frames, begin(f"motion of {file}", total), reading)
        if reading.damage:
            self.damaged.append(Refused(str(file), reading.damage))
        wanted, advance = set(chosen), begin(f"frames of {file}", len(chosen))
        for index, frame in enumerate(frames_of(file)):
            if index in wanted:
                name = self._unused_stem(f"{source.prefix}frame_{index + 1:05d}") + ".jpg"
                pixels = pixels_of(frame)
                Image.fromarray(pixels).save(self._folder / name, quality=_QUALITY, subsampling=0)
                size = (pixels.shape[1], pixels.shape[0])
                self.photos.append(
                    Photo(
                        name=name,
                        origin=f"{file}, frame {index + 1}",
                        source=number,
                        size=size,
                        focal=self._focal(None, size),
                        camera=self._camera(number, size, ""),
                        from_video=True,
                        has_mask=self._write_mask(name, file, size, None),
                    )
                )
                advance()
            if index >= chosen[-1]:
                break

    def _photo(self, file: Path, prefix: str, number: int) -> Photo:
        read_header(file)  # is it whole?
        facts = read_facts(file)
        name = self._write_photo(file, facts, prefix)
        alpha = load_pixels(self._folder / name)[..., 3:] if facts.has_alpha else None
        return Photo(
            name=name,
            origin=str(file),
            source=number,
            size=facts.size,
            focal=self._focal(facts.focal, facts.size),
            camera=self._camera(number, facts.size, f"{facts.camera} {facts.focal or 0:.0f}"),
            from_video=False,
            has_mask=self._write_mask(name, file, facts.size, alpha),
        )

    def _focal(self, told: float | None, size: tuple[int, int]) -> float | None:
        given = self._settings.focal_length
        return told if given is None else film_to_pixels(given, size)

    def _camera(self, number: int, size: tuple[int, int], told: str) -> str:
        size_text = f"{size[0]} x {size[1]}"
        return size_text if self._settings.one_camera else f"{number}, {size_text}, {told}"

    def _unused_stem(self, stem: str) -> str:
        return unused(plain(stem), self._stems)

    def _write_photo(self, file: Path, facts: PhotoFacts, prefix: str) -> str:
        """Write a photo the right way up, byte by byte where it is so, and return its new name."""
        with open_image(file) as image:
            kind, as_it_is = image.format, image.mode in _SIMPLE and not facts.is_turned
        pixels = Image.fromarray(load_pixels(file, turn=True))  # damage in its middle shows here
        ending = ".jpg" if kind in ("JPEG", "MPO") and pixels.mode == "RGB" else ".png"
        name = self._unused_stem(prefix + file.stem) + ending
        if as_it_is and kind in ("JPEG", "PNG"):
            shutil.copyfile(file, self._folder / name)
        elif ending == ".jpg":
            pixels.save(self._folder / name, quality=_QUALITY, subsampling=0)
        else:
            pixels.save(self._folder / name)
        return name

    def _write_mask(self, name: str, file: Path, size: tuple[int, int], alpha: np.ndarray | None) -> bool:
        """Write what of a photo may have features, where there is something to leave out."""
        seen = self._masks.seen(file, size)
        if alpha is not None and alpha.size and alpha.min() < 255:
            opaque = alpha[..., 0] > 127
            seen = opaque if seen is None else seen & opaque
        if seen is None:
            return False
        Image.fromarray(np.where(seen, np.uint8(255), np.uint8(0))).save(self._masks_folder / f"{name}.png")
        return True
