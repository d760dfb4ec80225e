"""Stopping a run: what is on the disk afterwards, what is said, and how the process ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import make_trainer

from genfusion_ns.fusion.trainer import GenFusionTrainer, resume_command
from genfusion_ns.interrupts import StopRequest


def steps_saved(trainer: GenFusionTrainer) -> list[int]:
    """The steps of all checkpoints that the trainer writes, from now on."""
    steps: list[int] = []
    save = trainer.save_checkpoint

    def watched(step: int) -> None:
        steps.append(step)
        save(step)

    trainer.save_checkpoint = watched
    return steps


def send_at(trainer: GenFusionTrainer, step: int, number: int) -> None:
    """Have the process receive a signal while it makes a step."""
    train = trainer.train_iteration

    def watched(now: int):
        if now == step:
            os.kill(os.getpid(), number)
        return train(now)

    trainer.train_iteration = watched


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(capture_folder, tmp_path, capsys, number, status):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    whole = make_trainer(capture_folder, tmp_path / "whole", "none", steps=8, refine_every=3)
    whole.train()
    first = make_trainer(capture_folder, tmp_path / "first", "none", steps=8, refine_every=3)
    first.config.steps_per_save = 100
    send_at(first, 4, number)
    with pytest.raises(SystemExit) as stopped:
        first.train()
    assert stopped.value.code == status
    assert [path.name for path in first.checkpoint_dir.iterdir()] == ["step-000000004.ckpt"]
    said = "".join(capsys.readouterr().out.split("\n"))
    assert "Stopped after step 4" in said and f"--load-dir {first.checkpoint_dir}" in said
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    second = make_trainer(
        capture_folder, tmp_path / "second", "none", steps=8, load_dir=first.checkpoint_dir, refine_every=3
    )
    assert second._start_step == 5
    second.train()
    for name, value in whole.pipeline.scene.gauss_params.items():
        torch.testing.assert_close(second.pipeline.scene.gauss_params[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_paused_run_stops_too(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=8)
    train = trainer.train_iteration

    def pausing(step: int):
        if step == 3:
            trainer.training_state = "paused"
            signal.setitimer(signal.ITIMER_REAL, 0.2)
        return train(step)

    trainer.train_iteration = pausing
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(SystemExit) as stopped:
            trainer.train()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped.value.code == 143
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000003.ckpt"]


def test_a_wish_to_stop_in_the_last_step_ends_the_run_as_usual(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=5)
    send_at(trainer, 4, signal.SIGINT)
    trainer.train()
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000004.ckpt"]


def test_short_runs_save_in_shares_and_after_rounds(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder), steps=30)
    loop = trainer.pipeline.supervision
    loop.schedule = type(loop.schedule).resolve(7, 13, 1.0, 0.5, total_steps=30)
    saved = steps_saved(trainer)
    trainer.train()
    assert saved == [3, 6, 7, 9, 12, 15, 18, 20, 21, 24, 27, 29]  # every tenth, in rounds before steps 7 and 20, last
    assert len(list(trainer.checkpoint_dir.iterdir())) == 1


def test_the_interval_is_kept_where_it_is_shorter_or_all_are_kept(capture_folder, tmp_path):
    def interval(steps: int, every: int, only_latest: bool) -> int:
        config = make_config(capture_folder, tmp_path)
        config.max_num_iterations, config.steps_per_save = steps, every
        config.save_only_latest_checkpoint = only_latest
        trainer = GenFusionTrainer(config)
        trainer.settle_length(photos=5)
        return trainer.config.steps_per_save

    assert interval(7000, 1000, True) == 700
    assert interval(26000, 1000, True) == 1000
    assert interval(7000, 1000, False) == 1000
    assert interval(5, 1000, True) == 1
    assert interval(7000, 0, True) == 0, "0: none but those of rounds and the end"


def make_config(capture_folder: Path, output: Path):
    import copy

    from genfusion_ns.methods import genfusion

    config = copy.deepcopy(genfusion.config)
    config.data, config.output_dir, config.vis = capture_folder, output, "tensorboard"
    config.set_timestamp()
    return config


def test_the_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, sys; from genfusion_ns.interrupts import StopRequest\n"
        "with StopRequest('soon') as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT); print(stop.status, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (-signal.SIGINT, "130\n", "\nSIGINT: soon\n")


def test_without_a_signal_nothing_is_asked():
    with StopRequest("soon") as stop:
        pass
    assert (stop.received, stop.status) == (None, 0)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("ns-train genfusion --data 'my scene'", "ns-train genfusion --load-dir out/m --data 'my scene'"),
        (
            "/bin/ns-train genfusion --load-dir old --load_step=3 --vis viewer colmap --x y",
            "ns-train genfusion --load-dir out/m --vis viewer colmap --x y",
        ),
        ("script.py", "ns-train genfusion (the settings of this run) --load-dir out/m"),
        ("ns-train genfusion --load-config c.yml", "ns-train genfusion (the settings of this run) --load-dir out/m"),
    ],
)
def test_the_command_to_go_on_is_the_one_that_was_typed_with_the_checkpoints(typed, expected):
    assert resume_command(shlex.split(typed), "genfusion", Path("out/m")) == expected
