"""Published files become pipelines: complete, strict, without running anything of them, one tensor at a time."""

import os
import pickle
import sys
import weakref
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from dynamicrafter_toys import (
    ENCODER,
    PROJECTION,
    UNET,
    VAE,
    facts,
    published_names,
    recorded_pipeline,
    recorded_weights,
    tensors,
    toy_pipeline,
)
from safetensors.torch import load_file, save_file

from genfusion_ns.priors.dynamicrafter.architecture import Architecture, weighted_parts
from genfusion_ns.priors.dynamicrafter.conversion.convert import convert_checkpoint
from genfusion_ns.priors.dynamicrafter.conversion.key_map import Piece, ignored_as, pieces_of
from genfusion_ns.priors.dynamicrafter.conversion.plan import plan_conversion
from genfusion_ns.priors.dynamicrafter.conversion.safetensors_writer import write_safetensors
from genfusion_ns.priors.dynamicrafter.conversion.source import ConversionError, open_checkpoint
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.scripts.convert_generator import entrypoint

TOY = Architecture(unet=UNET, image_projection=PROJECTION, vae=VAE, image_encoder=ENCODER)


class Layout:
    """Names and shapes of a checkpoint whose tensors are never asked for."""

    def __init__(self, shapes):
        self.shapes = shapes

    def names(self):
        return list(self.shapes)

    def shape(self, name):
        return tuple(self.shapes[name])

    def tensor(self, name):
        raise AssertionError(f"planning read {name}")


def published_layout():
    return {name: shape for name, (shape, _) in facts("published_layout").items()}


def operation_of(piece: Piece) -> str:
    names = {"squeeze": "squeeze_last", "rows": f"rows {piece.part}/{piece.parts}"}
    return names.get(piece.operation, piece.operation)


def test_rules_agree_with_an_independent_table():
    table = facts("diffusers_key_map")
    assert set(table["map"]) | set(table["unused_source_keys"]) == set(published_layout())
    for source, expected in table["map"].items():
        assert [[piece.target, operation_of(piece)] for piece in pieces_of(source)] == expected
        assert ignored_as(source) is None
    assert all(ignored_as(source) for source in table["unused_source_keys"])


def test_the_published_file_fills_the_published_network():
    pipeline = Architecture().skeleton()
    plan = plan_conversion(Layout(published_layout()), pipeline)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in weighted_parts(pipeline).items()}
    assert sizes == {
        "unet": 1_438_854_980,
        "vae": 83_656_168,
        "image_projection": 48_787_456,
        "image_encoder": 632_076_800,
    }
    assert sum(plan.ignored.values()) == 313


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layout: layout.pop("model.diffusion_model.out.2.bias"), "1 parameters without a tensor: unet.conv_out"),
        (lambda layout: layout.update({"model.diffusion_model.extra": [1]}), "1 tensors that this generator does not"),
        (
            lambda layout: layout.update({"model.diffusion_model.out.2.bias": [5]}),
            r"gives \(5,\) for unet.conv_out.bia",
        ),
        (lambda layout: layout.update({"image_proj_model.layers.0.0.to_kv.weight": [5, 2]}), "cannot be cut into 2"),
    ],
)
def test_strict_both_ways(change, message):
    layout = published_layout()
    change(layout)
    with pytest.raises(ConversionError, match=message):
        plan_conversion(Layout(layout), Architecture().skeleton())


@pytest.mark.parametrize("container", ["lightning", "deepspeed", "safetensors"])
def test_recorded_weights_become_the_recorded_pipeline(container, tmp_path):
    weights = {name: tensor.half() for name, tensor in recorded_weights().items()}
    path = tmp_path / ("toy.safetensors" if container == "safetensors" else "toy.ckpt")
    if container == "lightning":
        published = published_layout()
        tables = {name: value for name, value in tensors("schedule").items() if name in published}
        torch.save({"state_dict": {**weights, **tables}, "epoch": 59, "global_step": 34000}, path)
    elif container == "deepspeed":
        torch.save({"module": {f"_forward_module.{name}": value for name, value in weights.items()}}, path)
    else:
        save_file(weights, path)
    done = convert_checkpoint(path, tmp_path / "out", torch.float32, architecture=TOY)
    assert done.other_schedule == []
    assert_same(DynamiCrafterPipeline.from_pretrained(tmp_path / "out"), recorded_pipeline())


def test_base_files_have_an_autoencoder_with_the_original_names():
    data = tensors("lvdm_vae")
    weights = {name.removeprefix("weights."): v.float() for name, v in data.items() if name.startswith("weights.")}
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=[32, 32, 64],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
    )
    state = {}
    for name, value in weights.items():
        (piece,) = pieces_of(f"first_stage_model.{name}", vae_levels=3)
        state[piece.target.removeprefix("vae.")] = piece.of(value)
    vae.load_state_dict(state, strict=True)
    with torch.no_grad():
        distribution = vae.encode(data["x"]).latent_dist
        moments = torch.cat([distribution.mean, distribution.logvar], 1)
        decoded = vae.decode(data["z"]).sample
    torch.testing.assert_close(moments, data["moments"], atol=5e-5, rtol=0)
    torch.testing.assert_close(decoded, data["decoded"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "_forward_module."])
def test_a_synthetic_file_gives_back_its_pipeline(prefix, tmp_path):
    pipeline = toy_pipeline()
    weights = {prefix + name: value for name, value in published_names(pipeline).items()}
    weights[prefix + "alphas_cumprod"] = pipeline.scheduler.alphas_cumprod.float()
    weights[prefix + "scale_arr"] = torch.ones(1400)
    torch.save({"module" if prefix else "state_dict": weights}, tmp_path / "toy.ckpt")
    done = convert_checkpoint(tmp_path / "toy.ckpt", tmp_path / "out", torch.float32, architecture=TOY)
    assert done.rgbd
    assert done.parameters == sum(p.numel() for part in weighted_parts(pipeline).values() for p in part.parameters())
    assert sum(done.ignored.values()) == 2
    assert done.other_schedule == ["scale_arr"]
    assert_same(DynamiCrafterPipeline.from_pretrained(tmp_path / "out"), pipeline)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "toy.ckpt"]


