"""A disk without room, by the operating system's own limit on file sizes: clear errors, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from broken_captures import tree
from full_disk import room_for
from tiny_run import make_trainer

from genfusion_ns.data.media.video_writer import is_whole


def test_a_checkpoint_that_does_not_fit_leaves_the_older_one(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=5)
    trainer.train()
    before = tree(trainer.base_dir)
    with room_for(20_000), pytest.raises(OSError, match=r"cannot write the checkpoint .*free disk space.*--load-dir"):
        trainer.save_checkpoint(7)
    assert tree(trainer.base_dir) == before


@pytest.mark.parametrize("size", [0, 20_000, 1_000_000, 2_500_000])
def test_a_checkpoint_of_real_size_that_does_not_fit(capture_folder, tmp_path, size):
    """Beyond what is buffered, torch hides the system's error behind one of its own."""
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=6, random_init=True, num_random=12_000)
    trainer.step = 3
    trainer.save_checkpoint(3)
    before = tree(trainer.base_dir)
    assert sum(map(len, before.values())) > 2_600_000 > size
    with room_for(size), pytest.raises(OSError, match=r"cannot write the checkpoint .*File too large; free disk space"):
        trainer.save_checkpoint(4)
    assert tree(trainer.base_dir) == before


def test_what_a_killed_write_left_is_swept(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=5)
    (trainer.base_dir / ".step-000000003.123.part.ckpt").write_bytes(b"half of a file")
    trainer.save_checkpoint(4)
    assert not [path for path in map(Path, tree(trainer.base_dir)) if ".part" in path.name]


def test_a_report_that_does_not_fit_does_not_end_training(capture_folder, generator_folder, tmp_path, capsys):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder))
    loop = trainer.pipeline.supervision
    with room_for(200_000):  # the views fit, the contact sheets do not
        loop.before_step(4)
    assert len(loop.store) == 20
    said = " ".join(capsys.readouterr().out.split())
    assert "The report of round 0 is not complete, training goes on: cannot write" in said
    assert "File too large; free disk space" in said
    folder = trainer.base_dir / "genfusion" / "round_00"
    assert [path.name for path in folder.iterdir()] == ["views.safetensors"]


def test_views_that_were_not_saved_are_not_learned_from(capture_folder, generator_folder, tmp_path, capsys):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder))
    loop = trainer.pipeline.supervision
    loop.request(lambda step: loop.fuse_once(step, requested=True))
    with room_for(30_000):
        loop.before_step(2)  # a wish: it fails, and the run goes on
    assert len(loop.store) == 0 and loop.latest is None
    assert "cannot write the generated views of round 0" in " ".join(capsys.readouterr().out.split())


def test_settings_that_do_not_fit_are_named(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=5)
    with room_for(100), pytest.raises(OSError, match=r"cannot write the settings of the run .*config\.yml.*free disk"):
        trainer.config.save_config()
    assert not list(trainer.base_dir.rglob("*config*"))


def test_a_video_that_does_not_fit_is_no_video(tmp_path):
    from genfusion_ns.data.media.clip_videos import write_video

    frames = torch.rand(8, 64, 64, 3)
    write_video(tmp_path / "whole.mp4", frames)
    whole = (tmp_path / "whole.mp4").read_bytes()
    assert is_whole(tmp_path / "whole.mp4")
    for share in (0.0, 0.3, 0.9, 0.999):
        (tmp_path / "cut.mp4").write_bytes(whole[: int(share * len(whole))])
        assert not is_whole(tmp_path / "cut.mp4")
    with room_for(len(whole) // 2), pytest.raises(RuntimeError, match=r"full\.mp4"):
        write_video(tmp_path / "full.mp4", frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "whole.mp4"]


@pytest.mark.parametrize("size", [1_000, 30_000])
def test_a_round_that_does_not_fit_is_no_round(capture_folder, generator_folder, tmp_path, size):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder))
    loop = trainer.pipeline.supervision
    with room_for(size), pytest.raises(OSError, match=r"cannot write the generated views of round 0.*--load-dir"):
        loop.fuse_once(4)
    assert not list(trainer.base_dir.rglob("round.json"))
    assert not [path for path in (trainer.base_dir / "genfusion").rglob("*") if "part" in path.name]
    loop.fuse_once(4)  # with room again, the next round is made
    assert len(loop.store) == 20


def test_an_output_that_cannot_be_written_is_named_before_training(capture_folder, tmp_path):
    (tmp_path / "taken").write_text("a file where the output folder should be")
    with pytest.raises(OSError, match="taken"):
        make_trainer(capture_folder, tmp_path / "taken", "none")
