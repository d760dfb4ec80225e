"""The command on a page of `gf-report`: nerfstudio's own parser makes the settings of the run of it."""

import copy
import shlex
from dataclasses import replace
from pathlib import Path

import tyro
from nerfstudio.configs.dataparser_configs import BlenderDataParserConfig
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

from genfusion_ns.fusion.page.setup import setup_of
from genfusion_ns.methods import genfusion, genfusion_masked


def parsed(command: str):
    program, *words = shlex.split(command)
    assert program == "ns-train"
    return tyro.cli(AnnotatedBaseConfigUnion, args=words)


def test_the_command_repeats_the_settings():
    config = copy.deepcopy(genfusion.config)
    config.data = config.pipeline.datamanager.data = Path("/some where/fox")
    config.pipeline.datamanager.num_views = 6
    config.pipeline.datamanager.dataparser.downscale_factor = 2
    config.pipeline.repairer = replace(config.pipeline.repairer, model="compact", resolution=(64, 48))
    config.pipeline.fusion.sampler.num_frames = 32
    config.pipeline.fusion.save_videos = False
    config.pipeline.model.background_color = "black"
    config.pipeline.model.normal_weight = 1e-3
    config.optimizers["means"]["optimizer"].lr = 3e-4
    config.machine.seed, config.max_num_iterations, config.vis = 7, 300, "tensorboard"
    setup = setup_of(config, [])
    assert setup.dataparser == "nerfstudio-data" and len(setup.settings) == 11
    again = parsed(setup.command)
    assert again.pipeline.datamanager.dataparser.load_3D_points is False, "as the method has it"
    assert setup_of(again, []) == setup
    for name in ("model", "fusion", "repairer", "mono_depth"):
        assert getattr(again.pipeline, name) == getattr(config.pipeline, name)
    assert again.optimizers == config.optimizers


def test_another_dataparser_is_named():
    config = copy.deepcopy(genfusion_masked.config)
    config.pipeline.datamanager.data = Path("lego")
    config.pipeline.datamanager.dataparser = BlenderDataParserConfig(alpha_color="black")
    setup = setup_of(config, [])
    assert setup.command == "ns-train genfusion-masked --data lego blender-data --alpha-color black"
    assert parsed(setup.command).pipeline.datamanager.dataparser.alpha_color == "black"


def test_defaults_need_no_words():
    config = copy.deepcopy(genfusion.config)
    config.pipeline.datamanager.data = Path("fox")
    setup = setup_of(config, [])
    assert setup.settings == setup.dataparser_settings == () and setup.command == "ns-train genfusion --data fox"
    assert {name: today for name, _, today in setup.versions}["nerfstudio"].startswith("1.")
