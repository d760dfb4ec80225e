"""gf-image3d from images to files, with the recorded network of reduced size."""

import json

import numpy as np
import pytest
import trimesh
from commands import run_here
from PIL import Image, ImageDraw
from plyfile import PlyData
from triposr_toys import small_triposr

from genfusion_ns.fusion.image_start.inputs import find_images

SMALL = ("--threshold", 3, "--mc-resolution", 24, "--view-size", 24, "--num-views", 4, "--num-points", 200)


@pytest.fixture(scope="session")
def network_folder(made_once):
    return made_once("triposr", lambda folder: small_triposr().save_pretrained(folder))


@pytest.fixture
def pictures(tmp_path):
    """Three images, of which the second shows nothing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, fill in (("a.png", (220, 90, 40, 255)), ("b.png", None), ("c.png", (30, 90, 200, 255))):
        image = Image.new("RGBA", (64, 48))
        if fill:
            ImageDraw.Draw(image).ellipse((12, 8, 52, 40), fill=fill)
        image.save(folder / name)
    return folder


def image3d(network_folder, tmp_path, *words, succeed=True):
    fixed = ("--model", network_folder, "--output-dir", "out", *SMALL)
    return run_here("gf-image3d", *fixed, *words, cwd=tmp_path, succeed=succeed)


def test_one_image_becomes_all_files(network_folder, pictures, tmp_path):
    said = image3d(
        network_folder, tmp_path, pictures / "a.png", "--format", "obj", "--bake-texture", "--texture-size", 64
    )
    assert all(stage in said for stage in ("network", "occupancy", "mesh", "texture", "views", "points", " s in all"))
    out = tmp_path / "out" / "0"
    names = {path.name for path in out.iterdir()}
    renders = {f"render_{k:03d}.png" for k in range(4)}
    transforms = {"transforms.json", *(f"transforms_{split}.json" for split in ("train", "val", "test"))}
    others = {"input.png", "mesh.obj", "mesh.mtl", "orbit.mp4", "views.jpg", "points.ply", "image3d.json"}
    assert renders | transforms | others < names
    assert len(names - renders - transforms - others) == 1  # the texture
    mesh = trimesh.load(out / "mesh.obj", force="mesh", process=False)
    assert len(mesh.faces) > 100 and mesh.visual.uv is not None
    points = PlyData.read(str(out / "points.ply"))["vertex"]
    normals = np.stack([points[axis] for axis in ("nx", "ny", "nz")], axis=1)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    record = json.loads((out / "image3d.json").read_text())
    assert record["volume"] > 0 and record["settings"]["threshold"] == 3 and record["queries"] > 0


def test_one_failure_among_many(network_folder, pictures, tmp_path):
    said = image3d(network_folder, tmp_path, pictures, succeed=False)
    assert "1 of 3 images failed, the others are written" in said and "b.png is transparent everywhere" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0", "2"}
    for name in ("0", "2"):
        mesh = trimesh.load(tmp_path / "out" / name / "mesh.glb", force="mesh", process=False)
        assert mesh.is_watertight and mesh.volume > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--threshold", 1e9), "there is no surface at --threshold 1e+09: densities are"),
        (("--foreground-ratio", 0), "--foreground-ratio is 0"),
        (("--num-views", 2), "--num-views is 2; allowed are 3"),
        (("--bake-texture", "--format", "ply"), "--bake-texture needs --format obj or glb"),
        (("--precision", "fp16", "--device", "cpu"), "--precision fp16 needs a GPU"),
        (("--remove-background", "--as-is"), "exclude each other"),
    ],
)
def test_settings_out_of_range_write_nothing(network_folder, pictures, tmp_path, words, said):
    output = image3d(network_folder, tmp_path, pictures / "a.png", *words, succeed=False)
    assert said in output
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_names_no_image(network_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = (((), "no image is given"), (("empty",), "holds no images"), (("x*.png",), "no image matches"))
    for words, said in cases:
        assert said in image3d(network_folder, tmp_path, *words, succeed=False)


def test_files_folders_and_patterns(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in find_images(["pictures/c.png", "pictures"])] == ["c.png", "a.png", "b.png"]
    assert [path.name for path in find_images(["pictures/[ab].png", "**/c.*"])] == ["a.png", "b.png", "c.png"]


@pytest.mark.slow
def test_from_an_image_to_a_scene(network_folder, pictures, tmp_path):
    image3d(network_folder, tmp_path, pictures / "a.png", "--fit", "--fit-steps", 20)
    run = tmp_path / "out" / "runs" / "0" / "genfusion" / "image"
    protocol = json.loads((run / "genfusion" / "protocol.json").read_text())
    assert protocol["seed_points"] == "visible" and 150 < protocol["num_seed_points"] <= 200
    config = ("--load-config", run / "config.yml")
    run_here("ns-eval", *config, "--output-path", "eval.json", cwd=tmp_path)
    assert 5 < json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] < 100
    run_here(
        *("ns-render", "interpolate", *config, "--output-path", "video.mp4", "--pose-source", "train"),
        *("--interpolation-steps", 2),
        cwd=tmp_path,
    )
    assert (tmp_path / "video.mp4").stat().st_size > 500
