"""Masks that a capture declares: every kind that means something is read rightly, all others are refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_captures import assert_refused, edit_transforms, set_up
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from tiny_capture import HEIGHT, WIDTH, TinyCapture, write_colmap

from genfusion_ns.data.captures.image_files import FORMATS, CaptureError, read_header
from genfusion_ns.data.captures.mask_files import MaskError, read_alpha, read_mask
from genfusion_ns.data.masking import MaskingConfig

SIZE = (WIDTH, HEIGHT)
SEEN = np.zeros((HEIGHT, WIDTH), dtype=bool)
SEEN[4:16, 8:30] = True
WHITE = SEEN.astype(np.uint8) * 255


def rgb(*levels: int) -> Image.Image:
    return Image.fromarray(SEEN[..., None] * np.array(levels, dtype=np.uint8))


def with_alpha(colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.merge("LA", [Image.fromarray(colour), Image.fromarray(alpha)])


def palette(shown: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(SEEN.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, *shown])
    return image


def soft(samples: np.ndarray, low: int, high: int) -> Image.Image:
    """Neither black nor white is pure, as after a lossy copy."""
    spread = np.arange(samples.size).reshape(samples.shape) % 3
    return Image.fromarray(np.where(SEEN, high - spread, low + spread).astype(samples.dtype))


OPAQUE = np.full_like(WHITE, 255)
READ: dict[str, Image.Image] = {
    "grey": Image.fromarray(WHITE),
    "grey of 0 and 1": Image.fromarray(SEEN.astype(np.uint8)),
    "soft grey": soft(WHITE, 3, 250),
    "bits": Image.fromarray(SEEN),
    "16 bits": Image.fromarray(SEEN.astype(np.uint16) * 65535),
    "16 bits of 0 and 1": Image.fromarray(SEEN.astype(np.uint16)),
    "soft 16 bits": soft(SEEN.astype(np.uint16), 900, 60000),
    "rgb": rgb(255, 255, 255),
    "rgb of 0 and 1": rgb(1, 1, 1),
    "red": rgb(255, 0, 0),
    "dark blue": rgb(0, 0, 90),
    "palette": palette((128, 0, 0)),
    "cut out": with_alpha(OPAQUE, WHITE),
    "black cut out": with_alpha(OPAQUE * 0, WHITE),
    "opaque alpha": with_alpha(WHITE, OPAQUE),
    "rgba": Image.merge("RGBA", [Image.new("L", SIZE)] * 3 + [Image.fromarray(WHITE)]),
    "half size": Image.fromarray(WHITE).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.NEAREST),
    "three times the size": Image.fromarray(np.kron(WHITE, np.ones((3, 3), np.uint8))),
}


@pytest.mark.parametrize("kind", READ)
def test_kinds_that_are_read(tmp_path: Path, kind: str) -> None:
    READ[kind].save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SIZE), SEEN)


def test_lossy_and_floating_point_masks(tmp_path: Path) -> None:
    rgb(255, 255, 255).resize((160, 120), Image.Resampling.NEAREST).save(tmp_path / "mask.jpg", quality=60)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.jpg", SIZE), SEEN)
    Image.fromarray(SEEN.astype(np.float32)).save(tmp_path / "mask.tiff")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tiff", SIZE), SEEN)


def test_a_photo_is_masked_by_its_alpha_channel_alone(tmp_path: Path) -> None:
    with_alpha(WHITE, OPAQUE).save(tmp_path / "photo.png")
    assert read_alpha(tmp_path / "photo.png", SIZE).all()
    with_alpha(OPAQUE // 3, WHITE).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(read_alpha(tmp_path / "photo.png", SIZE), SEEN)


def bomb(width: int, height: int) -> bytes:
    """A PNG file of 70 bytes or so whose header claims this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GREYS = (WHITE // 255 * 40 + (np.arange(WIDTH) % 2).astype(np.uint8)[None]).astype(np.uint8)
REFUSED: dict[str, tuple[Image.Image | bytes | None, str]] = {
    "missing": (None, r"view_01\.png does not exist, a mask that the capture declares \(1 of 6 are missing\)"),
    "empty": (b"", r"view_01\.png cannot be read as a mask image: .*is empty"),
    "text": (b"black", r"view_01\.png cannot be read as a mask image: .*not an image of a known format"),
    "cut off": (bomb(WIDTH, HEIGHT), r"view_01\.png cannot be read as a mask image: .*damaged or cut off"),
    "huge": (bomb(60_000, 45_000), r"view_01\.png cannot be read as a mask image: .*too large to be decoded safely"),
    "black": (Image.new("L", SIZE), r"view_01\.png shows nothing of its photo: no pixel is white\. Invert it"),
    "black rgb": (Image.new("RGB", SIZE), r"view_01\.png shows nothing of its photo"),
    "transparent": (Image.new("LA", SIZE, (255, 0)), r"view_01\.png shows nothing of its photo"),
    "turned": (Image.new("L", (HEIGHT, WIDTH), 255), r"view_01\.png has 24 x 32 pixels, its photo 32 x 24"),
    "one pixel": (Image.new("L", (1, 1), 255), r"view_01\.png has 1 x 1 pixels, its photo 32 x 24.*down to 1/8"),
    "greys": (Image.fromarray(GREYS), r"view_01\.png has several levels of grey.*brightest is 41 of 255"),
}


def declare(capture: TinyCapture, folder: str = "masks", image: Image.Image = READ["grey"]) -> None:
    (capture.folder / folder).mkdir()
    for name in capture.names:
        image.save(capture.folder / folder / name)

    def name_them(content: dict) -> None:
        for frame in content["frames"]:
            frame["mask_path"] = f"{folder}/{Path(frame['file_path']).name}"

    edit_transforms(capture.folder, name_them)


@pytest.mark.parametrize("kind", REFUSED)
def test_kinds_that_are_refused(tiny: TinyCapture, kind: str) -> None:
    content, said = REFUSED[kind]
    declare(tiny)
    mask = tiny.folder / "masks/view_01.png"
    mask.unlink()
    if isinstance(content, bytes):
        mask.write_bytes(content)
    elif content is not None:
        content.save(mask)
    assert_refused(tiny.folder, MaskError, said)


def test_held_out_masks_are_checked_before_the_run(tiny: TinyCapture) -> None:
    declare(tiny)
    held_out = set_up(tiny.folder).test_names[0]
    Image.new("L", SIZE).save(tiny.folder / "masks" / held_out)
    assert_refused(tiny.folder, MaskError, rf"{held_out} shows nothing of its photo")


@pytest.mark.parametrize("kind", ["rgb", "half size"])
def test_every_method_hides_what_declared_masks_hide(tiny: TinyCapture, kind: str) -> None:
    declare(tiny, image=READ[kind])
    seen = torch.from_numpy(SEEN)
    for masking in (MaskingConfig(), MaskingConfig(source="masks")):
        manager = set_up(tiny.folder, masking=masking)
        for view in (*manager.cached_train, *manager.cached_eval):
            assert torch.equal(view["mask"][..., 0], seen)
    manager = set_up(tiny.folder, masking=MaskingConfig(source="windows", area=0.5))
    assert manager.parts is not None and manager.parts.windows is not None
    for view, w in zip(manager.cached_train, manager.parts.windows, strict=True):
        assert torch.equal(view["mask"][..., 0], seen[w.y : w.y + w.height, w.x : w.x + w.width])


@pytest.mark.parametrize("kind", ["nerfstudio", "colmap"])
@pytest.mark.parametrize("scaled_masks", ["all", "all but one", "none"])
def test_masks_of_downscaled_photos(tiny: TinyCapture, kind: str, scaled_masks: str) -> None:
    """Where there are none beside the downscaled photos, those of full size are used, under whatever name they have."""
    folder = "masks" if kind == "colmap" or scaled_masks == "all" else "segmentation"
    declare(tiny, folder)
    half = (WIDTH // 2, HEIGHT // 2)
    for source, target in (("images", "images_2"), *([(folder, f"{folder}_2")] if scaled_masks != "none" else [])):
        (tiny.folder / target).mkdir()
        for name in tiny.names:
            with Image.open(tiny.folder / source / name) as image:
                image.resize(half, Image.Resampling.NEAREST).save(tiny.folder / target / name)
    if scaled_masks == "all but one":
        (tiny.folder / f"{folder}_2" / tiny.names[2]).unlink()
    write_colmap(tiny)
    parser = (
        NerfstudioDataParserConfig(downscale_factor=2)
        if kind == "nerfstudio"
        else ColmapDataParserConfig(downscale_factor=2, masks_path=Path(folder))
    )
    manager = set_up(tiny.folder, parser)
    assert manager.cached_train[0]["image"].shape[:2] == half[::-1]
    for view in (*manager.cached_train, *manager.cached_eval):
        assert torch.equal(view["mask"][..., 0], torch.from_numpy(SEEN[1::2, 1::2]))


def test_masks_are_never_taken_from_another_folder_of_the_same_names(tiny: TinyCapture) -> None:
    declare(tiny)

    def two_cameras(content: dict) -> None:
        for i, frame in enumerate(content["frames"]):
            name, part = f"{i // 2}.png", f"camera{i % 2}"
            (tiny.folder / "images" / part).mkdir(exist_ok=True)
            (tiny.folder / frame["file_path"]).rename(tiny.folder / "images" / part / name)
            frame |= {"file_path": f"images/{part}/{name}", "mask_path": f"masks/{part}/{name}"}
            (tiny.folder / "masks" / part).mkdir(exist_ok=True)
            if part == "camera0":
                READ["grey"].save(tiny.folder / "masks" / part / name)

    edit_transforms(tiny.folder, two_cameras)
    assert_refused(tiny.folder, MaskError, r"masks/camera1/\d\.png does not exist.*\(3 of 6 are missing\)")


@pytest.mark.parametrize("cache", ["uint8", "float32"])
def test_hidden_pixels_take_the_colour_that_the_parser_asks_for(tiny: TinyCapture, cache: str) -> None:
    declare(tiny)
    parser = NerfstudioDataParserConfig(mask_color=(1.0, 0.2, 0.0))
    view = set_up(tiny.folder, parser, cache_images_type=cache).cached_train[0]
    scale = 255 if cache == "uint8" else 1
    expected = torch.tensor([1.0, 0.2, 0.0])
    torch.testing.assert_close(view["image"][0, 0] / scale, expected, atol=1e-6, rtol=0)
    hidden = (view["image"] / scale - expected).abs().amax(-1) < 1e-6
    assert torch.equal(~hidden, view["mask"][..., 0])


def test_a_colour_for_hidden_pixels_needs_masks(tiny: TinyCapture) -> None:
    parser = NerfstudioDataParserConfig(mask_color=(1.0, 0.2, 0.0))
    assert_refused(tiny.folder, MaskError, r"--mask-color is \(1.0, 0.2, 0.0\), but the capture has no masks", parser)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("where", ["images/view_00.png", "images/view_01.png", "masks/view_01.png"])
def test_postscript_never_reaches_ghostscript(tiny: TinyCapture, where: str) -> None:
    """Pillow would know the file by its content, whatever its name, and call an interpreter for its pixels."""
    declare(tiny)
    assert "EPS" not in FORMATS
    (tiny.folder / where).write_bytes(POSTSCRIPT)
    with Image.open(tiny.folder / where) as image:
        assert image.format == "EPS"
    assert_refused(tiny.folder, CaptureError, r"view_0\d\.png is not an image of a known format.*%!PS-Adobe")


def test_a_header_of_enormous_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(bomb(200_000, 200_000))
    with pytest.raises(CaptureError, match=r"photo\.png is too large to be decoded safely"):
        read_header(tmp_path / "photo.png")


def test_masks_for_some_photos_only_are_refused(tiny: TinyCapture) -> None:
    declare(tiny)
    edit_transforms(tiny.folder, lambda content: [frame.pop("mask_path") for frame in content["frames"][:4]] and None)
    assert_refused(tiny.folder, CaptureError, "2 of 6 frames name a file as mask_path")
