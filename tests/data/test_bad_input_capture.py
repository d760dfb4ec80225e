"""Captures with wrong camera files: each is refused at once, with the file, what is wrong and the way out."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from broken_captures import COLMAP, assert_refused, edited, make_tiny, set_up
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.sdfstudio_dataparser import SDFStudioDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from tiny_capture import HEIGHT, WIDTH, TinyCapture, write_blender, write_colmap

from genfusion_ns.data.captures.capture import read_capture, whole_capture_config
from genfusion_ns.data.captures.checks.files import reads_camera_files
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.view_selection import SplitError

BLENDER = BlenderDataParserConfig()


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCapture:
    return make_tiny(tmp_path / "my capture")


def first(content: dict) -> dict:
    """The frame of view_00."""
    return next(frame for frame in content["frames"] if frame["file_path"].endswith("00.png"))


def in_pose(row: int, column: int, value: object) -> Callable[[dict], None]:
    return lambda content: first(content)["transform_matrix"][row].__setitem__(column, value)


def with_pose(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    def edit(content: dict) -> None:
        frame = first(content)
        frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()

    return edit


def each_pose(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    def edit(content: dict) -> None:
        for frame in content["frames"]:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()

    return edit


def moved(offset: float, scale: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pose: np.block([[pose[:3, :3], scale * pose[:3, 3:] + offset], [np.zeros((1, 3)), 1]])


def without(key: str) -> Callable[[dict], object]:
    return lambda content: content.pop(key)


def plus(**values: object) -> Callable[[dict], None]:
    return lambda content: content.update(values)


def in_first(**values: object) -> Callable[[dict], None]:
    return lambda content: first(content).update(values)


def test_the_undamaged_capture_is_accepted(tiny: TinyCapture) -> None:
    assert len(set_up(tiny.folder).capture.names) == 6


# ------------------------------------------------------------------------------------------------ the folder


def test_missing_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path / "gone", CaptureError, r"--data .*gone does not exist. Name the folder")


def test_empty_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path, CaptureError, r"--data .* is an empty folder")


@pytest.mark.parametrize("parser", [None, COLMAP, BLENDER], ids=["nerfstudio", "colmap", "blender"])
def test_a_file_instead_of_a_folder(tmp_path: Path, parser: object) -> None:
    (tmp_path / "video.mp4").write_bytes(b"film")
    assert_refused(tmp_path / "video.mp4", CaptureError, r"video.mp4 is a file; name the folder", parser)


def test_other_dataparsers_answer_for_themselves(tmp_path: Path) -> None:
    """The data of some of them is a scene's name or a file of any kind; so do those that derive from a usual one."""

    class Mine(Nerfstudio):
        pass

    assert not reads_camera_files(SDFStudioDataParserConfig(data=tmp_path / "scene-0103"))
    assert not reads_camera_files(NerfstudioDataParserConfig(_target=Mine))
    assert whole_capture_config(NerfstudioDataParserConfig(_target=Mine, data=tmp_path))._target is Mine


@pytest.mark.parametrize(
    ("parser", "said"),
    [
        (
            None,
            r"has no transforms.json, which the nerfstudio dataparser needs. Find the poses of photos or a video first",
        ),
        (COLMAP, r"has no COLMAP model in sparse/0, which the colmap dataparser needs"),
        (BLENDER, r"has no transforms_train.json, which the blender dataparser needs"),
    ],
    ids=["nerfstudio", "colmap", "blender"],
)
def test_photos_without_cameras(tiny: TinyCapture, parser: object, said: str) -> None:
    (tiny.folder / "transforms.json").unlink()
    assert_refused(tiny.folder, CaptureError, said, parser)


def test_the_right_dataparser_is_named(tiny: TinyCapture) -> None:
    assert_refused(tiny.folder, CaptureError, r"append nerfstudio-data to the command", BLENDER)
    (tiny.folder / "transforms.json").unlink()
    write_colmap(tiny)
    assert_refused(tiny.folder, CaptureError, r"another dataparser: append colmap to the command")
    write_blender(tiny, train=[1, 2, 3], test=[0])
    assert_refused(tiny.folder, CaptureError, r"append blender-data or colmap to the command")


