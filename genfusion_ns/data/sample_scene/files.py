"""Writes a photographed sample scene to disk, in nerfstudio's and in COLMAP's layout at once.

The world of ``transforms.json`` and ``sparse_pc.ply`` is the room (z up); the world of ``sparse/0`` is the one that
`nerfstudio.process_data.colmap_utils.colmap_to_json` maps onto it (y down), so that both of nerfstudio's parsers end
up with the same poses: room = APPLIED_TRANSFORM @ colmap.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

APPLIED_TRANSFORM = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""COLMAP world to room, as nerfstudio applies it. [3, 4]"""
_FLIP = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class SurfacePoints:
    """Points on surfaces that at least two views see."""

    xyz: Float[np.ndarray, "P 3"]
    """Metres, in the room."""
    rgb: UInt8[np.ndarray, "P 3"]
    """sRGB."""
    seen: Bool[np.ndarray, "P N"]
    """Which views see which point."""


def frame_name(index: int) -> str:
    """File name of view `index`, counted from 0; sorts in view order."""
    return f"frame_{index + 1:05d}.png"


def write_image(folder: Path, index: int, rgb: Float[np.ndarray, "H W 3"], depth: Float[np.ndarray, "H W"]) -> None:
    """Write one view: the image, the image at half size (area average) and its depth in whole millimetres."""
    full = np.round(rgb * 255).astype(np.uint8)
    height, width = (size // 2 * 2 for size in full.shape[:2])
    half = rgb[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    for name, image in (("images", full), ("images_2", np.round(half * 255).astype(np.uint8))):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / name / frame_name(index))
    (folder / "depths").mkdir(exist_ok=True)
    millimetres = np.clip(np.round(depth * 1000.0), 0, 65535).astype(np.uint16)
    Image.fromarray(millimetres).save(folder / "depths" / frame_name(index))


def write_transforms(
    folder: Path, c2w: Float[np.ndarray, "N 4 4"], K: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> None:
    """Write ``transforms.json``; c2w has OpenGL axes, size is (width, height)."""
    frames = [
        {
            "file_path": f"images/{frame_name(k)}",
            "depth_file_path": f"depths/{frame_name(k)}",
            "transform_matrix": pose.tolist(),
        }
        for k, pose in enumerate(c2w)
    ]
    meta = {
        "camera_model": "OPENCV",
        "w": size[0],
        "h": size[1],
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "applied_transform": APPLIED_TRANSFORM.tolist(),
        "ply_file_path": "sparse_pc.ply",
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def pixels_of(
    xyz: Float[np.ndarray, "P 3"], c2w: Float[np.ndarray, "4 4"], K: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "P 2"], Float[np.ndarray, " P"]]:
    """Pixel coordinates and z depth of points in a camera with OpenGL axes."""
    camera = (xyz - c2w[:3, 3]) @ c2w[:3, :3] @ _FLIP
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = camera[:, :2] / camera[:, 2:] * np.diag(K)[:2] + K[:2, 2]
    return pixels, camera[:, 2]


def write_colmap(
    folder: Path,
    c2w: Float[np.ndarray, "N 4 4"],
    K: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    points: SurfacePoints,
) -> None:
    """Write a COLMAP model (``cameras.bin``, ``images.bin``, ``points3D.bin``) with one PINHOLE camera and tracks."""
    from nerfstudio.data.utils import colmap_parsing_utils as colmap  # not for --help

    to_colmap = APPLIED_TRANSFORM[:, :3].T
    cameras = {1: colmap.Camera(1, "PINHOLE", *size, np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]]))}
    images = {}
    slots = np.cumsum(points.seen, axis=0) - 1
    for k, pose in enumerate(c2w):
        rotation = _FLIP @ pose[:3, :3].T @ to_colmap.T
        seen = np.flatnonzero(points.seen[:, k])
        pixels, _ = pixels_of(points.xyz[seen], pose, K)
        translation = -rotation @ (to_colmap @ pose[:3, 3])
        images[k + 1] = colmap.Image(
            k + 1, colmap.rotmat2qvec(rotation), translation, 1, frame_name(k), pixels, (seen + 1).tolist()
        )
    tracks = {}
    for p, (xyz, rgb) in enumerate(zip(points.xyz @ to_colmap.T, points.rgb, strict=True)):
        views = np.flatnonzero(points.seen[p])
        tracks[p + 1] = colmap.Point3D(p + 1, xyz, rgb, 0.0, views + 1, slots[p, views])
    folder.mkdir(parents=True)
    colmap.write_model(cameras, images, tracks, str(folder))


def spread_views(c2w: Float[np.ndarray, "N 4 4"], count: int, candidates: Int[np.ndarray, " M"]) -> list[int]:
    """`count` candidates that stand for all cameras: medoids of position and viewing direction, sorted.

    Starts from farthest points and then moves each medoid to the middle of its cluster until nothing changes.
    """
    centres = c2w[:, :3, 3] / max(float(c2w[:, :3, 3].std(0).max()), 1e-6)
    features = np.concatenate([centres, -c2w[:, :3, 2]], 1)
    distance = np.linalg.norm(features[:, None] - features[candidates][None], axis=-1)
    among = distance[candidates]
    chosen = [int(np.argmin(among.sum(1)))]
    while len(chosen) < count:
        chosen.append(int(np.argmax(among[:, chosen].min(1))))
    for _ in range(20):
        cluster = np.argmin(distance[:, chosen], axis=1)
        moved = []
        for k in range(count):
            cost = distance[cluster == k].sum(0)
            cost[moved + chosen[k + 1 :]] = np.inf
            moved.append(int(np.argmin(cost)))
        if moved == chosen:
            break
        chosen = moved
    return sorted(int(candidates[k]) for k in chosen)


def write_splits(folder: Path, c2w: Float[np.ndarray, "N 4 4"], sizes: tuple[int, ...]) -> None:
    """Write ``train_test_split_N.json``: every 8th view for testing, N spread views for training, as positions."""
    test = np.arange(0, len(c2w), 8)
    rest = np.setdiff1d(np.arange(len(c2w)), test)
    for size in sizes:
        split = {"test_ids": test.tolist(), "train_ids": spread_views(c2w, size, rest)}
        (folder / f"train_test_split_{size}.json").write_text(json.dumps(split), encoding="utf-8")
