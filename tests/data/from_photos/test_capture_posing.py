"""Captures from photos end to end: poses, files, reruns, and what is said of photos left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from broken_captures import set_up, tree
from conftest import MadeOnce
from photo_walks import (
    FOCAL,
    SIZE,
    Progress,
    film,
    photograph,
    pose_errors,
    poses_in,
    take_noise,
    take_photos,
    textures,
    walk,
)
from PIL import Image

pytest.importorskip("pycolmap", reason="the extra `capture` is not installed: pycolmap")

from genfusion_ns.data.from_photos.capture import CaptureReport, make_capture
from genfusion_ns.data.from_photos.matching import evidence, opened
from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings

SETTINGS = CaptureFromPhotosSettings(features=1000)
COUNT = 12


def make(inputs: list[Path], out: Path, progress: Progress | None = None, **settings: object) -> CaptureReport:
    chosen = CaptureFromPhotosSettings(**{"features": 1000, **settings})
    return make_capture(inputs, out, chosen, (progress or Progress()).begin)


@pytest.fixture(scope="session")
def photos(made_once: MadeOnce) -> Path:
    """Twelve photos of a walk, one of something else, and one that is cut off; to read only."""

    def take(folder: Path) -> None:
        take_photos(folder, COUNT)
        take_noise(folder / "stranger.png")
        (folder / "cut.png").write_bytes((folder / "photo_00.png").read_bytes()[:2000])

    return made_once("walk", take)


@pytest.fixture(scope="session")
def posed(made_once: MadeOnce, photos: Path) -> Path:
    """The capture made of them; to read only."""

    def pose(folder: Path) -> None:
        report = make([photos], folder)
        (folder.with_name("posed_report.json")).write_text(json.dumps(report.left_out))

    return made_once("posed", pose)


def test_poses_are_those_of_the_cameras(posed: Path) -> None:
    found = poses_in(posed / "transforms.json")
    assert sorted(found) == [f"photo_{k:02d}" for k in range(COUNT)]
    centres, turns = pose_errors(np.stack([found[name] for name in sorted(found)]), walk(COUNT))
    assert centres.max() < 0.01
    assert turns.max() < 1
    content = json.loads((posed / "transforms.json").read_text())
    assert (content["w"], content["h"]) == SIZE
    assert content["fl_x"] == pytest.approx(FOCAL, rel=0.03)


def test_photos_left_out_are_named_with_the_reason(posed: Path, photos: Path) -> None:
    left_out = dict(json.loads(posed.with_name("posed_report.json").read_text()))
    assert left_out.keys() == {str(photos / "stranger.png"), str(photos / "cut.png")}
    assert left_out[str(photos / "stranger.png")] == "shows nothing that another photo shows"
    assert "damaged or cut off" in left_out[str(photos / "cut.png")]


def test_the_capture_has_the_files_of_ns_process_data(posed: Path) -> None:
    for factor, folder in ((1, "images"), (2, "images_2"), (4, "images_4"), (8, "images_8")):
        sizes = {Image.open(file).size for file in (posed / folder).iterdir()}
        assert sizes == {(SIZE[0] // factor, SIZE[1] // factor)}
        assert len(list((posed / folder).iterdir())) == COUNT
    assert {"cameras.bin", "images.bin", "points3D.bin"} <= {f.name for f in (posed / "colmap/sparse/0").iterdir()}


def test_the_data_manager_starts_from_its_points(posed: Path) -> None:
    manager = set_up(posed)
    assert manager.seeds.kind == "visible"
    assert len(manager.seeds.xyz) > 200


def test_points_lie_on_the_walls(posed: Path) -> None:
    """transforms.json, sparse_pc.ply and COLMAP's model are of one world: points project to where photos see them."""
    from genfusion_ns.data.points.sparse_model import read_colmap_model, read_ply_model

    model = read_colmap_model(posed / "colmap/sparse/0")
    cloud = read_ply_model(posed / "sparse_pc.ply", [posed / "transforms.json"])
    assert len(cloud.xyz) == len(model.xyz)
    places = {Path(name).name: pose for name, pose in zip(cloud.names, cloud.c2w, strict=True)}
    for name, pose in zip(model.names, model.c2w, strict=True):
        rows = slice(0, 50)
        in_model = (model.xyz[rows] - pose[:3, 3]) @ pose[:3, :3]
        in_cloud = (cloud.xyz[rows] - places[name][:3, 3]) @ places[name][:3, :3]
        np.testing.assert_allclose(in_model, in_cloud, rtol=1e-4, atol=1e-4)


