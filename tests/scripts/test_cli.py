"""The command lines under snapshot: a flag that appears, vanishes or loses its help is noticed.

`UPDATE_SNAPSHOTS=1 pytest tests/scripts/test_cli.py` writes the snapshots anew.
"""

import os
import re
from pathlib import Path

import pytest
from commands import run_command, run_here

SNAPSHOTS = Path(__file__).parent / "snapshots"
REPOSITORY = Path(__file__).parents[2]
COMMANDS = {
    "gf-sample-scene": ("gf-sample-scene",),
    "gf-bench-raster": ("gf-bench-raster",),
    "gf-make-clips": ("gf-make-clips",),
    "gf-train-generator": ("gf-train-generator",),
    "gf-train-generator-dynamicrafter": ("gf-train-generator", "configs/generator/dynamicrafter_512x320.yaml"),
    "gf-train-generator-triposr": ("gf-train-generator", "configs/generator/triposr_small.yaml"),
    "gf-train-generator-reconfusion": ("gf-train-generator", "configs/generator/reconfusion_small.yaml"),
    "gf-image3d": ("gf-image3d",),
    "gf-export-splat": ("gf-export", "splat"),
    "gf-export-mesh": ("gf-export", "mesh"),
    "gf-export-points": ("gf-export", "points"),
    "gf-report": ("gf-report",),
    "gf-capture": ("gf-capture",),
    "gf-run": ("gf-run",),
    "gf-convert-generator": ("gf-convert-generator",),
    "gf-bench-generator": ("gf-bench-generator",),
    "gf-bench-loop": ("gf-bench-loop",),
    "gf-demo": ("gf-demo",),
    "gf-kill-test": ("gf-kill-test",),
    "gf-repair": ("gf-repair",),
    "gf-make-multiscale": ("gf-make-multiscale",),
    "gf-convert-mipnerf": ("gf-convert-mipnerf",),
    "gf-render-scales": ("gf-render-scales",),
    "ns-train-genfusion": ("ns-train", "genfusion"),
    "ns-train-genfusion-masked": ("ns-train", "genfusion-masked"),
    "ns-train-genfusion-completion": ("ns-train", "genfusion-completion"),
    "ns-train-mipnerf-multiscale": ("ns-train", "mipnerf-multiscale"),
    "ns-train-reconfusion": ("ns-train", "reconfusion"),
    "ns-train-reconfusion-nerfacto": ("ns-train", "reconfusion-nerfacto"),
}


def flags_of(text: str) -> list[str]:
    """Option names in alphabetical order; nested groups carry their dotted path."""
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", text))
    parts = ("fusion", "repairer", "mono-depth", "datamanager.", "model.")
    own = tuple(f"--pipeline.{part}" for part in parts)
    if flags & {f"--pipeline.{name}" for name in ("fusion.start", "fusion.reuse", "model.coarse-loss-weight")}:
        flags = {flag for flag in flags if flag.startswith(own)}
    return sorted(flags - {"--help"})


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_those_of_the_snapshot(name):
    flags = "\n".join(flags_of(run_here(*COMMANDS[name], "--help", cwd=REPOSITORY))) + "\n"
    snapshot = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(flags)
    assert snapshot.is_file(), f"{snapshot} is missing; UPDATE_SNAPSHOTS=1 writes it"
    assert flags == snapshot.read_text(), f"the flags of {name} changed; UPDATE_SNAPSHOTS=1 accepts them"


@pytest.mark.parametrize("words", [("gf-repair",), ("ns-train", "genfusion")])
def test_the_installed_programs_are_these_entry_points(words):
    assert flags_of(run_command(*words, "--help", cwd=REPOSITORY)) == flags_of(
        run_here(*words, "--help", cwd=REPOSITORY)
    )


