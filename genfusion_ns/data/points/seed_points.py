"""Seed points for the surfels: the sparse points that train views see, and random ones where there are none.

Structure from motion is usually run on all images, so its points carry knowledge of the held-out views. Only points
that train views observe are used here (GenFusion filters by visibility too, and its published numbers do).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from genfusion_ns.data.captures.checks.colmap import COLMAP_FOLDERS
from genfusion_ns.data.points.random_points import random_points_in_view, views_seeing
from genfusion_ns.data.points.similarity import AlignmentError, fit_similarity
from genfusion_ns.data.points.sparse_model import (
    SparseModel,
    SparseModelError,
    SparseSources,
    read_colmap_model,
    read_ply_model,
    without_invalid_points,
)
from genfusion_ns.data.seen_parts import SeenParts
from genfusion_ns.data.view_selection import NameIndex

SeedPointsKind = Literal["visible", "strict", "random"]

_NEEDED_VIEWS = {"visible": 1, "strict": 2}
_MOST_RANDOM = 10_000_000


@dataclass(frozen=True)
class SeedPoints:
    """Points to start surfels from, in the frame of the dataparser's cameras."""

    xyz: Float[Tensor, "M 3"]
    """Positions in scene units."""
    rgb: UInt8[Tensor, "M 3"]
    """Colours, 0..255."""
    kind: str
    """`visible`, `strict` or `random`, with `+random` when there were too few; written to the log and the results."""
    source: str
    """Where they come from, for the log."""
    normals: Float[Tensor, "M 3"] | None = None
    """Normals of the surface that all of them lie on, of length 1, where the capture says that they do."""
    seen_by: Bool[Tensor, "V M"] | None = None
    """Which train view sees which point, in the order of the train views; None where the file does not say."""
    num_random: int = 0
    """How many of them, the last ones, were drawn at random."""

    @property
    def sparse(self) -> tuple[Float[Tensor, "S 3"], Bool[Tensor, "V S"] | None]:
        """Positions of those that are not random, and which train view sees which, as far as that is known."""
        count = len(self.xyz) - self.num_random
        return self.xyz[:count], None if self.seen_by is None else self.seen_by[:, :count]


def make_seed_points(
    kind: SeedPointsKind,
    sources: SparseSources,
    names: Sequence[str],
    cameras: Cameras,
    train_ids: Sequence[int],
    *,
    num_random: int,
    min_points: int,
    generator: torch.Generator,
    parts: SeenParts | None = None,
    on_surface: bool = False,
) -> SeedPoints:
    """Choose the seed points of a capture.

    A point is seen by a view when its track says so. Without tracks (a PLY file alone) it is seen when it projects
    into the image in front of the camera, which ignores occlusion and so keeps more.

    Even so the positions and colours of the points that remain were estimated with the help of all views.

    Args:
        kind: `visible`: points seen by at least one train view; `strict`: by two or more, so that train views alone
            could have triangulated them; `random`: none, only random ones.
        sources: where the capture's points are.
        names: image names of all registered views; index = view id.
        cameras: cameras of all registered views, normalised. [V]
        train_ids: ids of the train views.
        num_random: random points to add when there are too few, see `random_points_in_view`.
        min_points: fewer points than this are too few.
        generator: source of the random points.
        parts: what the run may see of each train view; a view sees a point only inside it.
        on_surface: the capture says that its points lie on the surface, so that their normals count.

    Raises:
        SparseModelError: the capture's point file is corrupt.
        ValueError: a number of points that cannot be drawn, or no point at all.
    """
    if not 0 <= num_random <= _MOST_RANDOM:
        raise ValueError(
            f"--pipeline.datamanager.num-random-points is {num_random}; allowed are 0..{_MOST_RANDOM}, 10000 is usual."
        )
    train_cameras = parts.cameras if parts else cameras[torch.tensor(train_ids, dtype=torch.long)]
    xyz, rgb, source = torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8), "no sparse points read"
    normals: Tensor | None = None
    seen_by: Tensor | None = None
    if kind != "random":
        model, source = _find_model(sources, names, cameras)
        if model is not None:
            seen = _sight(model, names, train_cameras, train_ids, parts)
            enough = seen.sum(0) >= _NEEDED_VIEWS[kind]
            xyz, rgb = torch.from_numpy(model.xyz[enough]).float(), torch.from_numpy(model.rgb[enough])
            normals = _usable_normals(model, enough) if on_surface else None
            seen_by = None if model.tracks is None else torch.from_numpy(seen[:, enough])
            source = f"{source}, {len(xyz)} of {len(model.xyz)} points"
    if len(xyz) >= min_points:
        return SeedPoints(xyz, rgb, kind, source, normals, seen_by)
    if len(xyz) + num_random == 0:
        raise ValueError(
            f"There are no points to start from ({source}) and --pipeline.datamanager.num-random-points is 0; "
            "10000 is usual."
        )
    extra = random_points_in_view(train_cameras, num_random, generator, xyz, parts.masks if parts else None)
    grey = torch.full((len(extra), 3), 128, dtype=torch.uint8)
    if kind != "random":
        source += f", fewer than {min_points}, so {len(extra)} random ones in view of the train cameras are added"
    mixed = f"{kind}+random" if len(xyz) else "random"
    if seen_by is not None:
        seen_by = torch.cat([seen_by, seen_by.new_zeros(len(seen_by), len(extra))], dim=1)
    return SeedPoints(
        torch.cat([xyz, extra]), torch.cat([rgb, grey]), mixed, source, seen_by=seen_by, num_random=len(extra)
    )


