"""The real commands on a generated capture: train with rounds, resume, evaluate, render, export.

Each command runs once as a process of its own; what else there is to see of it runs by its entry point in this process.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, find_chromium, free_port, port_open
from commands import BIN, run_command, run_here
from PIL import Image
from plyfile import PlyData

from genfusion_ns.data.clips.pairs import list_pairs, read_pair

pytestmark = pytest.mark.slow

TRAIN = (
    *("--vis", "tensorboard", "--experiment-name", "scene", "--pipeline.datamanager.num-views", "6"),
    *("--pipeline.repairer.model", "compact", "--pipeline.repairer.resolution", "64", "48"),
    *("--pipeline.repairer.steps", "2", "--pipeline.fusion.sampler.num-frames", "16"),
    *("--pipeline.fusion.start", "20", "--pipeline.fusion.every", "20", "--pipeline.fusion.reject-margin", "100"),
    *("--pipeline.fusion.least-shown", "0"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("end_to_end")
    run_command(
        *("gf-sample-scene", "scene", "--num-views", "18", "--width", "128", "--height", "96", "--seed", "3"),
        cwd=folder,
    )
    return folder


@pytest.fixture(scope="module")
def trained(workspace) -> Path:
    run_command(
        *("ns-train", "genfusion", "--data", "scene", "--output-dir", "runs", "--timestamp", "first"),
        *("--max-num-iterations", "60", "--steps-per-save", "30", *TRAIN),
        cwd=workspace,
    )
    return workspace / "runs" / "scene" / "genfusion" / "first"


def checkpoint(run: Path) -> dict:
    (path,) = (run / "nerfstudio_models").glob("*.ckpt")
    return torch.load(path, map_location="cpu", weights_only=True)


def test_training_writes_a_safe_checkpoint_and_the_record_of_each_round(trained):
    state = checkpoint(trained)
    assert state["step"] == 59
    assert torch.isfinite(state["pipeline"]["_model.gauss_params.means"]).all()
    folders = sorted((trained / "genfusion").glob("round_*"))
    assert [folder.name for folder in folders] == ["round_00", "round_01"]
    for folder in folders:
        record = json.loads((folder / "round.json").read_text())
        assert record["repairer"] == "compact"
        assert len(record["c2w"]) == 16
        for name in ("sheet_00.png", "clip_00.mp4", "views.safetensors"):
            assert (folder / name).stat().st_size > 1000


def test_eval_reports_metrics_split_and_seed_points(trained, workspace):
    run_command("ns-eval", "--load-config", trained / "config.yml", "--output-path", "eval.json", cwd=workspace)
    results = json.loads((workspace / "eval.json").read_text())["results"]
    assert 8 < results["psnr"] < 60
    assert 0 < results["ssim"] <= 1
    assert results["seed_points"] == "visible"
    assert len(results["train_views"]) == 6
    assert not set(results["train_views"]) & set(results["test_views"])


def test_resume_continues_the_count_of_steps(trained, workspace):
    run_here(
        *("ns-train", "genfusion", "--data", "scene", "--output-dir", "runs", "--timestamp", "resumed"),
        *("--max-num-iterations", "64", "--load-dir", trained / "nerfstudio_models", *TRAIN),
        cwd=workspace,
    )
    state = checkpoint(trained.parent / "resumed")
    assert state["step"] == 63
    before, after = checkpoint(trained), state
    name = "_model.gauss_params.features_dc"
    assert after["pipeline"][name].shape[1:] == before["pipeline"][name].shape[1:]
    if after["pipeline"][name].shape == before["pipeline"][name].shape:
        assert not torch.equal(after["pipeline"][name], before["pipeline"][name]), "the optimiser holds stale tensors"


def test_resume_of_a_finished_run_says_so(trained, workspace):
    output = run_here(
        *("ns-train", "genfusion", "--data", "scene", "--output-dir", "runs", "--timestamp", "finished"),
        *("--max-num-iterations", "60", "--load-dir", trained / "nerfstudio_models", *TRAIN),
        cwd=workspace,
        succeed=False,
    )
    assert "nothing is left" in output


def write_path(workspace: Path, name: str, **changes: object) -> Path:
    """A camera path as nerfstudio's render panel saves it."""
    frames = json.loads((workspace / "scene" / "transforms.json").read_text())["frames"]
    path = {
        "camera_type": "perspective",
        "render_height": 48,
        "render_width": 64,
        "fps": 8,
        "seconds": 0.5,
        "camera_path": [
            {"camera_to_world": list(np.ravel(frame["transform_matrix"])), "fov": 60, "aspect": 4 / 3}
            for frame in frames[:4]
        ],
        **changes,
    }
    (workspace / name).write_text(json.dumps(path))
    return workspace / name


