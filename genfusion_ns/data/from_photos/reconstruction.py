"""Structure from motion: poses of photos from their matches, by COLMAP's incremental mapper."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.from_photos.colmap_library import load_colmap
from genfusion_ns.data.from_photos.exif import pixels_to_film
from genfusion_ns.data.from_photos.matching import FEW_FEATURES, Evidence, opened
from genfusion_ns.data.from_photos.photos import MIN_PHOTOS, Begin, Photo

_ENOUGH = 0.5
"""Share of photos placed below which other focal lengths are tried, where none is known."""
_OTHER_FOCALS = (2.5, 0.6)
"""Focal lengths over the longer side to try: a long lens, a wide one."""


@dataclass(frozen=True)
class Found:
    """The models of a reconstruction."""

    registered: tuple[tuple[str, ...], ...]
    """Names of the photos in each model, the largest first."""
    points: int
    """Of the largest model."""
    error: float
    """Its mean reprojection error in pixels."""
    focal: float
    """Focal length of its first camera, as for 35 mm film."""


def reconstruct(database: Path, images: Path, out: Path, photos: Sequence[Photo], seed: int, begin: Begin) -> Found:
    """Find the poses of photos, and write the largest model.

    Where less than half of the photos are placed and some focal lengths are unknown, others are tried to start from;
    the model with most photos is kept.

    Args:
        database: with features and matches.
        images: folder of the photos, for the colours of points.
        out: empty folder for the model.
        photos: all of the capture.
        seed: of random samples.
        begin: of the progress.

    Returns:
        What was found, without any model where none has at least three photos; see `require_model`.
    """
    best: list[Any] = []
    cameras = _cameras(database)
    is_known = all(camera.has_prior_focal_length for camera in cameras.values())
    for factor in (None,) if is_known else (None, *_OTHER_FOCALS):
        _start_from(database, cameras, factor)
        title = "poses" if factor is None else f"poses, from a focal length of {36 * factor:.0f} mm"
        models = _map(database, images, out, seed, begin(title, len(photos)))
        if not best or (models and models[0].num_reg_images() > best[0].num_reg_images()):
            best = models
        if best and best[0].num_reg_images() >= _ENOUGH * len(photos):
            break
    _start_from(database, cameras, None)
    if not best or best[0].num_reg_images() < MIN_PHOTOS:
        return Found((), 0, 0.0, 0.0)
    best[0].write(str(out))
    camera = next(iter(best[0].cameras.values()))
    return Found(
        registered=tuple(tuple(sorted(_names(model))) for model in best),
        points=best[0].num_points3D(),
        error=float(best[0].compute_mean_reprojection_error()),
        focal=pixels_to_film(float(camera.mean_focal_length()), (camera.width, camera.height)),
    )


def require_model(found: Found, photos: Sequence[Photo], known: Evidence) -> None:
    """Refuse a reconstruction without a model, saying what to photograph instead.

    Raises:
        CaptureError: the most likely reason.
    """
    if found.registered:
        return
    linked = {name for pair in known.pairs for name in pair}
    lacks_focal = any(photo.focal is None for photo in photos)
    what = f"no poses were found for the {len(photos)} photos"
    if len(linked) < MIN_PHOTOS:
        raise CaptureError(
            f"{what}: {len(known.pairs)} pair(s) of photos show the same things, so they overlap too little. Take more "
            "of them, a step apart, so that each shows at least two thirds of what its neighbours show; of a subject "
            "take a full round of 30 or more"
        )
    focal = (
        " Photos do not say their focal length; where they were taken with a long lens give it, such as --focal-length "
        "85."
        if lacks_focal
        else ""
    )
    raise CaptureError(
        f"{what}, though {len(known.pairs)} pairs show the same things: the camera turned on the spot, or moved too "
        f"little or too far between them.{focal} Take photos while walking around the subject, a step apart"
    )


def reasons_left_out(found: Found, photos: Sequence[Photo], known: Evidence) -> dict[str, str]:
    """Why photos are not in the largest model, by name."""
    placed = set(found.registered[0])
    elsewhere = {name: len(model) for model in found.registered[1:] for name in model}
    reasons = {}
    for photo in photos:
        if photo.name in placed:
            continue
        features = known.features.get(photo.name, 0)
        matches = {
            other: inliers
            for pair, inliers in known.pairs.items()
            if photo.name in pair and (other := pair[pair.index(photo.name) - 1]) != photo.name
        }
        linked = sum(inliers for other, inliers in matches.items() if other in placed)
        if photo.name in elsewhere:
            reason = (
                f"is one of {elsewhere[photo.name]} that fit together but not to the others; photos between the two "
                "parts would join them"
            )
        elif features < FEW_FEATURES:
            reason = f"has {features} features: blurred, dark, plain, or hidden by its mask"
        elif not matches:
            reason = "shows nothing that another photo shows"
        elif not linked:
            reason = "overlaps only photos that are left out as well"
        else:
            reason = f"has {linked} matches with the others, which are too few or contradict each other"
        reasons[photo.name] = reason
    return reasons


def _map(database: Path, images: Path, folder: Path, seed: int, advance: Any) -> list[Any]:
    """Models, the one with most photos first; COLMAP's own files of them are not kept."""
    colmap = load_colmap()
    colmap.set_random_seed(seed)
    options = colmap.IncrementalPipelineOptions()
    options.min_model_size = MIN_PHOTOS
    options.random_seed = seed

    def begun() -> None:
        advance()
        advance()

    unused = folder / "unused"
    unused.mkdir()
    models = colmap.incremental_mapping(
        database, images, unused, options, initial_image_pair_callback=begun, next_image_callback=advance
    )
    shutil.rmtree(unused)
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _cameras(database: Path) -> dict[int, Any]:
    with opened(database) as connection:
        return {camera.camera_id: camera for camera in connection.read_all_cameras()}


def _start_from(database: Path, cameras: Mapping[int, Any], factor: float | None) -> None:
    """Set the focal lengths that are not known to a share of the longer side; None: to what `cameras` have."""
    with opened(database) as connection:
        for number, camera in cameras.items():
            if camera.has_prior_focal_length:
                continue
            changed, parameters = connection.read_camera(number), list(camera.params)
            if factor is not None:
                for index in camera.focal_length_idxs():
                    parameters[index] = factor * max(camera.width, camera.height)
            changed.params = parameters
            connection.update_camera(changed)


def _names(model: Any) -> list[str]:
    return [model.image(number).name for number in model.reg_image_ids()]
