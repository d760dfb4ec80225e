"""The record of a round can be read back, seen and replaced, and is never half there."""

import json
import subprocess
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from genfusion_ns.data.media.clip_videos import write_video
from genfusion_ns.fusion.rounds.contact_sheet import contact_sheet
from genfusion_ns.fusion.rounds.record import RoundRecord
from genfusion_ns.fusion.rounds.report import RECORD_FILE, write_round_report
from genfusion_ns.geometry.clips import Clip, References, RepairedClip
from genfusion_ns.geometry.windows import clip_windows

torch.set_num_threads(1)
WIDTH, HEIGHT, FRAMES = 75, 48, 16


def one_clip(seed: int) -> tuple[Clip, RepairedClip, References]:
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    ramp = torch.stack([torch.stack([x, y, (x + t / FRAMES) % 1], dim=-1) for t in range(FRAMES)])
    alpha = (torch.stack([x] * FRAMES)[..., None] > 0.2).float()
    poses, Ks = torch.eye(4).repeat(FRAMES, 1, 1), torch.eye(3).repeat(FRAMES, 1, 1)
    clip = Clip(ramp * alpha, 2 + ramp[..., :1], alpha, poses, Ks)
    noisy = (ramp + 0.05 * torch.randn(ramp.shape, generator=generator)).clamp(0, 1)
    repaired = RepairedClip(noisy, ramp[..., 1:2], alpha * 0.7 + 0.1)
    references = References(torch.rand(2, 30, 40, 3, generator=generator), torch.eye(4).repeat(2, 1, 1), Ks[:2])
    return clip, repaired, references


def round_of(count: int) -> tuple[RoundRecord, list[Clip], list[RepairedClip], list[References]]:
    clips, repaired, references = zip(*(one_clip(i) for i in range(count)), strict=True)
    frames = 16 * count
    record = RoundRecord(
        round=2,
        step=3000,
        seed=17,
        repairer="compact",
        c2w=torch.eye(4).repeat(frames, 1, 1) + torch.arange(frames)[:, None, None],
        Ks=torch.eye(3).repeat(frames, 1, 1),
        windows=clip_windows(frames),
        reference_ids=[[3, 1]] * count,
        reference_names=[["images/frame_0003.jpg", "a/rather/long/folder/name/for/a/photo_0001.jpg"]] * count,
        scores=[{"artifact_psnr": 18.25, "repaired_psnr": float("nan")}] * count,
        rejected=[None, "agrees less with the photos than its render"][:count],
        details={"phase": 0.25, "up": torch.tensor([0.0, 0.0, 1.0]), "photos_psnr": float("inf")},
    )
    return record, list(clips), list(repaired), list(references)


def decode(path) -> np.ndarray:
    frames = imageio_ffmpeg.read_frames(str(path))
    width, height = next(frames)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames])


def test_everything_can_be_read_back(tmp_path):
    record, *pictures = round_of(2)
    write_round_report(tmp_path / "round_02", record, *pictures)
    names = sorted(path.name for path in (tmp_path / "round_02").iterdir())
    assert names == ["clip_00.mp4", "clip_01.mp4", "round.json", "sheet_00.png", "sheet_01.png"]

    text = (tmp_path / "round_02" / RECORD_FILE).read_text()
    assert "NaN" not in text and "Infinity" not in text
    read = json.loads(text)
    torch.testing.assert_close(torch.tensor(read["c2w"]), record.c2w)
    torch.testing.assert_close(torch.tensor(read["K"]), record.Ks)
    assert (read["round"], read["step"], read["seed"], read["repairer"]) == (2, 3000, 17, "compact")
    first, second = read["windows"]
    assert (first["start"], second["start"], second["new_from"]) == (0, 16, 0)
    assert first["accepted"] and not second["accepted"]
    assert second["reason"] == "agrees less with the photos than its render"
    assert first["references"][0] == {"id": 3, "name": "images/frame_0003.jpg"}
    assert first["scores"] == {"artifact_psnr": 18.25, "repaired_psnr": None}
    assert read["details"] == {"phase": 0.25, "up": [0.0, 0.0, 1.0], "photos_psnr": None}
    assert read["versions"]["torch"] == torch.__version__