def test_render_camera_path_interpolate_and_dataset(trained, workspace):
    config = trained / "config.yml"
    write_path(workspace, "path.json")
    run_command(
        *("ns-render", "camera-path", "--load-config", config, "--camera-path-filename", "path.json"),
        *("--output-path", "path.mp4", "--rendered-output-names", "rgb", "depth", "normals"),
        cwd=workspace,
    )
    run_here(
        *("ns-render", "interpolate", "--load-config", config, "--output-path", "between.mp4"),
        *("--interpolation-steps", "2", "--rendered-output-names", "rgb", "median_depth"),
        cwd=workspace,
    )
    run_here(
        *("ns-render", "dataset", "--load-config", config, "--output-path", "renders", "--split", "train+test"),
        cwd=workspace,
    )
    assert (workspace / "path.mp4").stat().st_size > 1000
    assert (workspace / "between.mp4").stat().st_size > 1000
    assert len(list((workspace / "renders" / "train" / "rgb").rglob("*.*"))) == 6
    for output in ("gt-rgb", "accumulation", "depth", "median_depth", "normals", "normals_from_depth", "distortion"):
        assert list((workspace / "renders" / "test" / output).rglob("*.*")), f"no pictures of {output}"


def test_doors_of_ns_render(trained, workspace, monkeypatch):
    """What ns-render offers beyond plain paths; its own classes, in this process."""
    from nerfstudio.scripts.render import RenderCameraPath, RenderInterpolated, SpiralRender

    monkeypatch.chdir(workspace)
    config = trained / "config.yml"
    images = {"output_format": "images", "image_format": "png"}

    def pictures(name: str) -> list[Image.Image]:
        return [Image.open(file) for file in sorted((workspace / name).glob("*.png"))]

    crop = {
        "crop_bg_color": {"r": 255, "g": 128, "b": 0},
        "crop_center": [0.0, 0.0, 9.0],
        "crop_scale": [0.1, 0.1, 0.1],
        "crop_rot": [0.0, 0.0, 0.0],
    }
    path = write_path(workspace, "crop.json", crop=crop)
    for output, colour in (("rgb", (255, 128, 0)), ("rgba", (0, 0, 0, 0))):  # the crop box is empty
        RenderCameraPath(
            config, Path(output), camera_path_filename=path, rendered_output_names=[output], **images
        ).main()
        assert {picture.getpixel((3, 3)) for picture in pictures(output)} == {colour}
    write_path(workspace, "all_around.json", camera_type="equirectangular")
    RenderCameraPath(config, Path("all_around"), camera_path_filename=Path("all_around.json"), **images).main()
    panorama = np.asarray(pictures("all_around")[0]).astype(int)
    assert np.ptp(panorama) > 60 and np.abs(panorama[:, 0] - panorama[:, -1]).max() < 60, "it closes"
    write_path(workspace, "bent.json", camera_type="fisheye")
    with pytest.raises(ValueError, match=r"fisheye.*perspective"):
        RenderCameraPath(config, Path("bent"), camera_path_filename=Path("bent.json"), **images).main()
    SpiralRender(config, Path("spiral"), seconds=0.2, **images).main()
    assert len(pictures("spiral")) == 4
    RenderInterpolated(
        config, Path("near"), interpolation_steps=1, render_nearest_camera=True, check_occlusions=True, **images
    ).main()
    assert pictures("near")[0].size == (2 * 128, 96), "the nearest photo stands beside the render"


