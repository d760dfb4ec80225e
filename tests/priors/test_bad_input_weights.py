"""Generator folders that are damaged, foreign or hostile: named, and never run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genfusion_ns.priors.compact.repairer import CompactRepairer
from genfusion_ns.priors.compact.unet import CompactUNet
from genfusion_ns.priors.config import RepairerConfig, build_repairer, check_repairer
from genfusion_ns.priors.training import NetworkConfig, OptimisationConfig, build_network, save_network, train
from genfusion_ns.priors.weight_files import WEIGHTS_FILE

torch.set_num_threads(1)
TINY = NetworkConfig(channels=(16, 16, 32), reference_channels=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(build_network(TINY), tmp_path / "generator")
    return tmp_path / "generator"


def build(folder: Path, **options: object) -> CompactRepairer:
    repairer = build_repairer(RepairerConfig(model=str(folder), **options), "cpu")
    assert isinstance(repairer, CompactRepairer)
    return repairer


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)


class Payload:
    """Pickled, it creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_the_undamaged_folder_is_accepted(folder: Path) -> None:
    network = build(folder).network
    assert not network.training
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" and p.requires_grad for p in network.parameters())


def test_the_embedded_weights_are_accepted() -> None:
    check_repairer(RepairerConfig())
    check_repairer(RepairerConfig(model="none"))


@pytest.mark.parametrize("name", ["config.json", WEIGHTS_FILE])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    for call in (build, lambda f: check_repairer(RepairerConfig(model=str(f)))):
        with pytest.raises(
            FileNotFoundError, match=rf"generator has no {name}: a repairer is a folder with config.json"
        ):
            call(folder)


def test_a_missing_folder(tmp_path: Path) -> None:
    said = r"repairer model is '.*gone', which is neither auto, compact, none or reconfusion nor an existing folder"
    with pytest.raises(ValueError, match=said):
        check_repairer(RepairerConfig(model=str(tmp_path / "gone")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b"class: CompactUNet", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[]", r"is \[\]; allowed: an object\. Copy the folder again"),
        (b"3", "is 3; allowed: an object"),
    ],
    ids=["empty", "yaml", "binary", "deep", "list", "number"],
)
def test_a_config_that_is_no_json_object(folder: Path, content: bytes, said: str) -> None:
    (folder / "config.json").write_bytes(content)
    for call in (build, lambda f: check_repairer(RepairerConfig(model=str(f)))):
        with pytest.raises(ValueError, match=rf"config.json {said}"):
            call(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c.update(_class_name="UNet2DConditionModel"),
            r"describes a UNet2DConditionModel, not a CompactUNet",
        ),
        (lambda c: c.pop("_class_name"), r"describes a None, not a CompactUNet"),
        (lambda c: c.update(channels="wide"), r"channels is 'wide'; allowed: a list of 3"),
        (lambda c: c.update(channels=[16, 16]), r"channels is \[16, 16\]; allowed: a list of 3"),
        (lambda c: c.update(channels=[17, 16, 32]), r"describes a network that cannot be built"),
        (lambda c: c.update(channels=[16, 16, 64]), r"does not fit .*config.json: \d+ tensors of another shape \("),
        (lambda c: c.update(channels=[16000, 16000, 16000]), r"tensors of another shape"),
        (
            lambda c: c.update(channels=[16, 16, 10**9]),
            r"channels\[2\] is 1000000000; allowed: .* 1\.\.16384",
        ),
        (lambda c: c.update(channels=[16, 16, -32]), r"channels\[2\] is -32"),
        (lambda c: c.update(channels=[16, 16, True]), r"channels\[2\] is True"),
        (lambda c: c.update(patch_size=4.5), r"patch_size is 4.5; allowed: a whole number in 1\.\.64"),
        (lambda c: c.update(attention_head_dim=0), r"attention_head_dim is 0; allowed: a whole number"),
        (lambda c: c.update(sigma_max=float("nan")), r"sigma_max is nan; allowed: a number in 0\.\.100"),
        (lambda c: c.update(sigma_max=[]), r"sigma_max is \[\]; allowed: a number in 0\.\.100"),
        (lambda c: c.update(layers=3), r"the key 'layers' is unknown; allowed: attention_head_dim, channels"),
    ],
)
def test_a_config_of_another_network(folder: Path, change: Callable[[dict], object], said: str) -> None:
    edit_config(folder, change)
    with pytest.raises(ValueError, match=said):
        build(folder)


@pytest.mark.parametrize("size", [0, 4, 100, -100])
def test_weights_that_are_cut_off(folder: Path, size: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:size])
    for call in (build, lambda f: check_repairer(RepairerConfig(model=str(f)))):
        with pytest.raises(ValueError, match=r"does not fit .*it is no whole safetensors file .*copy it again"):
            call(folder)


