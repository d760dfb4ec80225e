"""The training of a generator: repairers on clips, TripoSR on objects, ReconFusion on views; settings and the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml
from tyro.conf import Suppress

from genfusion_ns.data.clips.frame_samples import FrameAugmentation
from genfusion_ns.data.clips.pair_samples import AugmentationConfig
from genfusion_ns.data.objects.samples import ObjectSampling
from genfusion_ns.data.views.samples import ViewSampling
from genfusion_ns.files import write_atomically
from genfusion_ns.priors.training.settings import (
    DynamiCrafterOptimisation,
    OptimisationConfig,
    ReconFusionOptimisation,
    TripoSROptimisation,
)
from genfusion_ns.yaml_files import read_yaml
from genfusion_ns.yaml_settings import read_settings, to_plain

if TYPE_CHECKING:
    from accelerate import Accelerator

    from genfusion_ns.priors.training.validation import Report

_RECORD = "training.yaml"
_GENERATORS = ("model_index.json", "config.json")


@dataclass
class TrainConfig:
    """What all trainings have in common."""

    output: Path = Path("generator")
    """Folder for the generator; pass it to a run as --pipeline.repairer.model. The same command goes on with a training
    that was interrupted."""
    initial: str | None = None
    """Generator to start from: a folder; with dynamicrafter also a checkpoint file or a name on the Hugging Face hub.
    By default the result of the parent, where the YAML file names one."""
    resume: bool = True
    """Go on from the checkpoint in the output folder where there is one."""
    threads: int | None = None
    """CPU threads; by default as many as there are cores."""
    parent: Suppress[Path | None] = None
    """YAML file that settings were taken over from."""


@dataclass
class TrainOnClipsConfig(TrainConfig):
    """What trainings on clips have in common."""

    clips: Path | None = None
    """Folder of clips: those of gf-make-clips, or in the layout that GenFusion published."""
    held_out_captures: tuple[str, ...] = ()
    """Captures kept for validation; without any, every 10th clip is kept."""
    held_out_limit: int = 12
    """Most clips used in validation."""


@dataclass
class TrainCompactConfig(TrainOnClipsConfig):
    """Train the compact repairer, the small generator that comes with the package.

    The first argument may be a YAML file with other defaults, such as configs/generator/compact.yaml. Those of
    dynamicrafter generators (configs/generator/dynamicrafter_*.yaml) have options of their own; ask for help after one.
    """

    generator: Suppress[Literal["compact"]] = "compact"
    """What is trained."""
    procedural: int = 150
    """Procedural clip pairs, made in the output folder before training."""
    procedural_share: float = 0.2
    """Share of training samples that are procedural, where there are other clips."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What samples look like."""
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    """How the network is trained."""


@dataclass
class TrainDynamiCrafterConfig(TrainOnClipsConfig):
    """Train a generator of the dynamicrafter family, such as the one that GenFusion published.

    Several GPUs or machines, FSDP and DeepSpeed: accelerate launch -m genfusion_ns.scripts.train_generator CONFIG ...
    """

    generator: Suppress[Literal["dynamicrafter"]] = "dynamicrafter"
    """What is trained."""
    vae: Path | None = None
    """Folder of an RGB-D autoencoder, Intel/ldm3d-4c's, where --initial is a base checkpoint file."""
    augmentation: FrameAugmentation = field(default_factory=FrameAugmentation)
    """What samples look like."""
    optimisation: DynamiCrafterOptimisation = field(default_factory=DynamiCrafterOptimisation)
    """How the network is trained."""


@dataclass
class TrainTripoSRConfig(TrainConfig):
    """Train a TripoSR, which makes a 3D object of one image, from published weights or small from nothing.

    It learns from objects that are made by our own code, or from captures in Blender's format whose images have alpha.
    Several GPUs or machines: accelerate launch -m genfusion_ns.scripts.train_generator CONFIG ...
    """

    generator: Suppress[Literal["triposr"]] = "triposr"
    """What is trained."""
    objects: Path | None = None
    """Folder of captures in Blender's format, or one of them; by default objects are made."""
    held_out_objects: tuple[str, ...] = ()
    """Names of captures kept for validation; without any, every 10th object is kept, and the only one judges itself."""
    held_out_limit: int = 12
    """Most objects used in validation."""
    procedural: int = 200
    """Objects that are made where --objects names none."""
    views: int = 12
    """Views of each object that is made."""
    view_size: int = 64
    """Pixels along a view; captures are shrunk to it."""
    sampling: ObjectSampling = field(default_factory=ObjectSampling)
    """What samples look like."""
    optimisation: TripoSROptimisation = field(default_factory=TripoSROptimisation)
    """How the network is trained."""


