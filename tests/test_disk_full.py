"""A disk without room, by the operating system's own limit on file sizes: clear errors, nothing half-written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_capture import make_capture, write_transforms
from tiny_run import make_trainer, save_toy_generator


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def generator_folder(tmp_path_factory) -> Path:
    return save_toy_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def capture_folder(tmp_path_factory) -> Path:
    capture = make_capture(tmp_path_factory.mktemp("disk") / "capture")
    write_transforms(capture)
    return capture.folder


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_that_does_not_fit_leaves_the_older_one(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=5)
    trainer.train()
    before = files_below(trainer.base_dir)
    with room_for(20_000), pytest.raises(OSError, match=r"cannot write the checkpoint .*free disk space.*--load-dir"):
        trainer.save_checkpoint(7)
    assert files_below(trainer.base_dir) == before


@pytest.mark.parametrize("size", [1_000, 30_000])
def test_a_round_that_does_not_fit_is_no_round(capture_folder, generator_folder, tmp_path, size):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder))
    loop = trainer.pipeline.loop
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
