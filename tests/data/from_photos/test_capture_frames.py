"""Which frames of a video are chosen, and how they are turned."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from photo_walks import Progress, film, photograph, textures, walk
from scipy.ndimage import gaussian_filter, shift

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.from_photos.frames import Judged, choose_frames, judge, spread
from genfusion_ns.data.from_photos.photos import PhotoSet, gather
from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.data.from_photos.sources import find_sources
from genfusion_ns.data.from_photos.video import Reading, frames_of, number_of_frames, pixels_of
from genfusion_ns.data.media.frame_sequences import VideoFile


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    walls = textures()
    return [photograph(pose, walls, (160, 120), 140.0) for pose in walk(12)]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_frames_are_upright_whatever_the_tag(turn: int, frames: list[np.ndarray], tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", frames[:3], turn)
    read = [pixels_of(frame) for frame in frames_of(tmp_path / "clip.mp4")]
    assert number_of_frames(tmp_path / "clip.mp4") == len(read) == 3
    for found, true in zip(read, frames, strict=False):
        assert found.shape == true.shape
        assert np.abs(found.mean(-1) - true.mean(-1)).mean() < 12  # colours are halved


def test_frames_are_those_that_ffmpeg_turns_by_itself(frames: list[np.ndarray], tmp_path: Path) -> None:
    import subprocess

    import imageio_ffmpeg

    film(tmp_path / "clip.mp4", frames[:1], 90)
    words = ["-loglevel", "error", "-i", str(tmp_path / "clip.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], check=True, capture_output=True).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(120, 160, 3)
    ours = pixels_of(next(iter(frames_of(tmp_path / "clip.mp4"))))
    assert np.abs(ours.astype(float) - theirs).mean() < 3


def test_an_untagged_video_is_as_the_other_reader_has_it(frames: list[np.ndarray], tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", frames[:2])
    ours = np.stack([pixels_of(frame) for frame in frames_of(tmp_path / "clip.mp4")])
    theirs = VideoFile(tmp_path / "clip.mp4").read([0, 1]).numpy() * 255
    assert np.abs(ours - theirs).mean() < 3


def test_blurred_frames_are_passed_over(frames: list[np.ndarray]) -> None:
    grey = [frame.mean(-1).astype(np.uint8) for frame in frames]
    for k in (1, 4, 7, 10):
        grey[k] = gaussian_filter(grey[k], 2.5)
    judged = judge(grey)
    assert judged.sharpness[[1, 4, 7, 10]].max() < 0.7 * judged.sharpness[[0, 2, 3, 5, 6, 8, 9, 11]].min()
    assert not {1, 4, 7, 10} & set(spread(judged, 4))


def test_motion_is_that_of_the_picture() -> None:
    picture = gaussian_filter(np.random.default_rng(0).standard_normal((150, 200)), 2) * 300 + 127
    grey = [picture.clip(0, 255).astype(np.uint8)[10:130, 5 * k : 5 * k + 160] for k in range(4)]
    np.testing.assert_allclose(judge(grey).motion, [0, *3 * [5 / 200]], atol=2e-4)


def test_slow_motion_counts_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    picture = (gaussian_filter(rng.standard_normal((150, 200)), 4) * 600 + 127).clip(0, 255)
    still = [
        (picture[10:130, :160] + 2 * rng.standard_normal((120, 160))).clip(0, 255).astype(np.uint8) for _ in range(30)
    ]
    assert judge(still).motion.sum() < 0.005
    slow = [shift(picture, (0, -0.2 * k), order=3)[10:130, :160].clip(0, 255).astype(np.uint8) for k in range(50)]
    assert judge(slow).motion.sum() == pytest.approx(0.2 * 49 / 200, rel=0.1)


def test_frames_are_evenly_spread_over_motion_not_time() -> None:
    """The camera rests for 60 of 100 frames, and few are taken there."""
    motion = np.r_[np.full(20, 0.05), np.zeros(60), np.full(20, 0.05)]
    chosen = spread(Judged(np.ones(100), motion), 20)
    assert len(chosen) == 20
    assert sum(20 <= k < 80 for k in chosen) <= 1


@pytest.mark.parametrize("most", [3, 7, 50])
def test_no_more_frames_than_asked_for_and_none_without_motion(most: int) -> None:
    rng = np.random.default_rng(most)
    judged = Judged(rng.uniform(size=200), rng.uniform(0, 0.1, 200))
    chosen = spread(judged, most)
    assert 3 <= len(chosen) <= most
    assert chosen == sorted(set(chosen))
    slow = Judged(rng.uniform(size=200), np.full(200, 0.001))
    assert len(spread(slow, most)) == min(most, 5), "0.2 diagonals of motion are five steps"


def test_a_cut_does_not_swallow_frames() -> None:
    chosen = spread(Judged(np.ones(10), np.r_[np.zeros(9), 0.25]), 5)
    assert len(chosen) == 3


def test_a_still_video_is_refused(tmp_path: Path, frames: list[np.ndarray]) -> None:
    film(tmp_path / "still.mp4", [frames[0]] * 6)
    with pytest.raises(CaptureError, match=r"still\.mp4: the picture moves by 0\.\d % .*Record while walking"):
        choose_frames(tmp_path / "still.mp4", 10)


@pytest.mark.parametrize("ending", ["mkv", "mov"])
def test_a_video_is_used_as_far_as_it_can_be_read(ending: str, frames: list[np.ndarray], tmp_path: Path) -> None:
    """Its end is missing, or a part of its middle; a whole one is not spoken of."""
    file = tmp_path / f"clip.{ending}"
    film(file, [*frames, *frames[::-1]] * 2)
    whole, content = Reading(), file.read_bytes()
    choose_frames(file, 10, reading=whole)
    assert (whole.frames, whole.damage) == (48, None)
    if ending == "mkv":
        file.write_bytes(content[: int(0.6 * len(content))])
        said = r"is damaged or cut off: \d\d frame.s. can be read, the last at [23]\.\d s; copy it"
    else:
        start, end = len(content) // 3, len(content) // 2
        file.write_bytes(content[:start] + bytes(end - start) + content[end:])
        said = r"is damaged or cut off: \d\d frame.s. of the 48 that it promises can be read"
    reading = Reading()
    chosen = choose_frames(file, 10, reading=reading)
    assert 10 < reading.frames < 48
    assert 3 <= len(chosen) <= 10
    assert re.search(said, reading.damage or "")
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    settings = CaptureFromPhotosSettings(frames=10)
    found = gather(find_sources([file]), settings, tmp_path / "images", tmp_path / "masks", Progress().begin)
    assert [one.origin for one in found.photos] == [f"{file}, frame {k + 1}" for k in chosen]
    assert [(one.origin, one.reason) for one in found.damaged] == [(str(file), reading.damage)]
    assert PhotoSet.from_json(found.as_json()) == found


def test_too_few_frames_are_put_down_to_the_damage(frames: list[np.ndarray], tmp_path: Path) -> None:
    film(tmp_path / "whole.mkv", [*frames, *frames])
    content, file, said = (tmp_path / "whole.mkv").read_bytes(), tmp_path / "clip.mkv", ""
    for size in range(2000, len(content), 250):
        file.write_bytes(content[:size])
        try:
            choose_frames(file, 10)
        except CaptureError as error:
            said = str(error)
            if "no frame" not in said:
                break
        else:
            break
    assert re.search(r"clip.mkv is damaged or cut off: [12] frame.*clip.mkv has [12] frame.s., at least 3", said)