# ------------------------------------------------------------------------------------------------ transforms.json


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b"frames: 1", "cannot be read as JSON"),
        (b'{"frames": [', "cannot be read as JSON"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"frames": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b"[1, 2]", "contains a list; an object"),
        (b"null", "contains a NoneType; an object"),
        (b"{}", r"frames must be a list of registered images, found nothing \(keys: \[\]\)"),
        (b'{"frames": {"a": 1}}', "frames must be a list.* found a dict"),
        (b'{"frames": []}', r"0 image\(s\) are registered, at least 3"),
        (b'{"frames": [1]}', r"1 frames without file_path: frames\[0\]"),
    ],
    ids=["empty", "yaml", "cut", "binary", "deep", "long-number", "list", "null", "object", "dict", "none", "number"],
)
def test_files_that_are_no_camera_file(tiny: TinyCapture, content: bytes, said: str) -> None:
    (tiny.folder / "transforms.json").write_bytes(content)
    message = assert_refused(tiny.folder, CaptureError, said)
    assert str(tiny.folder / "transforms.json") in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: first(c).pop("file_path"), r"1 frames without file_path: frames\[\d\]"),
        (lambda c: [f.pop("file_path") for f in c["frames"]], r"6 frames without file_path: .*; and 3 more"),
        (in_first(file_path=7), r"1 frames without file_path"),
        (in_first(file_path=""), r"1 frames without file_path"),
        (in_first(file_path="images/a\0.png"), r"1 frames without file_path"),
        (lambda c: first(c).pop("transform_matrix"), r"1 of 6 poses .*view_00.png is missing"),
        (lambda c: c["frames"].append(dict(first(c))), r"registered more than once: images/view_00.png \(2 times\)"),
        (
            lambda c: c["frames"].append(dict(first(c), file_path="./images/view_00.png")),
            r"registered more than once: images/view_00.png \(2 times\)",
        ),
        (
            lambda c: c.update(frames=c["frames"][:1]),
            r"1 image\(s\) are registered, at least 3 are needed: two to train",
        ),
        (lambda c: c.update(frames=c["frames"][:2]), r"2 image\(s\) are registered, at least 3"),
        (
            plus(camera_model="FULL_OPENCV"),
            r"camera_model at the top is 'FULL_OPENCV'\. Allowed are SIMPLE_PINHOLE.*Undistort",
        ),
        (plus(camera_model="EQUIRECTANGULAR"), r"camera_model at the top is 'EQUIRECTANGULAR'"),
        (plus(camera_model=["OPENCV"]), r"camera_model at the top is \['OPENCV'\]"),
        (plus(applied_transform=[[1, 0], [0, 1]]), r"applied_transform .*has 2 rows of 2 numbers, 3 rows of 4"),
        (plus(applied_scale=0), r"applied_scale is 0: must be a positive number"),
        (plus(orientation_override="sideways"), r"orientation_override is sideways: may be pca, up"),
        (plus(ply_file_path=4), r"ply_file_path is 4: must be a file name"),
        (in_first(mask_path="m.png"), r"1 of 6 frames name a file as mask_path; either all do or none"),
        (plus(train_filenames="images/view_00.png"), r"train_filenames must be a list of image names"),
        (
            plus(train_filenames=["images/view_00.png", "images/dog.png"]),
            r"train_filenames has 1 name\(s\) that no registered image has: 'images/dog.png'. Write them as",
        ),
        (plus(test_filenames=["images/view_00.png"]), r"test_filenames declare a split without train views"),
    ],
)
def test_wrong_entries(tiny: TinyCapture, change: Callable[[dict], object], said: str) -> None:
    edited(tiny, change)
    message = assert_refused(tiny.folder, CaptureError, said)
    assert str(tiny.folder / "transforms.json") in message


def test_a_declared_split_with_one_train_view(tiny: TinyCapture) -> None:
    edited(tiny, plus(train_filenames=["images/view_00.png"], test_filenames=["images/view_01.png"]))
    assert_refused(tiny.folder, SplitError, r"own train and test views are 1 and 1; at least 2 train views")


