"""Multi-scale data sets: the published conversion to the last bit, any other capture, and the dataparser."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from PIL import Image
from shared_files import recorded
from tiny_capture import HEIGHT, WIDTH, make_capture, write_colmap, write_transforms

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.data.multiscale.conversion import convert, is_done, open_source, planned
from genfusion_ns.data.multiscale.metadata import read_metadata
from genfusion_ns.data.multiscale.parser import MultiscaleBlenderDataParserConfig
from genfusion_ns.data.multiscale.pyramid import cut_evenly, published_levels


@pytest.fixture(scope="module")
def ref() -> dict[str, np.ndarray]:
    with np.load(recorded("siblings/multiscale_blender.npz")) as file:
        return {name: file[name] for name in file.files}


def write_blender(ref: dict[str, np.ndarray], folder: Path) -> None:
    """The recorded images as a Blender object; val and test have the train images."""
    poses = ref["meta_cam2world"][::4]
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(ref[f"src_rgba_{i}"]).save(folder / split / f"r_{i}.png")
        shift = {"train": 0, "val": 0.5, "test": 1}[split] * np.eye(4)[3]
        frames = [
            {"file_path": f"./{split}/r_{i}", "transform_matrix": (poses[i] + np.outer([1, 0, 0, 0], shift)).tolist()}
            for i in range(2)
        ]
        content = {"camera_angle_x": float(ref["camera_angle_x"]), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def converted(ref, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("multiscale")
    for name in ("one", "two"):
        write_blender(ref, folder / "blender" / name)
    said = run_here("gf-make-multiscale", "--blender-dir", "blender", "--out-dir", "ms", cwd=folder)
    assert "Wrote 24 images of 6 views to ms/one" in said and "ms/two" in said
    return folder


def test_images_are_those_of_the_published_conversion(ref, converted):
    for i in range(2):
        for level in range(4):
            found = np.array(Image.open(converted / "ms" / "one" / "images_train" / f"{i:03d}_d{level}.png"))
            np.testing.assert_array_equal(found, ref[f"img_{i:03d}_d{level}"])


def test_metadata_are_those_of_the_published_conversion(ref, converted):
    content = json.loads((converted / "ms" / "two" / "metadata.json").read_text())
    assert set(content) == {"train", "val", "test"}
    columns = {name.removeprefix("meta_") for name in ref if name.startswith("meta_")}
    assert set(content["train"]) == columns
    for name in columns - {"file_path"}:
        np.testing.assert_allclose(content["train"][name], ref[f"meta_{name}"], rtol=1e-7, atol=1e-7)
    assert content["train"]["file_path"] == ref["meta_file_path"].tolist()


def test_what_is_done_is_skipped_and_other_levels_are_refused(converted):
    before = {path: path.stat().st_mtime_ns for path in converted.rglob("*.png")}
    words = ("gf-make-multiscale", "--data", "blender", "--out-dir", "ms", "--object-name", "one")
    assert "ms/one is done already" in run_here(*words, cwd=converted)
    assert "done with 4 levels" in run_here(*words, "--n-down", "2", cwd=converted, succeed=False)
    assert "no capture three" in run_here(*words[:-1], "three", cwd=converted, succeed=False)
    assert {path: path.stat().st_mtime_ns for path in converted.rglob("*.png")} == before


def test_an_interrupted_conversion_leaves_nothing(ref, tmp_path):
    write_blender(ref, tmp_path / "one")
    damaged = tmp_path / "one" / "test" / "r_1.png"
    content = bytearray(damaged.read_bytes())
    content[200:260] = bytes(60)
    damaged.write_bytes(content)
    (job,) = planned(tmp_path / "one", tmp_path / "ms")
    with pytest.raises(CaptureError, match=r"r_1\.png is damaged"):
        convert(open_source(job.source), job.output, 4)
    assert not job.output.exists() and not is_done(job, 4)
    assert list((tmp_path / "ms").iterdir()) == []


def test_images_that_cannot_be_halved_are_refused_or_cut_around_their_middle(ref, tmp_path):
    with pytest.raises(ValueError, match="cannot be cut"):
        cut_evenly(np.zeros((24, 27, 4), np.uint8), 8)
    cut = cut_evenly(np.arange(20 * 20, dtype=np.uint8).reshape(20, 20, 1), 8)
    assert cut.shape[:2] == (16, 16) and cut[0, 0, 0] == 2 * 20 + 2
    write_blender(ref, tmp_path / "one")
    with pytest.raises(CaptureError, match="cannot be halved 5 times"):
        convert(open_source(tmp_path / "one"), tmp_path / "ms", 6)
    convert(open_source(tmp_path / "one", downscale=2), tmp_path / "ms", 3)
    first, *_, last = read_metadata(tmp_path / "ms")["train"]
    assert (first.size, last.size) == ((24, 16), (6, 4))
    assert last.intrinsics == pytest.approx((66.66666187162609 / 8, 66.66666187162609 / 8, 3, 2))


def parsed(folder: Path, split: str = "train", **settings: object):
    return MultiscaleBlenderDataParserConfig(data=folder, **settings).setup().get_dataparser_outputs(split)


@pytest.mark.parametrize("level", range(4))
def test_rays_of_the_dataparser_are_those_of_the_port(ref, converted, level):
    """Directions of nerfstudio are unit vectors, and its metadata hold their lengths."""
    cameras = parsed(converted / "ms" / "one").cameras
    rays = cameras.generate_rays(camera_indices=level, keep_shape=True)
    for name, value in {
        "origins": rays.origins,
        "directions": rays.directions * rays.metadata["directions_norm"],
        "viewdirs": rays.directions,
        "lossmult": rays.metadata["lossmult"],
        "near": rays.metadata["near"],
        "far": rays.metadata["far"],
    }.items():
        np.testing.assert_allclose(value.numpy(), ref[f"rays_{name}_l{level}"], atol=2e-6)
    assert bool((rays.metadata["scale_label"] == level).all())


def test_levels_are_chosen(converted):
    folder = converted / "ms" / "one"
    assert len(parsed(folder).image_filenames) == 8
    assert parsed(folder, scales=(1, 3)).cameras.width.flatten().tolist() == [24, 6, 24, 6]
    assert parsed(folder, load_allres=False).cameras.width.flatten().tolist() == [48, 48]
    assert len(parsed(folder, "test", load_allres=False).image_filenames) == 8
    with pytest.raises(CaptureError, match="levels 0 1 2 3"):
        parsed(folder, scales=(4,))
    with pytest.raises(CaptureError, match="gf-make-multiscale"):
        parsed(converted)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("near", [7.0] * 8, "beyond near"),
        ("label", [0.5] * 8, "level of 0"),
        ("width", [48] * 7, "8 entries"),
        ("pix2cam", [[[0, 0, 0]] * 3] * 8, "inverse intrinsics"),
        ("file_path", ["../x.png"] * 8, "stays inside"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(converted, tmp_path, key, value, says):
    content = json.loads((converted / "ms" / "one" / "metadata.json").read_text())
    content["train"][key] = value
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(CaptureError, match=rf"train\.(far|{key}).*{says}"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("kind", ["transforms", "colmap"])
def test_any_capture_gets_levels(tmp_path, kind):
    capture = make_capture(tmp_path / "capture")
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (12, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name, photo in zip(capture.names, photos, strict=True):
        Image.fromarray(photo).save(capture.folder / "images" / name)
    write_transforms(capture) if kind == "transforms" else write_colmap(capture)
    run_here("gf-make-multiscale", "--data", "capture", "--out-dir", "ms", cwd=tmp_path)
    splits = read_metadata(tmp_path / "ms" / "capture")
    assert len(splits["train"]) + len(splits["test"]) == 48 and len(splits["test"]) == 8
    names = [name for i, name in enumerate(sorted(capture.names)) if i % 8]
    for stored in splits["train"][:8]:
        pixels = np.array(Image.open(tmp_path / "ms" / "capture" / stored.file_path)).astype(float)
        block = 2**stored.level
        view = splits["train"].index(stored) // 4
        photo = photos[capture.names.index(names[view])].astype(float)
        expected = photo.reshape(HEIGHT // block, block, WIDTH // block, block, 3).mean((1, 3))
        assert np.abs(pixels - expected).max() <= 0.51
        assert stored.intrinsics == pytest.approx((30 / block, 30 / block, 16 / block, 12 / block), abs=1e-4)
        assert 0 < stored.near < stored.far


def manager(folder: Path, **settings: object) -> GenFusionDataManager:
    parser = MultiscaleBlenderDataParserConfig(data=folder, **settings)
    return GenFusionDataManager(GenFusionDataManagerConfig(dataparser=parser), test_mode="test")


def test_the_datamanager_of_surfels_reads_all_levels_with_their_labels(tmp_path, capture_folder):
    convert(open_source(capture_folder), tmp_path / "ms", 3)
    data = manager(tmp_path / "ms")
    labels = data.eval_dataset.cameras.metadata["scale_label"].flatten().tolist()
    assert sorted(labels) == [0, 0, 1, 1, 2, 2]
    widths = data.eval_dataset.cameras.width.flatten().tolist()
    assert [WIDTH // 2**label for label in labels] == widths
    assert data.seeds.kind == "visible"  # sparse_pc.ply went along
    assert len(data.train_view_ids) == 30
    camera, photo = data.fixed_indices_eval_dataloader[0]
    assert photo["image"].shape[:2] == (int(camera.height), int(camera.width))
    assert int(camera.metadata["scale_label"]) == labels[0]


def test_nerfstudio_knows_the_dataparser():
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    assert isinstance(all_dataparsers["multiscale-blender-data"], MultiscaleBlenderDataParserConfig)


def test_opacity_and_colour_are_averaged_apart():
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0] = [255, 0, 0, 255]
    np.testing.assert_array_equal(published_levels(image, 2)[1][0, 0], [63, 0, 0, 63])
