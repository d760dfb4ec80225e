"""Camera files as exporters really write them: lenses, sizes and names are read rightly, or refused by name."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_captures import COLMAP, assert_refused, edit_transforms, edited, set_up, tree
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGP, InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from PIL import Image
from tiny_capture import FOCAL, HEIGHT, WIDTH, TinyCapture, write_blender, write_colmap

from genfusion_ns.data.captures.capture import whole_capture_config
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.captures.image_sizes import shrink

INSTANT_NGP = InstantNGPDataParserConfig()
TRANSFORMS = [None, INSTANT_NGP]
LENS = {"k1": -0.2, "k2": 0.05, "k3": 0.0, "k4": 0.0, "p1": 0.01, "p2": -0.02}


def each_frame(**values: object) -> Callable[[dict], object]:
    return lambda content: [frame.update(values) for frame in content["frames"]]


def outputs(capture: TinyCapture, parser: DataParserConfig | None = None) -> DataparserOutputs:
    return set_up(capture.folder, parser).capture.outputs


# ------------------------------------------------------------------------------------------------ lenses


@pytest.mark.parametrize("parser", TRANSFORMS, ids=["nerfstudio", "instant-ngp"])
@pytest.mark.parametrize(
    "top", [{}, dict.fromkeys(LENS, 0.0), {"distortion_params": [0.0] * 6}, {"k4": 0.0}, {"k1": 0.3}]
)
def test_a_lens_of_a_frame_counts_before_that_at_the_top(
    tiny: TinyCapture, parser: DataParserConfig | None, top: dict
) -> None:
    edited(tiny, lambda content: (content.update(top), each_frame(**LENS)(content)))
    lenses = outputs(tiny, parser).cameras.distortion_params
    torch.testing.assert_close(lenses, torch.tensor(list(LENS.values())).expand(6, 6))


@pytest.mark.parametrize("parser", TRANSFORMS, ids=["nerfstudio", "instant-ngp"])
def test_every_key_of_a_camera_may_be_in_one_frame(tiny: TinyCapture, parser: DataParserConfig | None) -> None:
    own = {"fl_x": 33.0, "fl_y": 36.0, "cx": 15.0, "cy": 13.0, "k1": 0.01, "w": WIDTH + 1, "h": HEIGHT - 1}
    Image.new("RGB", (WIDTH + 1, HEIGHT - 1)).save(tiny.folder / "images/view_02.png")
    edited(tiny, lambda content: next(f for f in content["frames"] if "02" in f["file_path"]).update(own))
    cameras = outputs(tiny, parser).cameras
    for key, values in (
        ("fx", (33.0, FOCAL)),
        ("fy", (36.0, FOCAL)),
        ("cx", (15.0, WIDTH / 2)),
        ("cy", (13.0, HEIGHT / 2)),
    ):
        assert getattr(cameras, key)[[2, 0, 5], 0].tolist() == [values[0], values[1], values[1]]
    assert cameras.width[:, 0].tolist() == [WIDTH, WIDTH, WIDTH + 1, WIDTH, WIDTH, WIDTH]
    assert cameras.height[2].item() == HEIGHT - 1
    torch.testing.assert_close(cameras.distortion_params[:, 0], torch.tensor([0, 0, 0.01, 0, 0, 0]))


@pytest.mark.parametrize("parser", TRANSFORMS, ids=["nerfstudio", "instant-ngp"])
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(camera_model="OPENCV_FISHEYE"),
        lambda content: (content.pop("camera_model"), content.update(is_fisheye=True)),
        lambda content: (content.pop("camera_model"), each_frame(is_fisheye=True)(content)),
        each_frame(camera_model="OPENCV_FISHEYE"),
    ],
    ids=["top", "flag", "flags", "frames"],
)
def test_fisheye_lenses_wherever_they_are_named(
    tiny: TinyCapture, parser: DataParserConfig | None, change: Callable[[dict], object]
) -> None:
    edited(tiny, change)
    assert (outputs(tiny, parser).cameras.camera_type == CameraType.FISHEYE.value).all()


def test_fisheye_and_pinhole_cameras_in_one_capture(tiny: TinyCapture) -> None:
    """Each photo is undistorted by its own lens: the fisheye ones change, the others stay."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in tiny.names:
        Image.fromarray(noise).save(tiny.folder / "images" / name)
    edited(tiny, lambda c: [f.update(camera_model="OPENCV_FISHEYE") for f in c["frames"] if "02" in f["file_path"]])
    manager = set_up(tiny.folder, cache_images_type="uint8")
    is_same = [bool((batch["image"].numpy() == noise).all()) for batch in manager.cached_train]
    assert dict(zip(manager.train_names, is_same, strict=True))["view_02.png"] is False
    assert sum(is_same) == len(is_same) - 1