def test_every_config_field_of_ours_has_help():
    import dataclasses
    import inspect

    from genfusion_ns.data.clips.frame_samples import FrameAugmentation
    from genfusion_ns.data.clips.pair_samples import AugmentationConfig
    from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
    from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
    from genfusion_ns.data.masking import MaskingConfig
    from genfusion_ns.data.multiscale.parser import MultiscaleBlenderDataParserConfig
    from genfusion_ns.data.multiscale.ray_datamanager import RayDataManagerConfig
    from genfusion_ns.data.objects.samples import ObjectSampling
    from genfusion_ns.data.views.samples import ViewSampling
    from genfusion_ns.fusion.cameras.clip_cameras import ClipSettings
    from genfusion_ns.fusion.cameras.completion import CompletionSamplerConfig
    from genfusion_ns.fusion.cameras.masked import MaskedSamplerConfig
    from genfusion_ns.fusion.cameras.novel import NovelViewSettings
    from genfusion_ns.fusion.cameras.sparse import SparseSamplerConfig
    from genfusion_ns.fusion.exporting.settings import (
        Crop,
        ExportSettings,
        MeshSettings,
        PointSettings,
        SplatSettings,
        ViewSettings,
    )
    from genfusion_ns.fusion.generator_training import (
        TrainCompactConfig,
        TrainConfig,
        TrainDynamiCrafterConfig,
        TrainOnClipsConfig,
        TrainReconFusionConfig,
        TrainTripoSRConfig,
    )
    from genfusion_ns.fusion.image_start.settings import Image3dSettings
    from genfusion_ns.fusion.multiscale.pipeline import MipNerfPipelineConfig
    from genfusion_ns.fusion.multiscale.trainer import MipNerfTrainerConfig
    from genfusion_ns.fusion.photo_depth import MonoDepthConfig
    from genfusion_ns.fusion.rounds.settings import RoundSettings
    from genfusion_ns.fusion.samples.nerfacto import SampledNerfactoPipelineConfig, SampledNerfactoTrainerConfig
    from genfusion_ns.fusion.samples.settings import SampleSettings
    from genfusion_ns.fusion.seeding import SeedingConfig
    from genfusion_ns.fusion.whole_run.settings import WholeRunSettings
    from genfusion_ns.models.mipnerf.model import MipNerfModelConfig
    from genfusion_ns.models.nerfacto import SparseNerfactoModelConfig
    from genfusion_ns.models.surfel_model import GenFusionModelConfig
    from genfusion_ns.priors.config import KINDS, RepairerConfig
    from genfusion_ns.priors.training.compact import NetworkConfig, OptimisationConfig
    from genfusion_ns.priors.training.lora import LoraSettings
    from genfusion_ns.priors.training.settings import (
        DynamiCrafterOptimisation,
        LoopConfig,
        ReconFusionOptimisation,
        ReconFusionSizes,
        TripoSROptimisation,
        TripoSRSizes,
    )
    from genfusion_ns.scripts.bench_loop import BenchLoop
    from genfusion_ns.scripts.capture import Capture
    from genfusion_ns.scripts.convert_mipnerf import ConvertMipNerf
    from genfusion_ns.scripts.image3d import Image3d
    from genfusion_ns.scripts.make_clips import MakeClips
    from genfusion_ns.scripts.make_multiscale import MakeMultiscale
    from genfusion_ns.scripts.render_scales import RenderScales
    from genfusion_ns.scripts.run import Run

    for config in (
        RoundSettings,
        SampleSettings,
        NovelViewSettings,
        SparseNerfactoModelConfig,
        SampledNerfactoPipelineConfig,
        SampledNerfactoTrainerConfig,
        ClipSettings,
        MonoDepthConfig,
        RepairerConfig,
        *KINDS.values(),
        SparseSamplerConfig,
        GenFusionModelConfig,
        GenFusionDataManagerConfig,
        MaskingConfig,
        CompletionSamplerConfig,
        MaskedSamplerConfig,
        SeedingConfig,
        AugmentationConfig,
        FrameAugmentation,
        NetworkConfig,
        OptimisationConfig,
        LoraSettings,
        DynamiCrafterOptimisation,
        LoopConfig,
        BenchLoop,
        MakeClips,
        MakeMultiscale,
        ConvertMipNerf,
        RenderScales,
        MultiscaleBlenderDataParserConfig,
        RayDataManagerConfig,
        MipNerfModelConfig,
        MipNerfPipelineConfig,
        MipNerfTrainerConfig,
        TrainConfig,
        TrainCompactConfig,
        TrainDynamiCrafterConfig,
        TrainOnClipsConfig,
        TrainTripoSRConfig,
        TripoSROptimisation,
        TripoSRSizes,
        TrainReconFusionConfig,
        ReconFusionOptimisation,
        ReconFusionSizes,
        ViewSampling,
        ObjectSampling,
        Image3dSettings,
        Image3d,
        Crop,
        ExportSettings,
        SplatSettings,
        ViewSettings,
        MeshSettings,
        PointSettings,
        CaptureFromPhotosSettings,
        Capture,
        WholeRunSettings,
        Run,
    ):
        source = inspect.getsource(config)
        inherited = {
            field.name for base in config.__mro__[1:] for field in getattr(base, "__dataclass_fields__", {}).values()
        }
        for field in dataclasses.fields(config):
            if (
                "Suppress" in str(field.type)
                or field.name == "_target"
                or (field.name in inherited and f"    {field.name}:" not in source)
            ):
                continue
            documented = re.search(rf'\n    {field.name}: [^\n]+\n    "', source)
            assert documented, f"{config.__name__}.{field.name} has no docstring, so --help says nothing about it"
