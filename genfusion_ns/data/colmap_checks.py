"""Checks of a COLMAP model before nerfstudio parses it, without reading its (large) lists of observations."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from nerfstudio.data.utils import colmap_parsing_utils as colmap

from genfusion_ns.data.image_files import CaptureError, raise_for
from genfusion_ns.data.transforms_checks import SPLITS, check_count, check_names
from genfusion_ns.data.view_checks import check_positions

CAMERA_MODELS = (
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "OPENCV_FISHEYE",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
)
"""COLMAP camera models that nerfstudio 1.1.5 reads."""
_READING_ERRORS = (OSError, ValueError, IndexError, KeyError, AssertionError, struct.error, MemoryError, OverflowError)
_IMAGE = struct.Struct("<idddddddi")
_OBSERVATION_BYTES = 24


@dataclass(frozen=True)
class RegisteredImage:
    """One image of a COLMAP model."""

    name: str
    camera_id: int
    qvec: Float[np.ndarray, "4"]
    """World-to-camera rotation, scalar first."""
    tvec: Float[np.ndarray, "3"]


def check_colmap(folder: Path, data: Path) -> list[str]:
    """Check cameras, images and declared split lists of a COLMAP capture; the names of its images by image id.

    Args:
        folder: with cameras and images, .txt or .bin.
        data: folder of the capture, which may hold train_list.txt and test_list.txt.

    Raises:
        CaptureError: a file that nerfstudio's dataparser would trip over.
    """
    # nerfstudio reads the text model where there are both.
    ext = "txt" if (folder / "cameras.txt").exists() else "bin"
    cameras_file, images_file = folder / f"cameras.{ext}", folder / f"images.{ext}"
    cameras = _read(cameras_file, colmap.read_cameras_text if ext == "txt" else colmap.read_cameras_binary)
    images = _read(images_file, _read_images_text if ext == "txt" else read_image_headers)
    check_count(images_file, len(images))
    models = sorted({camera.model for camera in cameras.values()})
    if any(model not in CAMERA_MODELS for model in models) or len({"FISHEYE" in model for model in models}) > 1:
        raise CaptureError(
            f"{cameras_file}: the camera models are {', '.join(models)}; allowed are {', '.join(CAMERA_MODELS)}, all "
            "fisheye or none. Undistort the images with colmap image_undistorter."
        )
    raise_for(
        [f"{image.name} {p}" for image in images.values() if (p := _image_problem(image, cameras))],
        f"{images_file}: registered images that cannot be used",
        "Reconstruct again, or delete these images from the model.",
    )
    counts = Counter(image.name for image in images.values())
    raise_for(
        [f"{name} ({count} times)" for name, count in counts.items() if count > 1],
        f"{images_file}: images that are registered more than once",
        "Delete one of them from the model.",
    )
    centers = [-colmap.qvec2rotmat(image.qvec).T @ image.tvec for image in images.values()]
    check_positions(images_file, np.stack(centers))
    names = [images[i].name for i in sorted(images)]
    _check_lists(data, names)
    return names


def read_image_headers(path: Path) -> dict[int, RegisteredImage]:
    """The images of images.bin by id, skipping over their observations.

    Raises:
        ValueError: the file ends too early.
        struct.error: the same.
    """
    images = {}
    size = path.stat().st_size
    with path.open("rb") as stream:
        (count,) = struct.unpack("<Q", stream.read(8))
        for _ in range(count):
            image_id, *numbers, camera_id = _IMAGE.unpack(stream.read(_IMAGE.size))
            name = bytearray()
            while (letter := stream.read(1)) != b"\0":
                if not letter:
                    raise ValueError("it ends within an image name")
                name += letter
            (observations,) = struct.unpack("<Q", stream.read(8))
            if stream.tell() + _OBSERVATION_BYTES * observations > size:
                raise ValueError(f"it ends before the observations of {name.decode()}")
            stream.seek(_OBSERVATION_BYTES * observations, 1)
            images[image_id] = RegisteredImage(
                name.decode(), camera_id, np.array(numbers[:4]), np.array(numbers[4:], dtype=np.float64)
            )
    return images


def _read_images_text(path: Path) -> dict[int, RegisteredImage]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    spaced = [line for line in lines[::2] if len(line.split()) > 10]
    if spaced:
        raise ValueError(
            f"the image name {' '.join(spaced[0].split()[9:])!r} contains a space, which nerfstudio's reader of text "
            "models cuts off; convert the model with colmap model_converter --output_type BIN and remove the .txt files"
        )
    read = colmap.read_images_text(path)
    return {i: RegisteredImage(image.name, image.camera_id, image.qvec, image.tvec) for i, image in read.items()}


def _read(path: Path, read: Callable[[Path], dict[int, Any]]) -> dict[int, Any]:
    if not path.exists():
        raise CaptureError(f"{path} does not exist; a COLMAP model has cameras, images and points3D (.bin or .txt).")
    try:
        return read(path)
    except _READING_ERRORS as error:
        what = f"{type(error).__name__}: {error}" if isinstance(error, (KeyError, AssertionError)) else str(error)
        raise CaptureError(
            f"{path} cannot be read as part of a COLMAP model: {what}. Copy or reconstruct it again."
        ) from error


def _image_problem(image: RegisteredImage, cameras: dict) -> str | None:
    if image.camera_id not in cameras:
        return f"has the camera {image.camera_id}, the model has {sorted(cameras)[:8]}"
    if not (np.isfinite(image.qvec).all() and np.isfinite(image.tvec).all()):
        return f"has the pose {image.qvec.tolist()}, {image.tvec.tolist()}, which is not finite"
    norm = float(np.linalg.norm(image.qvec))
    if abs(norm - 1) > 1e-2:
        return f"has a rotation quaternion of length {norm:.3g}, 1 is needed"
    return None


def _check_lists(data: Path, names: list[str]) -> None:
    lists = [data / f"{split}_list.txt" for split in (*SPLITS, "validation")]
    present = [path for path in lists if path.exists()]
    if present and lists[0] not in present:
        raise CaptureError(
            f"{present[0]} declares a split without train views; add {lists[0].name} beside it, or remove it."
        )
    for path in present:
        check_names(str(path), path.read_text(encoding="utf-8").splitlines(), names)