@pytest.mark.parametrize("parser", TRANSFORMS, ids=["nerfstudio", "instant-ngp"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c.update(is_fisheye=True),
            r"view_\d\d.png: is_fisheye is True, camera_model is OPENCV; .*Remove is_",
        ),
        (lambda c: c.update(is_fisheye=False, camera_model="OPENCV_FISHEYE"), r"is_fisheye is False, camera_model is"),
        (lambda c: (c.pop("camera_model"), c.update(is_fisheye="false")), r"is_fisheye at the top is 'false'"),
        (each_frame(is_fisheye=None), r"is_fisheye of images/view_\d\d.png is 'None'"),
        (each_frame(camera_model="EQUIRECTANGULAR"), r"camera_model of images/view_\d\d.png is 'EQUIRECTANGULAR'"),
        (lambda c: c.update(camera_model="PINHOLE", k1=0.1), r"view_\d\d.png has k1 0.1 and the camera_model PINHOLE"),
        (
            lambda c: (c.update(camera_model="PINHOLE"), each_frame(p1=0.1)(c)),
            r"has p1 0.1 and the camera_model PINHOLE",
        ),
        (
            lambda c: c.update(k1=0.1, distortion_params=[0.2] + 5 * [0]),
            r"k1 at the top is 0.1, but 0.2 in distortion_",
        ),
        (lambda c: c.update(k5=0.1), r"k5 at the top is 0.1.*undistort the images"),
        (each_frame(ftheta_p0=0.1), r"ftheta_p0 of images/view_\d\d.png is 0.1"),
        (lambda c: c.update(latlong=True), r"latlong at the top is True"),
    ],
)
def test_lenses_that_cannot_be_read_are_named(
    tiny: TinyCapture, parser: DataParserConfig | None, change: Callable[[dict], object], said: str
) -> None:
    edited(tiny, change)
    assert "transforms.json" in assert_refused(tiny.folder, CaptureError, said, parser)


# ------------------------------------------------------------------------------------------------ what is left out


def only(**values: object) -> Callable[[dict], object]:
    """Nothing about the cameras but `values`."""

    def change(content: dict) -> None:
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model"):
            del content[key]
        content.update(values)

    return change


ANGLE = 2 * math.atan(0.5 * WIDTH / FOCAL)
ANGLE_Y = 2 * math.atan(0.5 * HEIGHT / (2 * FOCAL))


@pytest.mark.parametrize("parser", TRANSFORMS, ids=["nerfstudio", "instant-ngp"])
@pytest.mark.parametrize(
    ("values", "fy"),
    [
        ({"camera_angle_x": ANGLE}, FOCAL),
        ({"x_fov": math.degrees(ANGLE)}, FOCAL),
        ({"fl_x": FOCAL}, FOCAL),
        ({"camera_angle_x": ANGLE, "camera_angle_y": ANGLE_Y}, 2 * FOCAL),
        ({"fl_x": FOCAL, "fl_y": 2 * FOCAL, "camera_angle_x": 3.0}, 2 * FOCAL),
    ],
)
def test_fields_of_view_and_sizes_of_the_files(
    tiny: TinyCapture, parser: DataParserConfig | None, values: dict, fy: float
) -> None:
    edited(tiny, only(**values))
    cameras = outputs(tiny, parser).cameras
    torch.testing.assert_close(cameras.fx, torch.full((6, 1), FOCAL))
    torch.testing.assert_close(cameras.fy, torch.full((6, 1), fy))
    sides = torch.cat([cameras.cx, cameras.cy, cameras.width, cameras.height], dim=1)
    torch.testing.assert_close(sides, torch.tensor([WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT]).expand(6, 4))


