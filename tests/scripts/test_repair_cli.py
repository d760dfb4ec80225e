"""`gf-repair` on small inputs: every frame once and in order, any size, honest folders, errors that say the way out."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_capture import make_capture, write_transforms
from tiny_run import make_trainer, save_toy_generator

from genfusion_ns.data.media.frame_sequences import DepthFolder, ImageFolder, VideoFile, natural_order
from genfusion_ns.data.media.video_writer import VideoWriter
from genfusion_ns.fusion.repairs.sequence import repair_sequence, repair_windows
from genfusion_ns.fusion.repairs.sources import FileClips
from genfusion_ns.geometry.clips import Clip, References, RepairedClip
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.priors.base import Capabilities
from genfusion_ns.priors.mono_depth import MonoDisparity
from genfusion_ns.scripts.repair import Repair, entrypoint

COUNTS = [1, 3, 5, 15, 16, 17, 28, 32, 40]


def gradients(count: int, width: int = 32, height: int = 24) -> np.ndarray:
    """Smooth frames, each with its number in the blue channel. [T, H, W, 3]"""
    y, x = np.mgrid[:height, :width]
    frame = np.stack([40 + 5 * x, 60 + 5 * y, 0 * x], -1)
    return np.stack([frame + np.array([0, 0, 5 * t]) for t in range(count)]).astype(np.uint8)


def write_frames(folder: Path, frames: np.ndarray, pattern: str = "frame_{}.png") -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / pattern.format(number))
    return folder


def read_folder(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])


class Stamp:
    """Returns its input with green set to the number of the call, so that joins can be seen."""

    name = "stamp"
    capabilities = Capabilities(repairs=True)
    clip_length = 16
    resolution: tuple[int, int] = (32, 24)

    def __init__(self):
        self.calls = 0

    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        rgb = clip.rgb.clone()
        rgb[..., 1] = self.calls
        self.calls += 1
        return RepairedClip(rgb, rgb[..., 2:], torch.ones_like(clip.alpha))

    def release(self) -> None:
        pass


@pytest.mark.parametrize("overlap", [0, 4, 99])
@pytest.mark.parametrize("count", COUNTS)
def test_windows_cover_every_frame_and_share_enough(count, overlap):
    windows = repair_windows(count, 16, overlap)
    assert [frame for w in windows for frame in w.new_frames(count)] == list(range(count))
    assert all(w.length == min(16, count) for w in windows)
    for before, after in itertools.pairwise(windows):
        assert before.start + before.length - after.start >= min(overlap, 8)


@pytest.mark.parametrize("count", COUNTS)
def test_every_frame_comes_out_once_in_order_and_windows_fade(tmp_path, count):
    frames = ImageFolder(write_frames(tmp_path / "in", gradients(count)))
    parts = list(repair_sequence(FileClips(frames, (32, 24)), Stamp(), torch.Generator(), keep_detail=False))
    assert [p.start for p in parts] == np.cumsum([0, *[len(p.after) for p in parts]])[:-1].tolist()
    after = torch.cat([p.after for p in parts])
    torch.testing.assert_close(after[..., 2], torch.cat([p.before for p in parts])[..., 2])
    torch.testing.assert_close(after[:, 0, 0, 2], torch.arange(count) * 5 / 255)
    torch.testing.assert_close(torch.cat([p.disparity for p in parts])[..., 0], after[..., 2])
    if count == 17:  # the windows start at 0 and 1
        torch.testing.assert_close(after[:, 0, 0, 1], torch.arange(17) / 16)


def test_detail_finer_than_the_repairer_survives(tmp_path):
    generator = np.random.default_rng(0)
    frames = ImageFolder(write_frames(tmp_path / "in", generator.integers(60, 190, (3, 96, 128, 3)).astype(np.uint8)))

    def repaired(keep_detail: bool) -> torch.Tensor:
        parts = repair_sequence(FileClips(frames, (32, 24)), _Brighter(), torch.Generator(), keep_detail=keep_detail)
        return torch.cat([p.after for p in parts])

    torch.testing.assert_close(repaired(True), frames.read([0, 1, 2]) + 0.125)
    assert float((repaired(False) - frames.read([0, 1, 2]) - 0.125).abs().mean()) > 0.05


class _Brighter(Stamp):
    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        return RepairedClip(clip.rgb + 0.125, clip.rgb[..., :1], clip.alpha)


@pytest.mark.parametrize(("count", "width", "height"), [(1, 33, 21), (3, 32, 24), (18, 70, 50)])
def test_a_folder_of_frames(tmp_path, generator_folder, count, width, height):
    pixels = gradients(count, width, height)
    folder = write_frames(tmp_path / "in", pixels)
    out = tmp_path / "out"
    Repair(output=out, frames=folder, model=str(generator_folder), steps=1, size=(32, 24)).run()
    repaired = read_folder(out / "frames")
    assert repaired.shape == pixels.shape
    # The toy generator returns its input, so frame 10 must not have come before frame 2.
    assert np.abs(repaired.astype(int) - pixels).mean() < 3
    assert not (out / "disparity").exists(), "nobody knows the depth of these frames"
    video, pair = VideoFile(out / "repaired.mp4"), VideoFile(out / "side_by_side.mp4")
    assert len(video) == len(pair) == count and video.fps == 24
    assert pair.size == (2 * width + 8 + (2 * width) % 2, height + height % 2)
    record = json.loads((out / "repair.json").read_text())
    assert record["frames"] == count and record["size"] == [width, height]
    assert record["windows"][0]["references"] == ["frame 0"] and record["settings"]["seed"] == 0
    assert not (out / "INCOMPLETE").exists()


def test_a_video_keeps_its_rate_and_order(tmp_path, generator_folder):
    pixels = gradients(20)
    with VideoWriter(tmp_path / "in.mp4", (32, 24), 12.5) as writer:
        writer.append(torch.from_numpy(pixels).float() / 255)
    out = tmp_path / "out"
    Repair(output=out, video=tmp_path / "in.mp4", model=str(generator_folder), steps=1, size=(32, 24)).run()
    repaired = read_folder(out / "frames")
    assert len(repaired) == 20
    assert np.abs(repaired.astype(int) - pixels).mean() < 8  # the input was compressed
    assert VideoFile(out / "repaired.mp4").fps == 12.5


def test_video_frames_can_be_read_in_any_order(tmp_path):
    with VideoWriter(tmp_path / "in.mp4", (32, 24), 10) as writer:
        writer.append(torch.from_numpy(gradients(12)).float() / 255)
    video = VideoFile(tmp_path / "in.mp4")
    blue = video.read(range(12)).mean((1, 2))[:, 2]
    for wanted in ([3, 4, 5], [5, 6, 7], [0, 1], [11, 2]):
        torch.testing.assert_close(video.read(wanted).mean((1, 2))[:, 2], blue[wanted])


def test_depth_maps_are_read_and_their_scale_comes_back(tmp_path, generator_folder):
    folder, depths = write_frames(tmp_path / "in", gradients(3)), tmp_path / "depth"
    depths.mkdir()
    metres = np.linspace(1, 9, 24 * 32, dtype=np.float32).reshape(24, 32)
    for number in range(3):
        np.save(depths / f"{number}.npy", metres)
    out = tmp_path / "out"
    Repair(output=out, frames=folder, depth=depths, model=str(generator_folder), steps=1, size=(32, 24)).run()
    scores = json.loads((out / "repair.json").read_text())["windows"][0]["scores"]
    stored = read_folder(out / "disparity")
    assert stored.dtype == np.uint16 and stored.shape == (3, 24, 32)
    value = stored / 65535
    found = 1 / (scores["disparity_scale"] * value + scores["disparity_shift"])
    assert scores["disparity_inliers"] > 0.9
    assert np.median(np.abs(found / metres - 1)) < 0.1
    assert scores["seen_by_photos"] == 0, "photos without cameras must not be compared pixel by pixel"


class RedIsDisparity:
    name = "red"

    def estimate(self, images: torch.Tensor, generator: torch.Generator) -> MonoDisparity:
        return MonoDisparity(7 * images[..., :1] - 3, (images[..., 1:2] > 0.3).float())


def test_estimated_depth_reaches_the_repairer_as_disparity(tmp_path):
    frames = ImageFolder(write_frames(tmp_path / "in", gradients(4)))
    clip = FileClips(frames, (32, 24), mono_depth=RedIsDisparity()).clip([1, 2], torch.Generator())
    known = clip.depth > 0
    assert torch.equal(known, clip.rgb[..., 1:2] > 0.3)
    red = clip.rgb[..., :1]
    expected = (red - red[known].min()) / (red[known].max() - red[known].min())
    torch.testing.assert_close(encode_disparity(clip.depth).disparity[known], expected[known])


def test_depth_files_mean_the_same_in_both_formats(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    depth = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    np.save(tmp_path / "a" / "0.npy", np.where(depth == 0, np.nan, depth)[..., None])
    Image.fromarray(depth).save(tmp_path / "b" / "0.png")
    maps = [DepthFolder(tmp_path / name, 1).read([0], (32, 24)) for name in "ab"]
    assert torch.equal(maps[0], maps[1]) and float(maps[0].max()) == float(depth.max())


def test_a_trained_run_along_a_camera_path(tmp_path, generator_folder):
    capture = make_capture(tmp_path / "capture")
    write_transforms(capture)
    trainer = make_trainer(capture.folder, tmp_path / "runs", "none", steps=5)
    trainer.train()
    trainer.config.save_config()
    pipeline: Any = trainer.pipeline
    cameras = pipeline.datamanager.train_dataset.cameras
    frames = [
        {"camera_to_world": [*cameras.camera_to_worlds[i % 5].flatten().tolist(), 0, 0, 0, 1], "fov": 50, "aspect": 1.5}
        for i in range(18)
    ]
    path = tmp_path / "path.json"
    path.write_text(json.dumps({"render_width": 36, "render_height": 24, "fps": 6, "camera_path": frames}))
    config = trainer.base_dir / "config.yml"
    out = tmp_path / "out"
    Repair(output=out, load_config=config, camera_path=path, model=str(generator_folder), steps=1, size=(32, 24)).run()
    record = json.loads((out / "repair.json").read_text())
    assert record["fps"] == 6 and record["depth_unit"] == "scene units"
    assert read_folder(out / "frames").shape == (18, 24, 36, 3)
    for window in record["windows"]:
        assert len(window["references"]) == 3 and set(window["references"]) <= set(capture.names)
    assert read_folder(out / "disparity").dtype == np.uint16
    # Frames that show the same camera come from the same render, and the toy generator keeps it.
    shown = read_folder(out / "frames").astype(int)
    assert np.abs(shown[0] - shown[5]).mean() < 3

    def repair(**settings: Any) -> None:
        Repair(
            **{"camera_path": path, "load_config": config, "model": "none", "output": tmp_path / "b", **settings}
        ).run()

    photo = capture.folder / "images" / capture.names[7]
    repair(references=(photo,))
    window = json.loads((tmp_path / "b" / "repair.json").read_text())["windows"][0]
    assert window["references"] == [str(photo)] and window["scores"]["seen_by_photos"] == 0
    for frame in frames:
        frame["camera_to_world"][3] += 1e4
    (tmp_path / "far.json").write_text(json.dumps({"camera_path": frames}))
    with pytest.raises(ValueError, match="does not belong to this run"):
        repair(camera_path=tmp_path / "far.json", output=tmp_path / "c")
    (tmp_path / "no_run.yml").write_text("just: text")
    with pytest.raises(ValueError, match=r"no_run\.yml holds a dict, not the config of a run"):
        repair(load_config=tmp_path / "no_run.yml", output=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_results_repeat_with_the_seed(tmp_path):
    folder = write_frames(tmp_path / "in", gradients(3))
    model = str(save_toy_generator(tmp_path / "generator", trained=True))  # one that draws

    def repaired(name: str, seed: int) -> np.ndarray:
        Repair(output=tmp_path / name, frames=folder, model=model, steps=1, seed=seed, size=(32, 24)).run()
        return read_folder(tmp_path / name / "frames")

    first = repaired("a", 1)
    assert np.array_equal(first, repaired("b", 1))
    assert not np.array_equal(first, repaired("c", 2))


def test_output_folders_are_guarded(tmp_path, generator_folder):
    folder = write_frames(tmp_path / "in", gradients(2))

    def repair(output: Path, **settings) -> None:
        Repair(output=output, frames=folder, model=str(generator_folder), steps=1, size=(32, 24), **settings).run()

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="no earlier repair"):
            repair(tmp_path / "mine", overwrite=overwrite)
    repair(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("keep me")
    (tmp_path / "out" / "frames" / "0099.png").write_bytes(b"of a longer repair")
    with pytest.raises(FileExistsError, match="--overwrite"):
        repair(tmp_path / "out")
    repair(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "notes.txt").is_file()
    assert len(list((tmp_path / "out" / "frames").iterdir())) == 2
    with pytest.raises(ValueError, match="lies in --output"):
        repair(tmp_path, overwrite=True)


def test_a_repair_that_breaks_off_is_marked(tmp_path, generator_folder):
    folder = write_frames(tmp_path / "in", gradients(20))
    image = (folder / "frame_18.png").read_bytes()
    (folder / "frame_18.png").write_bytes(image[:60] + bytes(20) + image[80:])
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"frame_18\.png"):
        Repair(output=out, frames=folder, model=str(generator_folder), steps=1, size=(32, 24)).run()
    assert (out / "INCOMPLETE").is_file() and not (out / "repair.json").exists()
    assert not (out / "repaired.mp4").exists() and not list(out.glob(".*part*"))
    (folder / "frame_18.png").write_bytes(image)
    Repair(output=out, frames=folder, model=str(generator_folder), steps=1, size=(32, 24), overwrite=True).run()
    assert not (out / "INCOMPLETE").exists() and (out / "repair.json").is_file()


def test_settings_that_contradict_each_other(tmp_path):
    somewhere = tmp_path / "x"
    for settings, message in [
        ({}, "one of --frames, --video and --load-config is needed, found none"),
        ({"frames": somewhere, "video": somewhere}, "found --frames, --video"),
        ({"load_config": somewhere}, "belong together"),
        ({"frames": somewhere, "camera_path": somewhere}, "belong together"),
        ({"load_config": somewhere, "camera_path": somewhere, "depth": somewhere}, "renders its own depth"),
        ({"frames": somewhere, "depth": somewhere, "mono_depth": "repairer"}, "exclude each other"),
        ({"frames": somewhere, "overlap": -1}, "--overlap is -1"),
        ({"frames": somewhere, "fps": 0.0}, "--fps is 0"),
        ({"frames": somewhere, "num_references": 0}, "--num-references is 0"),
        ({"load_config": somewhere, "camera_path": somewhere}, "does not exist; ns-train writes"),
        ({"frames": somewhere}, "x does not exist"),
        ({"video": somewhere}, "x does not exist"),
        ({"frames": somewhere, "model": "nothing"}, "neither auto, compact, none or reconfusion nor an existing"),
        ({"frames": somewhere, "mono_depth": "repairer"}, "needs a repairer that makes depth"),
    ]:
        with pytest.raises(ValueError, match=message):
            Repair(output=tmp_path / "out", **settings).run()
    assert not (tmp_path / "out").exists()


def test_errors_are_one_line_and_name_our_flags(tmp_path, monkeypatch):
    folder = write_frames(tmp_path / "in", gradients(2))
    words = ["--frames", folder, "--output", tmp_path / "out", "--model", "compact"]
    for extra, message in [
        (["--steps", "0"], "gf-repair: --steps is 0"),
        (["--size", "2", "2"], "gf-repair: --size is"),
    ]:
        monkeypatch.setattr("sys.argv", ["gf-repair", *map(str, words), *extra])
        with pytest.raises(SystemExit) as caught:
            entrypoint()
        assert str(caught.value).startswith(message) and "pipeline" not in str(caught.value)


def test_inputs_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        ImageFolder(tmp_path / "empty")
    mixed = write_frames(tmp_path / "mixed", gradients(3))
    Image.new("RGB", (30, 24)).save(mixed / "frame_1.png")
    with pytest.raises(ValueError, match=r"frame_1\.png is 30 x 24"):
        ImageFolder(mixed)
    (tmp_path / "fake.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match=r"fake\.mp4 is not a video"):
        VideoFile(tmp_path / "fake.mp4")
    with pytest.raises(ValueError, match="use --frames"):
        VideoFile(mixed)
    depths = tmp_path / "depths"
    depths.mkdir()
    Image.new("RGB", (32, 24)).save(depths / "0.png")
    with pytest.raises(ValueError, match="1 depth maps for 3 frames"):
        DepthFolder(depths, 3)
    with pytest.raises(ValueError, match=r"0\.png has pixels of the Pillow mode RGB.*16-bit"):
        DepthFolder(depths, 1).read([0], (32, 24))
    (depths / "0.png").unlink()
    np.save(depths / "0.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"0\.npy cannot be read"):
        DepthFolder(depths, 1).read([0], (32, 24))


def test_natural_order():
    names = ["b1.png", "a10.png", "a2.png", "a2b.png", "a02.png", "10.png", "9.png", "x²3.png"]
    found = [path.name for path in natural_order([Path(name) for name in names])]
    assert found == ["9.png", "10.png", "a02.png", "a2.png", "a2b.png", "a10.png", "b1.png", "x²3.png"]


def test_transparency_is_composed_over_black_and_turns_are_applied(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = np.full((24, 32, 4), 200, np.uint8)
    pixels[:, 16:, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "in" / "0.png", exif=exif)
    frames = ImageFolder(tmp_path / "in")
    assert frames.size == (24, 32)
    image = frames.read([0])
    assert image.shape == (1, 32, 24, 3)
    assert float(image[0, 20:].max()) == 0 and float(image[0, :10].min()) > 0.5
