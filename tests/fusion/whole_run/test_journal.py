"""The record of a run, its lock, and the flight through a scene."""

import json
import subprocess
import sys

import pytest
import torch
from tiny_capture import make_capture

from genfusion_ns.data.camera_path import read_camera_path
from genfusion_ns.fusion.whole_run.flight import FRAMES, flight_poses, write_flight
from genfusion_ns.fusion.whole_run.journal import Journal, Lock


def test_what_is_written_down_is_found_again(tmp_path):
    journal = Journal(tmp_path, ["/a/video.mp4"])
    assert journal.stage("train") is None and journal.plan is None
    journal.begin("train", "key", ["ns-train", "genfusion"])
    journal.stop("train", 2.0)
    journal.keep_plan({"for": "x", "choice": {}})
    again = Journal(tmp_path, ["/a/video.mp4"])
    assert not again.is_done("train") and again.seconds("train") == 2.0 and again.made("train") == 0
    again.begin("train", "key", ["ns-train", "genfusion"])
    again.finish("train", 3.0)
    third = Journal(tmp_path, ["/a/video.mp4"])
    assert third.is_done("train") and third.seconds("train") == 5.0 and third.made("train") == 1
    assert third.plan == {"for": "x", "choice": {}}
    third.forget("train")
    assert not third.is_done("train") and third.made("train") == 1
    third.begin("train", "key", ["ns-train", "genfusion"])
    third.finish("train", 1.0)
    assert third.made("train") == 2 and third.seconds("train") == 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "run.json cannot be read as JSON"),
        ("[]", "allowed: an object"),
        ('{"format": 7}', "format is 7"),
        ('{"format": 1, "inputs": ["/b"], "stages": {}}', "holds a run of /b, not of /a; give another folder"),
        ('{"format": 1, "inputs": ["/a"], "stages": {"train": {"key": "k"}}}', "stages.train.done is missing"),
        ('{"format": 1, "inputs": ["/a"], "stages": {"train": 5}}', "stages.train is 5"),
        ('{"format": 1, "inputs": ["/a"], "stages": {}, "plan": []}', "plan is []"),
    ],
)
def test_records_of_others_and_damaged_ones_are_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError) as error:
        Journal(tmp_path, ["/a"])
    assert message in str(error.value)


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty and was not written by gf-run"):
        Journal(tmp_path, ["/a"])
    with pytest.raises(ValueError, match=r"thesis.tex is a file; give the name of a folder"):
        Journal(tmp_path / "thesis.tex", ["/a"])


def test_a_lock_is_held_by_what_was_started_too(tmp_path):
    with Lock(tmp_path / "out") as lock:
        with (
            pytest.raises(ValueError, match=r"another gf-run, or a command that it has started"),
            Lock(tmp_path / "out"),
        ):
            pass
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,))
    with pytest.raises(ValueError, match="another gf-run"), Lock(tmp_path / "out"):
        pass
    child.communicate(b"\n")
    with Lock(tmp_path / "out"):
        pass


def test_a_flight_is_smooth_steady_and_starts_and_ends_at_photos(tmp_path):
    capture = make_capture(tmp_path / "capture", num_views=40)
    c2w = torch.from_numpy(capture.w2c).inverse().float()
    c2w[:, :3, 1:3] *= -1  # to OpenGL axes
    shuffled = c2w[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    path = flight_poses(shuffled)
    assert path.shape == (FRAMES, 4, 4)
    steps = (path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=-1)
    assert steps.max() < 1.5 * steps.median(), "no jumps, although photos are in no order"
    ends = torch.cdist(path[[0, -1], :3, 3], shuffled[:, :3, 3]).min(dim=1).values
    assert ends.max() < 1e-4


def test_nerfstudio_reads_the_flight(tmp_path):
    from nerfstudio.cameras.camera_paths import get_path_from_json

    start = torch.eye(4).repeat(6, 1, 1)
    start[:, 0, 3] = torch.arange(6.0)
    start[:, 1, 3] = torch.tensor([0.0, 1, 0, 1, 0, 1])
    write_flight(tmp_path / "flight.json", start, 50.0, (641, 361))
    ours, theirs = read_camera_path(tmp_path / "flight.json"), json.loads((tmp_path / "flight.json").read_text())
    cameras = get_path_from_json(theirs)
    assert (ours.width, ours.height) == (640, 360) == (int(cameras.width[0]), int(cameras.height[0]))
    assert len(ours) == len(cameras) == FRAMES
    torch.testing.assert_close(ours.c2w[:, :3].float(), cameras.camera_to_worlds)
    assert float(torch.rad2deg(ours.fov_y[0])) == pytest.approx(50)