@pytest.mark.parametrize("angle", [0, -1, 4.0, "1", None])
def test_angles_that_no_lens_has(tiny: TinyCapture, angle: object) -> None:
    edited(tiny, only(camera_angle_x=angle))
    assert_refused(tiny.folder, CaptureError, rf"fl_x at the top is not known: camera_angle_x is {angle!r}")


def test_files_whose_size_is_needed_are_named(tiny: TinyCapture) -> None:
    edited(tiny, only(camera_angle_x=ANGLE))
    (tiny.folder / "images/view_03.png").write_bytes(b"")
    assert_refused(tiny.folder, CaptureError, r"w and h are not given.*view_03.png is empty.*Give w and h")


# ------------------------------------------------------------------------------------------------ as nerfstudio reads


def as_nerfstudio(config: DataParserConfig, split: str = "train") -> DataparserOutputs:
    return config.setup().get_dataparser_outputs(split)


def assert_same_views(ours: DataparserOutputs, theirs: DataparserOutputs, names: list[str] | None = None) -> None:
    place = {Path(file).name: i for i, file in enumerate(ours.image_filenames)}
    mine = ours.cameras[torch.tensor([place[file.name] for file in theirs.image_filenames])]
    torch.testing.assert_close(mine.camera_to_worlds, theirs.cameras.camera_to_worlds, rtol=0, atol=1e-5)
    for key in ("fx", "fy", "cx", "cy", "width", "height", "camera_type"):
        torch.testing.assert_close(getattr(mine, key), getattr(theirs.cameras, key), check_dtype=False)
    if theirs.cameras.distortion_params is not None:
        torch.testing.assert_close(mine.distortion_params, theirs.cameras.distortion_params)
    torch.testing.assert_close(ours.dataparser_transform, theirs.dataparser_transform, rtol=0, atol=1e-5)
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale, rel=1e-5)


@pytest.mark.parametrize("method", ["up", "none", "vertical"])
@pytest.mark.parametrize("convention", [True, False])
def test_colmap_models_are_read_as_nerfstudio_reads_them(tiny: TinyCapture, method: str, convention: bool) -> None:
    write_colmap(tiny)
    config = ColmapDataParserConfig(
        data=tiny.folder,
        colmap_path=Path("sparse/0"),
        downscale_factor=1,
        orientation_method=method,
        assume_colmap_world_coordinate_convention=convention,
        center_method="poses" if convention else "none",
        auto_scale_poses=convention,
        scale_factor=0.7,
        load_3D_points=False,
        eval_mode="all",
    )
    assert_same_views(outputs(tiny, config), as_nerfstudio(config))


@pytest.mark.parametrize("upside_down", [False, True])
def test_poses_oriented_by_pca_are_where_the_transform_puts_them(tiny: TinyCapture, upside_down: bool) -> None:
    """nerfstudio 1.1.5 mirrors two of the poses instead of turning all of a scene that is upside down."""
    turn = np.diag([1.0, -1.0, -1.0, 1.0]) if upside_down else np.eye(4)
    edited(tiny, lambda c: [f.update(transform_matrix=(turn @ f["transform_matrix"]).tolist()) for f in c["frames"]])
    edited(tiny, lambda content: content.pop("applied_transform"))
    read = outputs(tiny, NerfstudioDataParserConfig(orientation_method="pca"))
    frames = {Path(f["file_path"]).name: f for f in json.loads((tiny.folder / "transforms.json").read_text())["frames"]}
    poses = torch.tensor([frames[file.name]["transform_matrix"] for file in read.image_filenames])
    expected = read.dataparser_transform @ poses
    expected[:, :, 3] *= read.dataparser_scale
    torch.testing.assert_close(read.cameras.camera_to_worlds, expected, rtol=0, atol=1e-5)
    assert read.cameras.camera_to_worlds[:, 2, 1].mean() > 0, "up is up"


