"""Seed points: the points that train views see, where the cameras saw them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from scipy.spatial.transform import Rotation
from shared_files import real_capture
from tiny_capture import TinyCapture, make_capture, write_blender, write_colmap, write_ply, write_transforms

from genfusion_ns.data.camera_conversion import viewmats_to_cameras
from genfusion_ns.data.captures.capture import Capture, point_sources, read_capture, whole_capture_config
from genfusion_ns.data.captures.formats import dataparser_of
from genfusion_ns.data.points.random_points import random_points_in_view, views_seeing
from genfusion_ns.data.points.seed_points import SeedPoints, make_seed_points
from genfusion_ns.data.points.similarity import AlignmentError, fit_similarity
from genfusion_ns.data.points.sparse_model import SparseModelError, read_colmap_model, read_ply_model
from genfusion_ns.geometry.cameras import c2w_to_viewmat


def read(config: DataParserConfig) -> Capture:
    parser = whole_capture_config(config).setup()
    return read_capture(parser, parser.get_dataparser_outputs("train"))


def seed(config: DataParserConfig, train_ids: list[int], kind: str, min_points: int = 1, **changes: int) -> SeedPoints:
    capture = read(config)
    return make_seed_points(
        kind,
        point_sources(config),
        capture.names,
        capture.outputs.cameras,
        train_ids,
        num_random=changes.get("num_random", 50),
        min_points=min_points,
        generator=torch.Generator().manual_seed(3),
    )


def project(capture: Capture, view: int, xyz: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [M, 2] and depths [M] of points in the frame of a capture's cameras, written out independently."""
    cameras = capture.outputs.cameras
    pose = cameras.camera_to_worlds[view].double().numpy()
    x, y, z = ((xyz.double().numpy() - pose[:, 3]) @ pose[:, :3]).T
    u = cameras.fx[view].item() * x / -z + cameras.cx[view].item()
    v = cameras.fy[view].item() * y / z + cameras.cy[view].item()
    return np.stack([u, v], axis=1), -z


def parser_configs(capture: TinyCapture) -> dict[str, DataParserConfig]:
    """The same capture through the parsers, normalised in different ways."""
    return {
        "nerfstudio": NerfstudioDataParserConfig(data=capture.folder),
        "nerfstudio-vertical": NerfstudioDataParserConfig(
            data=capture.folder, orientation_method="vertical", center_method="focus", scale_factor=3.0
        ),
        "nerfstudio-raw": NerfstudioDataParserConfig(
            data=capture.folder, orientation_method="none", center_method="none", auto_scale_poses=False
        ),
        "colmap": ColmapDataParserConfig(data=capture.folder, colmap_path=Path("sparse/0"), downscale_factor=1),
        "colmap-raw": ColmapDataParserConfig(
            data=capture.folder, downscale_factor=1, assume_colmap_world_coordinate_convention=False
        ),
    }


@pytest.mark.parametrize(
    ("parser", "source"),
    [
        *product(["nerfstudio", "nerfstudio-vertical", "nerfstudio-raw"], ["colmap-binary", "colmap-text", "ply"]),
        *product(["colmap", "colmap-raw"], ["colmap-binary", "colmap-text"]),
    ],
)
def test_points_land_on_the_pixels_they_were_made_from(tmp_path: Path, parser: str, source: str) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    if source != "ply":
        write_colmap(tiny, ext=".txt" if source == "colmap-text" else ".bin")
    config = parser_configs(tiny)[parser]
    train = [1, 5, 8]
    points = seed(config, train, "visible")
    expected = tiny.seen[train].any(0)
    assert points.kind == "visible"
    assert len(points.xyz) == expected.sum() < len(tiny.points)
    np.testing.assert_array_equal(points.rgb.numpy(), tiny.rgb[expected])
    capture = read(config)
    for view in (0, 4, 11):
        pixels, depth = project(capture, view, points.xyz)
        ahead = np.abs(depth) > 0.05 * np.abs(depth).max()  # a point beside the camera has no well defined pixel
        np.testing.assert_allclose(pixels[ahead], tiny.pixels(view)[expected][ahead], rtol=2e-4, atol=0.01)


