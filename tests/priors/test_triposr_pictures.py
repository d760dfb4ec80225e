"""Images of all kinds become the picture that the network gets, or are refused by name."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from genfusion_ns.priors.triposr.background import BackgroundRemover, rgba_of
from genfusion_ns.priors.triposr.pictures import PictureError, cut_out, over_grey, read_picture


def drawn(mode="RGBA", size=(60, 40)):
    """A red disc on nothing, on its left an arm, so that turned images are told apart."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 10, 40, 30), fill=(200, 40, 30, 255))
    draw.rectangle((8, 18, 20, 22), fill=(30, 60, 200, 255))
    return image.convert(mode)


@pytest.fixture
def write(tmp_path):
    def save(image, name="picture.png", **settings):
        image.save(tmp_path / name, **settings)
        return tmp_path / name

    return save


def test_colours_and_alpha_come_through(write):
    assert np.array_equal(np.asarray(read_picture(write(drawn()))), np.asarray(drawn()))


def test_grey_with_alpha_and_palettes_have_alpha(write):
    assert read_picture(write(drawn("LA"))).mode == "RGBA"
    palette = drawn("RGB").quantize(8)
    palette.info["transparency"] = palette.getpixel((0, 0))
    read = read_picture(write(palette, transparency=palette.getpixel((0, 0))))
    assert read.mode == "RGBA" and read.getpixel((0, 0))[3] == 0 and read.getpixel((30, 20))[3] == 255


def test_turned_photos_are_turned_back(write):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter to the right
    path = write(drawn("RGB"), "turned.jpg", exif=exif, quality=100)
    read = read_picture(path)
    assert read.size == (40, 60) and read.getpixel((20, 14))[2] > 150  # the arm is above


def test_sixteen_bits(write):
    values = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    read = np.asarray(read_picture(write(Image.fromarray(values))))
    assert read.shape == (32, 64, 3) and read[0, 0, 0] == 0 and read[-1, -1, 0] == 255
    np.testing.assert_allclose(read[..., 0] / 255, values / 65535, atol=0.003)


def test_cmyk(write):
    read = read_picture(write(drawn("RGB").convert("CMYK"), "print.jpg", quality=100))
    assert read.mode == "RGB" and read.getpixel((30, 20))[0] > 120 > read.getpixel((30, 20))[2]


def test_of_an_animation_the_first_frame(write, capsys):
    frames = [drawn("RGB"), Image.new("RGB", (60, 40), (0, 255, 0))]
    path = write(frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert read_picture(path).convert("RGB").getpixel((30, 20))[0] > 120
    assert "moving.gif is animated; its first frame is taken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "cannot be read as an image"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cannot be read as an image")],
)
def test_what_is_no_image(tmp_path, content, said):
    (tmp_path / "wrong.png").write_bytes(content)
    with pytest.raises(PictureError, match=said) as caught:
        read_picture(tmp_path / "wrong.png")
    assert "wrong.png" in str(caught.value) and "save it as" in str(caught.value)


def test_half_an_image(write):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8))
    path = write(noise)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(PictureError, match=r"picture\.png cannot be read"):
        read_picture(path)


def test_a_single_pixel(write):
    with pytest.raises(PictureError, match="has 1 x 1 pixels; at least 8"):
        read_picture(write(Image.new("RGBA", (1, 1))))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_picture(tmp_path)


def test_nothing_in_the_foreground():
    with pytest.raises(PictureError, match=r"me\.png is transparent everywhere"):
        cut_out(Image.new("RGBA", (60, 40)), 0.85, "me.png")
    speck = Image.new("RGBA", (60, 40))
    speck.putpixel((30, 20), (255, 0, 0, 255))
    with pytest.raises(PictureError, match="which is too small"):
        cut_out(speck, 0.85, "me.png")


def test_the_object_fills_its_share():
    square = cut_out(drawn(), 0.5, "me.png")
    assert square.shape == (64, 64, 4)  # 32 pixels of the object, without its last column
    solid = np.nonzero(square[..., 3])
    assert np.ptp(solid[1]) + 1 == 32 and abs(solid[1].mean() - 32) < 6
    assert tuple(over_grey(square)[0, 0]) == (127, 127, 127)


def test_without_alpha_both_ways_out_are_said():
    with pytest.raises(PictureError) as caught:
        rgba_of(drawn("RGB"), "me.jpg", None)
    for part in (
        "me.jpg has no alpha channel",
        "RGBA image",
        "--remove-background",
        "genfusion-ns[image3d]",
        "--as-is",
    ):
        assert part in str(caught.value)
    opaque = drawn("RGB").convert("RGBA")
    with pytest.raises(PictureError, match="opaque everywhere"):
        rgba_of(opaque, "me.png", None)
    assert rgba_of(drawn("RGB"), "me.jpg", None, as_is=True) is None
    assert rgba_of(drawn(), "me.png", None, as_is=True) is not None


def test_without_rembg_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(ImportError, match=r"pip install 'genfusion-ns\[image3d\]'; or give RGBA images"):
        BackgroundRemover()
