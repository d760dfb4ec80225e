"""Features of photos and their matches, in COLMAP's database; each step goes on where an earlier one was stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.from_photos.colmap_library import load_colmap
from genfusion_ns.data.from_photos.pairs import Pair, chosen_matching, pairs_to_compare
from genfusion_ns.data.from_photos.photos import Begin, Photo
from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.files import require_room

FEW_FEATURES = 150
"""Features below which a photo is hardly ever placed."""
_AT_ONCE = 8
"""Photos whose features are looked for between two steps of the progress."""
_PAIRS_AT_ONCE = 50
_BYTES_OF_FEATURE, _BYTES_OF_PAIR = 220, 16_000
"""Room in the database, generously: COLMAP ends the program where it gets none."""
_FREE_LENS = 12
"""Photos from which on a camera's lens is described by more than one number."""
_START_PHOTO, _START_VIDEO, _START_FISHEYE = 1.2, 0.85, 0.4
"""Focal length over the longer side to start from where none is known."""


@dataclass(frozen=True)
class Evidence:
    """What was found in photos, by their names."""

    features: dict[str, int]
    """Number of features."""
    pairs: dict[tuple[str, str], int]
    """Number of matches that agree with one relative pose, of pairs that have any."""


@contextmanager
def opened(database: Path) -> Iterator[Any]:
    """COLMAP's database, which is made where there is none."""
    connection = load_colmap().Database.open(str(database))
    try:
        yield connection
    finally:
        connection.close()


def find_features(
    database: Path,
    images: Path,
    masks: Path,
    photos: Sequence[Photo],
    settings: CaptureFromPhotosSettings,
    begin: Begin,
) -> None:
    """Find the features of all photos that have none in the database yet.

    Args:
        database: file; made where it is missing.
        images: folder of the photos.
        masks: folder with NAME.png for photos that have a mask.
        photos: all of the capture.
        settings: how many features, at which size, and of which lens.
        begin: of the progress.

    Raises:
        CaptureError: hardly a photo has features.
        WriteError: the disk has no room for them.
    """
    colmap = load_colmap()
    with opened(database) as connection:
        cameras = _cameras(connection, photos, settings)
        there = {image.name for image in connection.read_all_images()}
    missing = sum(photo.name not in there for photo in photos)
    require_room(database.parent, missing * settings.features * _BYTES_OF_FEATURE)
    advance = begin("features", len(photos))
    options = colmap.FeatureExtractionOptions()
    options.max_image_size = settings.feature_size
    options.sift.max_num_features = settings.features
    for batch in _batches(photos):
        names = [photo.name for photo in batch if photo.name not in there]
        if names:
            reader = colmap.ImageReaderOptions()
            reader.existing_camera_id = cameras[batch[0].camera]
            if batch[0].has_mask:
                reader.mask_path = masks
            mode = colmap.CameraMode.SINGLE
            colmap.extract_features(database, images, names, mode, reader_options=reader, extraction_options=options)
        for _ in batch:
            advance()
    _require_features(evidence(database), photos)


def find_matches(database: Path, photos: Sequence[Photo], settings: CaptureFromPhotosSettings, begin: Begin) -> None:
    """Match the pairs of photos that `settings` ask for and that have not been matched yet.

    Raises:
        WriteError: the disk has no room for the matches.
    """
    colmap = load_colmap()
    matching = chosen_matching(photos, settings.matching)
    with opened(database) as connection:
        numbers = {image.name: image.image_id for image in connection.read_all_images()}
        known = [photo for photo in photos if photo.name in numbers]
        descriptors = (_descriptors(connection, numbers[photo.name]) for photo in known)
        pairs = pairs_to_compare(known, matching, descriptors, settings.seed)
    require_room(database.parent, len(pairs) * _BYTES_OF_PAIR)
    advance = begin(f"matches ({matching})", len(pairs))
    listed = database.with_name("pairs.txt")
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        listed.write_text(_as_list(known, some), encoding="utf-8")
        pairing, verification = colmap.ImportedPairingOptions(), colmap.TwoViewGeometryOptions()
        pairing.match_list_path = listed
        verification.ransac.random_seed = settings.seed
        colmap.match_image_pairs(database, pairing_options=pairing, verification_options=verification)
        for _ in some:
            advance()
    listed.unlink(missing_ok=True)


