"""Folders of ReconFusion's prior that are damaged, incomplete or of something else: refused by name before a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from reconfusion_toys import toy_pipeline, toy_stable_diffusion
from safetensors.torch import load_file, save_file

from genfusion_ns.priors.config import KINDS, RepairerConfig, build_repairer, check_repairer
from genfusion_ns.priors.pipeline_files import INDEX
from genfusion_ns.priors.reconfusion.config import ReconFusionOptions
from genfusion_ns.priors.reconfusion.initial import starting_pipeline
from genfusion_ns.priors.reconfusion.loading import load_prior

torch.set_num_threads(1)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "prior"
    toy_pipeline().save_pretrained(path)
    return path


@pytest.fixture
def folder(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "prior"))


def edit(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def check(folder, **options):
    return check_repairer(RepairerConfig(model=str(folder), **options), "cpu")


def test_the_undamaged_folder_is_accepted(folder):
    assert check(folder).kind == "reconfusion" and KINDS["reconfusion"].draws_views


DAMAGE = {
    "an index that is no JSON": (lambda f: (f / INDEX).write_text("{"), INDEX),
    "another pipeline": (lambda f: edit(f / INDEX, _class_name="StableDiffusionPipeline"), "StableDiffusionPipeline"),
    "a class to import": (lambda f: edit(f / INDEX, pixelnerf=["os", "system"]), "pixelnerf"),
    "a part that is not named": (lambda f: edit(f / INDEX, unet=None), "unet"),
    "an unknown setting": (lambda f: edit(f / INDEX, colour="red"), "colour"),
    "a width that does not divide": (lambda f: edit(f / INDEX, width=34), "multiples of 4"),
    "a fold of another network": (lambda f: edit(f / INDEX, fold=1), "in_channels"),
    "no guide where there was one": (lambda f: edit(f / INDEX, guided=False), "in_channels"),
    "a missing config": (lambda f: (f / "unet" / "config.json").unlink(), "config.json"),
    "missing weights": (lambda f: (f / "pixelnerf" / WEIGHTS).unlink(), "safetensors"),
    "weights cut short": (lambda f: (f / "unet" / WEIGHTS).write_bytes(b"x" * 100), WEIGHTS),
    "a missing scheduler": (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "scheduler_config"),
    "noise of pure noise": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", prediction_type="epsilon"),
        "v_prediction",
    ),
    "features of another size": (lambda f: edit(f / "pixelnerf" / "config.json", features=9), "in_channels"),
    "a ray too many digits long": (lambda f: edit(f / "pixelnerf" / "config.json", rays="many"), "rays"),
    "another image encoder": (lambda f: edit(f / "image_encoder" / "config.json", model_type="bert"), "bert"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_damage_is_named_before_anything_is_loaded(folder, damage):
    change, said = DAMAGE[damage]
    change(folder)
    if damage in ("an index that is no JSON", "another pipeline"):  # nobody's folder then
        with pytest.raises((ValueError, FileNotFoundError)):
            load_prior(folder)
        return
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        check(folder)
    assert str(folder) in str(error.value)


def test_weights_of_another_network_are_named(folder):
    edit(folder / "pixelnerf" / "config.json", hidden=48)
    with pytest.raises(ValueError, match="of another shape"):
        load_prior(folder)


def test_weights_that_are_no_numbers_are_named(folder):
    file = folder / "unet" / WEIGHTS
    weights = load_file(file)
    weights["conv_out.bias"][0] = torch.nan
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"conv_out\.bias contains NaN"):
        load_prior(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resolution": (34, 32)}, "multiples of 4"),
        ({"steps": 0}, r"steps is 0"),
        ({"reconfusion": ReconFusionOptions(guidance_scale=-1)}, "guidance-scale is -1"),
        ({"reconfusion": ReconFusionOptions(guidance_scale=float("nan"))}, "guidance-scale is nan"),
    ],
)
def test_settings_out_of_range_are_refused(folder, options, said):
    with pytest.raises(ValueError, match=said):
        check(folder, **options)


def test_its_options_are_refused_with_another_kind():
    with pytest.raises(ValueError, match=r"reconfusion\.guidance-scale is an option of reconfusion"):
        check_repairer(RepairerConfig(model="compact", reconfusion=ReconFusionOptions(guidance_scale=2.0)), "cpu")


def test_other_resolutions_are_drawn(folder):
    prior = build_repairer(RepairerConfig(model=str(folder), resolution=(40, 32)), "cpu")
    assert prior.resolution == (40, 32)


def test_what_is_no_stable_diffusion_is_no_start(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=INDEX):
        starting_pipeline(str(tmp_path / "empty"), None, (32, 32))
    toy_stable_diffusion(tmp_path / "base")
    edit(tmp_path / "base" / INDEX, unet=["diffusers", "UNet3DConditionModel"])
    with pytest.raises(ValueError, match="UNet2DConditionModel"):
        starting_pipeline(str(tmp_path / "base"), None, (32, 32))
    edit(tmp_path / "base" / INDEX, unet=["diffusers", "UNet2DConditionModel"])
    with pytest.raises(FileNotFoundError, match="--image-encoder nowhere/at/all"):
        starting_pipeline(str(tmp_path / "base"), "nowhere/at/all", (32, 32))
    edit(tmp_path / "base" / "unet" / "config.json", class_embed_type="timestep")
    with pytest.raises(ValueError, match=r"class_embed_type|no network"):
        starting_pipeline(str(tmp_path / "base"), None, (32, 32))