def test_instant_ngp_captures_are_read_as_nerfstudio_reads_them(tiny: TinyCapture) -> None:
    config = InstantNGPDataParserConfig(data=tiny.folder, eval_mode="all")
    edited(tiny, lambda content: content.update(LENS))
    theirs = as_nerfstudio(config)
    assert_same_views(outputs(tiny, config), replace(theirs, dataparser_transform=torch.eye(4)[:3] @ applied(tiny)))


def applied(capture: TinyCapture) -> torch.Tensor:
    """applied_transform, which the instant-ngp dataparser leaves out."""
    rows = json.loads((capture.folder / "transforms.json").read_text())["applied_transform"]
    return torch.tensor([*rows, [0, 0, 0, 1.0]])


def test_blender_captures_are_read_as_nerfstudio_reads_them(tiny: TinyCapture) -> None:
    write_blender(tiny, train=[1, 2, 3, 4, 5], test=[0])
    config = BlenderDataParserConfig(data=tiny.folder, scale_factor=0.5)
    theirs = as_nerfstudio(config)
    theirs.cameras.width, theirs.cameras.height = torch.full((5, 1), WIDTH), torch.full((5, 1), HEIGHT)
    ours = set_up(tiny.folder, config).train_dataparser_outputs
    assert_same_views(ours, theirs)
    assert torch.equal(ours.alpha_color, theirs.alpha_color)


def test_lenses_of_blender_captures(tiny: TinyCapture) -> None:
    """As add-ons export them: the Blender dataparser of nerfstudio looks at camera_angle_x alone."""
    write_blender(tiny, train=[1, 2, 3, 4], test=[0, 5])
    own = {"fl_x": 33.0, "fl_y": 36.0, "cx": 15.0, "cy": 13.0, "k1": 0.1, "w": WIDTH, "h": HEIGHT}
    edit_transforms(tiny.folder, lambda content: {**content, **own}, "transforms_train.json")
    cameras = set_up(tiny.folder, BlenderDataParserConfig()).train_dataparser_outputs.cameras
    found = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.distortion_params[:, :1]], dim=1)
    torch.testing.assert_close(found, torch.tensor([33.0, 36, 15, 13, 0.1]).expand(4, 5))


def test_up_to_eight_photos_of_instant_ngp(tiny: TinyCapture) -> None:
    manager = set_up(tiny.folder, INSTANT_NGP)
    assert (manager.test_view_ids, len(manager.train_view_ids)) == ((0,), 5)
    assert manager.seeds.kind.startswith("visible")


def test_dataparsers_that_answer_for_themselves_may_have_few_photos(tiny: TinyCapture) -> None:
    """nerfstudio gives one held-out camera with plain intrinsics no batch dimension."""

    class Mine(InstantNGP):
        pass

    manager = set_up(tiny.folder, InstantNGPDataParserConfig(_target=Mine))
    assert type(manager.dataparser) is Mine
    assert (manager.test_view_ids, len(manager.train_dataset)) == ((0,), 5)


# ------------------------------------------------------------------------------------------------ names of files


def renamed(capture: TinyCapture, files: Callable[[str], str], names: Callable[[str], str]) -> None:
    """Other names of the files on disk and of the same files in transforms.json."""

    def change(content: dict) -> None:
        for frame in content["frames"]:
            name = frame["file_path"]
            new = capture.folder / files(name)
            new.parent.mkdir(parents=True, exist_ok=True)
            (capture.folder / name).rename(new)
            frame["file_path"] = names(name)
        if not any((capture.folder / "images").iterdir()):
            (capture.folder / "images").rmdir()

    edit_transforms(capture.folder, change)