def test_eval_mode_filename_without_such_names(tiny: TinyCapture) -> None:
    parser = NerfstudioDataParserConfig(eval_mode="filename")
    assert_refused(tiny.folder, CaptureError, r"needs images with train or eval in their names: .*; and 3 more", parser)


# ------------------------------------------------------------------------------------------------ poses


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_pose(0, 3, float("nan")), r"view_00.png contains nan, finite numbers"),
        (in_pose(1, 1, float("inf")), r"view_00.png contains inf"),
        (in_pose(1, 1, 10**40), r"view_00.png contains 10000"),
        (in_pose(1, 1, "0.5"), r"view_00.png contains '0.5'"),
        (in_pose(1, 1, None), r"view_00.png contains None"),
        (with_pose(lambda p: p @ np.diag([2.0, 2, 2, 1])), r"not rigid: its axes have the lengths 2, 2, 2"),
        (with_pose(lambda p: p @ np.diag([1.0, 1, 0, 1])), r"not rigid: its axes have the lengths 1, 1, 0"),
        (with_pose(lambda p: p @ np.diag([-1.0, 1, 1, 1])), r"mirrors the scene \(determinant -1\)"),
        (with_pose(lambda p: p[:3, :3]), r"has 3 rows of 3 numbers, 4 rows of 4 are needed"),
        (with_pose(lambda p: p[:3]), r"has 3 rows of 4 numbers, 4 rows of 4 are needed"),
        (with_pose(lambda p: p.T), r"has the last row \[.*\], \[0, 0, 0, 1\] is needed"),
        (in_first(transform_matrix="identity"), r"is 'identity', a list of 4 rows is needed"),
        (in_first(transform_matrix=[]), r"has 0 rows of 0 numbers"),
        (each_pose(lambda p: p * np.nan), r"6 of 6 poses cannot be used: .*; and 3 more. A pose is a rigid"),
        (each_pose(moved(5.0, 0.0)), r"all 6 cameras stand in one place, \[5.0, 5.0, 5.0\]; depth needs"),
        (each_pose(moved(5e6, 1.0)), r"stand 5e\+06 units from the origin but only .* apart.*Subtract a common offset"),
    ],
)
def test_poses_that_no_camera_has(tiny: TinyCapture, change: Callable[[dict], object], said: str) -> None:
    edited(tiny, change)
    message = assert_refused(tiny.folder, CaptureError, said)
    assert str(tiny.folder / "transforms.json") in message


# ------------------------------------------------------------------------------------------------ intrinsics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (plus(fl_x=0), r"fl_x at the top is 0, it must be positive"),
        (plus(fl_y=-30.0), r"fl_y at the top is -30.0, it must be positive"),
        (plus(fl_x=float("nan")), r"fl_x at the top is nan"),
        (plus(fl_x=1e20), r"fl_x at the top is 1e\+20, too large"),
        (plus(fl_x="30"), r"fl_x at the top is 30\. "),
        (without("fl_x"), r"fl_x of images/view_\d\d.png is missing; .*; and 3 more. fl_x, fl_y, cx"),
        (without("cy"), r"cy of images/view_\d\d.png is missing"),
        (plus(w=0), r"w at the top is 0, it must be a whole number of pixels, 1\.\.100000"),
        (plus(h=24.5), r"h at the top is 24.5, it must be a whole number"),
        (plus(w=10**12), r"w at the top is 1000000000000, it must be a whole number"),
        (plus(cx=1e9), r"cx at the top is 1000000000.0, far outside"),
        (plus(cx=-40.0), r"view_00.png: the principal point -40, 12 is far outside the image of 32 x 24"),
        (plus(cx=62.0, fl_x=5.0), r"view_00.png: the principal point 62, 12 is far outside the image of 32 x 24"),
        (plus(k1=None), r"k1 at the top is None"),
        (plus(distortion_params=[0, 0]), r"distortion_params at the top is \[0, 0\]"),
        (plus(k1=0.1, k4=0.2), r"= 0.1, 0, 0, 0.2, 0, 0; perspective cameras may have k1, k2, k3, p1 and p2, not k4"),
        (plus(k1=-5.0), r"view_00.png: lens distortion k1, .* = -5, 0, 0, 0, 0, 0 folds the image over itself"),
        (plus(k1=-5.0, camera_model="OPENCV_FISHEYE"), r"view_00.png: lens distortion .* folds the image over itself"),
        (plus(k1=100.0), r"view_00.png: lens distortion .* leaves no useful image"),
        (plus(p1=1e3, k1=0.01), r"view_00.png: lens distortion .* leaves no useful image"),
    ],
)
def test_cameras_that_nobody_has(tiny: TinyCapture, change: Callable[[dict], object], said: str) -> None:
    edited(tiny, change)
    assert str(tiny.folder) in assert_refused(tiny.folder, CaptureError, said)


