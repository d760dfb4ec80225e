"""Split files, point clouds and settings that cannot be used: named with the flag, the value and what is allowed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_captures import assert_refused, edit_transforms, make_tiny, set_up, tree
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from nerfstudio.plugins.types import MethodSpecification
from plyfile import PlyData, PlyElement
from tiny_capture import APPLIED, TinyCapture, write_colmap, write_ply

from genfusion_ns.data.points.sparse_model import SparseModelError
from genfusion_ns.data.view_selection import SplitError
from genfusion_ns.fusion.finite_settings import require_finite
from genfusion_ns.methods import genfusion, genfusion_completion, genfusion_masked

# ------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"cannot be read as a split file"),
        ("train_ids: [1]", r"cannot be read as a split file"),
        ("[" * 100_000, r"cannot be read as a split file"),
        ('{"train_ids": [' + "1" * 5000 + "]}", r"cannot be read as a split file"),
        ("[1, 2]", r"expected an object with train_ids and test_ids, found a list"),
        ('"all"', r"expected an object .* found a str"),
        ("{}", r"train_ids must be a list of view ids or image names, found nothing; keys: \[\]"),
        ('{"train_ids": {"0": 1}, "test_ids": [0]}', r"train_ids must be a list .* found a dict"),
        ('{"train_ids": null, "test_ids": [0]}', r"train_ids must be a list .* found a NoneType"),
        ('{"train_ids": [], "test_ids": [0]}', r"train_ids has 0 view\(s\), at least 2 are needed. Allowed: 0\.\.5"),
        ('{"train_ids": [1, 2], "test_ids": []}', r"test_ids is empty, at least 1"),
        ('{"train_ids": [1, -2], "test_ids": [0]}', r"train_ids\[1\] = -2 is out of range. Allowed: 0\.\.5"),
        ('{"train_ids": [1, 6], "test_ids": [0]}', r"train_ids\[1\] = 6 is out of range.*list image names instead"),
        ('{"train_ids": [1, 1e400], "test_ids": [0]}', r"train_ids\[1\] = inf is a float"),
        ('{"train_ids": [1, 2.0], "test_ids": [0]}', r"train_ids\[1\] = 2.0 is a float, neither a view id nor"),
        ('{"train_ids": [1, true], "test_ids": [0]}', r"train_ids\[1\] = True is a bool"),
        ('{"train_ids": [1, [2]], "test_ids": [0]}', r"train_ids\[1\] = \[2\] is a list"),
        ('{"train_ids": [1, "cat.png"], "test_ids": [0]}', r"'cat.png' is no registered image. Allowed: 0\.\.5"),
        ('{"train_ids": [1, ""], "test_ids": [0]}', r"train_ids\[1\] = '' is no registered image"),
        ('{"train_ids": [1, 2, 2], "test_ids": [0]}', r"train_ids\[2\] = 2 repeats view 2 \(view_02.png\)"),
        (
            '{"train_ids": [1, 2], "test_ids": ["view_01"]}',
            r"view 1 \(view_01.png\) is in both.*must not be trained on",
        ),
    ],
)
def test_split_files(tiny: TinyCapture, content: str, said: str) -> None:
    path = tiny.folder / "mine.json"
    path.write_text(content)
    before = tree(tiny.folder)
    with pytest.raises(SplitError, match=said) as caught:
        set_up(tiny.folder, split_file=Path("mine.json"))
    assert str(path) in str(caught.value)
    assert tree(tiny.folder) == before


def test_a_split_file_that_is_not_there(tiny: TinyCapture) -> None:
    (tiny.folder / "train_test_split_3.json").write_text("{}")
    said = (
        r"--pipeline.datamanager.split-file gone.json does not exist \(looked for .*\). Split files beside "
        r".*train_test_split_3.json"
    )
    with pytest.raises(SplitError, match=said):
        set_up(tiny.folder, split_file=Path("gone.json"))


def test_a_published_split_that_is_not_what_its_name_says(tiny: TinyCapture) -> None:
    (tiny.folder / "train_test_split_3.json").write_text(json.dumps({"train_ids": [1, 2], "test_ids": [0]}))
    with pytest.raises(SplitError, match=r"train_ids has 2 views, its name promises 3. Rename the file"):
        set_up(tiny.folder, num_views=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"num_views": -3},
            r"--pipeline.datamanager.num-views is -3; allowed are 2\.\.5 \(5 views remain beside 1 test views"
            r".*or 0 for all",
        ),
        ({"num_views": 1}, r"--pipeline.datamanager.num-views is 1; allowed are 2\.\.5"),
        ({"num_views": 10**12}, r"--pipeline.datamanager.num-views is 1000000000000; allowed are 2\.\.5"),
        ({"test_every": 1}, r"--pipeline.datamanager.test-every is 1; it must be 2 or more"),
        ({"test_every": -8}, r"--pipeline.datamanager.test-every is -8; it must be 2 or more"),
    ],
)
def test_numbers_of_views(tiny: TinyCapture, options: dict[str, int], said: str) -> None:
    with pytest.raises(SplitError, match=said):
        set_up(tiny.folder, **options)


def test_a_number_of_seed_points_below_0(tiny: TinyCapture) -> None:
    with pytest.raises(ValueError, match=r"--pipeline.datamanager.min-seed-points is -4; allowed are numbers of 0 or"):
        set_up(tiny.folder, min_seed_points=-4)


# ------------------------------------------------------------------------------------------------ points


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_random_points": -1}, r"num-random-points is -1; allowed are 0\.\.10000000, 10000 is usual"),
        ({"num_random_points": 10**11}, r"num-random-points is 100000000000; allowed are"),
        ({"num_random_points": 0, "seed_points": "random"}, r"no points to start from .*num-random-points is 0; 10000"),
    ],
)
def test_numbers_of_points(tiny: TinyCapture, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        set_up(tiny.folder, **options)


def test_no_points_are_replaced_by_random_ones_and_said_so(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path)
    (tmp_path / "sparse_pc.ply").unlink()
    edit_transforms(tmp_path, lambda content: {k: v for k, v in content.items() if k != "ply_file_path"})
    manager = set_up(tmp_path, num_random_points=50)
    assert (manager.seeds.kind, len(manager.seeds.xyz)) == ("random", 50)
    assert "no COLMAP model or point cloud beside the data, fewer than 100, so 50 random ones" in manager.seeds.source
    assert torch.isfinite(manager.seeds.xyz).all()
    write_ply(tmp_path / "sparse_pc.ply", tiny.points[:0], tiny.rgb[:0])
    manager = set_up(tmp_path, num_random_points=50)
    assert (manager.seeds.kind, len(manager.seeds.xyz)) == ("random", 50)
    assert manager.seeds.source.startswith("sparse_pc.ply is empty, fewer than 100")


def test_a_point_cloud_that_is_named_but_missing(tiny: TinyCapture) -> None:
    (tiny.folder / "sparse_pc.ply").unlink()
    assert_refused(tiny.folder, SparseModelError, r"sparse_pc.ply, named as the capture's point cloud, does not exist")


def table(**columns: str) -> bytes:
    rows = np.zeros(5, dtype=list(columns.items()))
    return PlyData([PlyElement.describe(rows, "vertex")]).header.encode() + b"\n" + rows.tobytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"sparse_pc.ply cannot be read as a PLY point cloud"),
        (b"not a cloud", r"sparse_pc.ply cannot be read as a PLY point cloud"),
        (table(x="f4", y="f4", z="f4")[:-9], r"sparse_pc.ply cannot be read as a PLY point cloud: .*early end-of-file"),
        (table(x="f4", y="f4"), r"vertices have the properties \['x', 'y'\]; x, y and z are needed"),
        (table(nx="f4", ny="f4", nz="f4"), r"vertices have the properties \['nx', 'ny', 'nz'\]"),
        (
            b"ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n3 0 1 2\n",
            r"sparse_pc.ply cannot be read as a PLY point cloud",
        ),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar float x\nproperty float y\n"
            b"property float z\nend_header\n2 1 2 0 0\n",
            r"x, y and z must be numbers, one per vertex",
        ),
    ],
    ids=["empty", "text", "cut", "two-columns", "normals", "faces", "lists"],
)
def test_point_clouds(tiny: TinyCapture, content: bytes, said: str) -> None:
    (tiny.folder / "sparse_pc.ply").write_bytes(content)
    assert_refused(tiny.folder, SparseModelError, said)


def test_points_that_are_not_finite_are_left_out_and_said_so(tiny: TinyCapture) -> None:
    xyz = tiny.points @ APPLIED[:, :3].T
    xyz[:4] = [[np.nan, 0, 0], [0, np.inf, 0], [0, 0, -np.inf], [1e30, 0, 0]]
    write_ply(tiny.folder / "sparse_pc.ply", xyz, tiny.rgb)
    damaged = set_up(tiny.folder, min_seed_points=1).seeds
    assert damaged.source.startswith("sparse_pc.ply without 4 points that are NaN or infinitely far, ")
    write_ply(tiny.folder / "sparse_pc.ply", xyz[4:], tiny.rgb[4:])
    clean = set_up(tiny.folder, min_seed_points=1).seeds
    assert torch.equal(damaged.xyz, clean.xyz) and torch.equal(damaged.rgb, clean.rgb)


def test_tracks_follow_when_points_are_left_out(tiny: TinyCapture) -> None:
    write_colmap(tiny)
    parser = ColmapDataParserConfig(downscale_factor=1)
    options = {"num_views": 2, "min_seed_points": 1, "seed_points": "strict"}
    before = set_up(tiny.folder, parser, **options).seeds
    path = tiny.folder / "sparse/0/points3D.bin"
    points = colmap.read_points3D_binary(path)
    points[3] = points[3]._replace(xyz=np.full(3, np.nan))
    points[40] = points[40]._replace(xyz=np.full(3, np.inf))
    colmap.write_points3D_binary(points, path)
    after = set_up(tiny.folder, parser, **options).seeds
    assert "without 2 points" in after.source
    expected = {tuple(row) for row in before.rgb.tolist()} - {tuple(points[i].rgb.tolist()) for i in (3, 40)}
    assert {tuple(row) for row in after.rgb.tolist()} == expected
    assert len(after.xyz) == len(before.xyz) - sum(tiny.seen[[1, 5], i].all() for i in (2, 39))


@pytest.mark.parametrize("size", [0, 6, 100, -5])
def test_points_that_are_cut_off(tiny: TinyCapture, size: int) -> None:
    write_colmap(tiny)
    path = tiny.folder / "sparse/0/points3D.bin"
    path.write_bytes(path.read_bytes()[:size])
    said = r"points3D.bin cannot be read as a COLMAP model: .*It may be cut off: copy it again, or remove it"
    assert_refused(tiny.folder, SparseModelError, said, ColmapDataParserConfig(downscale_factor=1))


def test_a_track_length_that_no_memory_holds(tiny: TinyCapture) -> None:
    write_colmap(tiny)
    path = tiny.folder / "sparse/0/points3D.bin"
    content = bytearray(path.read_bytes())
    content[8 + 43 : 8 + 51] = b"\xff" * 8  # of the first point
    path.write_bytes(content)
    assert_refused(tiny.folder, SparseModelError, r"points3D.bin cannot be read", ColmapDataParserConfig())


@pytest.mark.parametrize("method", [genfusion, genfusion_masked, genfusion_completion])
def test_numbers_that_are_none(method: MethodSpecification) -> None:
    config = copy.deepcopy(method.config).pipeline
    require_finite(config, "--pipeline")
    for part, name in (("model", "near_plane"), ("fusion", "weight"), ("fusion.sampler", "max_tilt")):
        holder = config
        for key in part.split("."):
            holder = getattr(holder, key)
        if not hasattr(holder, name):
            continue
        for value in (float("nan"), float("inf")):
            before = getattr(holder, name)
            setattr(holder, name, value)
            with pytest.raises(ValueError, match=rf"--pipeline.{part}.{name.replace('_', '-')} is {value}; a finite"):
                require_finite(config, "--pipeline")
            setattr(holder, name, before)
