"""Training the generator of the dynamicrafter family at toy size."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from dynamicrafter_toys import (
    ENCODER,
    PROJECTION,
    UNET,
    VAE,
    published_names,
    recorded_pipeline,
    tensors,
    toy_pipeline,
)
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from genfusion_ns.data.clips.frame_samples import FrameBatch
from genfusion_ns.data.clips.pairs import Provenance, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.fusion.generator_training import read_config, train_generator
from genfusion_ns.geometry.clips import Clip
from genfusion_ns.priors.config import RepairerConfig, build_repairer
from genfusion_ns.priors.dynamicrafter.architecture import Architecture
from genfusion_ns.priors.dynamicrafter.conversion.key_map import pieces_of
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet
from genfusion_ns.priors.training.dynamicrafter import DynamiCrafterObjective, TrainedParts, train
from genfusion_ns.priors.training.initial import initial_folder
from genfusion_ns.priors.training.latents import Draws, diffuse, draw, encode_batch, velocity_loss
from genfusion_ns.priors.training.lora import LoraSettings, add_lora
from genfusion_ns.priors.training.settings import DynamiCrafterOptimisation
from genfusion_ns.priors.training.validation import HeldOutFrames
from genfusion_ns.seeds import generator_of

FRAMES, SIDE = 4, 64
TINY = DynamiCrafterOptimisation(
    steps=3,
    batch_size=1,
    accumulation=1,
    learning_rate=1e-3,
    precision="no",
    checkpoint_every=100,
    validate_every=100,
    keep_every=0,
    size=(SIDE, SIDE),
    frames=FRAMES,
    gradient_checkpointing=False,
    validation_steps=2,
)


class Noise(Dataset[FrameBatch]):
    """Sample n looks the same whatever the batch it is in."""

    def __init__(self, batch_size: int = 1, stop: int | None = None) -> None:
        self.batch_size, self.stop = batch_size, stop

    def __getitem__(self, index: int) -> FrameBatch:
        if index == self.stop:
            raise KeyboardInterrupt
        samples = [self.sample(index * self.batch_size + offset) for offset in range(self.batch_size)]
        return FrameBatch(*(torch.stack(parts) for parts in zip(*samples, strict=True)))

    def sample(self, number: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(number)
        clip = lambda channels: torch.rand(FRAMES, SIDE, SIDE, channels, generator=generator)  # noqa: E731
        known = torch.ones(FRAMES, SIDE, SIDE, 1, dtype=torch.bool)
        return clip(3), clip(1), clip(3), clip(1), known, torch.rand(SIDE, SIDE, 3, generator=generator)


@pytest.fixture(scope="module")
def initial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initial") / "toy"
    toy_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def held_out() -> list[HeldOutFrames]:
    rgb, disparity, clean, clean_disparity, known, photo = Noise().sample(1000)
    novel = torch.tensor([False] + [True] * (FRAMES - 1))
    return [
        HeldOutFrames(torch.cat([rgb, disparity], -1), torch.cat([clean, clean_disparity], -1), known, photo, novel)
    ]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "training.jsonl").read_text().splitlines()]


def without_dropout(initial: Path, folder: Path) -> Path:
    pipeline = toy_pipeline()
    unet = DynamiCrafterUNet(**UNET, norm_num_groups=8, dropout=0.0)
    unet.load_state_dict(pipeline.unet.state_dict())
    pipeline.register_modules(unet=unet)
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_the_recorded_loss_and_its_gradients(case: str) -> None:
    data = {key.removeprefix(f"{case}."): value for key, value in tensors("train_loss").items()}
    pipeline = recorded_pipeline()
    network = TrainedParts(pipeline.unet, torch.nn.Identity())
    nothing = torch.zeros(())
    draws = Draws(data["t"], nothing, data["noise"], nothing, nothing)
    exercise = diffuse(pipeline.scheduler, data["x_start"], data["c_concat"], draws, data["context"], data["fs"])
    torch.testing.assert_close(exercise.velocity, data["v_target"], atol=1e-6, rtol=0)
    loss = velocity_loss(network, exercise)
    torch.testing.assert_close(loss, data["loss"].reshape(()), atol=1e-5, rtol=0)
    loss.backward()
    parameters = dict(network.named_parameters())
    recorded = [name for name in data if name.startswith("grad.model.")]
    assert recorded or case != "a"
    for name in recorded:
        (piece,) = pieces_of("model." + name.removeprefix("grad.model."))
        gradient = parameters[piece.target].grad
        torch.testing.assert_close(gradient.reshape(data[name].shape), data[name], atol=1e-6, rtol=1e-3)


def test_the_recorded_batch() -> None:
    data, pipeline = tensors("batch_input"), recorded_pipeline()
    unit = lambda name: (data[f"in.{name}"].permute(0, 2, 3, 4, 1) + 1) / 2  # noqa: E731
    clean_depth = unit("gt_depth")
    batch = FrameBatch(
        artifact_rgb=unit("artifact_rgb"),
        artifact_disparity=unit("artifact_depth"),
        clean_rgb=unit("gt_rgb"),
        clean_disparity=clean_depth,
        clean_known=torch.ones_like(clean_depth, dtype=torch.bool),
        reference=unit("ref_rgb")[:, 0],
    )
    first, none = torch.zeros(len(batch), dtype=torch.int64), torch.zeros_like(data["z"])
    for name, random in (
        ("", torch.full((len(batch),), 0.5)),
        ("drop_first.", data["drop_first.random"]),
        ("drop_second.", data["drop_second.random"]),
    ):
        draws = Draws(first, random, none, data["vae_noise_gt"], data["vae_noise_cond"])
        exercise = encode_batch(pipeline, batch, draws, TINY.reference_dropout, fps=30)
        # At time step 0 and without noise, what is left of the sample is the clean latents.
        clean = exercise.sample[:, :4] / pipeline.scheduler.alphas_cumprod[0].sqrt().float()
        torch.testing.assert_close(clean, data["z"], atol=5e-5, rtol=0)
        torch.testing.assert_close(exercise.sample[:, 4:], data["c_concat"], atol=5e-5, rtol=0)
        torch.testing.assert_close(
            pipeline.image_projection(exercise.tokens), data[f"{name}context"], atol=5e-5, rtol=0
        )
        assert torch.equal(exercise.fps, data["fs"])


def test_draws_belong_to_samples_and_not_to_batches() -> None:
    generators = lambda numbers: [generator_of(7, "sample", number) for number in numbers]  # noqa: E731
    shape = (4, 2, 3, 5)
    whole, second = draw(generators([0, 1]), shape), draw(generators([1]), shape)
    assert torch.equal(whole.noise[1:], second.noise)
    assert torch.equal(whole.clean[2:], second.clean)
    assert torch.equal(whole.timesteps[1:], second.timesteps)
    assert not torch.equal(whole.clean, whole.condition)
    many = draw(generators(range(4000)), (1, 1, 1, 1))
    assert many.timesteps.min() < 10
    assert many.timesteps.max() > 989
    hidden = (many.dropout >= 0.05) & (many.dropout < 0.15)
    assert float(hidden.float().mean()) == pytest.approx(0.1, abs=0.02)


def test_gradients_are_the_same_with_checkpointing_dropout_included(initial: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        objective = DynamiCrafterObjective(initial, [], replace(TINY, gradient_checkpointing=checkpointing))
        objective.place(torch.device("cpu"), torch.float32)
        network = objective.network.train()
        torch.manual_seed(3)
        objective.loss(network, Noise()[0], range(1)).backward()
        gradients.append({name: value.grad for name, value in network.named_parameters()})
    plain, checkpointed = gradients
    assert all(value is not None for value in plain.values())
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, atol=1e-7, rtol=1e-5)
    torch.manual_seed(4)
    objective.network.zero_grad()
    objective.loss(network, Noise()[0], range(1)).backward()
    name = "unet.conv_in.weight"
    assert not torch.allclose(dict(network.named_parameters())[name].grad, plain[name], rtol=1e-3)


def test_a_trained_folder_repairs_clips(initial: Path, held_out: list[HeldOutFrames], tmp_path: Path) -> None:
    config = replace(TINY, keep_every=2, ema=0.5)
    report = train(Noise(), held_out, initial, tmp_path / "out", config)
    assert report is not None
    assert 0 < report.psnr_artifact < 30
    out = tmp_path / "out"
    old, new = (load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (initial, out))
    assert {value.dtype for value in new.values()} == {torch.float16}
    assert not torch.equal(old["conv_in.weight"].half(), new["conv_in.weight"])
    projection = "image_projection/diffusion_pytorch_model.safetensors"
    assert not torch.equal(load_file(initial / projection)["latents"].half(), load_file(out / projection)["latents"])
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (initial / vae).read_bytes() == (out / vae).read_bytes()
    assert str(tmp_path.parent) not in "".join(path.read_text() for path in out.rglob("*config.json"))
    assert [path.name for path in (out / "kept").iterdir()] == ["step-2"]
    assert (out / "samples.png").is_file()
    assert len(losses(out)) == 3
    (validation,) = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert validation["step"] == 3
    assert {"psnr_repaired", "ssim_artifact", "ssim_repaired"} <= set(validation)
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=3, size=(SIDE, SIDE))
    for folder in (out, out / "kept" / "step-2"):
        repairer = build_repairer(RepairerConfig(model=str(folder), steps=2), "cpu")
        assert repairer.resolution == (SIDE, SIDE)
        repaired = repairer.repair(pair.artifact, pair.references, torch.Generator().manual_seed(0))
        assert isinstance(pair.artifact, Clip)
        assert repaired.rgb.shape == pair.artifact.rgb.shape
        assert repaired.rgb.isfinite().all()


def test_a_resumed_training_takes_the_steps_that_it_would_have_taken(
    initial: Path, held_out: list[HeldOutFrames], tmp_path: Path
) -> None:
    config = replace(TINY, checkpoint_every=2, gradient_checkpointing=True)
    train(Noise(), held_out, initial, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train(Noise(stop=2), held_out, initial, tmp_path / "parts", replace(config, steps=5))
    assert len(losses(tmp_path / "parts")) == 2
    train(Noise(), held_out, initial, tmp_path / "parts", config)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (
        load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert (tmp_path / "parts" / "validation.jsonl").read_text() == (
        tmp_path / "whole" / "validation.jsonl"
    ).read_text()


def test_accumulated_batches_make_the_step_of_a_larger_batch(
    initial: Path, held_out: list[HeldOutFrames], tmp_path: Path
) -> None:
    plain = without_dropout(initial, tmp_path / "plain")
    once = replace(TINY, steps=1)
    train(Noise(2), held_out, plain, tmp_path / "batch", replace(once, batch_size=2))
    train(Noise(1), held_out, plain, tmp_path / "parts", replace(once, accumulation=2))
    (one,), (other,) = losses(tmp_path / "batch"), losses(tmp_path / "parts")
    assert one == pytest.approx(other, rel=1e-5)
    norms = [
        json.loads((tmp_path / name / "training.jsonl").read_text())["gradient_norm"] for name in ("batch", "parts")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_the_second_stage_starts_from_the_first(initial: Path, tmp_path: Path) -> None:
    for index in range(2):
        pair = procedural_pair(torch.Generator().manual_seed(index), frames=FRAMES, size=(160, 80))
        write_pair(tmp_path / "clips", f"clip_{index}", pair, Provenance(f"world{index}", "none", index))
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(
        f"generator: dynamicrafter\nclips: {tmp_path / 'clips'}\nheld_out_captures: [world1]\ninitial: {initial}\n"
        f"output: {tmp_path / 'one'}\n"
        "optimisation: {steps: 1, batch_size: 1, accumulation: 1, precision: 'no', size: [64, 64], frames: 4,\n"
        "  validation_steps: 1}\n"
    )
    second.write_text(
        f"parent: first.yaml\noutput: {tmp_path / 'two'}\noptimisation: {{size: [128, 64], learning_rate: 0.0}}\n"
    )
    with pytest.raises(FileNotFoundError, match=r"first\.yaml has not been trained"):
        train_generator(read_config(second))
    train_generator(read_config(first))
    train_generator(read_config(second))
    states = [load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert build_repairer(RepairerConfig(model=str(tmp_path / "one")), "cpu").resolution == (64, 64)
    assert build_repairer(RepairerConfig(model=str(tmp_path / "two")), "cpu").resolution == (128, 64)


def test_lora_gives_an_adapter_and_a_merged_generator(
    initial: Path, held_out: list[HeldOutFrames], tmp_path: Path
) -> None:
    from peft import PeftModel

    out = tmp_path / "out"
    train(Noise(), held_out, initial, out, replace(TINY, lora=LoraSettings(rank=2, alpha=4)))
    weights = "diffusion_pytorch_model.safetensors"
    projections = [load_file(folder / "image_projection" / weights) for folder in (initial, out)]
    assert all(torch.equal(value.half(), projections[1][name]) for name, value in projections[0].items())
    merged = DynamiCrafterUNet.from_pretrained(out / "unet", torch_dtype=torch.float32)
    base = DynamiCrafterUNet.from_pretrained(initial / "unet")
    before, after = base.state_dict(), merged.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name].half().float())}
    assert changed
    assert all(name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for name in changed)
    adapted = PeftModel.from_pretrained(base, str(out / "adapter")).eval()
    inputs = (torch.randn(1, 8, FRAMES, 8, 8), torch.tensor([500]), torch.randn(1, 256, UNET["cross_attention_dim"]))
    with torch.no_grad():
        torch.testing.assert_close(adapted(*inputs), merged.eval()(*inputs), atol=2e-2, rtol=2e-2)
        with adapted.disable_adapter():
            assert not torch.allclose(adapted(*inputs), merged(*inputs), atol=2e-2, rtol=2e-2)
    repairer = build_repairer(RepairerConfig(model=str(out), steps=1), "cpu")
    assert repairer.name == "dynamicrafter"


def test_lora_settings_are_checked(initial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"lora\.targets to_nowhere: .*to_nowhere"):
        DynamiCrafterObjective(initial, [], replace(TINY, lora=LoraSettings(rank=2, targets=("to_nowhere",))))
    with pytest.raises(ValueError, match=r"lora\.rank is -1"):
        DynamiCrafterObjective(initial, [], replace(TINY, lora=LoraSettings(rank=-1)))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install genfusion-ns\[train\]"):
        add_lora(torch.nn.Linear(2, 2), LoraSettings(rank=2))


def test_settings_that_do_not_fit_the_generator(initial: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"size is \(100, 64\); .* multiples of 64"):
        DynamiCrafterObjective(initial, [], replace(TINY, size=(100, 64)))
    with pytest.raises(ValueError, match=r"reference-dropout is 0\.2 0\.1"):
        DynamiCrafterObjective(initial, [], replace(TINY, reference_dropout=(0.2, 0.1)))
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        replace(TINY, precision="fp16").check()
    with pytest.raises(FileNotFoundError, match="gf-convert-generator"):
        initial_folder(str(tmp_path / "nothing"), None, Architecture())


def test_a_base_generator_without_depth_is_refused(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    pipeline.register_modules(vae=AutoencoderKL(**{**VAE, "in_channels": 3, "out_channels": 3}, norm_num_groups=8))
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no depth; .*--vae VAE"):
        DynamiCrafterObjective(tmp_path, [], TINY)


def test_a_checkpoint_file_is_converted_at_its_first_use(
    initial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENFUSION_CACHE", str(tmp_path / "cache"))
    pipeline = toy_pipeline()
    file = tmp_path / "toy.safetensors"
    save_file(published_names(pipeline), file)
    groups = {"norm_num_groups": 8}
    architecture = Architecture({**UNET, **groups}, PROJECTION, {**VAE, **groups}, ENCODER, {}, (SIDE, SIDE))
    folder = initial_folder(str(file), None, architecture)
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in pipeline.unet.state_dict().items())
    written = (folder / "model_index.json").stat().st_mtime_ns
    assert initial_folder(str(file), None, architecture) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == written
    assert initial_folder(str(initial), None, architecture) == initial
