"""Files of earlier versions name our classes by module; these names are answered for ever."""

import importlib
import re
import subprocess
import sys

import pytest
import yaml
from nerfstudio.plugins.types import MethodSpecification

from genfusion_ns import methods
from genfusion_ns.moved import MOVED

RELEASED = {
    "0.1.0": [
        "data.datamanager.GenFusionDataManager",
        "data.datamanager.GenFusionDataManagerConfig",
        "data.masking.MaskingConfig",
        "fusion.completion_sampler.CompletionSampler",
        "fusion.completion_sampler.CompletionSamplerConfig",
        "fusion.config.FusionConfig",
        "fusion.masked_sampler.MaskedSampler",
        "fusion.masked_sampler.MaskedSamplerConfig",
        "fusion.pipeline.GenFusionPipeline",
        "fusion.pipeline.GenFusionPipelineConfig",
        "fusion.seeding.SeedingConfig",
        "fusion.trainer.GenFusionTrainer",
        "fusion.trainer.GenFusionTrainerConfig",
        "fusion.view_samplers.SparseSampler",
        "fusion.view_samplers.SparseSamplerConfig",
        "models.optim.FusedAdamConfig",
        "models.optim.LogLinearDecay",
        "models.optim.LogLinearDecayConfig",
        "models.surfel_model.GenFusionModel",
        "models.surfel_model.GenFusionModelConfig",
        "priors.config.RepairerConfig",
        "priors.dynamicrafter.image_projection.ImageProjection",
        "priors.dynamicrafter.pipeline.DynamiCrafterPipeline",
        "priors.dynamicrafter.scheduler.DynamiCrafterScheduler",
        "priors.dynamicrafter.unet.DynamiCrafterUNet",
    ],
    "unreleased": [
        "data.multiscale.parser.MultiscaleBlender",
        "data.multiscale.parser.MultiscaleBlenderDataParserConfig",
        "data.multiscale.ray_datamanager.RayDataManager",
        "data.multiscale.ray_datamanager.RayDataManagerConfig",
        "fusion.multiscale.pipeline.MipNerfPipeline",
        "fusion.multiscale.pipeline.MipNerfPipelineConfig",
        "fusion.multiscale.trainer.MipNerfTrainer",
        "fusion.multiscale.trainer.MipNerfTrainerConfig",
        "fusion.cameras.novel.NovelViewSettings",
        "fusion.photo_depth.MonoDepthConfig",
        "fusion.samples.config.SampleConfig",
        "fusion.samples.nerfacto.SampledNerfactoPipeline",
        "fusion.samples.nerfacto.SampledNerfactoPipelineConfig",
        "fusion.samples.nerfacto.SampledNerfactoTrainer",
        "fusion.samples.nerfacto.SampledNerfactoTrainerConfig",
        "models.mipnerf.model.MipNerfModel",
        "models.mipnerf.model.MipNerfModelConfig",
        "models.nerfacto.SparseNerfactoModel",
        "models.nerfacto.SparseNerfactoModelConfig",
        "models.optim.WarmedDecay",
        "models.optim.WarmedDecayConfig",
        "priors.compact.config.CompactOptions",
        "priors.dynamicrafter.config.DynamiCrafterOptions",
        "priors.identity.NoRepairOptions",
        "priors.reconfusion.config.ReconFusionOptions",
        "priors.reconfusion.pipeline.ReconFusionPipeline",
        "priors.reconfusion.pixelnerf.PixelNerf",
    ],
}
"""Classes that config.yml and model_index.json of each version name; a release adds its own, none is removed."""


@pytest.mark.parametrize("name", sorted({name for names in RELEASED.values() for name in names}))
def test_names_on_disk_are_found(name):
    module, _, attribute = f"genfusion_ns.{name}".rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), attribute), type)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_both_names_are_one_module(old, new):
    assert importlib.import_module(old) is importlib.import_module(new)
    assert importlib.import_module(new).__spec__.name == new
    assert new not in MOVED, "an entry names where the module is now"


def test_what_configs_name_today_is_released():
    configs = [each for each in vars(methods).values() if isinstance(each, MethodSpecification)]
    named = {name for each in configs for name in re.findall(r"genfusion_ns\.([\w.]+)", yaml.dump(each.config))}
    known = {name for names in RELEASED.values() for name in names}
    moved = {f"{MOVED[module]}.{name.rpartition('.')[2]}" for name in known if (module := _module(name)) in MOVED}
    unknown = named - known - {name.removeprefix("genfusion_ns.") for name in moved}
    assert not unknown, f"new names on disk: add {sorted(unknown)} to RELEASED under the version to come"


def _module(name: str) -> str:
    return f"genfusion_ns.{name}".rpartition(".")[0]


def test_an_old_name_is_answered_by_the_module_of_the_new_one():
    program = """
import importlib, sys
from genfusion_ns import moved
moved.MOVED["genfusion_ns.long_gone.schedules"] = "genfusion_ns.geometry.windows"
moved.MOVED["genfusion_ns.long_gone"] = "genfusion_ns.geometry"
moved.answer_for_old_names()
import genfusion_ns.long_gone.schedules as old
import genfusion_ns.geometry.windows as new
assert old is new and new.__spec__.name == "genfusion_ns.geometry.windows"
assert importlib.reload(new) is new
try:
    import genfusion_ns.never_was
except ModuleNotFoundError as error:
    assert error.name == "genfusion_ns.never_was"
else:
    raise SystemExit("a name that never was is answered")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
