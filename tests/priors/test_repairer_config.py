"""Which repairer a config means: kinds of models, options that belong to one of them, hub and cache, no network."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants as hub_constants
import pytest
import torch
import tyro
import yaml
from dynamicrafter_toys import ENCODER, PROJECTION, UNET, VAE, published_names, toy_pipeline
from safetensors.torch import save_file
from tiny_capture import make_capture, write_transforms
from tiny_run import make_trainer, save_toy_generator

from genfusion_ns.priors.base import Capabilities, ContinuingRepairer, VideoRepairer
from genfusion_ns.priors.compact.repairer import CompactRepairer
from genfusion_ns.priors.config import KINDS, RepairerConfig, build_repairer, check_repairer
from genfusion_ns.priors.dynamicrafter.architecture import Architecture
from genfusion_ns.priors.dynamicrafter.config import DynamiCrafterOptions
from genfusion_ns.priors.dynamicrafter.conversion.source import ConversionError
from genfusion_ns.priors.dynamicrafter.repairer import DynamiCrafterRepairer
from genfusion_ns.priors.hub import PUBLISHED, convert_file, converted_folder, fetch_repairer, is_hub_name
from genfusion_ns.priors.identity import IdentityRepairer
from genfusion_ns.priors.options import PriorOptions, SharedSettings
from genfusion_ns.scripts.convert_generator import ConvertGeneratorConfig, main

torch.set_num_threads(1)
TOY = Architecture(unet=UNET, image_projection=PROJECTION, vae=VAE, image_encoder=ENCODER, size=(128, 64))
CHECKPOINT = "epoch=59-step=34000.ckpt"


@pytest.fixture(scope="module")
def generator_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    toy_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return published_names(toy_pipeline(groups=32))


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """No test may touch, or depend on, the caches of the person who runs it."""
    monkeypatch.setenv("GENFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)


def hub_copy(root: Path, repository: str, files: dict[str, dict | bytes]) -> Path:
    """What huggingface_hub keeps of a repository after a download."""
    folder = root / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    for name, content in files.items():
        if isinstance(content, bytes):
            (snapshot / name).write_bytes(content)
        elif name.endswith(".safetensors"):
            save_file(content, snapshot / name)
        else:
            torch.save({"state_dict": content}, snapshot / name)
    return snapshot


def config_of(**settings: Any) -> RepairerConfig:
    """Options of dynamicrafter among those of all kinds, as version 0.1 had them."""
    own = {field.name for field in fields(DynamiCrafterOptions)}
    options = DynamiCrafterOptions(**{name: value for name, value in settings.items() if name in own})
    return RepairerConfig(dynamicrafter=options, **{name: value for name, value in settings.items() if name not in own})


def built(**settings) -> DynamiCrafterRepairer:
    repairer = build_repairer(RepairerConfig(**settings), "cpu")
    assert isinstance(repairer, DynamiCrafterRepairer)
    return repairer


def test_the_folder_decides_the_kind(generator_folder, tmp_path):
    repairer = built(model=str(generator_folder))
    assert (repairer.resolution, repairer.sampling.steps, repairer.samples) == ((64, 64), 25, 1)
    assert repairer.pipeline.unet.dtype == torch.float32
    assert isinstance(repairer, ContinuingRepairer)
    small = build_repairer(RepairerConfig(model=str(save_toy_generator(tmp_path / "small"))), "cpu")
    assert isinstance(small, CompactRepairer)
    assert (small.steps, small.resolution) == (1, (256, 144))
    assert not isinstance(small, ContinuingRepairer)


def test_settings_reach_the_generator(generator_folder):
    repairer = built(
        model=str(generator_folder),
        steps=5,
        resolution=(128, 64),
        dynamicrafter=DynamiCrafterOptions(
            guidance_scale=1.5,
            guidance_rescale=0.2,
            eta=0.0,
            spacing="trailing",
            start_noise=0.6,
            sample_condition=False,
            samples=3,
            batch_guidance=False,
        ),
        dtype="bf16",
    )
    sampling = repairer.sampling
    assert (sampling.steps, sampling.guidance_scale, sampling.guidance_rescale, sampling.eta) == (5, 1.5, 0.2, 0.0)
    assert (sampling.spacing, sampling.start_noise) == ("uniform_trailing", 0.6)
    assert not sampling.sample_condition and not sampling.batch_guidance
    assert (repairer.samples, repairer.resolution) == (3, (128, 64))
    assert repairer.pipeline.unet.dtype == torch.bfloat16


def test_the_task_sets_guidance_that_nobody_asked_for(generator_folder):
    def scale(**settings) -> float:
        options = DynamiCrafterOptions(**settings)
        return built(model=str(generator_folder), dynamicrafter=options).sampling.guidance_scale

    assert scale() == 3.2
    assert scale(task_guidance_scale=2.2) == 2.2
    assert scale(task_guidance_scale=2.2, guidance_scale=4.0) == 4.0
    check_repairer(RepairerConfig(model="compact", dynamicrafter=DynamiCrafterOptions(task_guidance_scale=2.2)))


@pytest.mark.parametrize("model", ["compact", "none"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guidance_scale", 2.0),
        ("guidance_rescale", 0.5),
        ("eta", 0.0),
        ("spacing", "uniform"),
        ("start_noise", 0.5),
        ("sample_condition", True),
        ("samples", 1),
        ("batch_guidance", False),
        ("offload", "model"),
    ],
)
def test_options_of_another_model_are_refused(model, name, value):
    said = (
        rf"--pipeline.repairer.dynamicrafter.{name.replace('_', '-')} is an option of dynamicrafter .* "
        rf"the repairer is {model}; leave"
    )
    with pytest.raises(ValueError, match=said):
        check_repairer(RepairerConfig(model=model, dynamicrafter=DynamiCrafterOptions(**{name: value})))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance_scale": -1.0}, r"--pipeline.repairer.dynamicrafter.guidance-scale is -1.0; allowed are 0..50"),
        ({"guidance_scale": float("nan")}, r"guidance-scale is nan"),
        ({"guidance_rescale": 1.5}, r"--pipeline.repairer.dynamicrafter.guidance-rescale is 1.5; allowed are 0..1"),
        ({"eta": 2.0}, r"--pipeline.repairer.dynamicrafter.eta is 2.0; allowed are 0..1"),
        ({"start_noise": 0.0}, r"--pipeline.repairer.dynamicrafter.start-noise is 0.0; allowed are 0.05..1"),
        ({"samples": 0}, r"--pipeline.repairer.dynamicrafter.samples is 0; allowed are 1..64"),
        ({"steps": 9}, r"--pipeline.repairer.steps is 9: .*uniform spacing would end at time step 1000.*such as 25"),
        ({"steps": 0}, r"--pipeline.repairer.steps is 0; allowed are 1..1000"),
        ({"resolution": (100, 64)}, r"resolution is \(100, 64\); .* takes multiples of 64, 64 64 is usual"),
        ({"offload": "model"}, r"offload model needs a GPU, but the device is cpu"),
    ],
)
def test_values_that_the_generator_cannot_take(generator_folder, settings, said):
    with pytest.raises(ValueError, match=said):
        check_repairer(config_of(model=str(generator_folder), **settings), "cpu")
    check_repairer(config_of(model=str(generator_folder), steps=9, spacing="trailing"))


def test_values_out_of_range_are_named_before_anything_is_fetched():
    with pytest.raises(ValueError, match=r"eta is 2\.0"):
        check_repairer(config_of(model=PUBLISHED, eta=2.0))


def test_a_damaged_generator_folder_is_refused_before_it_is_loaded(tmp_path):
    folder = tmp_path / "generator"
    toy_pipeline().save_pretrained(folder)
    check_repairer(RepairerConfig(model=str(folder)))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"unet.*is no whole safetensors file .*gf-convert-generator"):
        check_repairer(RepairerConfig(model=str(folder)))
    weights.write_bytes(whole)
    (folder / "vae" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"vae.config.json is \[\]; allowed: an object"):
        check_repairer(RepairerConfig(model=str(folder)))
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="describes a StableDiffusionPipeline"):
        check_repairer(RepairerConfig(model=str(folder)))


def test_settings_of_version_0_1_mean_the_same():
    flat = {"guidance_scale": 2.0, "eta": 0.5, "spacing": "trailing", "samples": 4, "offload": "none"}
    text = "\n".join(
        ["!!python/object:genfusion_ns.priors.config.RepairerConfig", "model: some/one", "steps: 7"]
        + [f"{name}: {value}" for name, value in flat.items()]
        + ["task_guidance_scale: 2.2", "batch_guidance: null"]
    )
    old = yaml.load(text, Loader=yaml.Loader)
    expected = config_of(model="some/one", steps=7, task_guidance_scale=2.2, **flat)
    assert old == expected and vars(old) == vars(expected)
    assert yaml.load(yaml.dump(old), Loader=yaml.Loader) == expected


def test_flags_of_version_0_1_and_of_today_set_the_same():
    flags = {"guidance-scale": "2.5", "spacing": "trailing", "samples": "3", "batch-guidance": "False"}

    def parsed(prefix: str) -> RepairerConfig:
        words = [word for name, value in flags.items() for word in (f"{prefix}.{name}", value)]
        config: Any = tyro.cli(OnlyRepairer, args=["--pipeline.repairer.model", "x", *words])
        return config.pipeline.repairer

    expected = config_of(model="x", guidance_scale=2.5, spacing="trailing", samples=3, batch_guidance=False)
    assert parsed("--pipeline.repairer") == parsed("--pipeline.repairer.dynamicrafter") == expected


@dataclass
class RepairerPart:
    repairer: RepairerConfig = field(default_factory=RepairerConfig)


@dataclass
class OnlyRepairer:
    """The command line of a run, without all else."""

    pipeline: RepairerPart = field(default_factory=RepairerPart)


def test_kinds_are_named_as_their_fields_and_say_what_they_need_to():
    for name, kind in KINDS.items():
        assert kind.kind == name and kind().given() == []
        assert not kind.recognises(Path("nowhere"))
        assert isinstance(kind.capabilities, Capabilities) and len(kind.usual_resolution) == 2


@dataclass
class MirrorOptions(PriorOptions):
    """A kind of somebody else."""

    kind: ClassVar[str] = "mirror"
    capabilities: ClassVar[Capabilities] = Capabilities(repairs=True)
    usual_resolution: ClassVar[tuple[int, int]] = (32, 24)
    upside_down: bool = False
    """Not too useful."""

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / "mirror.json").is_file()

    def check(self, settings: SharedSettings) -> None:
        if settings.steps is not None:
            raise ValueError("--pipeline.repairer.steps: a mirror takes none")

    def build(self, settings: SharedSettings) -> VideoRepairer:
        repairer = IdentityRepairer(settings.resolution or self.usual_resolution)
        repairer.name = self.kind
        return repairer


def test_a_new_kind_is_one_field(tmp_path, monkeypatch):
    @dataclass
    class WithMirror(RepairerConfig):
        mirror: MirrorOptions = field(default_factory=MirrorOptions)

    monkeypatch.setitem(KINDS, "mirror", MirrorOptions)
    (tmp_path / "mirror.json").write_text("{}")
    found = check_repairer(WithMirror(model=str(tmp_path)), "cpu")
    assert found.kind == "mirror" and found.capabilities == MirrorOptions.capabilities
    assert build_repairer(WithMirror(model=str(tmp_path)), "cpu").resolution == (32, 24)
    with pytest.raises(ValueError, match="a mirror takes none"):
        check_repairer(WithMirror(model=str(tmp_path), steps=3))
    with pytest.raises(ValueError, match=r"repairer.mirror.upside-down is an option of mirror generators"):
        check_repairer(WithMirror(model="compact", mirror=MirrorOptions(upside_down=True)))


def test_checking_imports_no_diffusion_library(generator_folder):
    code = (
        "import sys; from genfusion_ns.priors.config import *; check_repairer(RepairerConfig());"
        f"check_repairer(RepairerConfig(model={str(generator_folder)!r}));"
        "print(sorted({'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_auto_takes_the_published_generator_only_from_the_cache_and_for_a_gpu(generator_folder, capsys):
    def said(device: str) -> str:
        assert isinstance(build_repairer(RepairerConfig(), device), CompactRepairer)
        return capsys.readouterr().out

    assert "auto: compact, because the device is cpu" in said("cpu")
    # Building moves nothing to the device, so this works without one.
    assert f"the published generator is not here; --pipeline.repairer.model {PUBLISHED}" in said("cuda")
    converted_folder(PUBLISHED).parent.mkdir(parents=True)
    converted_folder(PUBLISHED).symlink_to(generator_folder)
    assert isinstance(build_repairer(RepairerConfig(), "cuda"), DynamiCrafterRepairer)
    assert "auto: dynamicrafter, because the published generator is in the cache" in capsys.readouterr().out
    assert "because the device is cpu" in said("cpu")
    with pytest.raises(ValueError, match=r"the repairer is compact \(the device is cpu"):
        check_repairer(config_of(eta=0.0), "cpu")


def test_a_checkpoint_file_is_converted_once(weights, tmp_path, capsys):
    path = tmp_path / "toy.ckpt"
    torch.save({"state_dict": weights}, path)
    folder = convert_file(path, TOY)
    assert "Converting" in capsys.readouterr().out
    repairer = built(model=str(path))  # finds what was converted, or it would miss the published sizes
    assert repairer.resolution == (128, 64)
    assert capsys.readouterr().out == ""
    torch.save({"state_dict": {**weights, "betas": torch.zeros(3)}}, path)
    assert convert_file(path, TOY) != folder


def test_a_checkpoint_of_something_else(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match=r"other.safetensors is not a checkpoint of GenFusion"):
        check_repairer(RepairerConfig(model=str(tmp_path / "other.safetensors")))
    with pytest.raises(ValueError, match=r"gone.ckpt', which is neither auto.* nor an existing folder, checkpoint"):
        check_repairer(RepairerConfig(model=str(tmp_path / "gone.ckpt")))


@pytest.mark.parametrize("repository", [PUBLISHED, "someone/else"])
def test_a_hub_model_is_converted_once_and_then_needs_neither_network_nor_download(
    weights, tmp_path, repository, capsys
):
    name = CHECKPOINT if repository == PUBLISHED else "model.safetensors"
    snapshot = hub_copy(tmp_path, repository, {name: weights})
    folder = fetch_repairer(repository, TOY)
    assert folder == converted_folder(repository)
    (snapshot / name).unlink()
    assert fetch_repairer(repository) == folder
    repairer = built(model=repository)
    torch.testing.assert_close(
        dict(repairer.pipeline.unet.named_parameters())["conv_in.weight"],
        weights["model.diffusion_model.input_blocks.0.0.weight"].half().float(),
    )


def test_without_network_the_error_says_what_to_download_and_where_to_put_it():
    with pytest.raises(FileNotFoundError, match=rf"the generator '{PUBLISHED}' is neither here nor") as caught:
        check_repairer(RepairerConfig(model=PUBLISHED))
    assert "get epoch=59-step=34000.ckpt (10.4 GB) from https://huggingface.co/" in str(caught.value)
    assert "--pipeline.repairer.model FOLDER/epoch=59-step=34000.ckpt" in str(caught.value)


def test_a_hub_repository_without_a_generator(tmp_path, weights):
    hub_copy(tmp_path, "some/one", {"a.ckpt": weights, "b.ckpt": weights})
    with pytest.raises(ValueError, match=r"some/one .* must hold one checkpoint.*a.ckpt, b.ckpt"):
        check_repairer(RepairerConfig(model="some/one"))
    hub_copy(tmp_path, "some/two", {"README.md": b"nothing"})
    with pytest.raises(FileNotFoundError, match=r"'some/two' is neither here .* has no \*.json or \*.ckpt"):
        check_repairer(RepairerConfig(model="some/two"))


def test_the_converter_is_told_the_size_of_training(tmp_path):
    with pytest.raises(ValueError, match=r"--size is \(100, 64\); width and height must be multiples of 64"):
        main(ConvertGeneratorConfig(tmp_path / "a.ckpt", tmp_path / "out", size=(100, 64)))


def test_names_of_the_hub():
    assert is_hub_name(PUBLISHED)
    for other in ("auto", "/a/b", "./a/b", "../a", "a/b/c", "~/a", "a/b.ckpt", "a/"):
        assert not is_hub_name(other)


def test_none_takes_the_size_of_compact():
    repairer = build_repairer(RepairerConfig(model="none"), "cpu")
    assert isinstance(repairer, IdentityRepairer) and repairer.resolution == (256, 144)


def test_a_run_with_the_generator_in_its_loop(generator_folder, tmp_path):
    capture = make_capture(tmp_path / "capture")
    write_transforms(capture)
    trainer = make_trainer(capture.folder, tmp_path / "run", str(generator_folder), resolution=(64, 64))
    trainer.train()
    loop = trainer.pipeline.supervision
    assert loop.maker.repairer.name == "dynamicrafter"
    rounds = sorted((trainer.base_dir / "genfusion").glob("round_*/round.json"))
    assert [path.parent.name for path in rounds] == ["round_00", "round_01"]
    assert loop.latest is not None and len(loop.store) == 20
    change = (loop.latest.windows[0].repaired.rgb - loop.latest.windows[0].clip.rgb).abs().mean()
    assert change > 0.01, "untrained weights must leave a trace"
