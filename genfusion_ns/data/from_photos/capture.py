"""A posed capture from photos and videos: the stages in order, each skipped where it is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from genfusion_ns.data.from_photos.colmap_library import load_colmap
from genfusion_ns.data.from_photos.masks import MaskSource
from genfusion_ns.data.from_photos.matching import evidence, find_features, find_matches, forget_matches
from genfusion_ns.data.from_photos.pairs import chosen_matching
from genfusion_ns.data.from_photos.photos import Begin, PhotoSet, gather
from genfusion_ns.data.from_photos.reconstruction import Found, reasons_left_out, reconstruct, require_model
from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.data.from_photos.sources import Source, find_sources
from genfusion_ns.data.from_photos.stages import CaptureJournal, alone_in, key_of, open_journal
from genfusion_ns.data.from_photos.writing import publish, write_capture
from genfusion_ns.files import system_error, write_error

_FORMAT = 1
"""Of the records; another one does all stages anew."""


@dataclass(frozen=True)
class CaptureReport:
    """What came out."""

    folder: Path
    photos: int
    """Photos that were taken up or could not be."""
    registered: int
    """Those with a pose."""
    points: int
    error: float
    """Mean reprojection error in pixels."""
    focal: float
    """Focal length that was found, as for 35 mm film."""
    left_out: tuple[tuple[str, str], ...]
    """Photos without a pose as the user knows them, with the reason."""
    damaged: tuple[tuple[str, str], ...]
    """Videos of which only a part could be read, with what is missing."""


@dataclass(frozen=True)
class _Job:
    journal: CaptureJournal
    sources: list[Source]
    settings: CaptureFromPhotosSettings
    begin: Begin
    out: Path

    @property
    def images(self) -> Path:
        return self.journal.work / "photos"

    @property
    def masks(self) -> Path:
        return self.journal.work / "feature_masks"

    @property
    def database(self) -> Path:
        return self.journal.work / "database.db"

    @property
    def model(self) -> Path:
        return self.journal.work / "model"


def make_capture(
    inputs: Sequence[Path], out: Path, settings: CaptureFromPhotosSettings, begin: Begin, overwrite: bool = False
) -> CaptureReport:
    """Find the poses of photos and frames of videos, and write them as a capture; goes on where it was stopped.

    Args:
        inputs: videos, photos and folders of photos.
        out: folder of the capture; new, empty, or of an earlier call for the same inputs.
        settings: see there.
        begin: of the progress.
        overwrite: `out` may hold an earlier capture of other inputs.

    Raises:
        CaptureError: inputs that cannot be used, or of which no poses are found (the message says what to photograph);
            `out` has something else, or another process writes it.
        ValueError: settings out of range.
        ImportError: pycolmap is not installed.
        WriteError: the disk is full or not writable.
    """
    settings.check()
    sources = find_sources(inputs)
    load_colmap()
    try:
        with alone_in(out):
            journal = open_journal(out, [os.path.abspath(path) for path in inputs], overwrite)
            return _run(_Job(journal, sources, settings, begin, out))
    except Exception as error:
        if isinstance(error, ValueError) or system_error(error) is None or isinstance(error, ImportError):
            raise
        raise write_error(out, error, "the capture", "start again; what is done is kept") from error


def _run(job: _Job) -> CaptureReport:
    key, photos = _photos(job)
    settings = job.settings
    key = key_of(key, settings.features, settings.feature_size, settings.lens)
    _features(job, key, photos)
    key = key_of(key, chosen_matching(photos.photos, settings.matching), settings.seed)
    _matches(job, key, photos)
    key = key_of(key, "model")
    found = _model(job, key, photos)
    key = key_of(key, settings.undistort)
    _files(job, key, found)
    names = {photo.name: photo.origin for photo in photos.photos}
    reasons = reasons_left_out(found, photos.photos, evidence(job.database))
    return CaptureReport(
        folder=job.out,
        photos=len(photos.photos) + len(photos.refused),
        registered=len(found.registered[0]),
        points=found.points,
        error=found.error,
        focal=found.focal,
        left_out=(
            *((one.origin, one.reason) for one in photos.refused),
            *((names[name], reason) for name, reason in reasons.items()),
        ),
        damaged=tuple((one.origin, one.reason) for one in photos.damaged),
    )


def _photos(job: _Job) -> tuple[str, PhotoSet]:
    settings = job.settings
    masks = MaskSource.of(settings.masks, any(source.is_video for source in job.sources))
    facts = [[source.prefix, source.is_video, source.identity()] for source in job.sources]
    has_video = any(source.is_video for source in job.sources)
    key = key_of(
        f"format {_FORMAT}",
        facts,
        masks.identity(),
        settings.frames if has_video else None,
        settings.focal_length,
        settings.one_camera,
    )
    record = job.journal.record("photos", key)
    if record is not None:
        return key, PhotoSet.from_json(record)
    job.journal.forget_from("photos")
    unfinished, masks_unfinished = job.journal.empty("photos.part"), job.journal.empty("feature_masks.part")
    photos = gather(job.sources, settings, unfinished, masks_unfinished, job.begin)
    for part, folder in ((unfinished, job.images), (masks_unfinished, job.masks)):
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    job.journal.finish("photos", key, photos.as_json())
    return key, photos


def _features(job: _Job, key: str, photos: PhotoSet) -> None:
    begun = job.journal.record("features", key)
    if begun == "done":
        return
    if begun is None:  # nothing, or features of other settings
        job.journal.forget_from("features")
        for ending in ("", "-wal", "-shm", "-journal"):
            job.database.with_name(job.database.name + ending).unlink(missing_ok=True)
        job.journal.finish("features", key, "begun")
    find_features(job.database, job.images, job.masks, photos.photos, job.settings, job.begin)
    job.journal.finish("features", key, "done")


def _matches(job: _Job, key: str, photos: PhotoSet) -> None:
    begun = job.journal.record("matches", key)
    if begun == "done":
        return
    if begun is None:
        job.journal.forget_from("matches")
        forget_matches(job.database)
        job.journal.finish("matches", key, "begun")
    find_matches(job.database, photos.photos, job.settings, job.begin)
    job.journal.finish("matches", key, "done")


def _model(job: _Job, key: str, photos: PhotoSet) -> Found:
    record = job.journal.record("model", key)
    if record is not None:
        return Found(**{**record, "registered": tuple(tuple(model) for model in record["registered"])})
    job.journal.forget_from("model")
    unfinished = job.journal.empty("model.part")
    found = reconstruct(job.database, job.images, unfinished, photos.photos, job.settings.seed, job.begin)
    require_model(found, photos.photos, evidence(job.database))
    shutil.rmtree(job.model, ignore_errors=True)
    os.replace(unfinished, job.model)
    job.journal.finish("model", key, asdict(found))
    return found


def _files(job: _Job, key: str, found: Found) -> None:
    if job.journal.record("files", key) is not None and (job.out / "transforms.json").is_file():
        return
    job.journal.forget_from("files")
    unfinished = job.journal.empty("capture.part")
    names = found.registered[0]
    masks = job.masks if job.settings.masks is not None else None
    advance = job.begin("images of other sizes", len(names))
    write_capture(job.model, job.images, masks, unfinished, job.settings.undistort, names, advance)
    publish(unfinished, job.out)
    job.journal.finish("files", key, "done")