# ------------------------------------------------------------------------------------------------ COLMAP


@pytest.fixture
def sparse(tiny: TinyCapture) -> TinyCapture:
    write_colmap(tiny)
    return tiny


def rewrite(capture: TinyCapture, ext: str = ".bin", **changes: Callable[[dict], object]) -> None:
    """Change the cameras or images of the model in place and write it again."""
    folder = capture.folder / "sparse/0"
    cameras, images, points = colmap.read_model(str(folder), ".bin")
    for name, change in changes.items():
        change({"cameras": cameras, "images": images}[name])
    for file in folder.iterdir():
        file.unlink()
    colmap.write_model(cameras, images, points, str(folder), ext)


def change_image(**values: object) -> Callable[[dict], object]:
    return lambda images: images.update({3: images[3]._replace(**values)})


def test_the_undamaged_model_is_accepted(sparse: TinyCapture) -> None:
    assert len(set_up(sparse.folder, COLMAP).capture.names) == 6
    rewrite(sparse, ".txt")
    assert len(set_up(sparse.folder, COLMAP).capture.names) == 6


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
@pytest.mark.parametrize("size", [0, 5, 50, -9])
def test_a_model_that_is_cut_off(sparse: TinyCapture, name: str, size: int) -> None:
    path = sparse.folder / "sparse/0" / name
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(sparse.folder, CaptureError, rf"{name} cannot be read as part of a COLMAP model: .*Copy", COLMAP)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_a_model_with_a_file_missing(sparse: TinyCapture, name: str) -> None:
    (sparse.folder / "sparse/0" / name).unlink()
    assert_refused(sparse.folder, CaptureError, rf"{name} does not exist; a COLMAP model has", COLMAP)


def test_a_count_that_no_file_holds(sparse: TinyCapture) -> None:
    (sparse.folder / "sparse/0/images.bin").write_bytes(struct.pack("<Q", 2**60))
    assert_refused(sparse.folder, CaptureError, r"images.bin cannot be read", COLMAP)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": change_image(camera_id=9)}, r"view_05.png has the camera 9, the model has \[1\]"),
        ({"images": change_image(tvec=np.array([0, np.nan, 0]))}, r"view_05.png has the pose .*not finite"),
        ({"images": change_image(qvec=np.zeros(4))}, r"view_05.png has a rotation quaternion of length 0, 1 is needed"),
        ({"images": change_image(name="view_04.png")}, r"registered more than once: view_04.png \(2 times\)"),
        ({"images": dict.clear}, r"0 image\(s\) are registered"),
        (
            {"cameras": lambda c: c.update({2: colmap.Camera(2, "FULL_OPENCV", WIDTH, HEIGHT, np.zeros(12))})},
            r"cameras.bin: a camera model is FULL_OPENCV; allowed are .*colmap image_undistorter",
        ),
        (
            {"cameras": lambda c: c.update({1: c[1]._replace(params=np.array([0.0, 30, 16, 12]))})},
            r"view_00.png: focal lengths are 0 and 30 pixels, they must be positive; .*and 3 more",
        ),
        (
            {"cameras": lambda c: c.update({1: c[1]._replace(params=np.array([np.nan, 30, 16, 12]))})},
            r"view_00.png: focal lengths nan and 30, .*must be finite|must be finite",
        ),
        ({"cameras": lambda c: c.update({1: c[1]._replace(width=0)})}, r"the image size is 0 x 24"),
        (
            {"cameras": lambda c: c.update({1: c[1]._replace(width=2**40)})},
            r"has a camera of 1099511627776 x 24 pixels",
        ),
    ],
)
def test_models_with_wrong_entries(sparse: TinyCapture, changes: dict, said: str) -> None:
    rewrite(sparse, **changes)
    assert_refused(sparse.folder, CaptureError, said, COLMAP)