def test_base_files_take_an_autoencoder_from_elsewhere(tmp_path):
    pipeline = toy_pipeline()
    rgb = AutoencoderKL(**{**VAE, "in_channels": 3, "out_channels": 3})
    save_file(published_names(pipeline, lvdm=rgb), tmp_path / "base.safetensors")
    source = tmp_path / "base.safetensors"

    alone = convert_checkpoint(source, tmp_path / "alone", torch.float32, architecture=TOY)
    assert not alone.rgbd
    loaded = DynamiCrafterPipeline.from_pretrained(tmp_path / "alone")
    assert torch.equal(loaded.vae.decoder.up_blocks[3].resnets[0].conv1.weight, state(rgb, "decoder.up_blocks.3"))
    with pytest.raises(ValueError, match="--vae"):
        loaded(torch.rand(2, 64, 64, 3), torch.rand(2, 64, 64, 1), torch.rand(1, 64, 64, 3))

    pipeline.vae.save_pretrained(tmp_path / "vae")
    done = convert_checkpoint(source, tmp_path / "out", torch.float32, tmp_path / "vae", TOY)
    assert done.rgbd
    assert list(done.ignored) == ["autoencoder, replaced by --vae"]
    assert_same(DynamiCrafterPipeline.from_pretrained(tmp_path / "out"), pipeline)

    rgb.save_pretrained(tmp_path / "rgb")
    with pytest.raises(ConversionError, match=r"has \(3, 3\) image channels"):
        convert_checkpoint(source, tmp_path / "other", torch.float32, tmp_path / "rgb", TOY)


def test_a_failed_conversion_leaves_nothing(tmp_path):
    weights = published_names(toy_pipeline())
    weights["image_proj_model.norm_out.weight"] = torch.full((64,), torch.nan)
    save_file(weights, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match=r"norm_out\.weight has values that are not finite"):
        convert_checkpoint(tmp_path / "damaged.safetensors", tmp_path / "out", architecture=TOY)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.safetensors"]


def assert_same(actual, expected):
    others = weighted_parts(expected)
    for name, part in weighted_parts(actual).items():
        own, other = part.state_dict(), others[name].state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own)


def state(module, prefix):
    return module.state_dict()[f"{prefix}.resnets.0.conv1.weight"]


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_file_is_run(tmp_path):
    trap = tmp_path / "executed"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Payload(trap)}, tmp_path / "bad.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Payload(trap)))
    for name in ("bad.ckpt", "plain.ckpt"):
        with pytest.raises(ConversionError, match=name):
            open_checkpoint(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("kept", [0.99, 0.5, 0.001])
def test_truncated_files_are_named(suffix, kept, tmp_path):
    path, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    state = {"a": torch.randn(1000), "b": torch.randn(1000)}
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)
    content = path.read_bytes()
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ConversionError, match=rf"cut\.{suffix}"):
        open_checkpoint(cut)


def test_other_files_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        open_checkpoint(tmp_path / "nowhere.ckpt")
    with pytest.raises(ConversionError, match="is a folder"):
        open_checkpoint(tmp_path)
    for name, content, message in (
        ("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("page.ckpt", b"<!DOCTYPE html><html>not found</html>", "page.ckpt"),
        ("empty.ckpt", b"", "0 bytes"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConversionError, match=message):
            open_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ConversionError, match="holds a list"):
        open_checkpoint(tmp_path / "list.ckpt")
    torch.save({"optimizer": {"lr": 1}}, tmp_path / "optimizer.ckpt")
    with pytest.raises(ConversionError, match="no tensors"):
        open_checkpoint(tmp_path / "optimizer.ckpt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_written_tensors_are_read_back_and_let_go(dtype, tmp_path):
    values = {"a": torch.randn(3, 5), "scalar": torch.tensor(2.5), "turned": torch.randn(4, 2), "empty": torch.ones(0)}
    alive: list[weakref.ref] = []

    def give(name):
        assert not any(ref() is not None for ref in alive), "an earlier tensor is still in memory"
        made = values[name].clone()
        alive.append(weakref.ref(made))
        return made.T if name == "turned" else made

    shapes = {name: tuple(v.T.shape) if name == "turned" else tuple(v.shape) for name, v in values.items()}
    write_safetensors(tmp_path / "file.safetensors", shapes, dtype, give)
    read = load_file(tmp_path / "file.safetensors")
    for name, value in values.items():
        assert torch.equal(read[name], (value.T if name == "turned" else value).to(dtype))


def test_values_that_do_not_fit_the_type_are_refused(tmp_path):
    give = lambda name: torch.tensor([1e6])  # noqa: E731
    write_safetensors(tmp_path / "wide.safetensors", {"a": (1,)}, torch.bfloat16, give)
    with pytest.raises(ValueError, match="a has values that are not finite as F16"):
        write_safetensors(tmp_path / "narrow.safetensors", {"a": (1,)}, torch.float16, give)


def test_output_must_be_new(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert_checkpoint(tmp_path / "any.ckpt", tmp_path / "out")


def test_command_reports_errors_in_one_line(tmp_path, monkeypatch):
    arguments = ["gf-convert-generator", str(tmp_path / "nowhere.ckpt"), str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"^gf-convert-generator: there is no checkpoint"):
        entrypoint()
