"""Samples without cameras, from clip pairs and from folders in the published layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genfusion_ns.data.clips.frame_samples import FrameAugmentation, FrameBatch, FrameClipDataset, open_frame_clips
from genfusion_ns.data.clips.pairs import Provenance, read_pair, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.data.clips.published import FrameSequencePair, PublishedClip, list_published, write_published
from genfusion_ns.geometry.depth import encode_disparity

SIZE = (64, 48)
PLAIN = FrameAugmentation(random_crop=False, photos=0.0)
FIELDS = ("artifact_rgb", "artifact_disparity", "clean_rgb", "clean_disparity", "clean_known", "reference")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for index in range(2):
        pair = procedural_pair(torch.Generator().manual_seed(index), frames=9, size=SIZE)
        write_pair(folder, f"clip_{index}", pair, Provenance("world", "none", index))
    return folder


def moving_frames(count: int = 40, size: tuple[int, int] = SIZE) -> FrameSequencePair:
    """Smooth frames whose brightness tells their number; disparities count frames too."""
    time = torch.linspace(0.1, 0.9, count)[:, None, None, None]
    ramp = torch.linspace(0, 0.1, size[0])[None, None, :, None].expand(1, size[1], -1, 1)
    disparity = (time + ramp) * torch.linspace(0.2, 0.9, size[1])[None, :, None, None]
    return FrameSequencePair(
        (time + ramp).expand(-1, -1, -1, 3), disparity, 1 - time - 0 * ramp.expand(1, -1, -1, 3), 1 - disparity
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for number, scene in enumerate(("1K/a", "1K/b")):
        write_published(root / scene, 0, moving_frames(20 + number))
        write_published(root / scene, 1, moving_frames(30 + number))
    return root


def equal(a: FrameBatch, b: FrameBatch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def test_what_is_published_comes_back(tmp_path: Path) -> None:
    frames = moving_frames()
    write_published(tmp_path, 0, frames)
    clip = PublishedClip(tmp_path / "video_part_0000.mp4", tmp_path / "depth_part_0000.npz")
    assert len(clip) == 40
    for start, count in ((0, 40), (0, 1), (7, 5), (24, 16), (39, 1)):
        back, window = clip.read(start, count), slice(start, start + count)
        assert torch.equal(back.artifact_disparity, frames.artifact_disparity[window])
        assert torch.equal(back.clean_disparity, frames.clean_disparity[window])
        # Frames differ by 0.02 from each other, so a window that is off by one frame fails too.
        assert (back.artifact_rgb - frames.artifact_rgb[window]).abs().mean() < 0.005
        assert (back.clean_rgb - frames.clean_rgb[window]).abs().mean() < 0.005


def test_the_left_half_is_clean_and_parts_pair_up_by_order(scenes: Path) -> None:
    with np.load(scenes / "1K" / "a" / "depth_part_0000.npz") as file:
        (stored,) = (file[name] for name in file.files)
    assert stored.shape == (20, SIZE[1], 2 * SIZE[0])
    assert np.array_equal(stored[..., : SIZE[0]], moving_frames(20).clean_disparity[..., 0].numpy())
    assert [len(clip) for clip in list_published(scenes)] == [20, 30, 21, 31]
    assert [len(clip) for clip in list_published(scenes / "1K" / "b")] == [21, 31]
    (scenes / "scenes.json").write_text(json.dumps(["1K/b"]))
    assert [len(clip) for clip in list_published(scenes / "scenes.json")] == [21, 31]


def test_broken_published_scenes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"\*\.mp4"):
        list_published(tmp_path)
    (tmp_path / "list.json").write_text('["missing"]')
    with pytest.raises(FileNotFoundError, match="missing"):
        list_published(tmp_path / "list.json")
    (tmp_path / "list.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"list\.json"):
        list_published(tmp_path / "list.json")
    scene = tmp_path / "scene"
    write_published(scene, 0, moving_frames(4))
    clip = list_published(scene)[0]
    content = clip.depth.read_bytes()
    clip.depth.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"depth_part_0000\.npz"):
        len(clip)
    np.savez(clip.depth, values=np.full((4, 48, 128), 7.0, np.float32))
    with pytest.raises(ValueError, match=r"7\.0; allowed are 0\.\.1"):
        list_published(scene)[0].read(0, 2)
    np.savez(clip.depth, values=np.zeros((5, 48, 128), np.float32))
    with pytest.raises(ValueError, match="4 frames"):
        len(list_published(scene)[0])
    np.savez(clip.depth, values=np.zeros((4, 48, 100), np.float32))
    with pytest.raises(ValueError, match="100 x 48"):
        list_published(scene)[0].read(0, 2)
    clip.depth.unlink()
    with pytest.raises(ValueError, match="1 videos"):
        list_published(scene)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        write_published(scene, 1, replace(moving_frames(2), artifact_disparity=torch.full((2, 48, 64, 1), 2.0)))


def test_batches_depend_on_seed_and_index_alone(pairs: Path, scenes: Path) -> None:
    def stream(seed: int = 0) -> FrameClipDataset:
        return FrameClipDataset([pairs, scenes / "1K"], SIZE, frames=4, seed=seed, batches=6, batch_size=2)

    first = stream()
    expected = first[3]
    _ = first[1]
    assert equal(expected, stream()[3])
    assert not equal(expected, stream(1)[3])
    assert not equal(expected, first[2])
    with pytest.raises(IndexError):
        first[6]


def test_samples_are_windows_of_their_pair(pairs: Path) -> None:
    path = pairs / "clip_0.npz"
    pair = read_pair(path)
    batch = FrameClipDataset([path], SIZE, frames=9, batch_size=1, augmentation=PLAIN)[0]
    assert torch.equal(batch.artifact_rgb[0], pair.artifact.rgb)
    known = (pair.artifact.alpha > 0.5) & (pair.artifact.depth > 0)
    expected = encode_disparity(pair.artifact.depth, known).disparity
    assert torch.allclose(batch.artifact_disparity[0], expected, atol=1e-5)
    assert not batch.artifact_disparity[0][~known].any()
    assert torch.equal(batch.clean_known[0], (pair.clean.alpha > 0.5) & (pair.clean.depth > 0))
    starts = set()
    for index in range(30):
        batch = FrameClipDataset([path], SIZE, frames=4, batch_size=1, batches=30, augmentation=PLAIN)[index]
        matches = [s for s in range(6) if torch.equal(batch.clean_rgb[0], pair.clean.rgb[s : s + 4])]
        starts.update(matches)
        # Any frame of the sample may be the reference.
        assert any(torch.equal(batch.reference[0], frame) for frame in batch.clean_rgb[0])
    assert starts == set(range(6))


def test_references_can_be_photos(pairs: Path) -> None:
    path = pairs / "clip_1.npz"
    photos = read_pair(path).references.rgb
    data = FrameClipDataset([path], SIZE, frames=4, batches=20, augmentation=replace(PLAIN, photos=1.0))
    chosen = [[torch.equal(data[i].reference[0], photo) for photo in photos].index(True) for i in range(20)]
    assert set(chosen) == set(range(len(photos)))


@pytest.mark.parametrize(("option", "dims"), [("mirror", 3), ("reverse", 1)])
def test_options_turn_the_same_sample(pairs: Path, option: str, dims: int) -> None:
    plain = FrameClipDataset([pairs], SIZE, frames=4, augmentation=PLAIN)[5]
    turned = FrameClipDataset([pairs], SIZE, frames=4, augmentation=replace(PLAIN, **{option: 1.0}))[5]
    for name in FIELDS[:5]:
        assert torch.equal(getattr(turned, name), getattr(plain, name).flip(dims)), name
    reference = plain.reference.flip(2) if option == "mirror" else plain.reference
    assert torch.equal(turned.reference, reference)


def test_crops_keep_the_shape_of_things(scenes: Path) -> None:
    """A crop of 64 x 48 with the shape 48 x 48 shows 48 columns unscaled, from more than one place."""
    offsets = set()
    for index in range(12):
        data = FrameClipDataset([scenes / "1K" / "a"], (48, 48), frames=2, batches=12)
        rgb = data[index].artifact_rgb[0, 0, 24, :, 0]
        assert torch.allclose(rgb[-1] - rgb[0], torch.tensor(0.1 * 47 / 63), atol=0.02)
        offsets.add(round(float(data[index].artifact_disparity[0].max()), 3))
    stretched = FrameClipDataset([scenes / "1K" / "a"], (48, 48), frames=2, augmentation=PLAIN)[0]
    rgb = stretched.artifact_rgb[0, 0, 24, :, 0]
    assert torch.allclose(rgb[-1] - rgb[0], torch.tensor(0.1), atol=0.02)


def test_disparity_spans_its_range_whatever_the_file_has(scenes: Path) -> None:
    batch = FrameClipDataset([scenes], SIZE, frames=16, batches=3, batch_size=2)[1]
    for values in (batch.artifact_disparity, batch.clean_disparity):
        assert torch.allclose(values.amax(dim=(1, 2, 3, 4)), torch.ones(2))
        assert not values.amin(dim=(1, 2, 3, 4)).any()
    assert batch.clean_known.all()


def test_short_clips_and_unknown_folders_are_named(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip_\d\.npz has 9 frames; samples need 16"):
        FrameClipDataset([pairs], SIZE)[0]
    with pytest.raises(FileNotFoundError, match="gf-make-clips"):
        open_frame_clips([tmp_path])
    with pytest.raises(FileNotFoundError, match="no paths"):
        FrameClipDataset([], SIZE)
