"""Every format is read back by another reader than the library that wrote it."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from plyfile import PlyData
from scipy.spatial.transform import Rotation

from genfusion_ns.exports.errors import EmptyExportError, check_output
from genfusion_ns.exports.frames import Similarity, frame_of
from genfusion_ns.exports.harmonics import C0, rotated_bands
from genfusion_ns.exports.splat_files import ENDINGS, write_splats
from genfusion_ns.exports.splats import Splats, usable
from genfusion_ns.rendering.spherical_harmonics import sh_basis

SIGMOID = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731


def some_splats(count=300, bands=15, seed=0):
    """Flat splats that differ in everything, with colours and sizes that all formats can hold."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    log_scales = np.concatenate([rng.uniform(-6, -2, (count, 2)), np.full((count, 1), -9.0)], axis=1)
    return Splats(
        means=rng.uniform(-2, 2, (count, 3)).astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        log_scales=log_scales.astype(np.float32),
        logits=rng.uniform(-2, 2, count).astype(np.float32),
        dc=rng.uniform(-1.2, 1.2, (count, 3)).astype(np.float32),
        rest=rng.uniform(-0.2, 0.2, (count, bands, 3)).astype(np.float32),
    )


def written(folder, ending, splats, **options):
    path = folder / f"scene{ending}"
    write_splats(path, ending, splats, splats.normals(), **options)
    return path


def in_order(splats, means):
    """The splats in the order in which a file has them."""
    order = np.linalg.norm(splats.means[None] - means[:, None], axis=-1).argmin(1)
    assert len(set(order)) == len(splats)
    return Splats(*(getattr(splats, name)[order] for name in splats.__dataclass_fields__))


def assert_same(splats, means, quats, log_scales, opacities, dc, rest, *, place, size, turn, share, colour, fine):
    """What was read is what was written, within the steps of a format; quaternions up to their sign."""
    expected = in_order(splats, means)
    assert np.abs(means - expected.means).max() < place
    assert np.abs(log_scales - expected.log_scales).max() < size
    cosines = np.abs((quats / np.linalg.norm(quats, axis=1, keepdims=True) * expected.quats).sum(1))
    assert np.degrees(2 * np.arccos(cosines.clip(0, 1))).max() < turn
    assert np.abs(opacities - SIGMOID(expected.logits)).max() < share
    assert np.abs(dc - expected.dc).max() < colour
    if rest is not None:
        assert rest.shape == expected.rest.shape
        assert np.abs(rest - expected.rest).max() < fine


