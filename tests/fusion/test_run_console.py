"""What a run says: its settings only when asked, a line before and one after each round, and how long it will take."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from nerfstudio.engine.trainer import writer
from nerfstudio.utils.writer import EventName
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import make_trainer

from genfusion_ns.fusion.time_left import StepClock, put_time_left
from genfusion_ns.methods import genfusion


@pytest.mark.parametrize("wanted", [False, True])
def test_settings_are_printed_to_those_who_ask(wanted, capsys):
    config = copy.deepcopy(genfusion.config)
    config.print_config = wanted
    config.print_to_terminal()
    assert ("max_num_iterations=" in capsys.readouterr().out) == wanted
    assert not genfusion.config.print_config


LINE = re.compile(
    r"^Round (\d) of 2 \(round_0(\d)\): photos (\d+\.\d) dB before, agreement (\d+\.\d) dB rendered, (\d+\.\d) dB "
    r"repaired, (\d) of 2 clips kept, coverage (\d+)%, \d+ s$",
    re.MULTILINE,
)


def test_each_round_has_a_line_before_and_one_after(capture_folder, generator_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder))
    trainer.train()
    said = capsys.readouterr().out
    for number, step in ((1, 4), (2, 8)):
        assert f"Round {number} of 2 before step {step}, to genfusion/round_{number - 1:02d} of the run" in said
    lines = LINE.findall(said)
    assert [line[:2] for line in lines] == [("1", "0"), ("2", "1")]
    for index, line in enumerate(lines):
        record = json.loads((trainer.base_dir / "genfusion" / f"round_{index:02d}" / "round.json").read_text())
        scores = [window["scores"] for window in record["windows"]]
        means = [np.mean([score[name] for score in scores]) for name in ("artifact_psnr", "repaired_psnr")]
        assert [float(value) for value in line[2:5]] == pytest.approx(
            [record["details"]["photos_psnr"], *means], abs=0.05
        )
        assert int(line[5]) == sum(window["accepted"] for window in record["windows"])
        assert int(line[6]) == pytest.approx(100 * np.mean([score["coverage"] for score in scores]), abs=0.51)


def test_tensorboard_gets_figures_and_sheets_of_rounds(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder), vis="tensorboard")
    trainer.train()
    events = EventAccumulator(str(trainer.base_dir), size_guidance={"images": 0}).Reload()
    figures = {name: [(entry.step, entry.value) for entry in events.Scalars(f"Rounds/{name}")] for name in FIGURES}
    assert all([step for step, _ in entries] == [4, 8] for entries in figures.values())
    for index in range(2):
        folder = trainer.base_dir / "genfusion" / f"round_{index:02d}"
        record = json.loads((folder / "round.json").read_text())
        assert figures["photos_psnr"][index][1] == pytest.approx(record["details"]["photos_psnr"], rel=1e-5)
        kept = np.mean([window["accepted"] for window in record["windows"]])
        assert figures["kept"][index][1] == pytest.approx(kept)
        for clip in range(2):
            shown = events.Images(f"Rounds/clip_{clip:02d}")[index]
            with Image.open(folder / f"sheet_{clip:02d}.png") as sheet:
                assert (shown.step, shown.width, shown.height) == (record["step"], *sheet.size)


FIGURES = ("photos_psnr", "rendered_psnr", "repaired_psnr", "coverage", "kept", "seconds")


def test_without_such_a_writer_nothing_waits_for_one(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder))
    writer.EVENT_STORAGE.clear()
    trainer.pipeline.supervision.fuse_once(4)
    assert writer.EVENT_STORAGE == []


def test_the_time_that_is_left_counts_the_rounds_to_come(capture_folder, generator_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, str(generator_folder), steps=24)
    loop = trainer.pipeline.supervision
    assert loop.seconds_to_come(0) == 0, "nothing is known before the first round"
    told: dict[int, float] = {}

    original = trainer._update_viewer_state

    def watched(step: int) -> None:
        original(step)
        (told[step],) = [e["event"] for e in writer.EVENT_STORAGE if e["name"] == EventName.ETA.value]

    trainer._update_viewer_state = watched
    trainer._clock.seconds = lambda: 2.0
    loop._seconds = Rounds()
    trainer.train()
    # Rounds before steps 4, 8, ... 20; each takes 100 seconds, a step 2.
    expected = {step: 2.0 * (23 - step) + (100.0 * (5 - step // 4) if step >= 4 else 0.0) for step in range(24)}
    assert told == expected


class Rounds(list):
    """Durations of rounds, each of which takes 100 seconds."""

    def append(self, seconds: float) -> None:
        super().append(100.0)


def test_rounds_that_no_run_gets_to_do_not_count(capture_folder, generator_folder, tmp_path):
    loop = make_trainer(capture_folder, tmp_path, str(generator_folder), steps=24).pipeline.supervision
    loop._seconds = [1.0, 9.0, 2.0]
    assert loop.seconds_to_come(8) == 2.0 * 3
    assert loop.seconds_to_come(20) == 0
    loop.paused = True
    assert loop.seconds_to_come(8) == 0


def test_the_clock_takes_the_last_steps_without_what_is_before_them():
    clock = StepClock()
    assert clock.seconds() == 0
    clock.start(0)
    clock.stop(0)
    assert clock.seconds() >= 0
    clock._seconds.clear()
    clock._seconds.extend([100.0] * 5 + [2.0] * 20)
    assert clock.seconds() == 2.0


def test_the_figure_takes_the_place_of_nerfstudios():
    writer.EVENT_STORAGE.clear()
    for name in ("first", EventName.ETA, "last"):
        writer.put_scalar(name, 1.0, 7)
    put_time_left(5.0, 7)
    assert [(event["name"], event["event"]) for event in writer.EVENT_STORAGE] == [
        ("first", 1.0),
        (EventName.ETA.value, 5.0),
        ("last", 1.0),
    ]
    put_time_left(6.0, 8)
    assert writer.EVENT_STORAGE[-1]["event"] == 6.0
    writer.EVENT_STORAGE.clear()
