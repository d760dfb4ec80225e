"""A run that is stopped and resumed is the run that was never stopped; damage on the way is named or mended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import make_trainer, without_checksums

from genfusion_ns.errors import CheckpointError
from genfusion_ns.fusion.checkpoints import write_checkpoint
from genfusion_ns.fusion.trainer import GenFusionTrainer

STEPS = 24


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def trainer_of(capture: Path, output: Path, generator: Path, load_dir: Path | None = None) -> GenFusionTrainer:
    trainer = make_trainer(capture, output, str(generator), steps=STEPS, load_dir=load_dir, refine_every=5)
    trainer.config.steps_per_save = 5
    trainer.pipeline.supervision.config.clearing = 0.5
    return trainer


def killed_at(trainer: GenFusionTrainer, moment: str, step: int) -> Path:
    """Train until `moment` of `step`; returns the folder of what is on disk then."""
    if moment == "step":
        owner, name = trainer, "train_iteration"
    elif moment == "round":
        owner, name = trainer.pipeline.supervision.files, "save"
    else:
        owner, name = trainer, "save_checkpoint"
    original = getattr(owner, name)

    def fatal(*args, **kwargs):
        if trainer.step >= step:
            if moment == "checkpoint":  # half of the file is on the disk
                (trainer.base_dir / f".step-{trainer.step:09d}.ckpt.partial").write_bytes(b"half")
            raise Killed
        return original(*args, **kwargs)

    setattr(owner, name, fatal)
    with pytest.raises(Killed):
        trainer.train()
    return trainer.checkpoint_dir


def final_state(trainer: GenFusionTrainer) -> dict:
    loop = trainer.pipeline.supervision
    return {
        "parameters": {name: value.detach().clone() for name, value in trainer.pipeline.scene.gauss_params.items()},
        "store": loop.store.state(),
        "digests": loop.files.digests,
        "views": [view.rgb for view in loop.store],
        "clearings": trainer.pipeline.scene.strategy.kept_empty.radii,
    }


@pytest.fixture(scope="module")
def uninterrupted(capture_folder, generator_folder, tmp_path_factory) -> dict:
    trainer = trainer_of(capture_folder, tmp_path_factory.mktemp("whole"), generator_folder)
    trainer.train()
    state = final_state(trainer)
    assert len(state["views"]) == 20
    assert len(state["parameters"]["means"]) != len(trainer.pipeline.datamanager.seeds.xyz), "it was densified"
    return state


@pytest.mark.parametrize(
    ("moment", "step"), [("step", 7), ("step", 13), ("checkpoint", 10), ("checkpoint", 15), ("round", 12)]
)
def test_a_killed_run_ends_like_an_uninterrupted_one(
    uninterrupted, capture_folder, generator_folder, tmp_path, moment, step
):
    first = trainer_of(capture_folder, tmp_path / "first", generator_folder)
    checkpoints = killed_at(first, moment, step)
    torch.manual_seed(99)  # a new process knows nothing of the old generators
    second = trainer_of(capture_folder, tmp_path / "second", generator_folder, load_dir=checkpoints)
    assert 0 < second._start_step <= step
    second.train()
    ours = final_state(second)
    assert ours["store"] == uninterrupted["store"]
    assert all(torch.equal(a, b) for a, b in zip(ours["views"], uninterrupted["views"], strict=True))
    assert torch.equal(ours["clearings"], uninterrupted["clearings"]) and (ours["clearings"] > 0).all()
    for name, value in uninterrupted["parameters"].items():
        torch.testing.assert_close(ours["parameters"][name], value, rtol=1e-5, atol=1e-6, msg=name)


RESUME = """
import sys
from pathlib import Path
import torch
from test_resume import final_state, trainer_of
trainer = trainer_of(*map(Path, sys.argv[1:5]))
trainer.train()
torch.save(final_state(trainer)["parameters"], sys.argv[5])
"""


def test_a_process_that_compiles_its_kernels_resumes_to_the_same_bits(
    uninterrupted, capture_folder, generator_folder, tmp_path
):
    checkpoints = killed_at(trainer_of(capture_folder, tmp_path / "first", generator_folder), "step", 22)
    arguments = (capture_folder, tmp_path / "second", generator_folder, checkpoints, tmp_path / "parameters.pt")
    result = subprocess.run(
        [sys.executable, "-c", RESUME, *map(str, arguments)],
        env={
            **os.environ,
            "NUMBA_CACHE_DIR": str(tmp_path / "empty"),
            "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:3])),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Compiling the CPU kernels" in result.stderr
    ours = torch.load(tmp_path / "parameters.pt", weights_only=True)
    for name, value in uninterrupted["parameters"].items():
        assert torch.equal(ours[name], value), name


def test_lost_views_are_made_anew(capture_folder, generator_folder, tmp_path, capsys):
    first = trainer_of(capture_folder, tmp_path / "first", generator_folder)
    checkpoints = killed_at(first, "step", 11)
    files = sorted((first.base_dir / "genfusion").glob("round_*/views.safetensors"))
    assert len(files) == 2  # rounds at 4 and 8; the checkpoint of step 10 holds the second
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 255
    files[1].write_bytes(bytes(content))
    second = trainer_of(capture_folder, tmp_path / "second", generator_folder, load_dir=checkpoints)
    assert "round 1 are lost, the round is made anew" in " ".join(capsys.readouterr().out.split())
    assert len(second.pipeline.supervision.store) == 0
    second.train()
    record = json.loads((second.base_dir / "genfusion" / "round_01" / "round.json").read_text())
    assert (record["round"], record["step"]) == (1, 11)
    assert len(second.pipeline.supervision.store) == 20


def test_all_lost_rounds_are_made_anew_in_their_places(capture_folder, generator_folder, tmp_path, capsys):
    first = trainer_of(capture_folder, tmp_path / "first", generator_folder)
    loop = first.pipeline.supervision
    loop.store.keep_rounds = 3
    first.pipeline.scene.step_cb(first.optimizers, 4)
    pose = loop.maker.photos.whole.c2w[0].clone()
    loop.fuse_once(4)
    loop.complete_from(5, pose, 0.8)
    loop.fuse_once(8)
    loop.drop(1, 0)
    held = [(view.round, view.clip, view.frame) for view in loop.store]
    rounds = loop.store.rounds
    assert rounds[0] == 0 and rounds[-1] == 2
    first.save_checkpoint(9)
    for index in (0, 1):
        (loop.files.path(index)).unlink()
    second = trainer_of(capture_folder, tmp_path / "second", generator_folder, load_dir=first.checkpoint_dir)
    again = second.pipeline.supervision
    again.store.keep_rounds = 3
    second.pipeline.scene.step_cb(second.optimizers, 10)
    assert [view.round for view in again.store] == [2] * 20
    again.before_step(10)
    said = " ".join(capsys.readouterr().out.split())
    assert "round 0 are lost, the round is made anew" in said
    assert sorted({(view.round, view.clip, view.frame) for view in again.store}) == sorted(set(held))
    assert again.store.pinned == loop.store.pinned and again.store.state()["newest"] == [0, 2]
    assert again._trial.round == 2, "the newest round is the one that is judged"


def damaged(checkpoints: Path, kind: str) -> None:
    (path,) = checkpoints.glob("*.ckpt")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "keys":
        torch.save({"step": 3}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "pickle":

        class Malicious:
            def __reduce__(self):
                return (path.with_name("executed").write_text, ("yes",))

        torch.save({"step": 3, "pipeline": Malicious()}, path)
    elif kind == "method":
        state = torch.load(path, weights_only=True)
        del state["digest"]
        state["pipeline"] = {
            f"other.{name}": value for name, value in state["pipeline"].items() if isinstance(value, torch.Tensor)
        }
        torch.save(state, path)
    elif kind == "shape":
        state = torch.load(path, weights_only=True)
        state["pipeline"]["_model.gauss_params.features_rest"] = torch.zeros(7, 2, 3)
        write_checkpoint(without_checksums(state), path)
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cannot be read as a checkpoint"),
        ("empty", "cannot be read as a checkpoint"),
        ("text", "cannot be read as a checkpoint"),
        ("pickle", "cannot be read as a checkpoint"),
        ("keys", "lacks optimizers, pipeline, scalers, schedulers"),
        ("list", "is no checkpoint of ns-train"),
        ("method", "does not belong to a genfusion run"),
        ("shape", "holds no scene: its numbers of surfels"),
        ("gone", "holds no checkpoint"),
    ],
)
def test_checkpoints_that_cannot_be_resumed(capture_folder, trained_run, tmp_path, kind, message):
    copy = tmp_path / "copy"
    shutil.copytree(trained_run / "nerfstudio_models", copy)
    damaged(copy, kind)
    with pytest.raises(CheckpointError, match=message):
        make_trainer(capture_folder, tmp_path / "second", "none", steps=6, load_dir=copy)
    assert not (copy / "executed").exists()


def test_a_step_that_is_not_there(capture_folder, trained_run, tmp_path):
    checkpoints = trained_run / "nerfstudio_models"
    with pytest.raises(CheckpointError, match=r"--load-step 7 is not in .*; it holds the steps \[4\]"):
        make_trainer(capture_folder, tmp_path / "b", "none", steps=6, load_dir=checkpoints, load_step=7)
