"""What a masked run may see: windows, mask images and alpha, in photos, cameras and seed points."""

from __future__ import annotations

import io
import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from tiny_capture import HEIGHT, WIDTH, TinyCapture, make_capture, write_colmap, write_transforms

from genfusion_ns.data.captures.mask_files import MaskError, read_mask
from genfusion_ns.data.crop_windows import CropWindow, CropWindowError, load_crop_windows, walk_crop_windows
from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.data.masking import MaskingConfig

NAMES = [f"view_{i:02d}.png" for i in range(12)]
SIZES = [(WIDTH, HEIGHT)] * 12


def masked_manager(folder: Path, masking: MaskingConfig, **settings) -> GenFusionDataManager:
    parser = NerfstudioDataParserConfig(downscale_factor=1, load_3D_points=False)
    config = GenFusionDataManagerConfig(
        dataparser=parser, data=folder, masking=masking, **{"train_every": 2, "min_seed_points": 1, **settings}
    )
    return GenFusionDataManager(config)


@pytest.fixture()
def capture(tmp_path: Path) -> TinyCapture:
    made = make_capture(tmp_path / "capture")
    rng = np.random.default_rng(5)
    for name in made.names:
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made.folder / "images" / name)
    write_transforms(made)
    return made


def photo(capture: TinyCapture, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(capture.folder / "images" / name)))


def test_the_published_walk_by_default() -> None:
    """Spec: 480x270 in 960x540, from (102, 106), 5 pixels per image and axis, inside, bouncing off the borders."""
    windows = walk_crop_windows([(960, 540)] * 1000)
    assert {(w.width, w.height) for w in windows} == {(480, 270)}
    positions = np.array([(w.x, w.y) for w in windows])
    assert positions[0].tolist() == [102, 106]
    steps = np.abs(np.diff(positions, axis=0))
    assert (steps == 5).all()
    assert positions[:, 0].min() >= 0 and positions[:, 0].max() <= 480
    assert positions[:, 1].min() >= 0 and positions[:, 1].max() <= 270
    turns = (np.diff(np.sign(np.diff(positions, axis=0)), axis=0) != 0).any(1).sum()
    assert 15 <= turns <= 60, "about 30 straight segments"
    assert walk_crop_windows([(960, 540)] * 1000) == windows != walk_crop_windows([(960, 540)] * 1000, seed=1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.floats(0.05, 1.0),
    st.floats(0, 0.99),
    st.integers(0, 10**6),
)
def test_windows_always_fit_their_images(width: int, height: int, area: float, speed: float, seed: int) -> None:
    sizes = [(width, height)] * 7 + [(height, width), (2 * width, 2 * height)]
    try:
        windows = walk_crop_windows(sizes, area, speed, seed)
    except CropWindowError as error:
        assert "2 rows and columns are needed" in str(error) and min(width, height) * area**0.5 < 2
        return
    for window, size in zip(windows, sizes, strict=True):
        assert window.fits(size)
        assert abs(window.width - size[0] * area**0.5) <= 0.5 and abs(window.height - size[1] * area**0.5) <= 0.5


@pytest.mark.parametrize(("area", "speed", "flag"), [(0, 0.1, "area is 0"), (1.5, 0, "area"), (0.5, -1, "speed is -1")])
def test_walks_that_cannot_be(area: float, speed: float, flag: str) -> None:
    with pytest.raises(CropWindowError, match=flag):
        walk_crop_windows(SIZES, area, speed)


def test_windows_from_files(tmp_path: Path) -> None:
    two, four = tmp_path / "two.npy", tmp_path / "four.npy"
    np.save(two, np.array([[i, 2] for i in range(20)]))
    np.save(four, np.array([[i, 1, 9, 8] for i in range(12)]).astype(np.float32))
    assert load_crop_windows(two, NAMES, SIZES, 0.25)[3] == CropWindow(3, 2, 16, 12)
    assert load_crop_windows(four, NAMES, SIZES, 0.25)[11] == CropWindow(11, 1, 9, 8)
    protocol = tmp_path / "protocol.json"
    protocol.write_text(json.dumps({"windows": {"images/view_03.png": [1, 2, 3, 4]}}))
    windows = load_crop_windows(protocol, NAMES, SIZES, 0.25)
    assert windows[3] == CropWindow(1, 2, 3, 4)
    assert windows[4] == CropWindow(0, 0, WIDTH, HEIGHT)


