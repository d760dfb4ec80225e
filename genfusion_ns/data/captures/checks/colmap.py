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

from genfusion_ns.data.captures.checks.intrinsics import DISTORTION
from genfusion_ns.data.captures.checks.transforms import SPLITS, check_count, check_names
from genfusion_ns.data.captures.checks.views import check_positions
from genfusion_ns.data.captures.image_files import CaptureError, raise_for

_FORMATS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    "FULL_OPENCV": None,
    "FOV": None,
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "THIN_PRISM_FISHEYE": None,
    "RAD_TAN_THIN_PRISM_FISHEYE": None,
    "SIMPLE_DIVISION": None,
    "DIVISION": None,
    "SIMPLE_FISHEYE": "f cx cy",
    "FISHEYE": "fx fy cx cy",
    "EUCM": None,
    "EQUIRECTANGULAR": None,
}
"""COLMAP's camera models by id (up to COLMAP 4.2) and their parameters; None: cannot be undistorted here."""
COLMAP_FOLDERS = tuple(Path(name) for name in ("colmap/sparse/0", "sparse/0", "sparse"))
"""Where the model of a capture usually is, relative to its folder; of several the first is read.

The first is what ns-process-data writes and nerfstudio's COLMAP dataparser reads by default.
"""
CAMERA_MODELS = tuple(name for name, parameters in _FORMATS.items() if parameters)
"""COLMAP camera models that can be read."""
_CAMERA = struct.Struct("<iiQQ")
_READING_ERRORS = (OSError, ValueError, IndexError, KeyError, AssertionError, struct.error, MemoryError, OverflowError)
_UNDISTORT = (
    "Undistort the images with colmap image_undistorter of the COLMAP version that made the model, and name the folder "
    "that it writes; of panoramas (EQUIRECTANGULAR) render perspective views first."
)
_IMAGE = struct.Struct("<idddddddi")
_OBSERVATION_BYTES = 24
_LARGEST_SIDE = 100_000


@dataclass(frozen=True)
class RegisteredCamera:
    """One camera of a COLMAP model."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    def frame(self) -> dict[str, Any]:
        """Intrinsics, lens and camera_model as transforms.json has them."""
        names = str(_FORMATS[self.model]).split()
        values = dict(zip(names, self.parameters, strict=True))
        focal = values.pop("f", None)
        pixels = {"w": self.width, "h": self.height, "fl_x": values.pop("fx", focal), "fl_y": values.pop("fy", focal)}
        kind = "OPENCV_FISHEYE" if "FISHEYE" in self.model else "OPENCV"
        return {**pixels, **dict.fromkeys(DISTORTION, 0.0), **values, "camera_model": kind}


@dataclass(frozen=True)
class RegisteredImage:
    """One image of a COLMAP model."""

    name: str
    camera_id: int
    qvec: Float[np.ndarray, "4"]
    """World-to-camera rotation, scalar first."""
    tvec: Float[np.ndarray, "3"]

    def pose(self) -> Float[np.ndarray, "4 4"]:
        """Camera-to-world, OpenGL axes."""
        rotation = colmap.qvec2rotmat(self.qvec).T
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation * [1, -1, -1], -rotation @ self.tvec
        return pose


def check_colmap(folder: Path, data: Path) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Check cameras, images and declared split lists of a COLMAP capture.

    Args:
        folder: with cameras and images, .txt or .bin.
        data: folder of the capture, which may hold train_list.txt and test_list.txt.

    Returns:
        A frame for each registered image by image id, as transforms.json has them, in COLMAP's world and with OpenGL
        axes; file_path is the image name. The declared lists of image names by split.

    Raises:
        CaptureError: a file that nerfstudio's dataparser would trip over.
    """
    # nerfstudio reads the text model where there are both.
    ext = "txt" if (folder / "cameras.txt").exists() else "bin"
    cameras_file, images_file = folder / f"cameras.{ext}", folder / f"images.{ext}"
    cameras = _read(cameras_file, read_cameras_text if ext == "txt" else read_cameras_binary)
    images = _read(images_file, read_images_text if ext == "txt" else read_image_headers)
    check_count(images_file, len(images))
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
    ordered = [images[i] for i in sorted(images)]
    poses = [image.pose() for image in ordered]
    check_positions(images_file, [image.name for image in ordered], np.stack([pose[:3, 3] for pose in poses]))
    frames = [
        {"file_path": image.name, "transform_matrix": pose.tolist(), **cameras[image.camera_id].frame()}
        for image, pose in zip(ordered, poses, strict=True)
    ]
    return frames, _read_lists(data, [image.name for image in ordered])


def read_cameras_binary(path: Path) -> dict[int, RegisteredCamera]:
    """The cameras of cameras.bin by id.

    Raises:
        CaptureError: a camera model that cannot be undistorted here.
        struct.error: the file ends too early.
    """
    cameras = {}
    with path.open("rb") as stream:
        (count,) = struct.unpack("<Q", stream.read(8))
        for _ in range(count):
            camera_id, model_id, width, height = _CAMERA.unpack(stream.read(_CAMERA.size))
            model = list(_FORMATS)[model_id] if 0 <= model_id < len(_FORMATS) else f"number {model_id}"
            parameters = struct.Struct(f"<{_number_of_parameters(path, model)}d")
            cameras[camera_id] = RegisteredCamera(model, width, height, parameters.unpack(stream.read(parameters.size)))
    return cameras


