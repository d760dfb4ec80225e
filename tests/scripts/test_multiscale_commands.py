"""mip-NeRF by the commands: convert, train, resume, evaluate by scale, render, at toy size."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_command, run_here
from PIL import Image
from safetensors.torch import save_file
from tiny_capture import WIDTH, make_capture, write_blender

from genfusion_ns.fusion.multiscale.published import PREFIX, read_published
from genfusion_ns.models.mipnerf.field import MipNerfMLP
from genfusion_ns.priors.dynamicrafter.conversion.source import ConversionError

SMALL = (
    *("--pipeline.model.width", 16, "--pipeline.model.depth", 3, "--pipeline.model.view-width", 8),
    *(
        "--pipeline.model.degrees",
        6,
        "--pipeline.model.num-samples",
        6,
        "--pipeline.datamanager.train-num-rays-per-batch",
        64,
    ),
    *("--vis", "tensorboard", "--output-dir", "runs", "--experiment-name", "toy", "--steps-per-eval-image", 0),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mipnerf")
    write_blender(make_capture(folder / "toy"), train=list(range(9)), test=[9, 10, 11])
    run_here("gf-make-multiscale", "--data", "toy", "--out-dir", "ms", cwd=folder)
    return folder


def train(folder: Path, name: str, steps: int, *words: object) -> Path:
    run_here(
        *("ns-train", "mipnerf-multiscale", "--data", "ms/toy", "--timestamp", name),
        *("--max-num-iterations", steps, *SMALL, *words),
        cwd=folder,
    )
    return folder / "runs" / "toy" / "mipnerf-multiscale" / name


@pytest.fixture(scope="module")
def trained(workspace) -> Path:
    run_command(
        *("ns-train", "mipnerf-multiscale", "--data", "ms/toy", "--timestamp", "first"),
        *("--max-num-iterations", 12, *SMALL),
        cwd=workspace,
    )
    return workspace / "runs" / "toy" / "mipnerf-multiscale" / "first"


def checkpoint(run: Path) -> dict:
    (path,) = (run / "nerfstudio_models").glob("*.ckpt")
    return torch.load(path, map_location="cpu", weights_only=True)


def test_a_resumed_run_is_the_unbroken_one(workspace, trained):
    half = train(workspace, "half", 6, "--optimizers.fields.scheduler.max-steps", 12)
    rest = train(
        workspace,
        "rest",
        12,
        *("--load-dir", half / "nerfstudio_models", "--optimizers.fields.scheduler.max-steps", 12),
    )
    whole, resumed = checkpoint(trained), checkpoint(rest)
    assert whole["step"] == resumed["step"] == 11
    for name, value in whole["pipeline"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed["pipeline"][name]), name


def test_evaluation_is_by_scale_with_pictures(workspace, trained):
    said = run_command(
        *("ns-eval", "--load-config", trained / "config.yml", "--output-path", "eval.json"),
        *("--render-output-path", "pictures"),
        cwd=workspace,
    )
    results = json.loads((workspace / "eval.json").read_text())["results"]
    psnr = [results[f"psnr_x{2**level}"] for level in range(4)]
    assert results["psnr"] == pytest.approx(np.mean(psnr)) and all(3 < value < 60 for value in psnr)
    assert results["ssim_left_out"] == {"x4": 3, "x8": 3}
    assert "SSIM is left out for images that are too small for it: 3 of x4, 3 of x8" in " ".join(said.split())
    assert "avg_error" not in results
    for level in range(4):
        files = list((workspace / "pictures" / str(2**level)).glob("*.png"))
        assert len(files) == 3 and Image.open(files[0]).width == WIDTH // 2**level


def test_renders_have_the_usual_outputs(workspace, trained):
    run_here(
        *("ns-render", "dataset", "--load-config", trained / "config.yml", "--output-path", "renders"),
        *("--split", "test", "--rendered-output-names", "rgb", "raw-depth", "accumulation"),
        cwd=workspace,
    )
    assert len(list((workspace / "renders").rglob("rgb/**/*.*"))) >= 12


def test_a_video_of_each_scale(workspace, trained):
    said = run_here(
        *("gf-render-scales", "--load-config", trained / "config.yml", "--output-path", "scales"),
        *("--scale", 2, "--num-views", 3, "--images"),
        cwd=workspace,
    )
    assert "scale_1.mp4" in said and (workspace / "scales" / "scale_2.mp4").stat().st_size > 500
    sizes = [Image.open(workspace / "scales" / str(scale) / "0002.png").width for scale in (1, 2)]
    assert sizes == [WIDTH, WIDTH // 2]


def test_surfels_are_evaluated_by_scale_too(workspace):
    run_here(
        *("ns-train", "genfusion", "--output-dir", "runs", "--experiment-name", "toy", "--timestamp", "surfels"),
        *("--max-num-iterations", 4, "--vis", "tensorboard", "--pipeline.repairer.model", "none"),
        *("--steps-per-eval-image", 0, "multiscale-blender-data", "--data", "ms/toy"),
        cwd=workspace,
    )
    config = workspace / "runs" / "toy" / "genfusion" / "surfels" / "config.yml"
    run_here("ns-eval", "--load-config", config, "--output-path", "surfels.json", cwd=workspace)
    results = json.loads((workspace / "surfels.json").read_text())["results"]
    assert {f"psnr_x{2**level}" for level in range(4)} <= set(results)


def test_one_scale_and_a_capture_without_end(workspace, capture_folder):
    for name, parser, data in (("one", "blender-data", "toy"), ("photos", "nerfstudio-data", capture_folder)):
        run_here(
            *("ns-train", "mipnerf-multiscale", "--timestamp", name, "--max-num-iterations", 3, *SMALL),
            *(parser, "--data", data),
            cwd=workspace,
        )
        config = workspace / "runs" / "toy" / "mipnerf-multiscale" / name / "config.yml"
        run_here("ns-eval", "--load-config", config, "--output-path", f"{name}.json", cwd=workspace)
        results = json.loads((workspace / f"{name}.json").read_text())["results"]
        assert results["psnr"] > 3 and "psnr_x2" not in results


def published(path: Path, **changes: torch.Tensor) -> Path:
    torch.manual_seed(0)
    state = {f"{PREFIX}{name}": value for name, value in MipNerfMLP(32, 8, 16).state_dict().items()} | changes
    state = {name: value for name, value in state.items() if value.numel()}
    torch.save({"state_dict": state, "epoch": 3}, path) if path.suffix == ".ckpt" else save_file(state, path)
    return path


def test_a_published_checkpoint_becomes_a_run(workspace):
    published(workspace / "port.ckpt")
    said = run_here(
        *("gf-convert-mipnerf", "port.ckpt", "--data", "ms/toy", "--output-dir", "runs", "--num-samples", 6),
        cwd=workspace,
    )
    assert "24 tensors" in said
    run = workspace / "runs" / "toy" / "mipnerf-multiscale" / "published"
    expected = read_published(workspace / "port.ckpt")
    found = checkpoint(run)["pipeline"]
    assert all(torch.equal(found[f"_model.field.{name}"], value) for name, value in expected.items())
    run_here("ns-eval", "--load-config", run / "config.yml", "--output-path", "port.json", cwd=workspace)
    assert json.loads((workspace / "port.json").read_text())["results"]["psnr_x1"] > 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({f"{PREFIX}extra_layer.bias": torch.zeros(0)}, "1 tensors missing .extra_layer.bias"),
        ({f"{PREFIX}layers.5.0.weight": torch.zeros(32, 32)}, "1 tensors of another shape"),
        ({f"{PREFIX}layers.8.1.bias": torch.zeros(32)}, "1 tensors unexpected"),
        ({"other.weight": torch.zeros(3)}, "other.weight"),
        ({f"{PREFIX}density_layer.bias": torch.full((1,), torch.nan)}, "not finite"),
    ],
)
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_checkpoints_of_something_else_are_refused(tmp_path, changes, says, ending):
    with pytest.raises(ConversionError, match=says):
        read_published(published(tmp_path / f"port{ending}", **changes))


class Surprise:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("surprise",)


def test_nothing_of_a_checkpoint_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {f"{PREFIX}x": torch.zeros(1)}, "hook": Surprise()}, tmp_path / "port.ckpt")
    with pytest.raises(ConversionError, match="nothing of it was run"):
        read_published(tmp_path / "port.ckpt")
    assert not (tmp_path / "surprise").exists()