@pytest.mark.parametrize("parser", TRANSFORMS, ids=["nerfstudio", "instant-ngp"])
@pytest.mark.parametrize(
    ("files", "names"),
    [
        (str, lambda name: "./" + name.removesuffix(".png")),
        (str, lambda name: name.replace("/", "\\")),
        (str, lambda name: name.replace(".png", ".jpg")),
        (str, lambda name: name.upper()),
        (lambda name: name.replace("images", "Images").replace(".png", ".PNG"), str),
        (str, lambda name: f"/elsewhere/{name}"),
        (str, lambda name: f"C:\\Users\\me\\scene\\{name}".replace("/", "\\")),
        (
            lambda name: unicodedata.normalize("NFD", name.replace("view", "tür")),
            lambda name: name.replace("view", "tür"),
        ),
    ],
    ids=["no-ending", "backslashes", "other-ending", "capitals", "capital-files", "elsewhere", "windows", "macos"],
)
def test_images_under_other_names(
    tiny: TinyCapture, parser: DataParserConfig | None, files: Callable[[str], str], names: Callable[[str], str]
) -> None:
    renamed(tiny, files, names)
    manager = set_up(tiny.folder, parser, cache_images_type="uint8")
    assert [tuple(b["image"][0, 0].tolist()) for b in manager.cached_train] == [tiny.color(i) for i in range(1, 6)]
    assert manager.seeds.kind.startswith("visible"), "the points go with their cameras all the same"


def test_photos_of_a_colmap_model_that_were_converted(tiny: TinyCapture) -> None:
    write_colmap(tiny)
    for name in tiny.names:
        (tiny.folder / "images" / name).rename((tiny.folder / "images" / name.upper()).with_suffix(".JPG"))
    manager = set_up(tiny.folder, COLMAP, cache_images_type="uint8")
    assert [tuple(b["image"][0, 0].tolist()) for b in manager.cached_train] == [tiny.color(i) for i in range(1, 6)]
    assert manager.seeds.kind.startswith("visible")


def test_files_that_begin_with_a_byte_order_mark(tiny: TinyCapture) -> None:
    write_colmap(tiny, ext=".txt")
    for name in ("transforms.json", "sparse/0/images.txt", "sparse/0/cameras.txt"):
        path = tiny.folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    for parser in (None, COLMAP):
        assert set_up(tiny.folder, parser).seeds.kind.startswith("visible")


def test_names_that_may_mean_several_files(tiny: TinyCapture) -> None:
    renamed(tiny, str, lambda name: name.removesuffix(".png"))
    Image.new("RGB", (WIDTH, HEIGHT)).save(tiny.folder / "images/view_04.jpg")
    assert_refused(tiny.folder, CaptureError, r"images/view_04 does not exist")


@pytest.mark.parametrize("parser", TRANSFORMS, ids=["nerfstudio", "instant-ngp"])
def test_point_clouds_under_other_names(tiny: TinyCapture, parser: DataParserConfig | None) -> None:
    (tiny.folder / "points").mkdir()
    (tiny.folder / "sparse_pc.ply").rename(tiny.folder / "points/cloud.PLY")
    edited(tiny, lambda content: content.update(ply_file_path="points\\Cloud.ply"))
    assert set_up(tiny.folder, parser).seeds.source.startswith("points/cloud.PLY")


def test_two_names_of_one_file(tiny: TinyCapture) -> None:
    edited(
        tiny,
        lambda c: (
            c["frames"][0].update(file_path="images/view_01"),
            c["frames"][1].update(file_path="images/VIEW_01"),
        ),
    )
    said = r"several registered images have one and the same file: .*view_01.png"
    assert_refused(tiny.folder, CaptureError, said)


def test_two_spellings_of_one_file(tiny: TinyCapture) -> None:
    edited(tiny, lambda c: c["frames"][0].update(file_path=f"images/../{c['frames'][1]['file_path']}"))
    assert_refused(tiny.folder, CaptureError, r"several registered images have one and the same file")


@pytest.mark.parametrize("name", ["images/" + 300 * "a" + ".png", "images/" + 3000 * "a/" + "b"])
@pytest.mark.parametrize("key", ["file_path", "mask_path"])
def test_names_too_long_for_the_system(tiny: TinyCapture, key: str, name: str) -> None:
    edited(tiny, each_frame(mask_path="masks/a.png"))
    edited(tiny, lambda c: c["frames"][0].update({key: name}))
    assert_refused(tiny.folder, CaptureError, r"not a usable file name|does not exist, a mask")


