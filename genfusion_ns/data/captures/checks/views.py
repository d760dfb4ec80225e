"""Checks of views: poses and intrinsics that a scene can be trained from, and images that belong to them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeGuard

import cv2
import numpy as np
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from genfusion_ns.data.captures.image_files import CaptureError, raise_for
from genfusion_ns.data.captures.image_sizes import SIZE_WAY_OUT, ImageSizeError, loaded_header, size_problem
from genfusion_ns.messages import say

MIN_VIEWS = 3
"""Two to train on and one held out."""
IMAGE_WAY_OUT = "Copy them again, save them as PNG or JPEG, or remove their views from the capture's camera file."
"""What helps against images that cannot be read."""
_RIGID_TOLERANCE = 1e-2
"""Largest entry of R^T R - I; estimated poses are printed with at least three digits."""
_MAX_OFFSET = 1e4
"""Largest distance from the origin, in units of the cameras' spread, at which single precision is still exact enough
(0.06 % of the spread)."""
_OUTLIER = 10.0
"""Distance of a camera from the others, in units of their spread, from which it is named."""
_FAR_OUTLIER = 100.0
"""The same for cameras that leave the others, and the scene, less than a hundredth of the normalised space."""
_SHOWN = 3
_FAR_OUTSIDE = 1.0
"""How far beyond the image the principal point may lie, in image sizes; crops move it outside."""
_FAR_OFF_AXIS = 2.0
"""The same in focal lengths: nothing in the image is within 63 degrees of the optical axis."""
_MAX_ZOOM = 10.0
"""Largest change of the focal length by undistorting; more is a sign of a failed calibration."""
_LARGEST = 1e30


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number that single precision can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def matrix_problem(value: object, rows: Collection[int]) -> str | None:
    """What keeps a JSON value from being a matrix with `rows` rows of four finite numbers; None when nothing does."""
    if not isinstance(value, list) or any(not isinstance(row, list) for row in value):
        return f"is {_brief(value)}, a list of {' or '.join(map(str, rows))} rows is needed"
    if len(value) not in rows or any(len(row) != 4 for row in value):
        shape = f"{len(value)} rows of {'/'.join(map(str, sorted({len(row) for row in value}))) or 0}"
        return f"has {shape} numbers, {' or '.join(map(str, rows))} rows of 4 are needed"
    strange = [item for row in value for item in row if not is_number(item)]
    return f"contains {_brief(strange[0])}, finite numbers are needed" if strange else None


def rigidity_problem(pose: Float[np.ndarray, "rows 4"]) -> str | None:
    """How a pose departs from a rotation and a position; None when it does not."""
    if not np.isfinite(pose).all():
        return "contains NaN or infinity"
    rotation = pose[:3, :3]
    lengths = np.linalg.norm(rotation, axis=0)
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > _RIGID_TOLERANCE:
        return f"is not rigid: its axes have the lengths {', '.join(f'{x:.3g}' for x in lengths)} or are not orthogonal"
    if np.linalg.det(rotation) < 0:
        return "mirrors the scene (determinant -1)"
    if len(pose) == 4 and np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        return f"has the last row {pose[3].tolist()}, [0, 0, 0, 1] is needed"
    return None


def check_positions(where: Path, names: Sequence[str], centers: Float[np.ndarray, "V 3"]) -> None:
    """Refuse cameras that do not move, stand too far from the origin for single precision, or far from all others.

    A few cameras far from the others are usually failed registrations. Poses are normalised to the farthest camera, so
    that one of them shrinks the scene of all others; from `_OUTLIER` on they are logged by name.

    Raises:
        CaptureError: one of the three.
    """
    spread = np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()
    offset = np.abs(centers).max()
    if spread <= 1e-9 * offset:
        raise CaptureError(
            f"{where}: all {len(centers)} cameras stand in one place, {np.round(centers[0], 3).tolist()}; depth needs "
            "photos from different places. Check the translations of the poses."
        )
    if offset > _MAX_OFFSET * spread:
        raise CaptureError(
            f"{where}: the cameras stand {offset:.3g} units from the origin but only {spread:.3g} apart, which single "
            "precision cannot resolve. Subtract a common offset from all positions (poses may be georeferenced)."
        )
    far = far_cameras(centers)
    shown = [f"{names[i]} ({distance:.3g} times)" for i, distance in far.items()]
    if any(distance > _FAR_OUTLIER for distance in far.values()):
        raise_for(
            shown,
            f"{where}: {len(far)} of {len(centers)} cameras stand farther from the others than these from their middle",
            "Their registration probably failed: remove them from the camera file, or register the images again.",
        )
    if far:
        more = f" and {len(far) - _SHOWN} more" if len(far) > _SHOWN else ""
        say(
            f"{where}: {', '.join(shown[:_SHOWN])}{more} farther from the other cameras than these from their middle. "
            "If their registration failed, remove them from the camera file.",
            colour="yellow",
        )


def far_cameras(centers: Float[np.ndarray, "V 3"]) -> dict[int, float]:
    """The few cameras that stand apart from all others, farthest first, and how far: in units of the others' spread.

    At most a tenth of the cameras (but one in any case), `_OUTLIER` times as far from the common middle as the farthest
    of the others; many cameras that stand apart are a second place of the capture.
    """
    distances = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    order = np.argsort(-distances)
    for count in range(max(1, len(centers) // 10), 0, -1):
        spread = distances[order[count]]
        if len(centers) - count >= MIN_VIEWS and spread > 0 and distances[order[count - 1]] > _OUTLIER * spread:
            return {int(i): float(distances[i] / spread) for i in order[:count]}
    return {}


def check_views(outputs: DataparserOutputs, names: Sequence[str], where: Path, check_images: bool = True) -> None:
    """Check all registered views after a dataparser has read them.

    Costs a look at each image's header and end, about a tenth of a millisecond per file that the system has cached.

    Args:
        outputs: all registered views.
        names: their names, for the messages.
        where: the capture, for the messages.
        check_images: look at the image files too.

    Raises:
        CaptureError: poses or intrinsics that no camera has, or image files that cannot be read.
        ImageSizeError: images of another size than their cameras.
    """
    cameras = outputs.cameras
    poses = cameras.camera_to_worlds.double().cpu().numpy()
    problems = [f"{name} {p}" for name, pose in zip(names, poses, strict=True) if (p := rigidity_problem(pose))]
    raise_for(
        problems,
        f"{where}: poses that cannot be used after the dataparser's normalisation",
        "If the poses in the file are right, try --orientation-method none --center-method none.",
    )
    raise_for(
        _camera_problems(cameras, names),
        f"{where}: cameras that cannot be used",
        "Correct the intrinsics in the capture's camera file, or a --downscale-factor too large for the photos.",
    )
    if check_images:
        _check_images(outputs, where)


def _check_images(outputs: DataparserOutputs, where: Path) -> None:
    cameras = outputs.cameras
    unreadable, other_size = [], []
    for i, file in enumerate(outputs.image_filenames):
        try:
            problem = size_problem(
                loaded_header(file, outputs.metadata), (int(cameras.width[i]), int(cameras.height[i]))
            )
        except CaptureError as error:
            unreadable.append(str(error))
        else:
            other_size += [] if problem is None else [f"{file} {problem}"]
    raise_for(
        unreadable,
        f"{where}: {len(unreadable)} of {len(outputs.image_filenames)} images cannot be read",
        IMAGE_WAY_OUT,
    )
    raise_for(other_size, f"{where}: images that do not fit their cameras", SIZE_WAY_OUT, ImageSizeError)


def _camera_problems(cameras: Cameras, names: Sequence[str]) -> list[str]:
    fields = ("fx", "fy", "cx", "cy", "width", "height")
    columns = [getattr(cameras, field).double().cpu().numpy().reshape(-1) for field in fields]
    table = np.stack(columns, axis=1)
    kinds = cameras.camera_type.cpu().numpy().reshape(-1)
    lenses = np.zeros((len(table), 0)) if cameras.distortion_params is None else cameras.distortion_params.cpu().numpy()
    found: dict[bytes, str | None] = {}
    problems = []
    for name, row, kind, lens in zip(names, table, kinds, lenses, strict=True):
        key = row.tobytes() + lens.tobytes() + bytes([int(kind)])
        if key not in found:
            found[key] = _camera_problem(row, int(kind), lens.astype(np.float64))
        if found[key] is not None:
            problems.append(f"{name}: {found[key]}")
    return problems


def _camera_problem(row: Float[np.ndarray, "6"], kind: int, lens: Float[np.ndarray, " D"]) -> str | None:
    fx, fy, cx, cy, width, height = row.tolist()
    if not np.isfinite(row).all():
        return f"focal lengths {fx:g}, {fy:g} and principal point {cx:g}, {cy:g} must be finite"
    if fx <= 0 or fy <= 0:
        return f"focal lengths are {fx:g} and {fy:g} pixels, they must be positive"
    if width < 1 or height < 1:
        return f"the image size is {width:g} x {height:g}, it must be at least 1 x 1"
    outside = np.array([max(-cx, cx - width, 0), max(-cy, cy - height, 0)])
    if (outside > _FAR_OUTSIDE * row[4:]).any() or (outside > _FAR_OFF_AXIS * row[:2]).any():
        return f"the principal point {cx:g}, {cy:g} is far outside the image of {width:g} x {height:g} pixels"
    if kind not in (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value):
        return f"camera type {CameraType(kind).name} is not supported; PERSPECTIVE and FISHEYE are"
    return _lens_problem(row, kind, lens) if np.any(lens) else None


def _lens_problem(row: Float[np.ndarray, "6"], kind: int, lens: Float[np.ndarray, " D"]) -> str | None:
    """What keeps nerfstudio from undistorting the images of a camera with OpenCV."""
    said = f"k1, k2, k3, k4, p1, p2 = {', '.join(f'{value:g}' for value in lens)}"
    if not np.isfinite(lens).all():
        return f"lens distortion {said} must be finite"
    fx, fy, cx, cy, width, height = row.tolist()
    is_fisheye = kind == CameraType.FISHEYE.value
    if not is_fisheye and lens[3] != 0:
        return f"lens distortion {said}; perspective cameras may have k1, k2, k3, p1 and p2, not k4"
    if not _is_invertible(lens[: 4 if is_fisheye else 3], is_fisheye, 0.5 * min(width / fx, height / fy)):
        return f"lens distortion {said} folds the image over itself"
    matrix, size = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]]), (int(width), int(height))
    if is_fisheye:
        flat = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(matrix, lens[:4], size, np.eye(3), balance=0)
        kept = width, height
    else:
        flat, (_, _, *kept) = cv2.getOptimalNewCameraMatrix(matrix, lens[[0, 1, 4, 5, 2]], size, 0)
    zoom = np.array([flat[0, 0] / fx, flat[1, 1] / fy])
    if not (np.isfinite(flat).all() and min(kept) >= 2 and (zoom > 1 / _MAX_ZOOM).all() and (zoom < _MAX_ZOOM).all()):
        return f"lens distortion {said} leaves no useful image"
    return None


def _is_invertible(coefficients: Float[np.ndarray, " D"], is_fisheye: bool, radius: float) -> bool:
    """Whether the distorted radius rises with the true one up to `radius`, the nearer image borders' (focal lengths).

    Corners may lie beyond, as they do in many calibrations; OpenCV's equations, with angles for a fisheye lens.
    """
    true = np.linspace(0.0, math.pi if is_fisheye else 10 * radius, 4001)
    distorted = true * (1 + sum(k * true ** (2 * n + 2) for n, k in enumerate(coefficients)))
    falling = np.flatnonzero(np.diff(distorted) <= 0)
    return bool(distorted[falling[0] if len(falling) else -1] >= radius)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
