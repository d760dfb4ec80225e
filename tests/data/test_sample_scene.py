"""The generated sample capture: rays against closed forms, views against each other, files against their readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from PIL import Image
from plyfile import PlyData
from scipy.ndimage import map_coordinates

from genfusion_ns.data.sample_scene.capture import SampleSceneConfig, build_scene, write_sample_scene
from genfusion_ns.data.sample_scene.files import pixels_of, spread_views
from genfusion_ns.data.sample_scene.groups import turn
from genfusion_ns.data.sample_scene.materials import srgb_to_linear
from genfusion_ns.data.sample_scene.phone import mistaken, photograph
from genfusion_ns.data.sample_scene.render import Scene
from genfusion_ns.data.sample_scene.shapes import Shape, Surface
from genfusion_ns.data.sample_scene.tracer import Tracer

PLAIN = Surface(np.full((8, 8, 3), 0.5, np.float32))
ROUGH_LIGHT = 1.0
K = np.array([[100.0, 0.0, 80.0], [0.0, 100.0, 45.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module", params=["orbit", "forward"])
def room(request: pytest.FixtureRequest) -> Scene:
    return build_scene(request.param, 1, ROUGH_LIGHT)


@pytest.fixture(
    scope="module", params=[(w, k) for w in ("room", "clutter", "outdoor") for k in ("orbit", "forward")], ids="-".join
)
def scene(request: pytest.FixtureRequest) -> Scene:
    world, layout = request.param
    return build_scene(layout, 1, ROUGH_LIGHT, world)


def shapes() -> list[Shape]:
    tilt = turn(0.7, 0.4, -0.3)
    centre = np.array([0.3, -0.2, 0.1])
    kinds = {"box": (0.5, 0.3, 0.7), "ellipsoid": (0.5, 0.3, 0.7), "frustum": (0.6, 0.2, 0.5)}
    return [Shape(kind, centre, tilt, np.array(half), (PLAIN,)) for kind, half in kinds.items()]


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.kind)
def test_rays_stop_at_the_first_surface_point(shape: Shape):
    rng = np.random.default_rng(0)
    origins = rng.standard_normal((400, 3))
    origins *= 3.0 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = rng.uniform(-0.9, 0.9, (400, 3)) - origins
    t, index = Tracer([[shape]]).nearest(origins, directions)
    hit = index == 0
    assert 50 < hit.sum() < 390
    assert np.abs(shape.distance(origins[hit] + t[hit, None] * directions[hit])).max() < 1e-4
    before = np.where(hit, t, 2.0)[:, None] * np.linspace(0, 1, 200, endpoint=False)
    along = origins[:, None] + before[..., None] * directions[:, None]
    assert shape.distance(along.reshape(-1, 3)).min() > -1e-4


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.kind)
def test_face_coordinates_lead_back_to_the_point(shape: Shape):
    rng = np.random.default_rng(1)
    origins = 3.0 * rng.standard_normal((300, 3))
    directions = shape.centre + 0.2 * rng.standard_normal((300, 3)) - origins
    hits = Tracer([[shape]]).hits(origins, directions)
    rows = hits.face >= 0
    points = (origins + hits.t[:, None] * directions)[rows]
    s, v = hits.s[rows].astype(float), hits.v[rows].astype(float)
    back = np.stack([shape.place(int(f), a[None], b[None])[0] for f, a, b in zip(hits.face[rows], s, v, strict=True)])
    np.testing.assert_allclose(back, points, atol=2e-3)
    outward = shape.distance(points + 0.01 * hits.normal[rows])
    assert (outward > 0.003).all()


def test_depth_of_the_ceiling_is_its_height_above_the_camera(room: Scene):
    scene = room
    centre = scene.cameras(12)[3, :3, 3]
    looking_up = np.eye(4)
    looking_up[:3, :3], looking_up[:3, 3] = np.diag([1.0, -1.0, -1.0]), centre
    render = scene.render(looking_up, K, 160, 90, samples=1)
    points_down = render.normals[..., 2] < -0.999
    height = scene.room.high[2] - centre[2]
    ceiling = points_down & (render.face == np.bincount(render.face[points_down]).argmax())
    assert ceiling.mean() > 0.2
    np.testing.assert_allclose(render.depth[ceiling], height, atol=1e-4)


def test_views_agree_where_a_matt_surface_is_seen_by_both(scene):
    first, second = scene.cameras(45)[20:22]
    a, b = (scene.render(pose, K, 160, 90) for pose in (first, second))
    row, column = np.mgrid[4:86:3, 4:156:3].reshape(2, -1)
    rays = np.stack([(column + 0.5 - 80) / 100, -(row + 0.5 - 45) / 100, -np.ones(len(row))], -1)
    points = first[:3, 3] + a.depth[row, column, None] * (rays @ first[:3, :3].T)
    pixels, depth = pixels_of(points, second, K)
    inside = (pixels > 2).all(1) & (pixels < [158, 88]).all(1) & (depth > 0)
    matt = scene.faces.gloss[a.face[row, column]] == 0
    rows = np.flatnonzero(inside & matt & scene.visible(points, second[:3, 3]))
    assert len(rows) > 200
    sample = [pixels[rows, 1] - 0.5, pixels[rows, 0] - 0.5]
    moved = np.stack([map_coordinates(b.rgb[..., k], sample, order=1) for k in range(3)], -1)
    here = a.rgb[row[rows], column[rows]]
    error, still = np.abs(moved - here).mean(), np.abs(b.rgb[row[rows], column[rows]] - here).mean()
    assert error < 0.03
    assert error < 0.5 * still
    np.testing.assert_allclose(np.median(map_coordinates(b.depth, sample, order=1) / depth[rows]), 1.0, atol=2e-3)


def test_rendering_is_in_range_and_detailed(scene):
    for pose in scene.cameras(45)[[0, 30]]:
        render = scene.render(pose, K, 160, 90)
        assert render.rgb.min() >= 0 and render.rgb.max() <= 1
        assert 0.25 < render.rgb.mean() < 0.75
        assert render.rgb.std() > 0.1
        assert (render.rgb.max(-1) < 0.01).mean() < 0.01
        np.testing.assert_allclose(np.linalg.norm(render.normals, axis=-1), 1.0, atol=1e-4)


@pytest.mark.parametrize("path_seed", [0, 1, 2])
def test_cameras_stand_in_free_space(scene, path_seed: int):
    poses = scene.cameras(45, path_seed)
    assert scene.is_free(poses[:, :3, 3], 0.1).all()
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3)[None].repeat(45, 0), atol=1e-12)
    assert (np.linalg.det(rotations) > 0).all()


def test_free_space_ends_at_walls_and_objects(scene):
    beyond = np.stack([scene.room.high + 0.1, scene.room.low - 0.1, scene.room.high - 0.05])
    solid = [shape.centre for shape in scene.tracer.shapes if shape.kind != "panel"]
    assert not scene.is_free(np.concatenate([beyond, solid]), 0.1).any()


def test_seed_and_layout_decide_everything():
    pose_and_view = []
    for layout, seed, world in (
        ("orbit", 5, "room"),
        ("orbit", 5, "room"),
        ("orbit", 6, "room"),
        ("forward", 5, "room"),
        ("orbit", 5, "clutter"),
        ("orbit", 5, "outdoor"),
    ):
        scene = build_scene(layout, seed, ROUGH_LIGHT, world)
        pose = scene.cameras(12)[0]
        pose_and_view.append((pose, scene.render(pose, K / 4 + np.diag([0, 0, 0.75]), 40, 22, 1).rgb))
    (pose, view), again, *others = pose_and_view
    assert (pose == again[0]).all() and (view == again[1]).all()
    for other_pose, other_view in others:
        assert np.abs(pose - other_pose).max() > 0.01
        assert np.abs(view - other_view).mean() > 0.05


def test_both_parsers_read_the_same_cameras(sample_capture: Path):
    common = {"data": sample_capture, "eval_mode": "all", "downscale_factor": 1, "load_3D_points": False}
    plain = NerfstudioDataParserConfig(**common).setup().get_dataparser_outputs("train")
    model = ColmapDataParserConfig(**common, colmap_path=Path("sparse/0")).setup().get_dataparser_outputs("train")
    assert [path.name for path in plain.image_filenames] == [path.name for path in model.image_filenames]
    np.testing.assert_allclose(plain.cameras.camera_to_worlds, model.cameras.camera_to_worlds, atol=1e-5)
    np.testing.assert_allclose(plain.dataparser_transform, model.dataparser_transform, atol=1e-5)
    assert plain.dataparser_scale == pytest.approx(model.dataparser_scale, rel=1e-5)
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        np.testing.assert_allclose(getattr(plain.cameras, name), getattr(model.cameras, name), rtol=1e-6)


def test_colmap_tracks_project_onto_their_pixels(sample_capture: Path):
    cameras, images, points = colmap.read_model(str(sample_capture / "sparse" / "0"), ".bin")
    fx, fy, cx, cy = cameras[1].params
    assert len(points) > 150 and len(images) == 13
    for point in points.values():
        assert len(point.image_ids) >= 2
        for image_id, slot in zip(point.image_ids, point.point2D_idxs, strict=True):
            image = images[image_id]
            x, y, z = image.qvec2rotmat() @ point.xyz + image.tvec
            assert image.point3D_ids[slot] == point.id
            assert z > 0
            np.testing.assert_allclose(image.xys[slot], (fx * x / z + cx, fy * y / z + cy), atol=0.01)


def test_points_lie_on_the_surfaces_that_the_views_show(sample_capture: Path):
    meta = json.loads((sample_capture / "transforms.json").read_text())
    vertex = PlyData.read(str(sample_capture / meta["ply_file_path"]))["vertex"]
    xyz = np.stack([vertex[name] for name in "xyz"], -1).astype(float)
    intrinsics = np.array([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1]])
    on_surface = np.zeros(len(xyz), int)
    for frame in meta["frames"]:
        depth = np.array(Image.open(sample_capture / frame["depth_file_path"])).astype(float) / 1000
        pixels, z = pixels_of(xyz, np.array(frame["transform_matrix"]), intrinsics)
        column, row = np.floor(pixels).astype(int).T
        rows = np.flatnonzero((z > 0) & (column >= 0) & (column < 64) & (row >= 0) & (row < 36))
        on_surface[rows] += np.abs(depth[row[rows], column[rows]] - z[rows]) < 0.03 * z[rows]
    assert (on_surface >= 1).all()
    assert (on_surface >= 2).mean() > 0.9


def test_half_size_images_are_area_averages(sample_capture: Path):
    full = np.array(Image.open(sample_capture / "images" / "frame_00004.png")).astype(float)
    half = np.array(Image.open(sample_capture / "images_2" / "frame_00004.png")).astype(float)
    np.testing.assert_allclose(half, full.reshape(18, 2, 32, 2, 3).mean((1, 3)), atol=1.0)


@pytest.mark.parametrize("size", [3, 6, 9])
def test_splits_are_disjoint_and_test_every_eighth(sample_capture: Path, size: int):
    split = json.loads((sample_capture / f"train_test_split_{size}.json").read_text())
    assert split["test_ids"] == [0, 8]
    assert len(set(split["train_ids"])) == size
    assert not set(split["train_ids"]) & set(split["test_ids"])
    assert all(0 <= k < 13 for k in split["train_ids"])


def test_spread_views_takes_one_of_each_cluster():
    poses = np.tile(np.eye(4), (12, 1, 1))
    poses[:, 0, 3] = np.repeat([0.0, 10.0, 20.0], 4) + np.tile([0.0, 0.1, 0.2, 0.3], 3)
    chosen = spread_views(poses, 3, np.arange(12))
    assert [k // 4 for k in chosen] == [0, 1, 2]


def test_a_filled_folder_is_refused_and_left_alone(sample_capture: Path, tmp_path: Path):
    config = SampleSceneConfig(num_views=12, width=32, height=18, num_points=50, light_spacing=1.0)
    precious = tmp_path / "notes.txt"
    precious.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not empty"):
            write_sample_scene(config, tmp_path, overwrite, progress=False)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_sample_scene(config, sample_capture, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert precious.read_text() == "mine"


def test_overwrite_replaces_an_earlier_scene_whole(tmp_path: Path):
    out = tmp_path / "room"
    config = SampleSceneConfig(num_views=13, width=16, height=16, num_points=20, samples=1, light_spacing=1.0)
    write_sample_scene(config, out, progress=False)
    config.num_views = 12
    write_sample_scene(config, out, overwrite=True, progress=False)
    assert len(list((out / "images").iterdir())) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


@pytest.mark.parametrize(
    ("field", "value"), [("num_views", 4), ("width", 0), ("fov", 180.0), ("samples", 0), ("light_spacing", 0.0)]
)
def test_values_out_of_range_name_their_flag(tmp_path: Path, field: str, value: float):
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')} must lie between"):
        write_sample_scene(SampleSceneConfig(**{field: value}), tmp_path / "room", progress=False)
    assert not (tmp_path / "room").exists()


def test_unknown_layouts_and_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="orbit, forward"):
        build_scene("spiral", 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="room, clutter, outdoor"):
        build_scene("orbit", 0, world="moon")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="seed must not be negative"):
        build_scene("orbit", -1)


def test_outdoors_is_open_and_ends_far_away():
    scene = build_scene("orbit", 2, ROUGH_LIGHT, "outdoor")
    render = scene.render(scene.cameras(12)[4], K, 160, 90, samples=1)
    assert render.depth.max() > 20.0, "the backdrop"
    assert np.percentile(render.depth, 10) < 3.0, "the ground, and what stands on it"
    for pose in scene.cameras(12):
        upwards = pose[:3, :3] @ np.array([0.0, 0.3, -1.0])
        assert scene.tracer.hits(pose[None, :3, 3], upwards[None]).face[0] >= 0, "no ray leaves the world"


def test_a_perfect_phone_changes_nothing():
    picture = np.random.default_rng(0).uniform(size=(6, 8, 3)).astype(np.float32)
    assert photograph(picture, 3, 12, 0.0, 0.0, 1) is picture
    poses = np.tile(np.eye(4), (3, 1, 1))
    assert mistaken(poses, 0.0, 1) is poses


def test_noise_has_the_asked_deviation_at_mid_grey_and_is_another_in_each_photo():
    grey = np.full((200, 200, 3), 0.5, np.float32)
    photos = [photograph(grey, k, 12, 0.0, 0.05, 1) for k in (0, 1)]
    for photo in photos:
        assert photo.std() == pytest.approx(0.05, rel=0.03)
        assert photo.mean() == pytest.approx(0.5, abs=0.002)
    assert np.corrcoef(photos[0].ravel(), photos[1].ravel())[0, 1] < 0.02
    assert photograph(0 * grey, 0, 12, 0.0, 0.05, 1).std() < 0.03, "the dark is quieter"


def test_exposure_drifts_by_no_more_than_the_stops_asked_for():
    grey = np.full((1, 1, 3), 0.4, np.float32)
    light = np.array([float(srgb_to_linear(photograph(grey, k, 48, 0.5, 0.0, 3))[0, 0, 0]) for k in range(48)])
    stops = np.log2(light / float(srgb_to_linear(grey)[0, 0, 0]))
    assert np.abs(stops).max() == pytest.approx(0.5, abs=0.06)
    assert np.abs(np.diff(stops)).max() < 0.2, "neighbours are alike"


def test_mistaken_poses_are_rigid_and_off_by_about_as_much_as_asked():
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (400, 1, 1))
    poses[:, :3, 3] = rng.standard_normal((400, 3))
    off = mistaken(poses, 2.0, 5)
    rotations = off[:, :3, :3]
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), poses[:, :3, :3], atol=1e-12)
    assert (np.linalg.det(rotations) > 0).all()
    angles = np.degrees(np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert np.sqrt((angles**2).mean()) == pytest.approx(2.0, rel=0.15)
    moved = np.linalg.norm(off[:, :3, 3] - poses[:, :3, 3], axis=1)
    spread = np.linalg.norm(poses[:, :3, 3] - poses[:, :3, 3].mean(0), axis=1).mean()
    assert np.sqrt((moved**2).mean()) == pytest.approx(0.02 * spread, rel=0.15)


def test_a_phones_capture_has_its_flaws_in_images_and_poses_alone(tmp_path: Path):
    common = {"num_views": 12, "width": 32, "height": 18, "num_points": 50, "samples": 1, "light_spacing": 1.0}
    for name, flaws in (("plain", {}), ("phone", {"exposure": 0.5, "noise": 0.05, "pose_error": 2.0})):
        write_sample_scene(SampleSceneConfig(**common, **flaws), tmp_path / name, progress=False)

    def picture(name: str, file: str) -> np.ndarray:
        return np.array(Image.open(tmp_path / name / file)).astype(float)

    poses = [json.loads((tmp_path / name / "transforms.json").read_text())["frames"] for name in ("plain", "phone")]
    for plain, phone in zip(*poses, strict=True):
        assert (picture("plain", plain["depth_file_path"]) == picture("phone", plain["depth_file_path"])).all()
        assert np.abs(picture("plain", plain["file_path"]) - picture("phone", plain["file_path"])).mean() > 1
        assert plain["transform_matrix"] != phone["transform_matrix"]
