"""Photos of a textured corner of a room from known cameras, for structure from motion at toy size."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

SIZE = (320, 240)
FOCAL = 280.0
_ROOM = 4.0
_TEXELS = 512


def textures() -> np.ndarray:
    """One picture for each of three walls, with detail at several scales. [3, T, T, 3]"""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((3, _TEXELS, _TEXELS, 3))
    scales = [gaussian_filter(noise, (0, s, s, 0)) * s for s in (1.5, 4, 12)]
    return (127 + 75 * sum(scales)).clip(0, 255)


def walk(count: int) -> np.ndarray:
    """Poses on an arc before the corner, looking into it. c2w, OpenGL axes. [count, 4, 4]"""
    poses = []
    for k in range(count):
        angle = np.radians(22 + 46 * k / max(1, count - 1))
        centre = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), 1.6 + 0.3 * np.sin(2.0 * k)])
        backward = centre - np.array([0.3, 0.3, 0.9])
        backward /= np.linalg.norm(backward)
        right = np.cross([0.0, 0.0, 1.0], backward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(backward, right), backward, centre], 1)
        poses.append(pose)
    return np.stack(poses)


def photograph(pose: np.ndarray, walls: np.ndarray, size: tuple[int, int] = SIZE, focal: float = FOCAL) -> np.ndarray:
    """What a pinhole camera sees of the walls x = 0, y = 0 and z = 0. uint8 [H, W, 3]"""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    rays = np.stack([x / focal, -y / focal, -np.ones_like(x)], -1) @ pose[:3, :3].T
    centre = pose[:3, 3]
    with np.errstate(divide="ignore"):
        distance = np.where(rays < 0, -centre / rays, np.inf)
    wall = distance.argmin(-1)
    hit = centre + rays * distance.min(-1)[..., None]
    picture = np.zeros((height, width, 3))
    for axis in range(3):
        u, v = (hit[..., k] / _ROOM * _TEXELS for k in range(3) if k != axis)
        for channel in range(3):
            seen = map_coordinates(walls[axis, ..., channel], [u, v], order=1, mode="mirror")
            picture[..., channel] = np.where(wall == axis, seen, picture[..., channel])
    return np.round(picture).astype(np.uint8)


def take_photos(folder: Path, count: int = 12) -> np.ndarray:
    """Write photos of a walk as photo_00.png, ...; returns their poses."""
    folder.mkdir(parents=True)
    walls, poses = textures(), walk(count)
    for k, pose in enumerate(poses):
        Image.fromarray(photograph(pose, walls)).save(folder / f"photo_{k:02d}.png")
    return poses


def take_noise(file: Path, seed: int = 0) -> None:
    """A photo that has features and nothing in common with any other."""
    noise = np.random.default_rng(seed).standard_normal((SIZE[1], SIZE[0], 3))
    Image.fromarray((127 + 150 * gaussian_filter(noise, (2, 2, 0))).clip(0, 255).astype(np.uint8)).save(file)


def film(file: Path, frames: Sequence[np.ndarray], turn: int = 0) -> None:
    """Write frames as a video, stored turned by `turn` degrees counter-clockwise, and tagged to be shown upright."""
    import imageio_ffmpeg
    import torch

    from genfusion_ns.data.media.video_writer import VideoWriter

    stored = [np.rot90(frame, turn // 90) for frame in frames]
    plain = file.with_name(f"plain_{file.name}")
    with VideoWriter(plain, (stored[0].shape[1], stored[0].shape[0]), 10, quality=9) as writer:
        for frame in stored:
            writer.append(torch.from_numpy(frame.astype(np.float32) / 255)[None])
    words = ["-y", "-loglevel", "error", "-display_rotation", str(-turn), "-i", str(plain), "-c", "copy", str(file)]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], check=True)
    plain.unlink()


def poses_in(transforms: Path) -> dict[str, np.ndarray]:
    """Poses of a transforms.json by the stem of the photo."""
    frames = json.loads(transforms.read_text())["frames"]
    return {Path(frame["file_path"]).stem: np.array(frame["transform_matrix"]) for frame in frames}


def pose_errors(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of poses after the similarity that brings their centres together (Umeyama 1991).

    Returns:
        Of the centres, as a share of their mean distance from the middle; of the rotations in degrees.
    """
    a, b = found[:, :3, 3], true[:, :3, 3]
    a0, b0 = a - a.mean(0), b - b.mean(0)
    u, s, vt = np.linalg.svd(b0.T @ a0)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    turn = u @ sign @ vt
    scale = np.trace(np.diag(s) @ sign) / (a0**2).sum()
    spread = np.linalg.norm(b0, axis=1).mean()
    centres = np.linalg.norm(scale * a0 @ turn.T - b0, axis=1) / spread
    rest = np.einsum("ij,njk,nlk->nil", turn, found[:, :3, :3], true[:, :3, :3])
    return centres, np.degrees(np.arccos(((np.trace(rest, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))


class Progress:
    """Notes what is begun; stops the work at a step, as a kill does."""

    def __init__(self, stop_in: str = "", at: int = 0) -> None:
        self.begun: list[str] = []
        self._stop_in, self._at = stop_in, at

    def begin(self, title: str, total: int | None):
        self.begun.append(title)
        count = 0

        def advance() -> None:
            nonlocal count
            count += 1
            if self._stop_in and title.startswith(self._stop_in) and count == self._at:
                raise KeyboardInterrupt

        return advance