def test_video_shows_both_clips_and_is_widely_playable(tmp_path):
    record, *pictures = round_of(1)
    write_round_report(tmp_path, record, *pictures)
    video = decode(tmp_path / "clip_00.mp4")
    assert video.shape == (FRAMES, HEIGHT, 2 * WIDTH + 8, 3)
    for start, expected in ((0, pictures[0][0].rgb), (WIDTH + 8, pictures[1][0].rgb)):
        shown = torch.from_numpy(video[:, :, start : start + WIDTH] / 255.0)
        assert (shown - expected).abs().mean() < 0.05
    program = imageio_ffmpeg.get_ffmpeg_exe()
    described = subprocess.run([program, "-i", str(tmp_path / "clip_00.mp4")], capture_output=True, text=True).stderr
    assert "h264" in described and "yuv420p" in described


def test_odd_sizes_become_even(tmp_path):
    frames = torch.rand(3, 31, 41, 3, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "odd.mp4", frames)
    assert decode(tmp_path / "odd.mp4").shape == (3, 32, 42, 3)


def test_sheet_shows_the_frames_where_it_says(tmp_path):
    clip, repaired, references = one_clip(0)
    red = replace(clip, rgb=torch.tensor([1.0, 0.0, 0.0]).expand_as(clip.rgb))
    blue = replace(repaired, rgb=torch.tensor([0.0, 0.0, 1.0]).expand_as(clip.rgb))
    sheet = np.asarray(contact_sheet(red, blue, references, ["title"], ["a", "b"])).astype(int)
    counts = {
        name: int((np.abs(sheet - colour).sum(-1) == 0).sum())
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255)), ("both", (255, 0, 255)))
    }
    # Six frames each of rendered, repaired and difference, all of one size.
    assert counts["red"] == counts["blue"] == counts["both"] > 6 * 20_000
    rows = [np.abs(sheet - colour).sum(-1).min(1).argmin() for colour in ((255, 0, 0), (0, 0, 255), (255, 0, 255))]
    assert rows[0] < rows[1] < rows[2]


@pytest.mark.parametrize("size", [(48, 96), (200, 40)])
def test_sheet_takes_any_shape_length_and_many_photos(size):
    width, height = size
    T = 3
    clip = Clip(
        torch.zeros(T, height, width, 3),
        torch.zeros(T, height, width, 1),
        torch.zeros(T, height, width, 1),
        torch.eye(4).repeat(T, 1, 1),
        torch.eye(3).repeat(T, 1, 1),
    )
    repaired = RepairedClip(clip.rgb, clip.depth, clip.alpha)
    references = References(torch.rand(5, 20, 20, 3), torch.eye(4).repeat(5, 1, 1), torch.eye(3).repeat(5, 1, 1))
    sheet = contact_sheet(clip, repaired, references, ["t"], list("abcde"))
    assert isinstance(sheet, Image.Image) and sheet.width > 5 * round((24000 * width / height) ** 0.5)


def test_a_second_attempt_replaces_the_first_and_spares_other_files(tmp_path):
    record, *pictures = round_of(2)
    (tmp_path / "views.safetensors").write_bytes(b"views")
    write_round_report(tmp_path, record, *pictures)
    record, *pictures = round_of(1)
    write_round_report(tmp_path, replace(record, seed=99), *pictures, save_videos=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round.json", "sheet_00.png", "views.safetensors"]
    assert json.loads((tmp_path / RECORD_FILE).read_text())["seed"] == 99


def test_a_failure_leaves_no_record_that_pretends_completeness(tmp_path):
    record, clips, repaired, references = round_of(2)
    write_round_report(tmp_path, record, clips, repaired, references)
    broken = [repaired[0], replace(repaired[1], rgb=repaired[1].rgb[:, :5])]
    with pytest.raises(RuntimeError):
        write_round_report(tmp_path, record, clips, broken, references)
    assert not (tmp_path / RECORD_FILE).exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_lists_must_match(tmp_path):
    record, clips, repaired, references = round_of(2)
    with pytest.raises(ValueError, match="'clips': 1"):
        write_round_report(tmp_path, record, clips[:1], repaired, references)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_video_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match=r"none[/\\]a\.mp4"):
        write_video(tmp_path / "none" / "a.mp4", torch.zeros(2, 8, 8, 3))
