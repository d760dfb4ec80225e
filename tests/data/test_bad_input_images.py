"""Image files of every kind: those that cannot be used are named at once, all others give the right pixels."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from broken_captures import assert_refused, edit_transforms, set_up
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from PIL import Image
from tiny_capture import FOCAL, HEIGHT, WIDTH, TinyCapture, write_colmap

from genfusion_ns.data.captures.dataset import CaptureDataset
from genfusion_ns.data.captures.image_files import CaptureError, load_pixels, read_header
from genfusion_ns.data.captures.image_sizes import ImageSizeError, match_image_sizes

ORIENTATION = 0x0112
RAMP = np.add.outer(8 * np.arange(HEIGHT), np.arange(WIDTH)).astype(np.uint8)


def dataset(capture: TinyCapture, scale: float = 1.0) -> CaptureDataset:
    return CaptureDataset(set_up(capture.folder).capture.outputs, scale)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def put(capture: TinyCapture, image: Image.Image, name: str = "view_00.png", **options: object) -> Path:
    """Save over a photo of the capture, under another name where `name` has another extension."""
    path = capture.folder / "images" / name
    image.save(path, **options)
    if path.suffix != ".png":

        def rename(content: dict) -> None:
            next(f for f in content["frames"] if Path(f["file_path"]).stem == path.stem)["file_path"] = f"images/{name}"

        edit_transforms(capture.folder, rename)
    return path


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "view_00.png does not exist"),
        (b"", r"view_00.png is empty \(0 bytes\)"),
        (b"not a photo at all", r"view_00.png is not an image of a known format, PNG.*\(it starts with b'not a photo "),
        (encoded(photo(), "PNG")[:1500], r"view_00.png is damaged or cut off"),
        (encoded(photo(), "PNG")[:40], r"view_00.png is (damaged or cut off|not an image)"),
        (encoded(photo(), "JPEG", quality=95)[:1200], r"view_00.png is damaged or cut off \(image file is truncated"),
        (b"\x00" * 5000, r"view_00.png is not an image"),
    ],
    ids=["missing", "empty", "text", "cut-png", "header-only", "cut-jpeg", "zeros"],
)
def test_files_that_are_no_images(tiny: TinyCapture, content: bytes | None, said: str) -> None:
    path = tiny.folder / "images/view_00.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    # The first image of transforms.json is looked at before the others, and alone.
    assert_refused(tiny.folder, CaptureError, said)


def test_all_of_them_are_counted(tiny: TinyCapture) -> None:
    frames: list[str] = []
    edit_transforms(tiny.folder, lambda content: frames.extend(f["file_path"] for f in content["frames"]))
    for name in frames[1:]:
        (tiny.folder / name).write_bytes(b"")
    said = r"5 of 6 images cannot be read: .*is empty.*; and 2 more. Copy them again.*or remove their views"
    assert_refused(tiny.folder, CaptureError, said)


def test_a_folder_where_an_image_should_be(tiny: TinyCapture) -> None:
    path = tiny.folder / "images/view_00.png"
    path.unlink()
    path.mkdir()
    assert_refused(tiny.folder, CaptureError, "view_00.png is a folder, not an image")


def test_damage_in_the_middle_is_named_when_the_pixels_are_read(tiny: TinyCapture) -> None:
    path = put(tiny, photo())
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(40) + content[240:])
    data = dataset(tiny)
    with pytest.raises(CaptureError, match=r"view_00\.png is damaged or cut off"):
        data.get_data(0)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_without_a_range(tiny: TinyCapture, mode: str) -> None:
    put(tiny, Image.fromarray(RAMP).convert(mode), "view_00.tiff")
    with pytest.raises(
        CaptureError, match=rf"view_00.tiff has 32-bit samples \(Pillow mode {mode}\).*Save it as 8-bit"
    ):
        dataset(tiny).get_data(0)


def test_sizes_that_the_cameras_do_not_explain(tiny: TinyCapture) -> None:
    put(tiny, photo(HEIGHT, WIDTH), "view_01.png")
    put(tiny, photo(64, 48), "view_02.png")
    said = (
        r"view_01.png has 24 x 32 pixels, its camera 32 x 24, width and height swapped; "
        r".*view_02.png has 64 x 48 pixels, its camera 32 x 24\. Check the sizes.*--downscale-factor"
    )
    assert_refused(tiny.folder, ImageSizeError, said)


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.01, float("nan"), float("inf")])
def test_scale_factors_that_leave_nothing(tiny: TinyCapture, scale: float) -> None:
    with pytest.raises(CaptureError, match=r"camera-res-scale-factor is .*; it must be a positive number"):
        dataset(tiny, scale)


# ------------------------------------------------------------------------------------------------ accepted


def sixteen_bit(ramp: np.ndarray) -> Image.Image:
    return Image.fromarray(ramp.astype(np.uint16) * 257)


def palette(ramp: np.ndarray) -> Image.Image:
    image = Image.fromarray(ramp, mode="P")
    image.putpalette(bytes(value for i in range(256) for value in (i, 255 - i, 7)))
    return image


GREY = np.repeat(RAMP[..., None], 3, axis=2)
OPAQUE = np.concatenate([GREY, np.full_like(GREY[..., :1], 200)], axis=2)
BILEVEL = (GREY > 128) * np.uint8(255)
INDEXED = np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 7)], axis=2)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(RAMP), GREY),
        (sixteen_bit(RAMP), GREY),
        (Image.merge("LA", [Image.fromarray(RAMP), Image.new("L", (WIDTH, HEIGHT), 200)]), OPAQUE),
        (Image.fromarray(OPAQUE), OPAQUE),
        (palette(RAMP), INDEXED),
        (Image.fromarray(BILEVEL[..., 0]).convert("1"), BILEVEL),
    ],
    ids=["grey", "grey-16", "grey-alpha", "rgba", "palette", "bilevel"],
)
def test_pixel_formats(tiny: TinyCapture, image: Image.Image, expected: np.ndarray) -> None:
    path = put(tiny, image)
    np.testing.assert_array_equal(load_pixels(path), expected)
    data = dataset(tiny).get_data(0, "uint8")
    np.testing.assert_array_equal(data["image"].numpy(), expected)


def test_sixteen_bit_samples_are_scaled_not_wrapped(tmp_path: Path) -> None:
    values = np.array([[0, 1, 128, 129, 255, 256, 32768, 65407, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(load_pixels(tmp_path / "deep.png")[0, :, 0], np.round(values[0] / 257))
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    np.testing.assert_array_equal(load_pixels(tmp_path / "deep.tiff")[0, :, 0], np.round(values[0] / 257))
    rgb = np.stack([values, values[:, ::-1], values], axis=2)
    assert cv2.imwrite(str(tmp_path / "rgb.png"), rgb)
    assert np.abs(load_pixels(tmp_path / "rgb.png").astype(int) - np.round(rgb / 257)).max() <= 1


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = palette(RAMP)
    image.save(tmp_path / "p.png", transparency=0)
    pixels = load_pixels(tmp_path / "p.png")
    np.testing.assert_array_equal(pixels[..., :3], INDEXED)
    np.testing.assert_array_equal(pixels[..., 3] == 0, RAMP == 0)


def test_cmyk_jpeg(tiny: TinyCapture) -> None:
    colour = (30, 60, 200)
    image = Image.merge(
        "CMYK", [Image.new("L", (WIDTH, HEIGHT), 255 - c) for c in colour] + [Image.new("L", (WIDTH, HEIGHT))]
    )
    put(tiny, image, "view_00.jpg", quality=100)
    pixels = dataset(tiny).get_data(0, "uint8")["image"].numpy()
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_ignored_where_the_camera_has_the_stored_size(tiny: TinyCapture, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = put(tiny, photo(), exif=exif)
    np.testing.assert_array_equal(dataset(tiny).get_data(0, "uint8")["image"].numpy(), np.asarray(photo()))
    assert read_header(path).is_turned == (orientation >= 5)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_exif_orientation_is_applied_where_the_camera_has_the_turned_size(tiny: TinyCapture, scale: float) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # shown turned clockwise by a quarter
    turned = np.rot90(np.asarray(photo(HEIGHT, WIDTH)), -1)
    assert turned.shape == (HEIGHT, WIDTH, 3)
    put(tiny, photo(HEIGHT, WIDTH), exif=exif)
    data = dataset(tiny, scale)
    match_image_sizes(data)
    image = data.get_data(0, "uint8")["image"].numpy()
    assert image.shape[:2] == (int(HEIGHT * scale), int(WIDTH * scale))
    assert (int(data.cameras.width[0]), int(data.cameras.height[0])) == image.shape[1::-1]
    if scale == 1.0:
        np.testing.assert_array_equal(image, turned)


def test_formats_reach_training_and_evaluation(tiny: TinyCapture) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    put(tiny, palette(RAMP))
    put(tiny, sixteen_bit(RAMP), "view_01.png")
    put(tiny, photo(HEIGHT, WIDTH), "view_02.png", exif=exif)
    manager = set_up(tiny.folder, cache_images_type="uint8")
    assert (manager.test_view_ids, manager.train_view_ids) == ((0,), (1, 2, 3, 4, 5))
    np.testing.assert_array_equal(manager.cached_eval[0]["image"].numpy(), INDEXED)
    np.testing.assert_array_equal(manager.cached_train[0]["image"].numpy(), GREY)
    np.testing.assert_array_equal(manager.cached_train[1]["image"].numpy(), np.rot90(photo(HEIGHT, WIDTH), -1))


@pytest.mark.parametrize("distorted", [False, True])
def test_photos_are_held_in_a_quarter_of_the_memory_and_show_the_same(tiny: TinyCapture, distorted: bool) -> None:
    """uint8 by default: bit for bit the same colours, or those of the undistorted photo rounded to 8 bits."""
    for name in tiny.names:
        put(tiny, photo(), name)
    if distorted:
        edit_transforms(tiny.folder, lambda content: content.update(k1=-0.2))
    small, large = set_up(tiny.folder), set_up(tiny.folder, cache_images_type="float32")
    for split in ("cached_train", "cached_eval"):
        for byte, exact in zip(getattr(small, split), getattr(large, split), strict=True):
            assert 4 * byte["image"].nbytes == exact["image"].nbytes
            if distorted:  # OpenCV interpolates bytes with weights of 1/32, on top of the rounding
                assert (byte["image"] / 255 - exact["image"]).abs().max() <= 1 / 255
            else:
                assert torch.equal(byte["image"].float() / 255, exact["image"])


def test_photos_over_a_background_are_rounded_to_bytes(tiny: TinyCapture) -> None:
    put(tiny, Image.fromarray(OPAQUE))
    outputs = replace(set_up(tiny.folder).capture.outputs, alpha_color=torch.tensor([1.0, 0.3, 0.0]))
    data = CaptureDataset(outputs)
    exact, byte = (data.get_data(0, kind)["image"] for kind in ("float32", "uint8"))
    assert torch.equal(byte, (255 * exact).round().to(torch.uint8))


def test_cameras_follow_the_scale_of_images_that_were_rounded_otherwise(tiny: TinyCapture) -> None:
    put(tiny, photo(WIDTH + 1, HEIGHT))
    data = dataset(tiny, 0.5)
    match_image_sizes(data)
    match_image_sizes(data)  # twice gives the same
    assert data.get_data(0)["image"].shape == (HEIGHT // 2, (WIDTH + 1) // 2, 3)
    camera = data.cameras[0]
    assert (camera.width.item(), camera.height.item()) == ((WIDTH + 1) // 2, HEIGHT // 2)
    assert camera.fx.item() == pytest.approx(FOCAL * ((WIDTH + 1) // 2) / WIDTH)
    assert camera.fy.item() == pytest.approx(FOCAL / 2)


def test_names_with_spaces_umlauts_and_capital_extensions(tiny: TinyCapture) -> None:
    names = ["my photo (1).PNG", "größe.JPG", "写真.Jpeg", "a.b.c.png", "no extension", "UPPER.TIFF"]

    def rename(content: dict) -> None:
        for frame, name in zip(sorted(content["frames"], key=lambda f: f["file_path"]), names, strict=True):
            (tiny.folder / frame["file_path"]).unlink()
            photo().save(tiny.folder / "images" / name, "JPEG" if "j" in name.lower() else "PNG")
            frame["file_path"] = f"images/{name}"

    edit_transforms(tiny.folder, rename)
    manager = set_up(tiny.folder, num_views=2)
    assert sorted(manager.capture.names) == sorted(names)
    assert manager.next_train(0)[1]["image"].shape == (HEIGHT, WIDTH, 3)


def test_absolute_and_relative_names_may_be_mixed(tiny: TinyCapture, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_absolute(content: dict) -> None:
        content["frames"][0]["file_path"] = str(tiny.folder / content["frames"][0]["file_path"])

    edit_transforms(tiny.folder, make_absolute)
    monkeypatch.chdir(tiny.folder.parent)
    assert set_up(Path(tiny.folder.name)).capture.names == tuple(tiny.names)


def test_an_ending_after_the_end_marker_is_harmless(tiny: TinyCapture) -> None:
    path = put(tiny, photo(), "view_00.jpg", quality=95)
    expected = load_pixels(path)
    path.write_bytes(path.read_bytes() + bytes(200_000))
    assert read_header(path).size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(load_pixels(path), expected)


# ------------------------------------------------------------------------------------------------ lenses


@pytest.mark.parametrize(
    ("model", "lens"),
    [
        ("OPENCV", {"k1": -0.2, "k2": 0.05, "p1": 0.01, "p2": -0.02}),
        ("SIMPLE_RADIAL", {"k1": 0.3}),
        ("OPENCV_FISHEYE", {"k1": 0.05, "k2": -0.01, "k3": 0.002, "k4": 0.001}),
        ("OPENCV_FISHEYE", {}),
    ],
)
def test_distorted_photos_are_undistorted(tiny: TinyCapture, model: str, lens: dict[str, float]) -> None:
    """A dot where a 3D point lands through the lens must be where the undistorted pinhole camera projects the point."""
    fisheye = model == "OPENCV_FISHEYE"
    size, focal = (320, 240), 300.0
    K = np.array([[focal, 0, 163.0], [0, focal, 115.0], [0, 0, 1]])
    ray = np.array([[0.18, -0.12, 1.0]])
    K_opencv = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    if fisheye:
        order = np.array([lens.get(key, 0.0) for key in ("k1", "k2", "k3", "k4")])
        dot = cv2.fisheye.projectPoints(ray[None], np.zeros(3), np.zeros(3), K_opencv, order)[0].reshape(2)
    else:
        order = np.array([lens.get(key, 0.0) for key in ("k1", "k2", "p1", "p2")])
        dot = cv2.projectPoints(ray, np.zeros(3), np.zeros(3), K_opencv, order)[0].reshape(2)
    y, x = np.mgrid[: size[1], : size[0]]
    spot = 255 * np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / 8)
    for name in tiny.names:
        Image.fromarray(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)).save(tiny.folder / "images" / name)

    def distort(content: dict) -> None:
        sizes = {"w": size[0], "h": size[1], "fl_x": focal, "fl_y": focal, "cx": K[0, 2], "cy": K[1, 2]}
        content.update(camera_model=model, **sizes, **lens)

    edit_transforms(tiny.folder, distort)
    manager = set_up(tiny.folder, num_views=2)
    views = [manager.next_train(0), manager.fixed_indices_eval_dataloader[0]]
    # What ns-render dataset compares its renders with, from a datamanager that has loaded nothing.
    views.append(set_up(tiny.folder, num_views=2).eval_dataloader.get_camera(0))
    held, read = views[1][1]["image"], views[2][1]["image"]
    assert held.dtype == torch.uint8
    torch.testing.assert_close(held / 255, read, atol=1 / 255, rtol=0)
    for camera, batch in views:
        assert camera.camera_type.item() == CameraType.PERSPECTIVE.value
        image = batch["image"]
        assert image.shape[:2] == (camera.height.item(), camera.width.item())
        pinhole = camera.get_intrinsics_matrices()[0].numpy()
        weights = image[..., 0].numpy()
        rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
        centre = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
        expected = (pinhole @ ray[0])[:2]
        np.testing.assert_allclose(centre, expected, atol=0.35)
        moved = np.abs(expected - (K @ ray[0])[:2]).max() + np.abs(dot + 0.5 - expected).max()
        assert moved > 1, "the lens must matter, or this shows nothing"


def test_colmap_models_with_lenses(tiny: TinyCapture) -> None:
    write_colmap(tiny)
    folder = tiny.folder / "sparse/0"
    cameras, images, points = colmap.read_model(str(folder), ".bin")
    parameters = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.05, -0.01, 0.0, 0.0])
    for model, kind in (("OPENCV", CameraType.PERSPECTIVE), ("OPENCV_FISHEYE", CameraType.FISHEYE)):
        cameras[1] = colmap.Camera(1, model, WIDTH, HEIGHT, parameters)
        colmap.write_model(cameras, images, points, str(folder), ".bin")
        manager = set_up(tiny.folder, ColmapDataParserConfig(downscale_factor=1), num_views=2)
        assert (manager.capture.outputs.cameras.camera_type == kind.value).all()
        camera, batch = manager.next_train(0)
        assert batch["image"].shape[:2] == (camera.height.item(), camera.width.item())
        assert torch.isfinite(camera.get_intrinsics_matrices()).all()


def test_files_that_a_name_may_mean_are_named(tmp_path: Path) -> None:
    for name in ("view_00.png", "View_00.jpg", "view_01.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        CaptureError, match=r"view_00 does not exist; beside it are View_00\.jpg, view_00\.png: name one"
    ):
        read_header(tmp_path / "view_00")
    with pytest.raises(CaptureError, match=r"view_02\.png does not exist$"):
        read_header(tmp_path / "view_02.png")