def test_a_rerun_does_nothing_again(posed: Path, photos: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(posed, again)
    before, progress = tree(again), Progress()
    report = make([photos], again, progress)
    assert progress.begun == []
    assert report.registered == COUNT
    assert {name: data for name, data in tree(again).items() if ".db" not in name} == {
        name: data for name, data in before.items() if ".db" not in name
    }


def test_other_settings_redo_what_they_change(posed: Path, photos: Path, tmp_path: Path) -> None:
    again, progress = tmp_path / "again", Progress()
    shutil.copytree(posed, again)
    make([photos], again, progress, undistort=True)
    assert progress.begun == ["images of other sizes"]
    content = json.loads((again / "transforms.json").read_text())
    assert all(content[key] == 0 for key in ("k1", "k2", "p1", "p2"))
    assert Image.open(again / "images" / "photo_00.png").size == (content["w"], content["h"])


@pytest.mark.parametrize(("stage", "at"), [("photos of", 3), ("matches", 51), ("images of", 4)])
def test_a_killed_run_goes_on(stage: str, at: int, photos: Path, posed: Path, tmp_path: Path) -> None:
    out, few = tmp_path / "out", tmp_path / "few"
    few.mkdir()
    for k in range(COUNT):
        shutil.copy(photos / f"photo_{k:02d}.png", few)
    with pytest.raises(KeyboardInterrupt):
        make([few], out, Progress(stage, at), features=500)
    assert not (out / "transforms.json").exists()
    assert not (out / "images").exists()
    matched = evidence(out / ".capture" / "database.db").pairs if stage == "matches" else {}
    progress = Progress()
    assert make([few], out, progress, features=500).registered == COUNT
    assert any(title.startswith(stage) for title in progress.begun)
    assert ("features" in progress.begun) == (stage == "photos of")
    assert len(list((out / "images").iterdir())) == COUNT
    now = evidence(out / ".capture" / "database.db").pairs
    assert matched.items() <= now.items(), "pairs that were matched are not matched again"


def test_masks_keep_features_out_and_are_declared(photos: Path, tmp_path: Path) -> None:
    few, mask = tmp_path / "few", tmp_path / "mask.png"
    few.mkdir()
    for k in range(6):
        shutil.copy(photos / f"photo_{k:02d}.png", few)
    seen = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    seen[:, -80:] = 0
    Image.fromarray(seen).save(mask)
    make([few], tmp_path / "out", masks=mask, undistort=True)
    with opened(tmp_path / "out" / ".capture" / "database.db") as database:
        places = [np.asarray(database.read_keypoints(i.image_id).data)[:, 0] for i in database.read_all_images()]
    assert max(x.max() for x in places) < SIZE[0] - 79
    frames = json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"]
    for frame in frames:
        hidden = np.asarray(Image.open(tmp_path / "out" / frame["mask_path"])) == 0
        assert hidden.shape == np.asarray(Image.open(tmp_path / "out" / frame["file_path"])).shape[:2]
        assert 0.15 < hidden.mean() < 0.35


def test_a_turned_video_and_photos_make_one_capture(tmp_path: Path) -> None:
    walls, poses = textures(), walk(24)
    film(tmp_path / "clip.mp4", [photograph(pose, walls) for pose in poses], turn=90)
    (tmp_path / "stills").mkdir()
    for k in (3, 12):
        Image.fromarray(photograph(poses[k], walls)).save(tmp_path / "stills" / f"still_{k}.png")
    report = make([tmp_path / "clip.mp4", tmp_path / "stills"], tmp_path / "out", frames=8)
    assert report.registered == report.photos == 10
    found = poses_in(tmp_path / "out" / "transforms.json")
    numbers = [int(name.rsplit("_", 1)[1]) - (1 if "frame" in name else 0) for name in found]
    assert all(name.startswith(("clip_frame_", "stills_still_")) for name in found)
    centres, turns = pose_errors(np.stack(list(found.values())), poses[numbers])
    assert centres.max() < 0.03
    assert turns.max() < 1
    frames = json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"]
    assert len({frame["fl_x"] for frame in frames}) == 2, "one camera for each input"
