"""The contract of all sources of clips: `ClipSource`, what a stand-alone repair works on, and `FrameClip`, what is
trained on.

A new source gets one line in `SOURCES` or `FRAME_CLIPS`; every promise then runs on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from depth_models import save_depth_model
from PIL import Image

from genfusion_ns.data.camera_path import CameraPath
from genfusion_ns.data.clips.frame_samples import FrameClip, open_frame_clips
from genfusion_ns.data.clips.pairs import Provenance, pack, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.data.clips.published import FrameSequencePair, write_published
from genfusion_ns.data.clips.shards import ShardWriter, write_record
from genfusion_ns.data.media.frame_sequences import DepthFolder, ImageFolder, VideoFile
from genfusion_ns.data.media.video_writer import VideoWriter
from genfusion_ns.fusion.repairs.sources import ClipSource, FileClips, RunClips
from genfusion_ns.fusion.run_config import load_run
from genfusion_ns.priors.mono_depth_transformers import TransformersMonoDepth

COUNT, SIZE, AREA = 6, (40, 24), (32, 20)


def pixels() -> torch.Tensor:
    """Smooth frames, each brighter than the one before. [T, H, W, 3]"""
    ramp = torch.linspace(0, 0.5, SIZE[0]).expand(COUNT, SIZE[1], -1)
    return torch.stack([ramp, ramp.flip(2), 0 * ramp], -1) + torch.linspace(0.1, 0.4, COUNT)[:, None, None, None]


def images(folder: Path) -> ImageFolder:
    for number, frame in enumerate((255 * pixels()).round().byte().numpy()):
        Image.fromarray(frame).save(folder / f"frame_{number}.png")
    return ImageFolder(folder)


def video(folder: Path) -> VideoFile:
    with VideoWriter(folder / "in.mp4", SIZE, 10) as writer:
        writer.append(pixels())
    return VideoFile(folder / "in.mp4")


def depths(folder: Path) -> DepthFolder:
    (folder / "depth").mkdir()
    for number in range(COUNT):
        np.save(folder / "depth" / f"{number}.npy", np.full((SIZE[1], SIZE[0]), 1.0 + number, np.float32))
    return DepthFolder(folder / "depth", COUNT)


def photo(folder: Path) -> Path:
    Image.fromarray((255 * pixels()[0]).byte().numpy()).save(folder / "photo.jpg")
    return folder / "photo.jpg"


def along(run: Path) -> RunClips:
    pipeline = load_run(run / "config.yml")
    cameras = pipeline.datamanager.train_dataset.cameras
    c2w = torch.eye(4).repeat(COUNT, 1, 1)
    c2w[:, :3] = cameras.camera_to_worlds[[index % len(cameras) for index in range(COUNT)]]
    fov = torch.full((COUNT,), math.radians(50)).double()
    path = CameraPath(c2w.double(), fov, torch.full((COUNT,), SIZE[0] / SIZE[1]).double(), *SIZE, 10.0)
    return RunClips.of(pipeline, path, AREA, num_references=2)


SOURCES: dict[str, Callable[[Path, Path], ClipSource]] = {
    "images": lambda folder, _: FileClips(images(folder), AREA),
    "images with depth": lambda folder, _: FileClips(images(folder), AREA, depth=depths(folder)),
    "images and a photo": lambda folder, _: FileClips(images(folder), AREA, [photo(folder.parent)]),
    "images with estimated depth": lambda folder, _: FileClips(
        images(folder), AREA, mono_depth=TransformersMonoDepth(save_depth_model(folder.parent / "model"))
    ),
    "video": lambda folder, _: FileClips(video(folder), AREA),
    "run": lambda _, run: along(run),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trained_run: Path) -> ClipSource:
    folder = tmp_path_factory.mktemp("source") / "in"
    folder.mkdir()
    return SOURCES[request.param](folder, trained_run)


@pytest.mark.parametrize("frames", [[0], [2, 3, 4], [4, 4, 1, 5], list(range(COUNT))])
def test_any_frames_in_any_order(source: ClipSource, frames: list[int]) -> None:
    clip = source.clip(frames, torch.Generator().manual_seed(0))
    assert len(source) == COUNT and source.size == SIZE and clip.size == SIZE and len(clip) == len(frames)
    width, height = SIZE
    assert clip.rgb.shape == (len(frames), height, width, 3)
    assert clip.depth.shape == clip.alpha.shape == (len(frames), height, width, 1)
    assert clip.viewmats.shape == (len(frames), 4, 4) and clip.Ks.shape == (len(frames), 3, 3)
    for values in (clip.rgb, clip.alpha):
        assert values.min() >= 0 and values.max() <= 1
    assert torch.isfinite(clip.depth).all() and clip.depth.min() >= 0
    assert bool((clip.depth > 0).any()) == source.has_depth
    whole = source.clip(range(COUNT), torch.Generator().manual_seed(0))
    torch.testing.assert_close(clip.rgb, whole.rgb[frames], atol=1e-5, rtol=0)


def test_nothing_but_the_generator_decides(source: ClipSource) -> None:
    torch.manual_seed(1)
    first = source.clip([1, 2], torch.Generator().manual_seed(0))
    state = torch.manual_seed(2).get_state()
    again = source.clip([1, 2], torch.Generator().manual_seed(0))
    assert torch.equal(first.rgb, again.rgb) and torch.equal(first.depth, again.depth)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not drawn from"


def test_photos_of_any_frames(source: ClipSource) -> None:
    for frames in ([0], [3, 4], list(range(COUNT))):
        references, names = source.references(frames)
        assert len(references) == len(names) >= 1 and all(names)
        assert references.rgb.min() >= 0 and references.rgb.max() <= 1
        width, height = references.rgb.shape[2], references.rgb.shape[1]
        assert width * height <= 1.3 * AREA[0] * AREA[1], "photos are brought to the area of the repairer"
        assert references.viewmats.shape == (len(names), 4, 4) and references.Ks.shape == (len(names), 3, 3)
    assert source.depth_unit is None or source.has_depth
    assert source.fps is None or source.fps == 10


PAIR = procedural_pair(torch.Generator().manual_seed(0), frames=COUNT, size=SIZE)
ORIGIN = Provenance("world", "none", 0)


def in_a_shard(folder: Path) -> None:
    writer = ShardWriter(folder)
    writer.add("clip", pack("clip", PAIR, ORIGIN))
    write_record(folder, writer.finish())


def as_published(folder: Path) -> None:
    frames = pixels()
    disparity = frames[..., :1]
    write_published(folder / "scene", 0, FrameSequencePair(frames, disparity, 1 - frames, 1 - disparity))


FRAME_CLIPS: dict[str, Callable[[Path], object]] = {
    "files": lambda folder: write_pair(folder, "clip", PAIR, ORIGIN),
    "shards": in_a_shard,
    "published layout": as_published,
}


@pytest.fixture(scope="module", params=FRAME_CLIPS)
def frame_clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrameClip:
    folder = tmp_path_factory.mktemp("clips")
    FRAME_CLIPS[request.param](folder)
    (clip,) = open_frame_clips([folder])
    return clip


@pytest.mark.parametrize(("start", "count"), [(0, COUNT), (0, 1), (2, 3), (COUNT - 1, 1)])
def test_any_window_of_a_training_clip(frame_clip: FrameClip, start: int, count: int) -> None:
    assert len(frame_clip) == COUNT and frame_clip.name
    pair, whole = frame_clip.read(start, count), frame_clip.read(0, COUNT)
    for name, channels in (("artifact_rgb", 3), ("clean_rgb", 3), ("artifact_disparity", 1), ("clean_disparity", 1)):
        values = getattr(pair, name)
        assert values.shape == (count, SIZE[1], SIZE[0], channels), name
        assert torch.isfinite(values).all() and values.min() >= 0, name
        assert channels == 1 or values.max() <= 1, name
        assert torch.equal(values, getattr(whole, name)[start : start + count]), name
        assert torch.equal(values, getattr(frame_clip.read(start, count), name)), name
    assert not torch.equal(pair.artifact_rgb, pair.clean_rgb)
    assert pair.photos is None or (pair.photos.dim() == 4 and pair.photos.min() >= 0 and pair.photos.max() <= 1)