def test_blender_names_with_an_ending(tiny: TinyCapture) -> None:
    write_blender(tiny, train=[1, 2, 3, 4], test=[0, 5])
    for split in ("train", "test"):
        edit_transforms(
            tiny.folder,
            lambda content: (
                [frame.update(file_path=frame["file_path"] + ".png") for frame in content["frames"]] and None
            ),
            f"transforms_{split}.json",
        )
    assert set_up(tiny.folder, BlenderDataParserConfig()).test_names == ("test/r_0.png", "test/r_1.png")


# ------------------------------------------------------------------------------------------------ COLMAP


def text_model(capture: TinyCapture) -> Path:
    write_colmap(capture, ext=".txt")
    return capture.folder / "sparse/0/images.txt"


@pytest.mark.parametrize("place", ["before", "between", "within", "everywhere"])
def test_blank_lines_in_text_models(tiny: TinyCapture, place: str) -> None:
    path = text_model(tiny)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    pairs = ["\n".join(lines[i : i + 2]) for i in range(0, len(lines), 2)]
    if place == "within":  # an image without observations
        pairs[0] = pairs[0].splitlines()[0] + "\n"
    if place == "everywhere":
        pairs = [pair.replace("\n", "\n\n# c\n") for pair in pairs]
    gap = "\n\n" if place in ("between", "everywhere") else "\n"
    start = "# a\n\n  # b\n" if place == "before" else ""
    path.write_text(start + gap.join(pairs) + "\n")
    cameras = outputs(tiny, COLMAP).cameras
    path.unlink()
    (tiny.folder / "sparse/0/cameras.txt").unlink()
    (tiny.folder / "sparse/0/points3D.txt").unlink()
    write_colmap(tiny, "sparse/1")
    same = outputs(tiny, replace(COLMAP, colmap_path=Path("sparse/1"))).cameras
    torch.testing.assert_close(cameras.camera_to_worlds, same.camera_to_worlds)


def test_spaces_and_umlauts_in_names_of_text_models(tiny: TinyCapture) -> None:
    tiny.names[5] = "größe und farbe.png"
    (tiny.folder / "images/view_05.png").rename(tiny.folder / "images" / tiny.names[5])
    path = text_model(tiny)
    assert "größe und farbe.png" in path.read_text(encoding="utf-8")
    assert tiny.names[5] in set_up(tiny.folder, COLMAP).capture.names


def with_model(capture: TinyCapture, number: int, parameters: list[float]) -> None:
    """One camera of a model of this number, in binary."""
    write_colmap(capture)
    path = capture.folder / "sparse/0/cameras.bin"
    header = np.array([1], "<u8").tobytes() + np.array([1, number], "<i4").tobytes()
    path.write_bytes(header + np.array([WIDTH, HEIGHT], "<u8").tobytes() + np.array(parameters, "<f8").tobytes())


@pytest.mark.parametrize(("number", "parameters"), [(14, [FOCAL, 16, 12]), (15, [FOCAL, FOCAL, 16, 12])])
def test_fisheye_models_of_colmap_4(tiny: TinyCapture, number: int, parameters: list[float]) -> None:
    with_model(tiny, number, parameters)
    cameras = outputs(tiny, COLMAP).cameras
    assert (cameras.camera_type == CameraType.FISHEYE.value).all()
    assert (cameras.fx == FOCAL).all() and (cameras.cy == 12).all()


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (7, "FOV"),
        (11, "RAD_TAN_THIN_PRISM_FISHEYE"),
        (12, "SIMPLE_DIVISION"),
        (17, "EQUIRECTANGULAR"),
        (99, "number 99"),
    ],
)
def test_models_of_colmap_that_cannot_be_undistorted(tiny: TinyCapture, number: int, name: str) -> None:
    with_model(tiny, number, [FOCAL] * 16)
    said = (
        rf"cameras.bin: a camera model is {name}; allowed are SIMPLE_PINHOLE.*image_undistorter of the COLMAP version"
    )
    assert_refused(tiny.folder, CaptureError, said, COLMAP)