def read_cameras_text(path: Path) -> dict[int, RegisteredCamera]:
    """The cameras of cameras.txt by id.

    Raises:
        CaptureError: a camera model that cannot be undistorted here.
        ValueError: a line that is no camera.
    """
    cameras = {}
    for line in _lines(path):
        camera_id, model, width, height, *parameters = line.split()
        if len(parameters) != _number_of_parameters(path, model):
            raise ValueError(f"camera {camera_id} has {len(parameters)} parameters, {model} has {_FORMATS[model]}")
        cameras[int(camera_id)] = RegisteredCamera(model, int(width), int(height), tuple(map(float, parameters)))
    return cameras


def usual_colmap_folder(capture: Path) -> Path | None:
    """The first of `COLMAP_FOLDERS` in which a capture has registered images; None where none has."""
    for folder in COLMAP_FOLDERS:
        if any((capture / folder / f"images.{ending}").is_file() for ending in ("bin", "txt")):
            return folder
    return None


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
                raise ValueError(f"it ends before the observations of {name.decode(errors='backslashreplace')}")
            stream.seek(_OBSERVATION_BYTES * observations, 1)
            images[image_id] = RegisteredImage(
                name.decode(errors="surrogateescape"),
                camera_id,
                np.array(numbers[:4]),
                np.array(numbers[4:], dtype=np.float64),
            )
    return images


def read_images_text(path: Path) -> dict[int, RegisteredImage]:
    """The images of images.txt by id, without the observations, which are every second line.

    Blank lines and comments count for nothing, but for the blank one that stands for no observations; image names may
    contain spaces.

    Raises:
        ValueError: a line that is no image.
    """
    images = {}
    after_image = False
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for line in stream:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if after_image and _are_observations(line):
                after_image = False
                continue
            image_id, *numbers, camera_id, name = line.strip().split(maxsplit=9)
            pose = np.array([float(number) for number in numbers])
            images[int(image_id)] = RegisteredImage(name, int(camera_id), pose[:4], pose[4:])
            after_image = True
    return images


def _are_observations(line: str) -> bool:
    """Whether a line of images.txt lists x, y and point ids, as its beginning tells; image lines end with a name."""
    words = line.split(maxsplit=12)[:12]
    try:
        numbers = [*map(float, words), *map(int, words[2::3])]
    except ValueError:
        return False
    return len(numbers) % 4 == 0


def _lines(path: Path) -> list[str]:
    """The lines of a text file that say something."""
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _number_of_parameters(path: Path, model: str) -> int:
    parameters = _FORMATS.get(model)
    if parameters is None:
        raise CaptureError(f"{path}: a camera model is {model}; allowed are {', '.join(CAMERA_MODELS)}. {_UNDISTORT}")
    return len(parameters.split())


def _read(path: Path, read: Callable[[Path], dict[int, Any]]) -> dict[int, Any]:
    if not path.exists():
        raise CaptureError(f"{path} does not exist; a COLMAP model has cameras, images and points3D (.bin or .txt).")
    try:
        return read(path)
    except CaptureError:
        raise
    except _READING_ERRORS as error:
        what = f"{type(error).__name__}: {error}" if isinstance(error, (KeyError, AssertionError)) else str(error)
        raise CaptureError(
            f"{path} cannot be read as part of a COLMAP model: {what}. Copy or reconstruct it again."
        ) from error


def _image_problem(image: RegisteredImage, cameras: dict) -> str | None:
    if image.camera_id not in cameras:
        return f"has the camera {image.camera_id}, the model has {sorted(cameras)[:8]}"
    camera = cameras[image.camera_id]
    if max(abs(camera.width), abs(camera.height)) > _LARGEST_SIDE:
        return f"has a camera of {camera.width} x {camera.height} pixels, at most {_LARGEST_SIDE} a side are allowed"
    if not (np.isfinite(image.qvec).all() and np.isfinite(image.tvec).all()):
        return f"has the pose {image.qvec.tolist()}, {image.tvec.tolist()}, which is not finite"
    norm = float(np.linalg.norm(image.qvec))
    if abs(norm - 1) > 1e-2:
        return f"has a rotation quaternion of length {norm:.3g}, 1 is needed"
    return None


def _read_lists(data: Path, names: list[str]) -> dict[str, list[str]]:
    lists = {split: data / f"{split}_list.txt" for split in (*SPLITS, "validation")}
    present = {split: path for split, path in lists.items() if path.exists()}
    if present and "train" not in present:
        raise CaptureError(
            f"{next(iter(present.values()))} declares a split without train views; add train_list.txt beside it, or "
            "remove it."
        )
    declared = {split: path.read_text(encoding="utf-8-sig").splitlines() for split, path in present.items()}
    declared = {split: [entry for entry in entries if entry.strip()] for split, entries in declared.items()}
    for split, entries in declared.items():
        check_names(str(present[split]), entries, names)
    return declared
