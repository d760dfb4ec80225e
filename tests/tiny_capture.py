"""A capture of a dozen small images on a ring around known points, in the layouts of nerfstudio, COLMAP and Blender."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from PIL import Image
from plyfile import PlyData, PlyElement

WIDTH, HEIGHT, FOCAL = 32, 24, 30.0
FLIP = np.diag([1.0, -1.0, -1.0])
APPLIED = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
"""COLMAP world to the world of transforms.json, as ns-process-data writes it."""


@dataclass
class TinyCapture:
    """What the files say, in the COLMAP world."""

    folder: Path
    names: list[str]
    w2c: np.ndarray
    """[V, 4, 4], OpenCV axes."""
    points: np.ndarray
    """[M, 3]"""
    rgb: np.ndarray
    seen: np.ndarray
    """[V, M]: the point is in the image, in front."""

    def pixels(self, view: int) -> np.ndarray:
        """Pixels of all points in one view. [M, 2]"""
        camera = self.points @ self.w2c[view, :3, :3].T + self.w2c[view, :3, 3]
        return FOCAL * camera[:, :2] / camera[:, 2:] + np.array([WIDTH / 2, HEIGHT / 2])

    def color(self, view: int) -> tuple[int, int, int]:
        """The one colour of an image, different for every view."""
        return 20 * view + 5, 255 - 20 * view, 128


def make_capture(folder: Path, num_views: int = 12, num_points: int = 240, seed: int = 0) -> TinyCapture:
    """Points in a slab that is wider than any view, cameras on three quarters of a ring; writes the images."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 1.5 * np.pi, num_views)
    middle = np.array([0.5, 0.2, 3.0])
    centers = middle + np.stack([4 * np.cos(angles), 0.3 * np.sin(3 * angles), 4 * np.sin(angles)], axis=1)
    w2c = np.stack([_look_at(center, middle + rng.normal(0, 0.3, 3)) for center in centers])
    points = middle + rng.uniform(-3, 3, (num_points, 3)) * [1, 0.6, 1]
    camera = np.einsum("vij,mj->vmi", w2c[:, :3, :3], points) + w2c[:, None, :3, 3]
    pixels = FOCAL * camera[..., :2] / camera[..., 2:] + np.array([WIDTH / 2, HEIGHT / 2])
    seen = ((pixels > 0) & (pixels < [WIDTH, HEIGHT])).all(-1) & (camera[..., 2] > 0)
    capture = TinyCapture(
        folder=folder,
        names=[f"view_{i:02d}.png" for i in range(num_views)],
        w2c=w2c,
        points=points,
        rgb=rng.integers(0, 256, (num_points, 3), dtype=np.uint8),
        seen=seen,
    )
    (folder / "images").mkdir(parents=True)
    for i, name in enumerate(capture.names):
        Image.new("RGB", (WIDTH, HEIGHT), capture.color(i)).save(folder / "images" / name)
    return capture


def write_transforms(capture: TinyCapture, ply: bool = True, **extra: object) -> None:
    """transforms.json in shuffled order, and the points as a PLY file in its world."""
    order = np.random.default_rng(1).permutation(len(capture.names))
    content = {
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": FOCAL,
        "fl_y": FOCAL,
        "cx": WIDTH / 2,
        "cy": HEIGHT / 2,
        "camera_model": "OPENCV",
        "applied_transform": APPLIED.tolist(),
        "frames": [
            {"file_path": f"images/{capture.names[i]}", "transform_matrix": _saved_pose(capture, i)} for i in order
        ],
        **extra,
    }
    if ply:
        content["ply_file_path"] = "sparse_pc.ply"
        write_ply(capture.folder / "sparse_pc.ply", capture.points @ APPLIED[:, :3].T, capture.rgb)
    (capture.folder / "transforms.json").write_text(json.dumps(content))


def write_blender(capture: TinyCapture, train: list[int], test: list[int]) -> None:
    """transforms_train.json and transforms_test.json with their RGBA images; the Blender world is the COLMAP world."""
    for split, ids in (("train", train), ("test", test)):
        (capture.folder / split).mkdir()
        frames = []
        for n, i in enumerate(ids):
            Image.new("RGBA", (WIDTH, HEIGHT), (*capture.color(i), 0)).save(capture.folder / split / f"r_{n}.png")
            c2w = np.linalg.inv(capture.w2c[i])
            c2w[:3, :3] = c2w[:3, :3] @ FLIP
            frames.append({"file_path": f"./{split}/r_{n}", "transform_matrix": c2w.tolist()})
        content = {"camera_angle_x": 2 * np.arctan(0.5 * WIDTH / FOCAL), "frames": frames}
        (capture.folder / f"transforms_{split}.json").write_text(json.dumps(content))


def write_colmap(capture: TinyCapture, folder: str = "sparse/0", ext: str = ".bin") -> None:
    """A COLMAP model with tracks, image ids in reverse order of the names, and gaps between them."""
    path = capture.folder / folder
    path.mkdir(parents=True)
    params = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    cameras = {1: colmap.Camera(1, "PINHOLE", WIDTH, HEIGHT, params)}
    count = len(capture.names)
    image_ids = [3 * (count - i) for i in range(count)]
    images = {}
    for i in sorted(range(count), reverse=True):
        seen = np.flatnonzero(capture.seen[i])
        images[image_ids[i]] = colmap.Image(
            image_ids[i],
            colmap.rotmat2qvec(capture.w2c[i, :3, :3]),
            capture.w2c[i, :3, 3],
            1,
            capture.names[i],
            capture.pixels(i)[seen],
            seen + 1,
        )
    points = {}
    for p in range(len(capture.points)):
        views = [i for i in range(count) if capture.seen[i, p]]
        slots = [int(capture.seen[i, :p].sum()) for i in views]
        points[p + 1] = colmap.Point3D(
            p + 1, capture.points[p], capture.rgb[p], 0.5, np.array([image_ids[i] for i in views]), np.array(slots)
        )
    colmap.write_model(cameras, images, points, str(path), ext)


def write_ply(path: Path, xyz: np.ndarray, rgb: np.ndarray | None) -> None:
    """A binary PLY point cloud, with colours or without."""
    columns = [(axis, "f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue") if rgb is not None]
    table = np.zeros(len(xyz), dtype=columns)
    for k, axis in enumerate("xyz"):
        table[axis] = xyz[:, k]
    for k, channel in enumerate(("red", "green", "blue")):
        if rgb is not None:
            table[channel] = rgb[:, k]
    PlyData([PlyElement.describe(table, "vertex")]).write(str(path))


def _look_at(center: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ center
    return pose


def _saved_pose(capture: TinyCapture, view: int) -> list[list[float]]:
    c2w = np.linalg.inv(capture.w2c[view])
    c2w[:3, :3] = c2w[:3, :3] @ FLIP
    return (np.vstack([APPLIED, [0, 0, 0, 1]]) @ c2w).tolist()