def _find_model(sources: SparseSources, names: Sequence[str], cameras: Cameras) -> tuple[SparseModel | None, str]:
    """The first sparse model that fits the cameras, moved into their frame, and a sentence about it."""
    rejected: list[str] = []
    for path, read in _candidates(sources):
        read_model = read()
        model = without_invalid_points(read_model)
        label = (path.relative_to(sources.data_dir) if path.is_relative_to(sources.data_dir) else path).as_posix()
        dropped = len(read_model.xyz) - len(model.xyz)
        if dropped:
            label += f" without {dropped} points that are NaN or infinitely far"
        if len(model.xyz) == 0:
            rejected.append(f"{label} is empty")
            continue
        try:
            return _into_camera_frame(model, names, cameras), label
        except AlignmentError as error:
            rejected.append(f"{label} is not used: {error}")
    return None, "; ".join(rejected) or "no COLMAP model or point cloud beside the data"


def _candidates(sources: SparseSources) -> list[tuple[Path, Callable[[], SparseModel]]]:
    folder = sources.data_dir
    colmap_folders = [folder / path for path in dict.fromkeys(filter(None, (sources.colmap_path, *COLMAP_FOLDERS)))]
    models: list[tuple[Path, Callable[[], SparseModel]]] = [
        (path, lambda path=path: read_colmap_model(path))
        for path in colmap_folders
        if any((path / f"points3D.{ext}").exists() for ext in ("bin", "txt"))
    ]
    ply = folder / (sources.ply_path or "sparse_pc.ply")
    if sources.ply_path is not None and not ply.exists():
        raise SparseModelError(f"{ply}, named as the capture's point cloud, does not exist; add it or remove its name.")
    clouds: list[tuple[Path, Callable[[], SparseModel]]] = []
    if ply.exists() and sources.pose_files:
        clouds = [(ply, lambda: read_ply_model(ply, sources.pose_files))]
    return clouds + models if sources.prefer_ply else models + clouds


def _into_camera_frame(model: SparseModel, names: Sequence[str], cameras: Cameras) -> SparseModel:
    pairs = _pair_cameras(model, names)
    if len(pairs) < 2:
        raise AlignmentError(f"it shares {len(pairs)} image name(s) with the capture, 2 are needed")
    poses = cameras.camera_to_worlds.double().cpu().numpy()
    ours, theirs = list(pairs.values()), list(pairs.keys())
    fit = fit_similarity(model.c2w[theirs], poses[ours])
    normals = None if model.normals is None else model.normals @ fit.rotation.T
    return replace(model, xyz=fit.apply(model.xyz), normals=normals)


def _usable_normals(model: SparseModel, chosen: np.ndarray) -> Float[Tensor, "M 3"] | None:
    """Normals of some points, of length 1; None unless all of them have one."""
    if model.normals is None:
        return None
    normals = torch.from_numpy(model.normals[chosen]).float()
    length = normals.norm(dim=-1, keepdim=True)
    return normals / length if bool((torch.isfinite(length) & (length > 1e-6)).all()) else None


def _pair_cameras(model: SparseModel, names: Sequence[str]) -> dict[int, int]:
    """Position in the model -> view id, for the images that both know, by name."""
    index = NameIndex(names)
    found = {camera: index.find(name) for camera, name in enumerate(model.names)}
    return {camera: views[0] for camera, views in found.items() if len(views) == 1}


def _sight(
    model: SparseModel,
    names: Sequence[str],
    train_cameras: Cameras,
    train_ids: Sequence[int],
    parts: SeenParts | None,
) -> Bool[np.ndarray, "V M"]:
    """Which train view sees which point; without tracks, into which it projects."""
    inside = None
    if parts is not None or model.tracks is None:
        masks = parts.masks if parts else None
        inside = views_seeing(train_cameras, torch.from_numpy(model.xyz).float(), masks=masks).numpy()
        if model.tracks is None:
            return inside
    view_of_camera = _pair_cameras(model, names)
    position = {view: i for i, view in enumerate(train_ids)}
    row = np.array([position.get(view_of_camera.get(c, -1), -1) for c in range(len(model.names))], dtype=np.int64)
    points, cameras = model.tracks[row[model.tracks[:, 1]] >= 0].T
    seen = np.zeros((len(train_ids), len(model.xyz)), dtype=bool)
    seen[row[cameras], points] = True
    return seen if inside is None else seen & inside
