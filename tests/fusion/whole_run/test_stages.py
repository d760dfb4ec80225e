"""Every command that is planned is one that its program understands, and says what was chosen."""

from pathlib import Path

import pytest
import tyro

from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.fusion.whole_run.choice import Choice
from genfusion_ns.fusion.whole_run.stages import (
    Places,
    Trained,
    capture_stage,
    later_stages,
    report_stage,
    train_stage,
    with_checkpoints,
)

PLACES = Places(Path("my scene"))


def trained(method: str = "genfusion", masked: bool = False, reading=("nerfstudio-data", ()), **changes) -> Trained:
    usual = {"steps": 30, "downscale": 2, "rounds": True, "test_every": None, "seconds": None, "reasons": ()}
    return Trained(
        "room", masked, *reading, Choice(method, size=(32, 24), **{**usual, **changes}), ("--machine.seed", "3")
    )


def parsed(words: tuple[str, ...]):
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    assert words[0] == "ns-train"
    return tyro.cli(AnnotatedBaseConfigUnion, args=list(words[1:]))


def test_training_as_it_was_chosen():
    words = train_stage(PLACES, trained(), ()).words
    config = parsed(words)
    assert (config.method_name, config.max_num_iterations, config.machine.seed) == ("genfusion", 30, 3)
    assert config.data == Path("room") and config.pipeline.datamanager.dataparser.downscale_factor == 2
    assert config.pipeline.repairer.model == "auto" and config.pipeline.datamanager.test_every == 8
    config.data = config.output_dir / "room"
    assert config.get_base_dir() == PLACES.run("genfusion")
    resumed = parsed(with_checkpoints(words, Path("old")))
    assert resumed.load_dir == Path("old") and resumed.max_num_iterations == 30


def test_masks_of_the_capture_and_a_split_of_its_own():
    config = parsed(train_stage(PLACES, trained("genfusion-masked", True, rounds=False, test_every=0), ()).words)
    manager = config.pipeline.datamanager
    assert (manager.masking.source, manager.train_every, manager.test_every) == ("masks", None, 0)
    assert config.pipeline.repairer.model == "none"
    windows = parsed(train_stage(PLACES, trained("genfusion-masked"), ()).words).pipeline.datamanager
    assert (windows.masking.source, windows.train_every) == ("windows", 2)


@pytest.mark.parametrize("method", ["genfusion-completion", "genfusion-published"])
def test_methods_that_are_asked_for(method):
    assert parsed(train_stage(PLACES, trained(method), ()).words).method_name == method


def test_captures_of_every_kind_are_read_at_the_chosen_size():
    colmap = parsed(train_stage(PLACES, trained(reading=("colmap", ("--colmap-path", "sparse/0"))), ()).words)
    assert colmap.pipeline.datamanager.dataparser.colmap_path == Path("sparse/0")
    assert colmap.pipeline.datamanager.dataparser.downscale_factor == 2
    blender = parsed(train_stage(PLACES, trained(reading=("blender-data", ())), ()).words)
    assert blender.pipeline.datamanager.camera_res_scale_factor == 0.5
    whole = parsed(train_stage(PLACES, trained(reading=("blender-data", ()), downscale=None), ()).words)
    assert whole.pipeline.datamanager.camera_res_scale_factor == 1.0


def test_gf_capture_gets_what_is_not_as_usual():
    from genfusion_ns.scripts.capture import Capture

    settings = CaptureFromPhotosSettings(frames=60, one_camera=True, masks=Path("tripod mask.png"))
    stage = capture_stage(PLACES, ["a.mp4", "b c"], settings)
    command = tyro.cli(Capture, args=list(stage.words[1:]))
    assert command.paths == (Path("a.mp4"), Path("b c"), PLACES.capture)
    assert (command.frames, command.one_camera, command.masks) == (60, True, Path("tripod mask.png"))
    assert capture_stage(PLACES, ["a.mp4"], CaptureFromPhotosSettings()).words == (
        "gf-capture", "a.mp4", "my scene/capture",
    )  # fmt: skip


def test_later_stages_are_understood_and_leave_what_they_promise():
    from nerfstudio.scripts.eval import ComputePSNR
    from nerfstudio.scripts.render import Commands

    from genfusion_ns.fusion.exporting.settings import MeshSettings, SplatSettings
    from genfusion_ns.fusion.page.settings import ReportSettings
    from genfusion_ns.scripts.export import Exports

    stages = {stage.name: stage for stage in later_stages(PLACES, "genfusion")}
    config = PLACES.run("genfusion") / "config.yml"
    evaluation = tyro.cli(ComputePSNR, args=list(stages["evaluate"].words[1:]))
    assert (evaluation.load_config, evaluation.output_path) == (config, PLACES.metrics)
    video = tyro.cli(Commands, args=list(stages["video"].words[1:]))
    assert (video.camera_path_filename, video.output_path) == (PLACES.flight, PLACES.video)
    for name, kind in (("splat", SplatSettings), ("compact", SplatSettings), ("mesh", MeshSettings)):
        export = tyro.cli(Exports, args=list(stages[name].words[1:]))
        assert isinstance(export, kind) and (export.output,) == stages[name].products
    report = report_stage(PLACES, "genfusion", "my room", ["train", "evaluate", "video"])
    settings = tyro.cli(ReportSettings, args=list(report.words[1:]))
    assert (settings.run, settings.video, settings.metrics) == (config.parent, PLACES.video, PLACES.metrics)
    assert settings.title == "my room" and report.needs == ("train", "evaluate", "video")
    plain = tyro.cli(ReportSettings, args=list(report_stage(PLACES, "genfusion", "x", ["train"]).words[1:]))
    assert plain.video is None and plain.metrics is None