def replace_first(weights: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> None:
    weights["conv_in.weight"] = change(weights["conv_in.weight"]).contiguous()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("conv_in.weight"), r"does not fit .*1 tensors missing \(conv_in.weight\)"),
        (lambda w: w.update(extra=torch.zeros(1)), r"does not fit .*1 tensors unexpected \(extra\)"),
        (lambda w: w.clear() or w.update(a=torch.zeros(1)), r"\d+ tensors missing .*; 1 tensors unexpected \(a\)"),
        (
            lambda w: replace_first(w, lambda t: t[:8]),
            r"1 tensors of another shape \(conv_in.weight \(8, .*\) for \(16, ",
        ),
        (lambda w: replace_first(w, lambda t: t * torch.nan), r"conv_in.weight contains NaN or infinity.*diverged"),
        (lambda w: replace_first(w, lambda t: t + torch.inf), r"conv_in.weight contains NaN or infinity"),
        (lambda w: replace_first(w, lambda t: t.to(torch.int8)), r"conv_in.weight is stored as torch.int8; float16"),
    ],
    ids=["missing", "extra", "foreign", "shape", "nan", "inf", "int8"],
)
def test_weights_of_another_network(folder: Path, change: Callable[[dict], object], said: str) -> None:
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=said):
        build(folder)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", WEIGHTS_FILE, "pytorch_model.bin"])
def test_pickles_are_never_run(folder: Path, tmp_path: Path, name: str, writer: str) -> None:
    trace = tmp_path / "executed"
    (folder / WEIGHTS_FILE).unlink()
    content = {"conv_in.weight": Payload(trace)}
    if writer == "pickle":
        (folder / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / name)
    for call in (build, lambda f: check_repairer(RepairerConfig(model=str(f)))):
        with pytest.raises((ValueError, FileNotFoundError), match=r"no whole safetensors file|are never loaded"):
            call(folder)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists(), "the payload must work, or this shows nothing"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, r"--pipeline.repairer.steps is 0; allowed are 1\.\.1000"),
        ({"steps": -4}, r"--pipeline.repairer.steps is -4"),
        ({"steps": 10**9}, r"--pipeline.repairer.steps is 1000000000"),
        ({"resolution": (0, 0)}, r"--pipeline.repairer.resolution is \(0, 0\); width and height must be 16\.\.4096"),
        ({"resolution": (7, 5)}, r"--pipeline.repairer.resolution is \(7, 5\)"),
        ({"resolution": (256, -144)}, r"--pipeline.repairer.resolution is \(256, -144\)"),
        ({"resolution": (10**6, 144)}, r"--pipeline.repairer.resolution is \(1000000, 144\)"),
        ({"device": "gpu"}, r"--pipeline.repairer.device is 'gpu'; allowed are cpu, cuda"),
        ({"device": "cuda:99"}, r"--pipeline.repairer.device is 'cuda:99', this machine has \d+ CUDA"),
    ],
)
@pytest.mark.parametrize("model", ["compact", "none"])
def test_settings_out_of_range(model: str, options: dict, said: str) -> None:
    config = RepairerConfig(model=model, **options)
    for call in (check_repairer, lambda c: build_repairer(c, "cpu")):
        with pytest.raises(ValueError, match=said):
            call(config)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"checkpoint.json cannot be read as JSON: .* Delete .*checkpoint.json to train afresh"),
        ("{}", r"checkpoint.json: step is missing; allowed: a number of steps"),
        ('{"step": null}', r"checkpoint.json: step is None"),
        ('{"step": 1e999}', r"checkpoint.json: step is inf"),
        ('{"step": true}', r"checkpoint.json: step is True"),
        ("[1]", r"checkpoint.json is \[1\]; allowed: an object"),
        ('{"step": 7}', r"checkpoint-7 cannot be resumed from: .*; delete .*checkpoint.json to train afresh"),
    ],
    ids=["empty", "no-step", "null", "endless", "true", "list", "no-folder"],
)
def test_training_checkpoints_that_cannot_be_resumed(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        train([], [], tmp_path, OptimisationConfig(steps=8, network=TINY))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.json"}


def test_a_training_checkpoint_of_another_network(tmp_path: Path) -> None:
    from accelerate import Accelerator

    from genfusion_ns.priors.training.compact import CompactObjective
    from genfusion_ns.priors.training.loop import Training

    def run(channels: tuple[int, int, int]) -> Training:
        config = OptimisationConfig(steps=8, network=NetworkConfig(channels=channels, reference_channels=8))
        objective = CompactObjective(build_network(config.network), [], config)
        return Training(Accelerator(cpu=True), objective, config, tmp_path)

    run((16, 16, 32)).checkpoint(3)
    assert run((16, 16, 32)).resume() == 3
    with pytest.raises(ValueError, match=r"checkpoint-3 cannot be resumed from: .*size mismatch.*train afresh"):
        run((16, 16, 64)).resume()
    for file in (tmp_path / "checkpoint-3").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"checkpoint-3 cannot be resumed from"):
        run((16, 16, 32)).resume()


def test_a_loaded_network_computes_what_the_saved_one_does(folder: Path) -> None:
    torch.manual_seed(0)
    network = build_network(TINY).half().float().eval()
    loaded = build(folder).network
    assert isinstance(loaded, CompactUNet)
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.rand(shape, generator=generator) for shape in ((1, 4, 4, 16, 16), (1, 5, 4, 16, 16))]
    warped, photos = (
        torch.rand(1, 2, 6, 4, 16, 16, generator=generator),
        torch.rand(1, 2, 3, 16, 16, generator=generator),
    )
    with torch.no_grad():
        one, two = (net(*inputs, warped, photos, torch.tensor([0.5])).log_variance for net in (network, loaded))
    assert torch.equal(one, two)