def forget_matches(database: Path) -> None:
    """Take all matches out of a database, where there is one; features stay."""
    if database.is_file():
        with opened(database) as connection:
            connection.clear_matches()
            connection.clear_two_view_geometries()


def evidence(database: Path) -> Evidence:
    """What the database has about each photo and pair."""
    colmap = load_colmap()
    with opened(database) as connection:
        names = {image.image_id: image.name for image in connection.read_all_images()}
        features = {name: connection.num_keypoints_for_image(number) for number, name in names.items()}
        pairs = {}
        for pair, inliers in zip(*connection.read_two_view_geometry_num_inliers(), strict=True):
            first, second = colmap.pair_id_to_image_pair(pair)
            pairs[names[first], names[second]] = int(inliers)
    return Evidence(features, {pair: inliers for pair, inliers in pairs.items() if inliers > 0})


def _cameras(connection: Any, photos: Sequence[Photo], settings: CaptureFromPhotosSettings) -> dict[str, int]:
    """The number of each camera in the database, in the order of the photos; written where they are missing."""
    names = list(dict.fromkeys(photo.camera for photo in photos))
    if connection.num_cameras() == 0:
        for name in names:
            connection.write_camera(_camera([photo for photo in photos if photo.camera == name], settings.lens))
    return {name: number for number, name in enumerate(names, 1)}


def _camera(photos: Sequence[Photo], lens: str) -> Any:
    colmap, photo = load_colmap(), photos[0]
    width, height = photo.size
    guess = _START_FISHEYE if lens == "fisheye" else _START_VIDEO if photo.from_video else _START_PHOTO
    focal = photo.focal or guess * max(width, height)
    model = "OPENCV_FISHEYE" if lens == "fisheye" else "OPENCV" if len(photos) >= _FREE_LENS else "SIMPLE_RADIAL"
    centre = [width / 2, height / 2]
    parameters = [focal, *centre, 0.0] if model == "SIMPLE_RADIAL" else [focal, focal, *centre, 0.0, 0.0, 0.0, 0.0]
    camera = colmap.Camera(model=model, width=width, height=height, params=parameters)
    camera.has_prior_focal_length = photo.focal is not None
    return camera


def _batches(photos: Sequence[Photo]) -> Iterator[list[Photo]]:
    """A few photos at once, of one camera, with masks or without."""
    groups: dict[tuple[str, bool], list[Photo]] = {}
    for photo in photos:
        groups.setdefault((photo.camera, photo.has_mask), []).append(photo)
    for group in groups.values():
        for start in range(0, len(group), _AT_ONCE):
            yield group[start : start + _AT_ONCE]


def _descriptors(connection: Any, number: int) -> UInt8[np.ndarray, "F 128"]:
    return np.asarray(connection.read_descriptors(number).data, dtype=np.uint8).reshape(-1, 128)


def _as_list(photos: Sequence[Photo], pairs: Sequence[Pair]) -> str:
    return "".join(f"{photos[i].name} {photos[j].name}\n" for i, j in pairs)


def _require_features(found: Evidence, photos: Sequence[Photo]) -> None:
    counts = sorted(found.features.get(photo.name, 0) for photo in photos)
    enough = sum(count >= FEW_FEATURES for count in counts)
    if enough >= 3:
        return
    video = any(photo.from_video for photo in photos)
    raise CaptureError(
        f"{enough} of {len(photos)} photos have {FEW_FEATURES} features or more, at least 3 must (the middle one has "
        f"{counts[len(counts) // 2]}): they are blurred, dark, tiny or show plain surfaces, or masks hide nearly all. "
        + ("Record slowly, in good light; " if video else "Take sharp photos in good light; ")
        + "put things with texture (a newspaper, a patterned cloth) beside a plain subject; a higher --feature-size "
        "finds more in large photos"
    )