@pytest.mark.parametrize("bands", [0, 3, 8, 15])
def test_ply_is_that_of_3dgs(tmp_path, bands):
    splats = some_splats(bands=bands)
    vertices = PlyData.read(written(tmp_path, ".ply", splats))["vertex"]
    names = [prop.name for prop in vertices.properties]
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:] == [f"f_rest_{i}" for i in range(3 * bands)] + [
        "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    column = lambda *parts: np.stack([vertices[part] for part in parts], axis=-1)  # noqa: E731
    assert np.array_equal(column("x", "y", "z"), splats.means)
    assert np.array_equal(column("rot_0", "rot_1", "rot_2", "rot_3"), splats.quats)
    assert np.array_equal(vertices["opacity"], splats.logits)
    for band in range(bands):  # all of red come first, then green, then blue
        assert np.array_equal(column(*(f"f_rest_{c * bands + band}" for c in range(3))), splats.rest[:, band])
    axes = Rotation.from_quat(np.roll(splats.quats, -1, axis=1)).apply([0, 0, 1])
    assert np.allclose(column("nx", "ny", "nz"), axes, atol=1e-6)


@pytest.mark.parametrize("bands", [0, 3, 8, 15])
def test_compressed_ply_by_the_words_of_its_format(tmp_path, bands):
    splats = some_splats(bands=bands)
    file = PlyData.read(written(tmp_path, ".compressed.ply", splats))
    chunk, vertex = file["chunk"], file["vertex"]
    of = np.arange(len(vertex.data)) // 256

    def unpacked(name, bits, low, high):
        word, shift, parts = vertex[name].astype(np.int64), sum(bits), []
        for width, least, most in zip(bits, low, high, strict=True):
            shift -= width
            share = (word >> shift & (1 << width) - 1) / ((1 << width) - 1)
            parts.append(chunk[least][of] * (1 - share) + chunk[most][of] * share)
        return np.stack(parts, axis=-1)

    def ends(kind, axes):
        return [f"min_{kind}{axis}" for axis in axes], [f"max_{kind}{axis}" for axis in axes]

    means = unpacked("packed_position", (11, 10, 11), *ends("", "xyz"))
    log_scales = unpacked("packed_scale", (11, 10, 11), *ends("scale_", "xyz"))
    rgb = unpacked("packed_color", (8, 8, 8, 8), *([*names, names[0]] for names in ends("", "rgb")))[:, :3]
    alpha = (vertex["packed_color"] & 255) / 255
    word = vertex["packed_rotation"].astype(np.int64)
    largest = word >> 30
    small = np.stack([(word >> shift & 1023) / 1023 - 0.5 for shift in (20, 10, 0)], axis=-1) * np.sqrt(2)
    quats = np.empty((len(word), 4))
    for row, (skipped, three) in enumerate(zip(largest, small, strict=True)):
        quats[row] = np.insert(three, skipped, np.sqrt(max(0, 1 - (three**2).sum())))
    rest = None
    if bands:
        by_channel = np.stack([file["sh"][f"f_rest_{i}"] for i in range(3 * bands)], axis=-1)
        rest = ((by_channel + 0.5) / 256 * 8 - 4).reshape(-1, 3, bands).transpose(0, 2, 1)
    bounds = {"place": 0.005, "size": 0.005, "turn": 0.3, "share": 0.004, "colour": 0.02, "fine": 0.05}
    assert_same(splats, means, quats, log_scales, alpha, (rgb - 0.5) / C0, rest, **bounds)


def test_splat_by_its_32_bytes(tmp_path):
    splats = some_splats()
    rows = np.fromfile(
        written(tmp_path, ".splat", splats),
        dtype=[("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)],
    )
    rgba, quats = rows["rgba"] / 255, (rows["quat"].astype(float) - 128) / 128
    bounds = {"place": 1e-6, "size": 1e-4, "turn": 2.0, "share": 0.005, "colour": 0.02, "fine": 0}
    dc = (rgba[:, :3] - 0.5) / C0
    assert_same(splats, rows["mean"], quats, np.log(rows["scale"]), rgba[:, 3], dc, None, **bounds)


@pytest.mark.parametrize(("version", "bands"), [(2, 15), (3, 8), (4, 15), (4, 3), (4, 0)])
def test_spz_by_another_library(tmp_path, version, bands):
    gsply = pytest.importorskip("gsply")
    splats = some_splats(bands=bands)
    path = written(tmp_path, ".spz", splats, spz_version=version)
    if version < 4:
        import gzip

        assert struct.unpack("<II", gzip.decompress(path.read_bytes())[:8]) == (0x5053474E, version)
    data = gsply.read_spz(path)
    rest = np.asarray(data.shN).reshape(len(splats), -1, 3) if bands else None
    turn = 12.0 if version == 2 else 0.5  # 8 bits for each part of a quaternion
    opacities = SIGMOID(np.asarray(data.opacities).ravel())
    bounds = {"place": 1 / 4096, "size": 1 / 31, "turn": turn, "share": 0.005, "colour": 0.03, "fine": 0.07}
    assert_same(splats, data.means, data.quats, data.scales, opacities, data.sh0, rest, **bounds)


@pytest.mark.parametrize("bands", [0, 8])
def test_sog_by_the_words_of_its_format(tmp_path, bands):
    splats = some_splats(bands=bands)
    with zipfile.ZipFile(written(tmp_path, ".sog", splats)) as archive:
        meta = json.loads(archive.read("meta.json"))
        count = meta["count"]

        def pixels(part, index=0):
            image = Image.open(io.BytesIO(archive.read(meta[part]["files"][index])))
            return np.asarray(image.convert("RGBA")).reshape(-1, 4).astype(np.int64)

        whole = pixels("means")[:count, :3] + 256 * pixels("means", 1)[:count, :3]
        low, high = (np.array(meta["means"][end]) for end in ("mins", "maxs"))
        logs = low + (high - low) * whole / 65535
        log_scales = np.array(meta["scales"]["codebook"])[pixels("scales")[:count, :3]]
        first = pixels("sh0")[:count]
        packed = pixels("quats")[:count]
        small = (packed[:, :3] / 255 - 0.5) * np.sqrt(2)
        quats = np.stack(
            [np.insert(s, m - 252, np.sqrt(max(0, 1 - (s**2).sum()))) for s, m in zip(small, packed[:, 3], strict=True)]
        )
        rest = None
        if bands:
            palette = Image.open(io.BytesIO(archive.read(meta["shN"]["files"][0])))
            centroids = np.asarray(palette.convert("RGB")).astype(np.int64)
            label = pixels("shN", 1)[:count]
            entry = label[:, 0] + 256 * label[:, 1]
            columns = (entry % 64)[:, None] * bands + np.arange(bands)
            rest = np.array(meta["shN"]["codebook"])[centroids[(entry // 64)[:, None], columns]]
    assert meta["version"] == 2 and count == len(splats)
    means = np.sign(logs) * np.expm1(np.abs(logs))
    dc = np.array(meta["sh0"]["codebook"])[first[:, :3]]
    bounds = {"place": 3e-4, "size": 0.06, "turn": 1.5, "share": 0.005, "colour": 0.03, "fine": 0.25}
    assert_same(splats, means, quats, log_scales, first[:, 3] / 255, dc, rest, **bounds)


def test_gltf_has_what_khronos_asks_for(tmp_path):
    splats = some_splats(bands=8)
    content = written(tmp_path, ".glb", splats).read_bytes()
    assert struct.unpack("<4sII", content[:12]) == (b"glTF", 2, len(content))
    length = struct.unpack("<I", content[12:16])[0]
    document, data = json.loads(content[20 : 20 + length]), content[28 + length :]
    (primitive,) = document["meshes"][0]["primitives"]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"] and primitive["mode"] == 0
    about = primitive["extensions"]["KHR_gaussian_splatting"]
    assert about == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}

    def values(name):
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        kind = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        found = np.frombuffer(data, kind, accessor["count"] * width, view["byteOffset"])
        return found.reshape(-1, width) if width > 1 else found

    prefix = "KHR_gaussian_splatting:"
    rest = np.stack([values(f"{prefix}SH_DEGREE_{d}_COEF_{n}") for d in (1, 2) for n in range(2 * d + 1)], axis=1)
    bounds = {"place": 1e-7, "size": 1e-5, "turn": 0.1, "share": 1e-6, "colour": 1e-7, "fine": 1e-7}
    quats = np.roll(values(f"{prefix}ROTATION"), 1, axis=1)
    scales, opacity = np.log(values(f"{prefix}SCALE")), values(f"{prefix}OPACITY")
    dc = values(f"{prefix}SH_DEGREE_0_COEF_0")
    assert_same(splats, values("POSITION"), quats, scales, opacity, dc, rest, **bounds)


def test_other_readers_of_gltf_see_points(tmp_path):
    splats = some_splats(bands=0)
    scene = trimesh.load(str(written(tmp_path, ".glb", splats)))
    (cloud,) = scene.geometry.values()
    assert np.allclose(cloud.vertices, splats.means)


@pytest.mark.parametrize("bands", [3, 8, 15])
def test_colours_turn_with_the_scene(bands):
    rng = np.random.default_rng(1)
    rotation = Rotation.random(random_state=3).as_matrix()
    rest, directions = rng.normal(size=(20, bands, 3)), rng.normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    degree = {3: 1, 8: 2, 15: 3}[bands]

    def colour(coefficients, along):
        return np.einsum("nb,nbc->nc", sh_basis(torch.from_numpy(along), degree).numpy()[:, 1:], coefficients)

    turned = colour(rotated_bands(rest, rotation), directions @ rotation.T)
    assert np.allclose(turned, colour(rest, directions)) and np.abs(turned).max() > 0.5


def test_a_moved_scene_has_its_splats_in_the_same_places():
    splats = some_splats(bands=0)
    to = Similarity(Rotation.random(random_state=5).as_matrix(), 2.5, np.array([1.0, -2, 3]))
    moved = splats.moved(to)
    ends = splats.means + splats.rotations()[:, :, 0] * np.exp(splats.log_scales[:, :1])
    moved_ends = moved.means + moved.rotations()[:, :, 0] * np.exp(moved.log_scales[:, :1])
    assert np.allclose(to.points(ends), moved_ends, atol=1e-5)


def test_the_frame_of_the_capture_undoes_the_dataparser():
    rotation = Rotation.random(random_state=2).as_matrix()
    transform = np.concatenate([rotation, [[1.0], [2.0], [3.0]]], axis=1)
    points = np.random.default_rng(0).normal(size=(10, 3))
    scene = 0.4 * (points @ rotation.T + transform[:, 3])
    assert np.allclose(frame_of("capture", transform, 0.4).points(scene), points)
    assert np.allclose(frame_of("scene", transform, 0.4).points(scene), scene)
    up = np.array([[0.0, 0, 1]])
    for frame, y_up, expected in (("scene", True, 1), ("y-up", False, 1), ("y-down", False, -1), ("y-down", True, 1)):
        assert np.allclose(frame_of(frame, transform, 0.4, y_up).points(up), [[0, expected, 0]])


def test_normals_look_at_the_cameras():
    splats = some_splats()
    eyes = np.array([[5.0, 0, 0], [-5.0, 0, 0]])
    normals = splats.normals(eyes)
    nearest = np.where(splats.means[:, :1] > 0, eyes[:1], eyes[1:])
    assert ((nearest - splats.means) * normals).sum(1).min() >= 0


def test_what_was_removed_is_said_and_nothing_is_never_written():
    splats = some_splats(4)
    splats.means[0] = np.nan
    splats.logits[1] = -6.0
    kept, removed = usable(splats, np.array([True, True, False, True]))
    assert len(kept) == 1
    assert removed == {"not finite": 1, "with an opacity under 1/255": 1, "outside of the crop box": 1}
    with pytest.raises(EmptyExportError, match=r"of 4 surfels none is left \(1 not finite; 1 with .*; 2 outside"):
        usable(splats, np.zeros(4, dtype=bool))


def test_outputs_are_checked(tmp_path):
    assert check_output(tmp_path / "a.compressed.ply", ENDINGS, False) == ".compressed.ply"
    assert check_output(tmp_path / "a.PLY", ENDINGS, False) == ".ply"
    for name in ("a.ksplat", ".ply", "ply"):
        with pytest.raises(ValueError, match=r"ends with \.ply, \.compressed\.ply"):
            check_output(tmp_path / name, ENDINGS, False)
    (tmp_path / "b.ply").write_text("old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_output(tmp_path / "b.ply", ENDINGS, False)
    assert check_output(tmp_path / "b.ply", ENDINGS, True) == ".ply"


def test_a_scene_that_spz_cannot_hold_is_refused(tmp_path):
    splats = some_splats(3)
    splats.means[0] = 3000
    with pytest.raises(ValueError, match="2047 units"):
        written(tmp_path, ".spz", splats)
    assert not list(tmp_path.iterdir())