@dataclass
class TrainReconFusionConfig(TrainOnClipsConfig):
    """Train ReconFusion's prior, which draws a view from its render and posed photos.

    Small from nothing, or full from the weights of Stable Diffusion; on clips of gf-make-clips, on captures, or both.
    Several GPUs or machines: accelerate launch -m genfusion_ns.scripts.train_generator CONFIG ...
    """

    generator: Suppress[Literal["reconfusion"]] = "reconfusion"
    """What is trained."""
    captures: tuple[Path, ...] = ()
    """Folders of captures in any format that runs read; every 10th photo is kept for validation."""
    captures_share: float = 0.5
    """Share of the batches that are of captures, where there are clips as well."""
    image_encoder: str | None = None
    """Folder of a CLIP image encoder, or its name on the hub, where --initial is a Stable Diffusion."""
    sampling: ViewSampling = field(default_factory=ViewSampling)
    """What samples look like."""
    optimisation: ReconFusionOptimisation = field(default_factory=ReconFusionOptimisation)
    """How the networks are trained."""


AnyTrainConfig = TrainCompactConfig | TrainDynamiCrafterConfig | TrainTripoSRConfig | TrainReconFusionConfig


def train_generator(config: AnyTrainConfig) -> None:
    """Train, validate and write the generator of `config`.

    Raises:
        FileNotFoundError: clips, or the generator to start from, are missing.
        ValueError: settings that no training can have, or files that are damaged.
        FloatingPointError: the training diverged.
    """
    # Takes seconds to import, which --help should not; so in the functions below.
    from genfusion_ns.priors.training.loop import build_accelerator

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    initial = starting_point(config)
    accelerator = build_accelerator(config.optimisation)
    if accelerator.is_main_process:
        config.output.mkdir(parents=True, exist_ok=True)
        write_atomically(config.output / _RECORD, yaml.safe_dump(to_plain(config), sort_keys=False).encode())
        loop, processes = config.optimisation, accelerator.num_processes
        print(
            f"Training on {processes} process(es), {accelerator.device.type}: {loop.batch_size} samples x "
            f"{loop.accumulation} batches x {processes} = {loop.batch_size * loop.accumulation * processes} per step"
        )
    trainings: dict[type, Callable[..., Report | None]] = {
        TrainCompactConfig: _train_compact,
        TrainDynamiCrafterConfig: _train_dynamicrafter,
        TrainTripoSRConfig: _train_triposr,
        TrainReconFusionConfig: _train_reconfusion,
    }
    report = trainings[type(config)](config, initial, accelerator)
    if report is not None:
        print(f"{config.output}: {report.summary()}")
    accelerator.end_training()


def starting_point(config: AnyTrainConfig) -> str | None:
    """What a training starts from: what was asked for, else the result of the parent, else nothing.

    Raises:
        FileNotFoundError: the parent has not been trained, or there is nothing to start from where it is needed.
        ValueError: the parent has not been trained to its end, or start and output are the same folder.
    """
    initial = config.initial
    if initial is None and config.parent is not None:
        initial = str(_result_of(config.parent))
    if initial is None and isinstance(config, TrainDynamiCrafterConfig):
        raise FileNotFoundError(
            "a dynamicrafter generator is not trained from nothing: give --initial FOLDER, which gf-convert-generator "
            "CHECKPOINT FOLDER --dtype float32 makes, or the checkpoint itself; GenFusion started from the model.ckpt "
            "of DynamiCrafter_512_Interp with --vae, a copy of the autoencoder of Intel/ldm3d-4c"
        )
    if initial is not None and Path(initial).resolve() == config.output.resolve():
        raise ValueError(
            f"the training would start from {initial} and write to it; give another --output. To go on with an "
            "interrupted training, repeat its command"
        )
    return initial


def _result_of(parent: Path) -> Path:
    """The generator that the training of a YAML file has written."""
    from genfusion_ns.priors.training.checkpoints import checkpoint_step

    output = read_config(parent).output
    command = f"gf-train-generator {parent}"
    other = "or name a generator with --initial"
    record = output / _RECORD
    if not record.is_file() or not any((output / name).is_file() for name in _GENERATORS):
        raise FileNotFoundError(f"{parent} has not been trained: {output} holds no generator. Run {command}, {other}")
    done = checkpoint_step(output)
    steps = read_yaml(record, f"Run {command} again, {other}.")["optimisation"]["steps"].whole("a number of steps", 1)
    if done < steps:
        raise ValueError(
            f"{parent} has been trained for {done} of {steps} steps. Run {command} to finish it, {other}: {output} for "
            "what there is"
        )
    return output


