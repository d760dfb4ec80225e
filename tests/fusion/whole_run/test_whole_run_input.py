"""Wrong input and flags of gf-run: a sentence that helps, before anything is written."""

import os
import sys

import pytest
from commands import run_here
from photo_walks import take_photos
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    take_photos(tmp_path / "photos", 3)
    return tmp_path / "photos"


def refused(*words: object, cwd) -> str:
    before = sorted(path for path in cwd.rglob("*"))
    said = " ".join(run_here("gf-run", *words, cwd=cwd, succeed=False).split())
    assert sorted(path for path in cwd.rglob("*")) == before, "something was written"
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.txt", "notes.txt is neither a photo"),
        ("photo.heic", "save it as JPEG"),
        ("missing.mp4", "missing.mp4 does not exist"),
        ("empty", "empty has no photos"),
        ("videos", "name the videos, such as"),
    ],
)
def test_inputs_that_are_no_photos(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    for file in ("notes.txt", "photo.heic", "videos/walk.mp4"):
        (tmp_path / file).write_bytes(b"something")
    assert message in refused(name, cwd=tmp_path)
    assert message in refused(name, "--dry-run", cwd=tmp_path)


def test_no_input_at_all(tmp_path):
    assert "no input is given; name a video, a folder of photos" in refused(cwd=tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--skip", "posing"), "--skip names 'posing', which is no stage; allowed are capture, train, evaluate"),
        (("--stages", "train", "video", "--redo", "mesh"), "--redo mesh is left out by --stages or --skip"),
        (("--stages", "mesh", "--skip", "mesh"), "--stages and --skip leave nothing to do"),
        (("--minutes", "0"), "--minutes is 0.0; allowed are 1..100000"),
        (("--steps", "0"), "--steps is 0; allowed are 1.."),
        (("--downscale", "99"), "--downscale is 99; allowed are 1..64"),
        (("--hold-out", "1"), "--hold-out is 1, which would leave no photo to train on"),
        (("--capture.frames", "1"), "--frames is 1; allowed are 3..5000"),
        (("--max-num-iterations", "7"), "there is no option --max-num-iterations; see gf-run --help"),
        (("--no-such-thing",), "there is no option --no-such-thing"),
    ],
)
def test_flags_out_of_range(photos, flags, message):
    assert message in refused("photos", *flags, cwd=photos.parent)


def test_output_of_others(photos, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    assert "thesis is not empty and was not written by gf-run" in refused(
        "photos", "--output", "thesis", "--dry-run", cwd=tmp_path
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text('{"format": 1, "inputs": ["/a/walk.mp4"], "stages": {}}')
    assert "--output other holds a run of /a/walk.mp4, not of" in refused(
        "photos", "--output", "other", "--dry-run", cwd=tmp_path
    )


@pytest.mark.skipif(os.geteuid() != 0 and not os.path.exists("/proc"), reason="needs a folder that nobody can write")
def test_output_that_cannot_be_written(photos):
    said = refused("photos", "--output", "/proc/scene", cwd=photos.parent)
    assert "cannot write into /proc/scene" in said and "give another --output" in said


def test_without_a_gpu_published_settings_are_refused_with_the_way_out(photos, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ("--dry-run", "--method", "genfusion-published", "--steps", "5", "--downscale", "1")
    said = run_here("gf-run", "photos", *words, cwd=photos.parent, succeed=False)
    assert "needs a GPU" in said and "genfusion" in said


def test_a_failed_stage_says_how_to_go_on(photos, monkeypatch):
    """Without pycolmap the stage says what to install; then a rerun goes on."""
    folder = photos.parent / "nothing"
    folder.mkdir()
    (folder / "pycolmap.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))
    said = " ".join(run_here("gf-run", "photos", "--output", "scene", cwd=photos.parent, succeed=False).split())
    assert "capture (gf-capture) failed with status 1; its own message stands above" in said
    assert "rerun the same command to go on" in said


def test_the_plan_of_photos_without_poses_says_what_it_assumes(photos, tmp_path):
    Image.new("RGB", (640, 480)).save(photos / "another.jpg")
    said = run_here("gf-run", "photos", "--dry-run", "--steps", "9", "--downscale", "1", cwd=tmp_path)
    assert "If all goes well 4 photos get poses" in said
    assert "$ gf-capture photos photos_scene/capture" in said
    assert "ns-train genfusion --data photos_scene/capture" in said and "--max-num-iterations 9" in said
    assert "--pipeline.datamanager.test-every 0" in said, "of four photos none is held out"
    assert not (tmp_path / "photos_scene").exists()
