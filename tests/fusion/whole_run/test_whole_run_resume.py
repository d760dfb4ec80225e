"""gf-run with the real commands at toy size, killed and run again: nothing is done twice, what changed is done anew."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import PLAIN, run_here

pytestmark = pytest.mark.slow

SKIP = ("--skip", "mesh", "compact", "report")
WORDS = ("room", "--output", "out", "--steps", "30", "--downscale", "1", "--rounds", "no", *SKIP)
TRAIN = ("--steps-per-save", "5")
OUT = Path("out/runs/scene/genfusion/run")


def record(folder: Path) -> dict:
    file = folder / "out" / "run.json"
    return json.loads(file.read_text())["stages"] if file.exists() else {}


def run_until(folder: Path, reached: Callable[[], bool], number: int = signal.SIGKILL) -> str:
    """What a run says until it is killed, with all that it has started; it is not to end by itself before."""
    words = [sys.executable, "-m", "genfusion_ns.scripts.run", *WORDS, *TRAIN]
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env=os.environ | PLAIN, start_new_session=True
        )
        while process.poll() is None and not reached():
            time.sleep(0.01)
        assert process.poll() is None, log.read_text()[-4000:]
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)  # to gf-run alone, which passes it on
        process.wait(timeout=300)
    return log.read_text(errors="replace")


def begun(said: str) -> list[str]:
    """Programs that were started."""
    return re.findall(r"^\$ (\S+)", said, re.MULTILINE)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, sample_capture) -> Iterator[tuple[Path, list[str]]]:
    """A run that is stopped in the training, killed in it, and after each of two stages; then it is let to its end."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(sample_capture, folder / "room")
    checkpoints = folder / OUT / "nerfstudio_models"

    def steps() -> int:
        found = [int(path.stem.split("-")[1]) for path in checkpoints.glob("step-*.ckpt")]
        return max(found, default=-1)

    said = [run_until(folder, lambda: steps() >= 0, signal.SIGTERM)]
    before = steps()
    said.append(run_until(folder, lambda: steps() > before))
    for stage in ("train", "evaluate"):
        said.append(run_until(folder, lambda stage=stage: record(folder).get(stage, {}).get("done", False)))
    said.append(run_here("gf-run", *WORDS, *TRAIN, cwd=folder))
    yield folder, said


def test_a_run_that_is_stopped_and_killed_ends_with_everything_done_once(killed):
    folder, said = killed
    assert "Stopped: rerun the same command to go on" in said[0]
    assert [begun(text)[0] for text in said[:3]] == ["ns-train"] * 3
    assert not re.search(r"^\$ ns-train.* --load-dir", said[0], re.MULTILINE), "there was nothing to go on from"
    assert all("train: goes on" in text and "Resuming after step" in text for text in said[1:3])
    assert begun(said[3])[:1] == ["ns-eval"]
    assert "== train: done" in said[3] and "== train: done" in said[4] and "== evaluate: done" in said[4]
    stages = record(folder)
    assert {name: entry["made"] for name, entry in stages.items() if entry["done"]} == {
        "train": 1, "evaluate": 1, "video": 1, "splat": 1,
    }  # fmt: skip
    for name in ("eval.json", "flight.mp4", "scene.ply"):
        assert (folder / "out" / name).stat().st_size > 100
    assert "PSNR" in said[4] and "(held out)" in said[4]
    assert "--load-dir" not in " ".join(stages["train"]["words"])


def to_do(folder: Path, *flags: str) -> list[str]:
    """Stages that a rerun with other flags would do."""
    words = [*WORDS[:3], *flags, *SKIP, *TRAIN]
    defaults = {"--steps": "30", "--downscale": "1", "--rounds": "no"}
    words += [word for name, value in defaults.items() if name not in flags for word in (name, value)]
    said = run_here("gf-run", *words, "--dry-run", cwd=folder)
    return re.findall(r"^(\w+) +to do ", said, re.MULTILINE)


def test_a_rerun_does_nothing_and_changes_do_what_rests_on_them(killed, sample_capture):
    folder, _ = killed
    again = run_here("gf-run", *WORDS, *TRAIN, cwd=folder)
    assert begun(again) == []
    assert to_do(folder) == []
    rest = ["train", "evaluate", "video", "splat"]
    assert to_do(folder, "--steps", "31") == rest
    assert to_do(folder, "--hold-out", "4") == rest
    assert to_do(folder, "--pipeline.model.sh-degree", "1") == rest
    assert to_do(folder, "--redo", "train") == rest
    assert to_do(folder, "--redo", "video") == ["video"]
    assert to_do(folder, "--minutes", "99") == [], "steps and size are given, so time decides nothing"
    photo = next((folder / "room" / "images").glob("*.png"))
    os.utime(photo)
    assert to_do(folder) == rest
    shutil.copystat(sample_capture / "images" / photo.name, photo)
    assert to_do(folder) == []


def test_what_is_gone_is_made_again_and_nothing_else(killed):
    folder, _ = killed
    (folder / "out" / "scene.ply").unlink()
    assert to_do(folder) == ["splat"]
    said = run_here("gf-run", *WORDS, *TRAIN, cwd=folder)
    assert begun(said) == ["gf-export"]
    assert "scene.ply is gone" in " ".join(said.split())
    assert to_do(folder) == []


def test_a_stage_whose_training_is_out_of_date_is_refused(killed):
    folder, _ = killed
    words = (*WORDS[:3], "--steps", "31", "--downscale", "1", "--rounds", "no", "--stages", "video", *TRAIN)
    said = run_here("gf-run", *words, cwd=folder, succeed=False)
    assert "need train, which was done with other settings or photos" in " ".join(said.split())
    assert record(folder)["train"]["done"], "and what was there is left alone"
