"""ReconFusion by the commands, with a prior of toy size: train, resume, evaluate, render; and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from commands import run_command, run_here
from view_priors import save_toy_prior

pytestmark = pytest.mark.slow

TRAIN = (
    *("--vis", "tensorboard", "--output-dir", "runs", "--experiment-name", "scene", "--steps-per-eval-image", "0"),
    *("--pipeline.datamanager.num-views", "3", "--pipeline.repairer.model", "prior"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, sample_capture) -> Path:
    folder = tmp_path_factory.mktemp("reconfusion")
    save_toy_prior(folder / "prior")
    (folder / "scene").symlink_to(sample_capture)
    return folder


@pytest.fixture(scope="module")
def trained(workspace) -> Path:
    said = run_command(
        *("ns-train", "reconfusion", "--data", "scene", "--timestamp", "first"),
        *("--max-num-iterations", "10", *TRAIN),
        cwd=workspace,
    )
    assert "Prior: reconfusion, samples of 32x32 pixels" in said
    return workspace / "runs" / "scene" / "reconfusion" / "first"


def checkpoint(run: Path) -> dict:
    (path,) = (run / "nerfstudio_models").glob("*.ckpt")
    return torch.load(path, map_location="cpu", weights_only=True)


def test_a_run_ends_with_a_checkpoint_that_holds_no_prior(trained):
    state = checkpoint(trained)
    assert state["step"] == 9
    assert torch.isfinite(state["pipeline"]["_model.gauss_params.means"]).all()
    assert not [name for name in state["pipeline"] if "unet" in name or "sampler" in name]
    assert state["pipeline"]["_extra_state"]["supervision"]["cameras"]["batches"] == 1


def test_it_is_evaluated_and_rendered_where_the_prior_is_gone(workspace, trained):
    hidden = (workspace / "prior").rename(workspace / "hidden")
    try:
        config = trained / "config.yml"
        run_command("ns-eval", "--load-config", config, "--output-path", "eval.json", cwd=workspace)
        results = json.loads((workspace / "eval.json").read_text())["results"]
        assert results["psnr"] > 5 and len(results["train_views"]) == 3
        run_command(
            *("ns-render", "interpolate", "--load-config", config, "--output-path", "frames"),
            *("--output-format", "images", "--interpolation-steps", "2", "--pose-source", "train"),
            cwd=workspace,
        )
        assert len(list((workspace / "frames").glob("*.jpg"))) >= 4
    finally:
        hidden.rename(workspace / "prior")


def test_a_resumed_run_is_the_unbroken_one(workspace, trained):
    def train(name: str, *words: object) -> dict:
        run_here(
            *("ns-train", "reconfusion", "--data", "scene", "--timestamp", name, *words),
            *("--steps-per-save", "5", *TRAIN),
            cwd=workspace,
        )
        return checkpoint(workspace / "runs" / "scene" / "reconfusion" / name)

    kept = ("--save-only-latest-checkpoint", "False")
    run_here(
        *("ns-train", "reconfusion", "--data", "scene", "--timestamp", "whole", "--max-num-iterations", "10", *kept),
        *("--steps-per-save", "5", *TRAIN),
        cwd=workspace,
    )
    folder = workspace / "runs" / "scene" / "reconfusion" / "whole" / "nerfstudio_models"
    whole = torch.load(folder / "step-000000009.ckpt", weights_only=True)
    rest = train("rest", "--max-num-iterations", "10", "--load-dir", folder, "--load-step", "5")
    assert rest["step"] == whole["step"] == 9
    for name, value in whole["pipeline"].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(rest["pipeline"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_nerfacto_trains_and_is_evaluated(workspace):
    run_here(
        *("ns-train", "reconfusion-nerfacto", "--data", "scene", "--timestamp", "first", "--max-num-iterations", "3"),
        *("--pipeline.datamanager.train-num-rays-per-batch", "64", "--pipeline.model.log2-hashmap-size", "12"),
        *("--pipeline.model.num-nerf-samples-per-ray", "8", "--mixed-precision", "True", *TRAIN),
        cwd=workspace,
    )
    config = workspace / "runs" / "scene" / "reconfusion-nerfacto" / "first" / "config.yml"
    run_here("ns-eval", "--load-config", config, "--output-path", "nerfacto.json", cwd=workspace)
    assert json.loads((workspace / "nerfacto.json").read_text())["results"]["psnr"] > 0


def test_the_prior_of_the_package_is_the_default(workspace):
    said = run_command(
        *("ns-train", "reconfusion", "--data", "scene", "--timestamp", "packaged", "--max-num-iterations", "3"),
        *TRAIN[:-2],
        cwd=workspace,
    )
    assert "samples of 64x64 pixels" in said
    assert checkpoint(workspace / "runs" / "scene" / "reconfusion" / "packaged")["step"] == 2


def refused(workspace: Path, method: str, *words: object) -> str:
    said = run_here("ns-train", method, "--data", "scene", *words, cwd=workspace, succeed=False)
    return " ".join(said.split())


def test_a_missing_prior_is_named(workspace):
    said = refused(workspace, "reconfusion", "--pipeline.repairer.model", "nowhere")
    assert "'nowhere'" in said and "--pipeline.repairer.model" in said


def test_a_damaged_prior_is_named(workspace):
    save_toy_prior(workspace / "damaged")
    weights = workspace / "damaged" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    said = refused(workspace, "reconfusion", "--pipeline.repairer.model", "damaged")
    assert "diffusion_pytorch_model.safetensors" in said.replace(" ", "")


def test_priors_of_the_other_kind_are_refused_by_both(workspace):
    assert "repairs clips and draws no single views" in refused(
        workspace, "reconfusion", "--pipeline.repairer.model", "compact"
    )
    assert "draws single views and repairs no clips" in refused(
        workspace, "genfusion", "--pipeline.repairer.model", "prior"
    )