def test_export_opens_as_a_gaussian_splat(trained, workspace):
    pytest.importorskip(
        "open3d",
        reason="ns-export imports open3d, which does not load here; without libusb-1.0 of the system it never does",
        exc_type=ImportError,
    )
    run_command(
        "ns-export", "gaussian-splat", "--load-config", trained / "config.yml", "--output-dir", "export", cwd=workspace
    )
    vertices = PlyData.read(str(workspace / "export" / "splat.ply"))["vertex"]
    names = {prop.name for prop in vertices.properties}
    wanted = {"x", "y", "z", "opacity", "f_dc_0", "f_rest_44", "scale_0", "scale_1", "scale_2", "rot_0", "rot_3"}
    assert wanted <= names
    means = checkpoint(trained)["pipeline"]["_model.gauss_params.means"]
    assert 0 < len(vertices) <= len(means)
    # Flat: the third axis lies far below the other two.
    assert (vertices["scale_2"] < np.minimum(vertices["scale_0"], vertices["scale_1"])).all()
    assert np.isfinite(vertices["scale_0"]).all()


def test_clip_pairs_are_made_of_a_capture(workspace):
    run_here(
        *("gf-make-clips", "clips", "--captures", "scene", "--views", "3", "--stages", "1.0"),
        *("--masked-strides", "--perturbed-paths", "0"),
        *("--iterations", "8", "--dense-iterations", "8", "--resolution", "64", "48"),
        cwd=workspace,
    )
    paths = list_pairs(workspace / "clips")
    assert len(paths) == 2  # 18 views are two windows of 16
    for path in paths:
        pair = read_pair(path)
        assert pair.artifact.rgb.shape == pair.clean.rgb.shape == (16, 48, 64, 3)
        assert not torch.equal(pair.artifact.rgb, pair.clean.rgb)
        assert len(pair.references) == 3


def test_viewer_shows_the_scene_and_lists_its_outputs(trained, workspace):
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on this machine: the viewer page is not opened")
    port = free_port()
    log = (workspace / "viewer.log").open("w")
    viewer = subprocess.Popen(
        [str(BIN / "ns-viewer"), "--load-config", str(trained / "config.yml"), "--viewer.websocket-port", str(port)],
        cwd=workspace,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        with Browser(chromium, workspace / "browser") as browser:
            browser.wait_for(lambda: port_open(port), "the viewer to listen")
            browser.call("Page.navigate", url=f"http://127.0.0.1:{port}")
            browser.wait_for(lambda: browser.evaluate(f"!!({OUTPUT_FIELD})"), "the output selector")
            browser.evaluate(f"{OUTPUT_FIELD}.click()")
            options = browser.wait_for(
                lambda: browser.evaluate("[...document.querySelectorAll('[role=option]')].map(x => x.innerText)"),
                "the list of outputs",
            )
            assert {"rgb", "depth", "median_depth", "normals", "normals_from_depth", "distortion"} <= set(options)
            picture = workspace / "viewer.png"
            browser.wait_for(lambda: colours_in(browser, picture) > 500, "a render of the scene in the page")
    finally:
        viewer.terminate()
        viewer.wait(timeout=60)
        log.close()


OUTPUT_FIELD = "[...document.querySelectorAll('input')].find(x => x.value == 'rgb' && x.type == 'text')"


def colours_in(browser: Browser, path: Path) -> int:
    """Distinct colours in the canvas part of a screenshot: a handful of interface greys until a render arrives."""
    browser.screenshot(path)
    canvas = np.asarray(Image.open(path).convert("RGB"))[80:560, 20:900]
    return len(np.unique(canvas.reshape(-1, 3), axis=0))