@pytest.mark.parametrize("others", [["sparse/0"], ["sparse/0", "colmap/sparse/0"]])
def test_of_several_colmap_models_the_one_of_ns_process_data_is_read(tmp_path: Path, others: list[str]) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    folders = ["sparse", *others]
    for folder in folders:
        write_colmap(tiny, folder)
    assert seed(parser_configs(tiny)["nerfstudio"], [1, 5, 8], "visible").source.startswith(f"{folders[-1]}, ")
    (tmp_path / "transforms.json").rename(tmp_path / "transforms_old.json")
    assert dataparser_of(tmp_path).colmap_path == Path(folders[-1])
    elsewhere = ColmapDataParserConfig(data=tmp_path, colmap_path=Path("no/such"))
    assert whole_capture_config(elsewhere).colmap_path == Path(folders[-1])
    named = ColmapDataParserConfig(data=tmp_path, colmap_path=Path("sparse"), downscale_factor=1)
    assert seed(named, [1, 5, 8], "visible").source.startswith("sparse, ")


def test_blender_points_need_no_transform_but_the_scale(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_blender(tiny, train=[0, 2, 4, 6], test=[1, 3])
    write_ply(tmp_path / "points.ply", tiny.points, tiny.rgb)
    config = BlenderDataParserConfig(data=tmp_path, ply_path=Path("points.ply"), scale_factor=0.5)
    # Sorted by name the test views come first: ids 0, 1 are test/r_0, test/r_1 and 2.. are train/r_0 ..
    points = seed(config, [2, 3], "visible")
    expected = tiny.seen[[0, 2]].any(0)
    np.testing.assert_allclose(points.xyz.numpy(), 0.5 * tiny.points[expected], atol=1e-5)


@pytest.mark.parametrize("source", ["colmap", "ply"])
def test_strict_points_are_seen_twice(tmp_path: Path, source: str) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    if source == "colmap":
        write_colmap(tiny)
    train = [0, 3, 6]
    config = parser_configs(tiny)["nerfstudio"]
    visible, strict = seed(config, train, "visible"), seed(config, train, "strict")
    assert len(strict.xyz) == (tiny.seen[train].sum(0) >= 2).sum() < len(visible.xyz)
    held = {tuple(row) for row in visible.xyz.tolist()}
    assert all(tuple(row) in held for row in strict.xyz.tolist())


def test_tracks_decide_where_projection_would_differ(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    occluded = tiny.seen.copy()
    tiny.seen = tiny.seen & (np.arange(len(tiny.points)) % 2 == 0)
    write_colmap(tiny)
    points = seed(parser_configs(tiny)["nerfstudio"], [1, 5], "visible")
    assert len(points.xyz) == tiny.seen[[1, 5]].any(0).sum() < occluded[[1, 5]].any(0).sum()


@pytest.mark.parametrize("source", ["colmap", "ply"])
def test_which_photo_sees_which_point_is_known_from_tracks_alone(tmp_path: Path, source: str) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    tiny.seen = tiny.seen & (np.random.default_rng(0).random(tiny.seen.shape) < 0.7)
    if source == "colmap":
        write_colmap(tiny)
    train = [4, 1, 8]
    points = seed(parser_configs(tiny)["nerfstudio"], train, "visible")
    if source == "ply":
        assert points.seen_by is None, "what projects into a photo may be hidden in it"
        return
    assert points.seen_by is not None
    chosen = tiny.seen[train].any(0)
    np.testing.assert_array_equal(points.seen_by.numpy(), tiny.seen[train][:, chosen])


def test_pairing_is_by_name_not_by_position(tmp_path: Path) -> None:
    """A capture that lacks some of the model's images keeps every remaining view with its own tracks."""
    tiny = make_capture(tmp_path)
    write_colmap(tiny)
    keep = [0, 2, 3, 5, 7, 8, 10]
    few = TinyCapture(tmp_path, [tiny.names[i] for i in keep], tiny.w2c[keep], tiny.points, tiny.rgb, tiny.seen[keep])
    write_transforms(few, ply=False)
    points = seed(NerfstudioDataParserConfig(data=tmp_path), [1, 4], "visible")
    np.testing.assert_array_equal(points.rgb.numpy(), tiny.rgb[tiny.seen[[2, 7]].any(0)])


def test_too_few_points_are_filled_up_and_said_so(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path, num_points=30)
    write_transforms(tiny)
    points = seed(parser_configs(tiny)["nerfstudio"], [0, 6], "strict", min_points=100, num_random=200)
    sparse = int((tiny.seen[[0, 6]].sum(0) >= 2).sum())
    assert points.kind == ("strict+random" if sparse else "random")
    assert len(points.xyz) == len(points.rgb) == sparse + 200
    assert "fewer than 100" in points.source


def test_without_points_they_are_random_and_said_so(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny, ply=False)
    points = seed(parser_configs(tiny)["nerfstudio"], [0, 6], "visible")
    assert points.kind == "random"
    assert "no COLMAP model or point cloud" in points.source


def test_random_points_do_not_depend_on_the_sparse_ones(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    config = parser_configs(tiny)["nerfstudio"]
    first = seed(config, [0, 6], "random")
    write_ply(tmp_path / "sparse_pc.ply", 5 * tiny.points, tiny.rgb)
    assert torch.equal(first.xyz, seed(config, [0, 6], "random").xyz)
    assert not torch.equal(first.xyz, seed(config, [1, 6], "random").xyz)


def test_a_transforms_file_of_another_name(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    (tmp_path / "transforms.json").rename(tmp_path / "other.json")
    points = seed(NerfstudioDataParserConfig(data=tmp_path / "other.json"), [0, 6], "visible")
    assert points.source.startswith("sparse_pc.ply")
    assert len(points.xyz) == tiny.seen[[0, 6]].any(0).sum()


def test_a_model_of_another_capture_is_not_used(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    other = make_capture(tmp_path / "other", seed=0)
    other.w2c = other.w2c[np.random.default_rng(5).permutation(len(other.w2c))]
    other.folder = tmp_path
    write_colmap(other)
    points = seed(parser_configs(tiny)["nerfstudio"], [0, 6], "visible")
    assert points.source.startswith("sparse_pc.ply")


def test_a_ply_without_colours_is_grey(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    write_ply(tmp_path / "sparse_pc.ply", tiny.points, None)
    assert (read_ply_model(tmp_path / "sparse_pc.ply", [tmp_path / "transforms.json"]).rgb == 128).all()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_transforms(tiny)
    write_colmap(tiny)
    file = tmp_path / "sparse/0/points3D.bin"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(SparseModelError, match=r"points3D.bin cannot be read"):
        read_colmap_model(tmp_path / "sparse/0")
    cloud = tmp_path / "sparse_pc.ply"
    cloud.write_bytes(b"not a ply")
    with pytest.raises(SparseModelError, match=r"sparse_pc.ply cannot be read"):
        read_ply_model(cloud, [tmp_path / "transforms.json"])
    cloud.unlink()
    file.unlink()
    with pytest.raises(SparseModelError, match=r"sparse_pc.ply, named .* does not exist"):
        seed(parser_configs(tiny)["nerfstudio"], [0, 6], "visible")


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.05, 20), st.integers(2, 12))
def test_similarity_is_recovered_exactly(number: int, scale: float, count: int) -> None:
    rng = np.random.default_rng(number)
    source = np.zeros((count, 3, 4))
    source[:, :, :3] = Rotation.random(count, random_state=number).as_matrix()
    source[:, :, 3] = rng.normal(size=(count, 1)) * rng.normal(size=3)  # on a line, the hard case
    rotation, translation = Rotation.random(random_state=number + 1).as_matrix(), rng.normal(size=3)
    target = np.concatenate([rotation @ source[:, :, :3], scale * source[:, :, 3:] @ np.ones((1, 1))], axis=2)
    target[:, :, 3] = scale * source[:, :, 3] @ rotation.T + translation
    fit = fit_similarity(source, target)
    points = rng.normal(size=(5, 3))
    np.testing.assert_allclose(fit.apply(points), scale * points @ rotation.T + translation, rtol=1e-6, atol=1e-6)


def test_poses_that_do_not_correspond_are_refused() -> None:
    source = np.zeros((6, 3, 4))
    source[:, :, :3] = Rotation.random(6, random_state=0).as_matrix()
    source[:, :, 3] = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(AlignmentError, match="differ from the capture's"):
        fit_similarity(source, source[::-1])
    with pytest.raises(AlignmentError, match="in one place"):
        fit_similarity(source * [1, 1, 1, 0], source * [1, 1, 1, 0])


@pytest.mark.parametrize("outward", [False, True])
def test_random_points_are_in_view_and_fill_it(outward: bool) -> None:
    angles = torch.arange(6) * torch.pi / 3
    forwards = torch.stack([angles.cos(), torch.zeros(6), angles.sin()], dim=1) * (1 if outward else -1)
    centers = torch.stack([angles.cos(), torch.zeros(6), angles.sin()], dim=1)
    down = torch.tensor([0.0, 1.0, 0.0]).expand(6, 3)
    rotation = torch.stack([torch.linalg.cross(down, forwards), down, forwards], dim=1)
    viewmats = torch.eye(4).repeat(6, 1, 1)
    viewmats[:, :3, :3], viewmats[:, :3, 3] = rotation, -(rotation @ centers[:, :, None])[:, :, 0]
    Ks = torch.tensor([[40.0, 0, 20], [0, 40, 15], [0, 0, 1]]).repeat(6, 1, 1)
    cameras = viewmats_to_cameras(viewmats, Ks, (40, 30))
    points = random_points_in_view(cameras, 3000, torch.Generator().manual_seed(0))
    assert points.shape == (3000, 3)
    assert views_seeing(cameras, points).any(0).all()
    for i in range(6):
        x, y, z = (points @ viewmats[i, :3, :3].T + viewmats[i, :3, 3]).T
        inside = (z > 0) & ((x / z).abs() < 0.5) & ((y / z).abs() < 0.375)
        assert inside.float().mean() > 1 / 20, "a camera without random points"
    if not outward:
        assert points.norm(dim=1).median() < 2, "cameras that look at one place have their points there"


def test_points_behind_or_beside_the_camera_are_not_seen() -> None:
    K = torch.tensor([[40.0, 0, 20], [0, 40, 15], [0, 0, 1]])
    cameras = viewmats_to_cameras(torch.eye(4)[None], K[None], (40, 30))
    places = [[0.0, 0, 1], [0, 0, -1], [0.49, 0, 1], [0.51, 0, 1], [0, -0.37, 1], [0, -0.38, 1], [0, 0, 0]]
    assert views_seeing(cameras, torch.tensor(places)).sum(0).tolist() == [1, 0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("scene", ["room", "fox", "stone_horse"])
@pytest.mark.parametrize("parser", ["nerfstudio", "colmap"])
def test_tracks_reproject_within_a_pixel_and_a_half(scene: str, parser: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("sample_capture") if scene == "room" else real_capture(scene)
    config = (
        NerfstudioDataParserConfig(data=folder, downscale_factor=1)
        if parser == "nerfstudio"
        else ColmapDataParserConfig(data=folder, downscale_factor=1)
    )
    capture = read(config)
    points = seed(config, list(range(len(capture.names))), "visible")
    images = {image.name: image for image in colmap.read_images_binary(folder / "sparse/0/images.bin").values()}
    position = {number: i for i, number in enumerate(colmap.read_points3D_binary(folder / "sparse/0/points3D.bin"))}
    assert len(points.xyz) == len(position)
    errors = []
    for view in range(0, len(capture.names), 10):
        image = images[capture.names[view]]
        tracked = image.point3D_ids > 0
        pixels, depth = project(capture, view, points.xyz[[position[i] for i in image.point3D_ids[tracked]]])
        assert (depth > 0).all()
        errors.append(np.linalg.norm(pixels - image.xys[tracked], axis=1))
    error = np.concatenate(errors)
    assert error.mean() < 1.5
    assert np.median(error) < 1.0


def test_transform_of_the_parser_is_reproduced() -> None:
    """Fitting by poses agrees with the matrices that the parser reports."""
    folder = real_capture("fox")
    config = NerfstudioDataParserConfig(data=folder, downscale_factor=2)
    capture = read(config)
    xyz = seed(config, list(range(len(capture.names))), "visible").xyz.double()
    world = torch.from_numpy(read_colmap_model(folder / "sparse/0").xyz)
    matrix = capture.outputs.dataparser_transform.double()
    expected = capture.outputs.dataparser_scale * (world @ matrix[:, :3].T + matrix[:, 3])
    torch.testing.assert_close(xyz, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("scene", "strict"), [("stone_horse", 47), ("fox", 226)])
def test_three_views_share_few_points(scene: str, strict: int) -> None:
    folder = real_capture(scene)
    config = NerfstudioDataParserConfig(data=folder, downscale_factor=2)
    train = {"stone_horse": [9, 23, 28], "fox": [7, 37, 44]}[scene]
    points = seed(config, train, "strict", min_points=100)
    assert points.kind == ("strict+random" if strict < 100 else "strict")
    assert len(points.xyz) == strict + (50 if strict < 100 else 0)
    capture = read(config)
    viewmats = c2w_to_viewmat(capture.outputs.cameras.camera_to_worlds[train])
    assert ((points.xyz @ viewmats[:, 2, :3].T + viewmats[:, 2, 3]) > 0).any(-1).all()