def npy_header(shape: tuple[int, ...], size: int) -> bytes:
    """A .npy file of `size` zero bytes whose header claims float64 of this shape."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return content.getvalue() + bytes(size)


BAD_FILES = {
    "missing": (None, "does not exist"),
    "text": (b"x y\n1 2\n", "cannot be read as a .npy array"),
    "empty": (b"", "cannot be read as a .npy array"),
    "three columns": (np.zeros((12, 3)), r"shape \(12, 3\); needed"),
    "one dimension": (np.zeros(12), "needed"),
    "too few rows": (np.zeros((5, 2)), "has 5 rows, the capture 12 registered views"),
    "nan": (np.full((12, 2), np.nan), "no finite numbers"),
    "words": (np.full((12, 2), "a"), "no finite numbers"),
    "outside": (np.full((12, 2), 30), r"window of view 0 \(view_00.png\).*does not lie inside its image of 32 x 24"),
    "left of the image": (np.full((12, 4), -1), "does not lie inside"),
    "objects": (np.array([[{}, 1]] * 12, dtype=object), "cannot be read as a .npy array.*Python objects"),
    "booleans": (np.ones((12, 4), dtype=bool), "array of bool holds values that are no finite numbers"),
    "complex": (np.ones((12, 4), dtype=complex), "array of complex128 holds values that are no finite numbers"),
    "infinite": (np.full((12, 4), np.inf), "no finite numbers"),
    "huge": (np.full((12, 4), 2.0**63 + 2048), "does not lie inside"),
    "one pixel": (np.full((12, 4), 1), r"the window of view 0 \(view_00.png\) has 1 x 1 pixels; 2 rows and columns"),
    "one column": (np.tile([3, 4, 1, 9], (12, 1)), "has 1 x 9 pixels"),
    "header bomb": (npy_header((10**12, 2), 400), r"its header says float64 of shape \(1000000000000, 2\), which its"),
    "negative": (npy_header((-12, 2), 400), "its header says float64 of shape"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_window_files_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "windows.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(CropWindowError, match=message):
        load_crop_windows(path, NAMES, SIZES, 0.25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"protocol\.json is \[\]; allowed: an object"),
        ("{}", r"protocol\.json: windows is missing; .* whose key windows has \[x, y, width, height\]"),
        ('{"windows": null}', "windows is None; allowed: an object"),
        ('{"windows": {"view_01.png": [1, 2]}}', r"windows\.view_01\.png is \[1, 2\]; allowed: \[x, y, width"),
        ('{"windows": {"other.png": [1, 2, 3, 4]}}', "'other.png', which is no registered image"),
        ('{"windows": {"view_01.png": [1, 2, 300, 4]}}', "does not lie inside"),
        (
            '{"windows": {"view_01.png": [true, true, true, true]}}',
            r"view_01\.png\[0\] is True; allowed: a whole number",
        ),
        ('{"windows": {"view_01.png": ["1", "2", "3", "4"]}}', r"view_01\.png\[0\] is '1'"),
        ('{"windows": {"view_01.png": [1, 2, NaN, 4]}}', r"view_01\.png\[2\] is nan"),
        ('{"windows": {"view_01.png": [1, 2, 1e999, 4]}}', r"view_01\.png\[2\] is inf"),
        ('{"windows": {"view_01.png": [1, 2, Infinity, 4]}}', r"view_01\.png\[2\] is inf"),
        (f'{{"windows": {{"view_01.png": [1, 2, {10**400}, 4]}}}}', r"view_01\.png\[2\] is 10000"),
        ('{"windows": {"view_01.png": [1, 2, 3.7, 4]}}', r"view_01\.png\[2\] is 3\.7"),
        ('{"windows": {"view_01.png": "1234"}}', r"view_01\.png is '1234'; allowed: \["),
        ('{"windows": {"view_01.png": [5, 5, 1, 1]}}', r"view 1 \(view_01.png\) has 1 x 1 pixels"),
        ('{"windows": {}, "windows": {}}', "the key 'windows' stands twice"),
    ],
)
def test_protocols_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "protocol.json"
    path.write_text(content)
    with pytest.raises(CropWindowError, match=message):
        load_crop_windows(path, NAMES, SIZES, 0.25)


def test_a_windowed_run_sees_the_windows_and_nothing_else(capture: TinyCapture) -> None:
    manager = masked_manager(capture.folder, MaskingConfig(source="windows", area=0.3, speed=0.1))
    assert manager.train_names == tuple(NAMES[::2])
    assert manager.test_names == tuple(NAMES[1::2])
    views, cameras = manager.cached_train, manager.train_dataset.cameras
    whole = manager.whole_train_cameras
    windows = [CropWindow(*manager.protocol()["windows"][name]) for name in manager.train_names]
    assert windows == walk_crop_windows(SIZES, 0.3, 0.1)[::2], "row i belongs to view i, not to the i-th train view"
    for i, (name, w) in enumerate(zip(manager.train_names, windows, strict=True)):
        expected = photo(capture, name)[w.y : w.y + w.height, w.x : w.x + w.width]
        assert torch.equal(views[i]["image"], expected)
        assert (cameras.width[i], cameras.height[i]) == (w.width, w.height)
        assert cameras.cx[i] == whole.cx[i] - w.x and cameras.cy[i] == whole.cy[i] - w.y
        assert (whole.width[i], whole.height[i]) == (WIDTH, HEIGHT)
    camera, batch = manager.next_train(0)
    assert (int(camera.width), int(camera.height)) == (windows[0].width, windows[0].height)
    assert batch["image"].shape[:2] == (windows[0].height, windows[0].width)
    for view, name in zip(manager.cached_eval, manager.test_names, strict=True):
        assert torch.equal(view["image"], photo(capture, name)), "held-out photos are whole"
    assert (manager.train_cameras.width == cameras.width).all(), "loading the held-out photos changes nothing"


@pytest.mark.parametrize("tracks", [True, False])
def test_seed_points_were_seen_inside_a_window(capture: TinyCapture, tracks: bool) -> None:
    if tracks:
        write_colmap(capture)
    manager = masked_manager(capture.folder, MaskingConfig(source="windows", area=0.2, speed=0.1))
    protocol = manager.protocol()
    windows = {i: CropWindow(*protocol["windows"][NAMES[i]]) for i in manager.train_view_ids}
    expected = np.zeros(len(capture.points), dtype=bool)
    for i, w in windows.items():
        x, y = capture.pixels(i).T
        inside = (x >= w.x) & (x < w.x + w.width) & (y >= w.y) & (y < w.y + w.height)
        expected |= inside & capture.seen[i]
    everything = masked_manager(capture.folder, MaskingConfig())
    assert 0 < expected.sum() < len(everything.seeds.xyz)
    assert len(manager.seeds.xyz) == expected.sum()
    assert sorted(map(tuple, manager.seeds.rgb.tolist())) == sorted(map(tuple, capture.rgb[expected].tolist()))


def test_the_protocol_replays_itself(capture: TinyCapture, tmp_path: Path) -> None:
    first = masked_manager(capture.folder, MaskingConfig(source="windows", seed=7, speed=0.2, area=0.4))
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(first.protocol()))
    again = masked_manager(
        capture.folder, MaskingConfig(source="windows", file=path), train_every=None, split_file=path
    )
    assert again.protocol()["windows"] == first.protocol()["windows"]
    assert (again.train_names, again.test_names) == (first.train_names, first.test_names)
    assert torch.equal(again.seeds.xyz, first.seeds.xyz)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(again.cached_train, first.cached_train, strict=True))


def checkerboard() -> np.ndarray:
    seen = np.zeros((HEIGHT, WIDTH), dtype=bool)
    seen[4:16, 8:30] = True
    return seen


@pytest.mark.parametrize("naming", ["{stem}.png", "{stem}.png.png"])
def test_mask_images_beside_the_data(capture: TinyCapture, naming: str) -> None:
    (capture.folder / "masks").mkdir()
    for name in NAMES[::2]:
        file = capture.folder / "masks" / naming.format(stem=Path(name).stem)
        Image.fromarray(checkerboard().astype(np.uint8) * 255).save(file)
    manager = masked_manager(capture.folder, MaskingConfig(source="masks"))
    for view in manager.cached_train:
        assert torch.equal(view["mask"][..., 0], torch.from_numpy(checkerboard()))
    assert all("mask" not in view for view in manager.cached_eval)
    seen = np.zeros(len(capture.points), dtype=bool)
    for i in manager.train_view_ids:
        x, y = capture.pixels(i)[capture.seen[i]].astype(int).T
        seen[np.flatnonzero(capture.seen[i])[checkerboard()[y, x]]] = True
    assert len(manager.seeds.xyz) == seen.sum()


def test_alpha_channels_are_masks(capture: TinyCapture) -> None:
    alpha = Image.fromarray(checkerboard().astype(np.uint8) * 255)
    for name in NAMES:
        with Image.open(capture.folder / "images" / name) as image:
            image.putalpha(alpha)
            image.save(capture.folder / "images" / name)
    manager = masked_manager(capture.folder, MaskingConfig(source="alpha"))
    for name, view in zip(manager.train_names, manager.cached_train, strict=True):
        assert torch.equal(view["mask"][..., 0], torch.from_numpy(checkerboard()))
        assert torch.equal(view["image"], photo(capture, name)[..., :3])
    assert all("mask" not in view and view["image"].shape[-1] == 3 for view in manager.cached_eval)


def test_masks_at_another_resolution_and_of_other_kinds(tmp_path: Path) -> None:
    seen = checkerboard()
    big = np.kron(seen, np.ones((3, 3), dtype=bool))
    for name, image in {
        "big.png": Image.fromarray(big.astype(np.uint8) * 255),
        "bits.png": Image.fromarray(seen),
        "wide.png": Image.fromarray(seen.astype(np.uint16) * 65535),
        "rgba.png": Image.merge(
            "RGBA", [Image.new("L", (WIDTH, HEIGHT))] * 3 + [Image.fromarray(seen.astype("u1") * 255)]
        ),
    }.items():
        image.save(tmp_path / name)
        assert (read_mask(tmp_path / name, (WIDTH, HEIGHT)) == seen).all(), name


def test_masks_that_cannot_be_used(capture: TinyCapture, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="names no mask_path and has no folder masks"):
        masked_manager(capture.folder, MaskingConfig(source="masks"))
    masks = capture.folder / "masks"
    masks.mkdir()
    Image.new("L", (WIDTH, HEIGHT), 255).save(masks / "view_00.png")
    with pytest.raises(MaskError, match=r"no mask, or more than one, for 5 train photo\(s\), such as view_02.png"):
        masked_manager(capture.folder, MaskingConfig(source="masks"))
    for name in NAMES:
        Image.new("L", (HEIGHT, WIDTH), 255).save(masks / name)
    with pytest.raises(MaskError, match="has 24 x 32 pixels, its photo 32 x 24"):
        masked_manager(capture.folder, MaskingConfig(source="masks"))
    for name in NAMES:
        Image.new("L", (WIDTH, HEIGHT), 0).save(masks / name)
    with pytest.raises(MaskError, match=r"view_00\.png shows nothing of its photo"):
        masked_manager(capture.folder, MaskingConfig(source="masks"))
    (masks / "view_00.png").write_bytes(b"no image")
    with pytest.raises(MaskError, match="cannot be read as a mask image"):
        masked_manager(capture.folder, MaskingConfig(source="masks"))
    with pytest.raises(MaskError, match=r"view_00\.png has no alpha channel"):
        masked_manager(capture.folder, MaskingConfig(source="alpha"))
    with pytest.raises(ValueError, match=r"masking\.source is none; set it to windows"):
        masked_manager(capture.folder, MaskingConfig(file=tmp_path / "w.npy"))


def test_windows_and_masks_of_distorted_photos(capture: TinyCapture) -> None:
    """Windows lie in the undistorted photo; masks are undistorted with it."""
    content = json.loads((capture.folder / "transforms.json").read_text())
    content |= {"k1": -0.2, "k2": 0.02, "p1": 0.0, "p2": 0.0}
    (capture.folder / "transforms.json").write_text(json.dumps(content))
    manager = masked_manager(capture.folder, MaskingConfig(source="windows", area=0.5))
    parts = manager.parts
    assert parts is not None and parts.windows is not None
    sizes = [view["image"].shape[:2] for view in manager.cached_train]
    assert sizes == [(w.height, w.width) for w in parts.windows]
    loaded = manager.train_dataset.cameras
    for name in ("fx", "fy", "cx", "cy"):
        torch.testing.assert_close(getattr(parts.cameras, name), getattr(loaded, name), atol=1e-3, rtol=1e-5)
    whole = manager.whole_train_cameras
    assert all(w.fits((int(whole.width[i]), int(whole.height[i]))) for i, w in enumerate(parts.windows))
    assert astuple(parts.windows[0])[2] == round(int(whole.width[0]) * 0.5**0.5)

    (capture.folder / "masks").mkdir()
    for name in NAMES:
        Image.fromarray(checkerboard().astype(np.uint8) * 255).save(capture.folder / "masks" / name)
    masked = masked_manager(capture.folder, MaskingConfig(source="masks"))
    assert masked.parts is not None and masked.parts.masks is not None
    for view, mask in zip(masked.cached_train, masked.parts.masks, strict=True):
        assert view["mask"].shape[:2] == view["image"].shape[:2] == mask.shape
        assert torch.equal(view["mask"][..., 0], mask), "not as nerfstudio, which cuts and thresholds otherwise"
