"""The job of gf-make-clips on tiny captures, and the command with its Ray workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_capture
import torch
from commands import BIN
from PIL import Image

from genfusion_ns.data.captures.formats import dataparser_of
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.clips.frame_samples import FrameAugmentation, FrameClipDataset
from genfusion_ns.data.clips.pairs import list_pairs, read_pair, read_provenance
from genfusion_ns.data.clips.published import list_published
from genfusion_ns.fusion.clip_making.job import ClipJob
from genfusion_ns.fusion.clip_making.plain_runs import Presets
from genfusion_ns.fusion.clip_making.recipe import ClipRecipe
from genfusion_ns.methods import genfusion, genfusion_masked
from genfusion_ns.rendering.thread_pool import set_num_threads
from genfusion_ns.scripts.make_clips import MakeClips
from genfusion_ns.scripts.ray_jobs import JobOptions, _attempt, run_jobs

PRESETS = Presets(genfusion.config, genfusion_masked.config)
RECIPE = ClipRecipe(
    views=(3,),
    iterations=8,
    dense_iterations=60,
    stages=(0.5, 1.0),
    resolution=(32, 24),
    min_dense_psnr=0.0,
    min_confirmed=0.0,  # every photo has a colour of its own, so none confirms another
    num_references=2,
    downscale_factor=1,
)
QUICK = replace(RECIPE, masked_strides=(), perturbed_paths=0, stages=(1.0,), iterations=2, dense_iterations=2)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tiny_capture.TinyCapture:
    made = tiny_capture.make_capture(tmp_path_factory.mktemp("captures") / "ring", num_views=12)
    tiny_capture.write_transforms(made)
    return made


@pytest.fixture(scope="module")
def job(capture: tiny_capture.TinyCapture, tmp_path_factory: pytest.TempPathFactory) -> ClipJob:
    job = ClipJob(capture.folder, tmp_path_factory.mktemp("clips"), 0, RECIPE)
    assert job.run(PRESETS) == 8  # 2 reconstructions x 2 stages x 2 paths of 1 window
    return job


def named(capture: tiny_capture.TinyCapture, name: str) -> torch.Tensor:
    """Colour of the photo of that name."""
    return torch.tensor(capture.color(capture.names.index(Path(name).name))) / 255


def test_frames_are_paired_with_their_photos(job: ClipJob, capture: tiny_capture.TinyCapture) -> None:
    along = [path for path in list_pairs(job.out) if read_provenance(path).path == "capture"]
    assert len(along) == 4
    for path in along:
        pair, origin = read_pair(path), read_provenance(path)
        assert (origin.capture, origin.seed, origin.clean) == ("ring", 0, "photo")
        assert len(origin.frames) == len(pair.clean) == 16
        assert len(set(origin.frames)) == 12
        for frame, name in zip(pair.clean.rgb, origin.frames, strict=True):
            assert torch.allclose(frame, named(capture, name).expand_as(frame), atol=1e-3)
        for photo, name in zip(pair.references.rgb, origin.references, strict=True):
            assert name in origin.train_views
            assert torch.allclose(photo, named(capture, name).expand_as(photo), atol=1e-3)
        error = (pair.artifact.rgb - pair.clean.rgb).square().mean()
        assert origin.psnr == pytest.approx(float(-10 * torch.log10(error)), abs=0.1)


def test_masked_clips_know_windows_of_their_photos(job: ClipJob) -> None:
    pairs = {read_provenance(path).split: read_pair(path) for path in list_pairs(job.out)}
    sparse, masked = pairs["3 views"], pairs["crop windows of every 2nd photo"]
    # A window has the size of a photo but a quarter of its area, so twice its focal length.
    assert torch.allclose(sparse.references.Ks[:, 0, 0], sparse.clean.Ks[:2, 0, 0], rtol=1e-3)
    assert torch.allclose(masked.references.Ks[:, 0, 0], 2 * masked.clean.Ks[:2, 0, 0], rtol=1e-3)
    counts = {read_provenance(path).split: len(read_provenance(path).train_views) for path in list_pairs(job.out)}
    assert counts == {"3 views": 3, "crop windows of every 2nd photo": 6}


def test_frames_at_masked_photos_show_their_windows(job: ClipJob) -> None:
    """As rounds of masked runs do: there the photo goes before what was rendered."""
    for path in list_pairs(job.out):
        pair, origin = read_pair(path), read_provenance(path)
        if origin.path != "capture" or "crop windows" not in origin.split:
            continue
        exact = (pair.artifact.rgb - pair.clean.rgb).abs().amax(-1) < 2e-3
        shown = {name: float(same.float().mean()) for name, same in zip(origin.frames, exact, strict=True)}
        seen = [share for name, share in shown.items() if name in origin.train_views]
        assert len(seen) == 6 and min(seen) > 0.2, "a quarter of each frame, less its border"
        assert (pair.artifact.alpha[exact] > 0.999).float().mean() > 0.9


def test_what_masks_hide_is_rendered_and_not_trusted(tmp_path: Path) -> None:
    capture = tiny_capture.make_capture(tmp_path / "masked")
    tiny_capture.write_transforms(capture)
    mask = np.full((tiny_capture.HEIGHT, tiny_capture.WIDTH), 255, np.uint8)
    mask[:, :16] = 0
    (capture.folder / "masks").mkdir()
    content = json.loads((capture.folder / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["mask_path"] = frame["file_path"].replace("images", "masks")
        Image.fromarray(mask).save(capture.folder / frame["mask_path"])
    (capture.folder / "transforms.json").write_text(json.dumps(content))
    ClipJob(capture.folder, tmp_path / "out", 0, QUICK).run(PRESETS)
    (path,) = list_pairs(tmp_path / "out")
    pair, names = read_pair(path), read_provenance(path).frames
    assert not pair.clean.alpha[:, :, :16].any()
    for frame, name in zip(pair.clean.rgb, names, strict=True):
        assert torch.allclose(frame[:, 16:], named(capture, name).expand_as(frame[:, 16:]), atol=1e-3)
        assert not torch.allclose(frame[:, :16], named(capture, name).expand_as(frame[:, :16]), atol=0.1)
    assert pair.references.seen is not None
    assert pair.references.seen[:, :, 16:].all() and not pair.references.seen[:, :, :16].any()


def test_perturbed_paths_are_rendered_on_both_sides(job: ClipJob) -> None:
    origins = {path: read_provenance(path) for path in list_pairs(job.out)}
    along = read_pair(next(path for path, origin in origins.items() if origin.path == "capture"))
    beside = [path for path, origin in origins.items() if origin.path == "perturbed0"]
    assert len(beside) == 4
    clean = [read_pair(path).clean for path in beside]
    for path, clip in zip(beside, clean, strict=True):
        assert origins[path].clean == "render"
        assert not origins[path].frames
        assert torch.equal(clip.rgb, clean[0].rgb)
        assert torch.equal(clip.viewmats, clean[0].viewmats)
        assert set(clip.alpha.unique().tolist()) <= {0.0, 1.0}
        # Frames for which free space is known only where a photo was taken may stand there.
        apart = (clip.viewmats[:, None] - along.clean.viewmats).abs().amax(dim=(2, 3)).amin(1)
        assert (apart > 1e-3).float().mean() > 0.5


def test_reconstructions_that_are_no_example_are_not_taken_for_one(job: ClipJob, tmp_path: Path) -> None:
    for name, strict in (("psnr", {"min_dense_psnr": 60.0}), ("confirmed", {"min_confirmed": 0.9})):
        recipe = replace(QUICK, perturbed_paths=1, **strict)
        assert replace(job, out=tmp_path / name, recipe=recipe).run(PRESETS) == 1
        assert read_provenance(list_pairs(tmp_path / name)[0]).path == "capture"


def test_normals_are_unit_vectors_where_something_was_rendered(job: ClipJob) -> None:
    path = list_pairs(job.out)[0]
    assert read_pair(path).artifact.normals is None
    artifact = read_pair(path, normals=True).artifact
    assert artifact.normals is not None
    length = artifact.normals.norm(dim=-1, keepdim=True)
    assert torch.allclose(length[artifact.alpha > 0.05], torch.ones(()), atol=0.02)
    facing = (artifact.normals * -artifact.viewmats[:, None, None, 2, :3]).sum(-1)
    assert (facing[artifact.alpha[..., 0] > 0.5] > -0.2).float().mean() > 0.9


def test_finished_jobs_are_known_by_their_settings(job: ClipJob) -> None:
    assert job.is_finished()
    assert not replace(job, seed=5).is_finished()
    assert (job.folder / "preview.png").is_file()
    with pytest.raises(ValueError, match=r"iterations is 8, asked for is 9"):
        replace(job, recipe=replace(RECIPE, iterations=9)).is_finished()
    shard = list_pairs(job.out)[0].parent
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match=shard.name):
        job.is_finished()
    shard.write_bytes(whole)


def test_published_layout_holds_the_same_frames(job: ClipJob, tmp_path: Path) -> None:
    published = replace(job, out=tmp_path, recipe=replace(RECIPE, layout="published"))
    assert published.run(PRESETS) == 8
    assert published.is_finished()
    clips = list_published(tmp_path)
    assert [len(clip) for clip in clips] == [12, 16] * 4  # the ring has 12 photos, without the padding of its window
    pairs = [read_pair(path) for path in list_pairs(job.out)]
    for clip, pair in zip(clips, pairs, strict=True):
        frames = clip.read(0, len(clip))
        assert (frames.clean_rgb - pair.clean.rgb[: len(clip)]).abs().mean() < 0.02
        assert (frames.artifact_rgb - pair.artifact.rgb[: len(clip)]).abs().mean() < 0.02
    plain = FrameAugmentation(random_crop=False, photos=0.0)
    for out in (job.out, tmp_path):
        batch = FrameClipDataset([out], (32, 24), frames=8, batches=4, augmentation=plain)[1]
        assert batch.artifact_rgb.shape == (1, 8, 24, 32, 3)


def test_seeds_choose_other_views() -> None:
    chosen = [tuple(d.train_ids for d in RECIPE.difficulties(40, seed)) for seed in range(6)]
    assert len({sparse for sparse, _ in chosen}) == 6
    assert {masked for _, masked in chosen} == {tuple(range(0, 40, 2)), tuple(range(1, 40, 2))}
    for sparse, _ in chosen:
        assert [view * 3 // 40 for view in sparse] == [0, 1, 2]  # one out of each third
    with pytest.raises(ValueError, match="3 photos"):
        RECIPE.difficulties(3, 0)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"stages": (0.0,)}, "--stages"),
        ({"stages": (0.501, 0.502)}, "--stages"),
        ({"views": (1,)}, "--views"),
        ({"views": (3, 3)}, "--views"),
        ({"views": (), "masked_strides": ()}, "--masked-strides"),
        ({"masked_area": 1.0}, "--masked-area"),
        ({"iterations": 0}, "--iterations"),
        ({"resolution": (8, 8)}, "--resolution"),
    ],
)
def test_settings_are_judged_before_anything_runs(changes: dict, flag: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=flag):
        MakeClips(tmp_path, (tmp_path,), recipe=replace(RECIPE, **changes)).run()


def test_jobs_need_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ring_s0"):
        MakeClips(tmp_path, (tmp_path / "a" / "ring", tmp_path / "b" / "ring"), recipe=RECIPE).run()
    with pytest.raises(ValueError, match="--workers"):
        MakeClips(tmp_path, (tmp_path,), jobs=JobOptions(workers=0)).run()
    (tmp_path / "ring_s0").mkdir()
    with pytest.raises(ValueError, match="ring_s0 exists but is no finished job"):
        MakeClips(tmp_path, (tmp_path / "ring",), recipe=RECIPE).run()


@pytest.mark.parametrize("layout", ["colmap", "blender"])
def test_captures_come_in_several_formats(tmp_path: Path, layout: str) -> None:
    capture = tiny_capture.make_capture(tmp_path / layout)
    recipe = QUICK
    if layout == "colmap":
        tiny_capture.write_colmap(capture)
    else:
        tiny_capture.write_blender(capture, [0, 2, 4, 6, 8, 10], [1, 3])
        recipe = replace(QUICK, downscale_factor=None)
    assert ClipJob(capture.folder, tmp_path / "out", 0, recipe).run(PRESETS) == 1
    (path,) = list_pairs(tmp_path / "out")
    photos = 12 if layout == "colmap" else 8
    assert len(set(read_provenance(path).frames)) == photos
    # In a round, too, the empty space of photos with alpha is a backdrop and no hole.
    alpha = read_pair(path).artifact.alpha
    assert bool((alpha == 1).all()) == (layout == "blender")


def test_folders_that_are_no_captures_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"no transforms\.json"):
        dataparser_of(tmp_path)
    with pytest.raises(CaptureError, match="missing does not exist"):
        dataparser_of(tmp_path / "missing")
    (tmp_path / "transforms_train.json").write_text("{}")
    with pytest.raises(CaptureError, match="--downscale-factor"):
        dataparser_of(tmp_path, 2)


def test_without_ray_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # makes the import fail
    with pytest.raises(ModuleNotFoundError, match=r"pip install genfusion-ns\[train\]\. --workers 1 does without"):
        run_jobs([ClipJob(tmp_path, tmp_path, 0, RECIPE)], JobOptions(workers=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (JobOptions(workers=2), r"Ray did not start \(.*/proc/nowhere"),
        (JobOptions(ray_address="no address"), r"Ray cannot be reached at no address \("),
        (JobOptions(ray_address="127.0.0.1:1"), r"Ray cannot be reached at 127\.0\.0\.1:1 \(.*refused"),
        (JobOptions(ray_address="ray://[::1]:1"), r"Ray cannot be reached at ray://\[::1\]:1 \("),
    ],
)
def test_a_ray_that_does_not_start_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: JobOptions, said: str
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(ConnectionError, match=rf"{said}.*\); --workers 1 without --ray-address does without Ray"):
        run_jobs([ClipJob(tmp_path, tmp_path, 0, RECIPE)], options)


def process_of(job: Path) -> int | None:
    log = job / "log.txt"
    found = re.search(r"process (\d+)", log.read_text()) if log.is_file() else None
    return int(found.group(1)) if found else None


def test_one_worker_does_without_ray(
    monkeypatch: pytest.MonkeyPatch, capture: tiny_capture.TinyCapture, job: ClipJob, tmp_path: Path
) -> None:
    """In a process of its own, begun again when it is killed: the same bytes as this process makes."""
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    apart = ClipJob(capture.folder, tmp_path / "clips", 0, QUICK)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_jobs, [apart], JobOptions(threads=torch.get_num_threads()))
        while (victim := process_of(apart.unfinished)) is None:
            assert not running.done(), running.result()
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        assert running.result() == {}
    assert process_of(apart.folder) not in (victim, os.getpid())
    set_num_threads(torch.get_num_threads())
    try:
        again = replace(apart, out=tmp_path / "again")
        again.run(PRESETS)
    finally:
        set_num_threads(None)
    shard = "shard-00000.tar"
    assert (apart.folder / shard).read_bytes() == (again.folder / shard).read_bytes()


def test_failures_are_told_by_their_reason(tmp_path: Path, capture: tiny_capture.TinyCapture) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no transforms.json" in str(_attempt(ClipJob(tmp_path / "empty", tmp_path / "clips", 0, QUICK), 1))
    (tmp_path / "clips").rename(tmp_path / "moved")
    (tmp_path / "clips").touch()
    said = str(_attempt(ClipJob(capture.folder, tmp_path / "clips", 0, QUICK), 1))
    assert said.startswith(("NotADirectoryError: ", "FileExistsError: "))


@pytest.mark.slow
def test_a_killed_worker_costs_time_and_a_broken_capture_itself(tmp_path: Path) -> None:
    for name in ("ring", "loop", "broken"):
        tiny_capture.write_transforms(tiny_capture.make_capture(tmp_path / name))
    (tmp_path / "broken" / "images" / "view_03.png").write_bytes(b"no image")
    recipe = replace(RECIPE, iterations=60)
    words = [BIN / "gf-make-clips", "clips", "--captures", "loop", "ring", "broken", "--workers", 2, "--threads", 1]
    words += ["--views", 3, "--iterations", 60, "--dense-iterations", 60, "--stages", 0.5, 1, "--min-dense-psnr", 0]
    words += ["--min-confirmed", 0]
    words += ["--resolution", 32, 24, "--num-references", 2, "--downscale-factor", 1]
    command = subprocess.Popen(
        [str(word) for word in words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    unfinished, finished = tmp_path / "clips" / ".ring_s0.partial", tmp_path / "clips" / "ring_s0"
    while not (unfinished / "shard-00000.tar").is_file():
        assert command.poll() is None, command.communicate()[0]
        time.sleep(0.01)
    victim = process_of(unfinished)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)

    output, _ = command.communicate(timeout=900)  # workers run at the lowest priority
    assert command.returncode == 1
    assert "1 of 3 jobs failed" in output
    assert re.search(r"broken_s0: .*view_03\.png", output)
    assert process_of(finished) != victim
    assert sorted(path.name for path in (tmp_path / "clips").glob("[!.]*")) == ["loop_s0", "ring_s0"]

    # The retried job is as if nothing had happened.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    set_num_threads(1)
    try:
        ClipJob(tmp_path / "ring", tmp_path / "again", 0, recipe).run(PRESETS)
    finally:
        torch.set_num_threads(threads)
        set_num_threads(None)
    (shard,) = finished.glob("*.tar")
    assert shard.read_bytes() == (tmp_path / "again" / "ring_s0" / shard.name).read_bytes()

    before = (finished / "job.json").stat().st_mtime_ns
    MakeClips(tmp_path / "clips", (tmp_path / "loop", tmp_path / "ring"), recipe=recipe).run()
    assert (finished / "job.json").stat().st_mtime_ns == before