def _train_compact(config: TrainCompactConfig, initial: str | None, accelerator: Accelerator) -> Report | None:
    from genfusion_ns.data.clips.degradation import degrade_pair
    from genfusion_ns.data.clips.pair_samples import ClipDataset
    from genfusion_ns.data.clips.pairs import ClipFolder
    from genfusion_ns.fusion.training_data import compact_sources, make_procedural
    from genfusion_ns.priors.compact.repairer import load_network
    from genfusion_ns.priors.training.compact import train

    optimisation = config.optimisation
    wanted = config.procedural if config.clips is None or config.procedural_share > 0 else 0
    with accelerator.main_process_first():
        procedural = make_procedural(config.output / "procedural", wanted, optimisation.seed)
    sources, held_out = compact_sources(
        config.clips, procedural, config.procedural_share, config.held_out_captures, config.held_out_limit
    )
    batches = ClipDataset(
        sources,
        config.augmentation,
        batch_size=optimisation.batch_size,
        batches=optimisation.batches(accelerator.num_processes),
        seed=optimisation.seed,
        degrade=degrade_pair,
    )
    network = None if initial is None else load_network(Path(initial))
    return train(batches, ClipFolder(held_out), config.output, optimisation, config.resume, network, accelerator)


def _train_triposr(config: TrainTripoSRConfig, initial: str | None, accelerator: Accelerator) -> Report | None:
    from genfusion_ns.data.objects.samples import ObjectDataset, judged
    from genfusion_ns.fusion.object_data import mean_view, split_objects
    from genfusion_ns.priors.training.triposr import train
    from genfusion_ns.priors.triposr.loading import load_network

    optimisation = config.optimisation
    config.sampling.check(config.view_size)
    training, held_out = split_objects(config)
    batches = ObjectDataset(
        training,
        config.sampling,
        batch_size=optimisation.batch_size,
        batches=optimisation.batches(accelerator.num_processes),
        seed=optimisation.seed,
    )
    network = None if initial is None else load_network(initial)
    mean = mean_view(training)
    kept = [judged(views, config.sampling, optimisation.validation_views) for views in held_out]
    return train(batches, kept, mean, config.output, optimisation, config.resume, network, accelerator)


def _train_dynamicrafter(config: TrainDynamiCrafterConfig, initial: str, accelerator: Accelerator) -> Report | None:
    from genfusion_ns.data.clips.frame_samples import FrameClipDataset
    from genfusion_ns.fusion.training_data import HeldOutWindows, split_clips
    from genfusion_ns.priors.dynamicrafter.architecture import Architecture
    from genfusion_ns.priors.training.dynamicrafter import train
    from genfusion_ns.priors.training.initial import initial_folder

    optimisation = config.optimisation
    if config.clips is None:
        raise ValueError("--clips is missing: the folder of clips to train on, which gf-make-clips writes")
    split = split_clips(config.clips, config.held_out_captures, config.held_out_limit)
    batches = FrameClipDataset(
        split.training,
        optimisation.size,
        frames=optimisation.frames,
        batch_size=optimisation.batch_size,
        batches=optimisation.batches(accelerator.num_processes),
        seed=optimisation.seed,
        augmentation=config.augmentation,
    )
    held_out = HeldOutWindows(split.held_out, optimisation.size, optimisation.frames, config.held_out_limit)
    with accelerator.main_process_first():
        folder = initial_folder(initial, config.vae, Architecture(size=optimisation.size))
    return train(batches, held_out, folder, config.output, optimisation, config.resume, accelerator)


def _train_reconfusion(config: TrainReconFusionConfig, initial: str | None, accelerator: Accelerator) -> Report | None:
    from genfusion_ns.fusion.view_data import view_data
    from genfusion_ns.priors.reconfusion.architecture import small_pipeline
    from genfusion_ns.priors.reconfusion.initial import starting_pipeline
    from genfusion_ns.priors.training.reconfusion import seed_everything, train

    optimisation = config.optimisation
    seed_everything(optimisation)
    with accelerator.main_process_first():
        if initial is None:
            pipeline = small_pipeline(optimisation.network)
        else:
            pipeline = starting_pipeline(initial, config.image_encoder, optimisation.network.size)
    data = view_data(
        config,
        pipeline.resolution,
        pipeline.facts.num_references,
        batch_size=optimisation.batch_size,
        batches=optimisation.batches(accelerator.num_processes),
        seed=optimisation.seed,
    )
    return train(pipeline, data.batches, data.held_out, config.output, optimisation, config.resume, accelerator)


def read_config(path: Path) -> AnyTrainConfig:
    """Config of a YAML file; errors as in `read_settings`."""
    return read_settings(path, _kind)


def _kind(settings: Mapping[str, Any]) -> type[AnyTrainConfig]:
    kinds: dict[Any, type[AnyTrainConfig]] = {
        "dynamicrafter": TrainDynamiCrafterConfig,
        "triposr": TrainTripoSRConfig,
        "reconfusion": TrainReconFusionConfig,
    }
    name = settings.get("generator")
    return kinds.get(name, TrainCompactConfig) if isinstance(name, str) else TrainCompactConfig