def test_list_files(sparse: TinyCapture) -> None:
    (sparse.folder / "test_list.txt").write_text("view_00.png\n")
    assert_refused(sparse.folder, CaptureError, r"test_list.txt declares a split without train views", COLMAP)
    (sparse.folder / "train_list.txt").write_text("view_01.png\nview_02.png\ncat.png\n")
    assert_refused(
        sparse.folder, CaptureError, r"train_list.txt has 1 name\(s\) that no registered .*'cat.png'", COLMAP
    )
    (sparse.folder / "train_list.txt").write_text("view_01.png\nview_02.png\n")
    assert set_up(sparse.folder, COLMAP).train_names == ("view_01.png", "view_02.png")


# ------------------------------------------------------------------------------------------------ Blender


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("frames"), r"transforms_train.json: frames must be a list"),
        (lambda c: c.update(frames=[]), r"transforms_train.json: frames is empty"),
        (lambda c: c.pop("camera_angle_x"), r"fl_x of ./train/r_0 is missing; .*or camera_angle_x \(radians\)"),
        (lambda c: c.update(camera_angle_x=45.0), r"camera_angle_x is 45.0"),
        (lambda c: c["frames"][0].pop("transform_matrix"), r"1 of 4 poses cannot be used"),
        (
            lambda c: c["frames"][0].update(file_path="./train/r_99"),
            r"w and h are not given, .*r_99 does not exist.*Copy them again",
        ),
    ],
)
def test_blender_captures(tiny: TinyCapture, change: Callable[[dict], object], said: str) -> None:
    write_blender(tiny, train=[1, 2, 3, 4], test=[0, 5])
    assert len(set_up(tiny.folder, BLENDER).capture.names) == 6
    edited(tiny, change, "transforms_train.json")
    assert_refused(tiny.folder, CaptureError, said, BLENDER)


# ------------------------------------------------------------------------------------------------ downscaling


@pytest.mark.parametrize("parser", [NerfstudioDataParserConfig, ColmapDataParserConfig])
@pytest.mark.parametrize("factor", [0, -2, 1000])
def test_downscale_factors_that_cannot_be(sparse: TinyCapture, parser: type, factor: int) -> None:
    said = rf"--downscale-factor is {factor}; allowed are 1\.\.64"
    assert_refused(sparse.folder, CaptureError, said, parser(downscale_factor=factor))


def test_rendering_needs_no_images(tiny: TinyCapture) -> None:
    for file in (tiny.folder / "images").iterdir():
        file.unlink()
    config = whole_capture_config(NerfstudioDataParserConfig(data=tiny.folder))
    parser = config.setup()
    parser.downscale_factor = 1  # as nerfstudio's datamanager does for ns-render
    train = parser.get_dataparser_outputs(split="train")
    assert len(read_capture(parser, train, check_images=False).names) == 6
    with pytest.raises(CaptureError, match=r"6 of 6 images cannot be read: .*; and 3 more"):
        read_capture(parser, train)


def test_flattened_folders_that_collide(tiny: TinyCapture) -> None:
    """nerfstudio looks for a/1.png and b/1.png in images_2/1.png."""
    names = {}
    for i, name in enumerate(tiny.names):
        names[f"images/{name}"] = f"images/{'ab'[i % 2]}/{i // 2}.png"
    for new in names.values():
        (tiny.folder / new).parent.mkdir(exist_ok=True)
    for old, new in names.items():
        (tiny.folder / old).rename(tiny.folder / new)
    edited(tiny, lambda c: [f.update(file_path=names[f["file_path"]]) for f in c["frames"]])
    assert set_up(tiny.folder).capture.names[:2] == ("a/0.png", "a/1.png")
    (tiny.folder / "images_2").mkdir()
    said = r"several registered images have one and the same file: .*images_2/0.png \(2 times\)"
    assert_refused(tiny.folder, CaptureError, said, NerfstudioDataParserConfig(downscale_factor=2))