def test_fisheye_and_pinhole_cameras_in_one_model(tiny: TinyCapture) -> None:
    write_colmap(tiny)
    folder = str(tiny.folder / "sparse/0")
    cameras, images, points = colmap.read_model(folder, ".bin")
    cameras[2] = colmap.Camera(2, "OPENCV_FISHEYE", WIDTH, HEIGHT, np.array([20.0, 20, 16, 12, 0.1, 0, 0, 0]))
    images[3] = images[3]._replace(camera_id=2)
    colmap.write_model(cameras, images, points, folder, ".bin")
    read = outputs(tiny, COLMAP).cameras
    fisheye, perspective = CameraType.FISHEYE.value, CameraType.PERSPECTIVE.value
    assert read.camera_type[:, 0].tolist() == [perspective] * 5 + [fisheye]
    torch.testing.assert_close(read.distortion_params[5], torch.tensor([0.1, 0, 0, 0, 0, 0]))
    assert read.fx[:, 0].tolist() == [FOCAL] * 5 + [20.0]


# ------------------------------------------------------------------------------------------------ smaller images


@pytest.mark.parametrize("parser", [NerfstudioDataParserConfig, ColmapDataParserConfig])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_photos_are_shrunk_where_there_is_no_folder_for_the_factor(
    tiny: TinyCapture, parser: type, factor: int
) -> None:
    write_colmap(tiny)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tiny.folder / "images/view_01.png")
    before = tree(tiny.folder)
    manager = set_up(tiny.folder, parser(downscale_factor=factor), cache_images_type="uint8")
    camera, image = manager.next_train(0)[0], manager.cached_train[0]["image"].numpy()
    assert tree(tiny.folder) == before, "nothing is written beside the photos"
    assert image.shape[:2] == (HEIGHT // factor, WIDTH // factor)
    cut = noise[: HEIGHT // factor * factor, : WIDTH // factor * factor].astype(float)
    mean = cut.reshape(HEIGHT // factor, factor, WIDTH // factor, factor, 3).mean((1, 3))
    assert np.abs(image - mean).max() < 0.6, "Pillow rounds its averages to whole numbers within this"
    torch.testing.assert_close(camera.fx[0], torch.tensor([FOCAL / factor]))
    torch.testing.assert_close(camera.cx[0], torch.tensor([WIDTH / 2 / factor]))
    assert manager.capture.names == tuple(tiny.names)


def test_transparent_pixels_do_not_colour_shrunk_ones() -> None:
    pixels = np.array([[[200, 100, 50, 255], [0, 255, 0, 0]], [[200, 100, 50, 255], [0, 255, 0, 0]]], dtype=np.uint8)
    assert shrink(pixels, 2)[0, 0].tolist() == pytest.approx([200, 100, 50, 128], abs=1)


def test_a_folder_for_the_factor_is_preferred(tiny: TinyCapture) -> None:
    (tiny.folder / "images_2").mkdir()
    for i, name in enumerate(tiny.names):
        Image.new("RGB", (WIDTH // 2, HEIGHT // 2), (i, i, i)).save(
            tiny.folder / "images_2" / name.replace("png", "PNG")
        )
    manager = set_up(tiny.folder, NerfstudioDataParserConfig(downscale_factor=2.0), cache_images_type="uint8")
    assert [int(batch["image"].max()) for batch in manager.cached_train] == [1, 2, 3, 4, 5]
    assert manager.capture.names == tuple(tiny.names), "ids and names are those of the full size"


def test_captures_are_read_whatever_the_working_directory(tiny: TinyCapture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.folder)
    assert (
        whole_capture_config(NerfstudioDataParserConfig(data=Path())).setup().get_dataparser_outputs().image_filenames
    )
    assert all(file.is_absolute() for file in set_up(Path()).capture.outputs.image_filenames)
