"""``gf-train-generator``: train the compact repairer on clip pairs written by ``gf-make-clips``."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch
import tyro
import yaml

from genfusion_ns.data.clip_sampling import AugmentationConfig, ClipDataset, ClipSource
from genfusion_ns.data.clips import ClipFolder, Provenance, list_pairs, read_provenance, write_pair
from genfusion_ns.data.degradation import degrade_pair
from genfusion_ns.data.procedural_clips import procedural_pair
from genfusion_ns.priors.compact import load_network
from genfusion_ns.priors.training import OptimisationConfig, train


@dataclass
class TrainGeneratorConfig:
    """Train the compact repairer on a folder of clip pairs."""

    clips: Path | None = None
    """Folder of clip pairs, as gf-make-clips writes it; without it, procedural worlds are used alone."""
    output: Path = Path("generator")
    """Folder for the network; pass it to a run as --pipeline.repairer.model."""
    held_out_captures: tuple[str, ...] = ()
    """Captures kept for validation; without any, every 10th clip is kept."""
    held_out_limit: int = 12
    """Most clips used in validation."""
    procedural: int = 150
    """Procedural clip pairs, made in the output folder before training."""
    procedural_share: float = 0.2
    """Share of training samples that are procedural, where there are other clips."""
    resume: bool = True
    """Go on from the checkpoint in the output folder where there is one."""
    initial: Path | None = None
    """Folder of a network to start from."""
    threads: int | None = None
    """CPU threads; by default as many as there are cores."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What samples look like."""
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    """How the network is trained."""


def main(config: TrainGeneratorConfig) -> None:
    """Train, validate and write the network of `config`."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config.output.mkdir(parents=True, exist_ok=True)
    record = config.output / "training.yaml"
    record.write_text(yaml.safe_dump(_to_plain(config), sort_keys=False))
    sources, held_out = _gather(config)
    optimisation = config.optimisation
    batches = ClipDataset(
        sources,
        config.augmentation,
        optimisation.batch_size,
        optimisation.steps,
        optimisation.seed,
        degrade=degrade_pair,
    )
    initial = None if config.initial is None else load_network(config.initial)
    report = train(batches, ClipFolder(held_out), config.output, optimisation, config.resume, initial)
    if report is not None:
        print(f"{config.output}: {report.summary()}")


def _gather(config: TrainGeneratorConfig) -> tuple[list[ClipSource], list[Path]]:
    """Training sources and held-out clips."""
    made = _make_procedural(config)
    if config.clips is None:
        if len(made) < 2:
            raise ValueError("without --clips, --procedural must be at least 2: one to train on, one to hold out")
        kept = max(1, min(config.held_out_limit, len(made) // 10))
        return [ClipSource(made[kept:], 1.0)], made[:kept]
    paths = list_pairs(config.clips)
    if config.held_out_captures:
        names = {path: read_provenance(path).capture for path in paths}
        unknown = sorted(set(config.held_out_captures) - set(names.values()))
        if unknown:
            known = sorted(set(names.values()))
            raise ValueError(f"--held-out-captures {unknown} are not in {config.clips}, which has {known}")
        held_out = [path for path in paths if names[path] in config.held_out_captures]
    else:
        held_out = paths[::10]
    training = [path for path in paths if path not in set(held_out)]
    if not training:
        raise ValueError(f"all {len(paths)} clips of {config.clips} are held out; nothing is left to train on")
    stride = -(-len(held_out) // config.held_out_limit)
    sources = [ClipSource(training, 1 - config.procedural_share)]
    if made and config.procedural_share > 0:
        sources.append(ClipSource(made, config.procedural_share))
    return sources, held_out[::stride]


def _make_procedural(config: TrainGeneratorConfig) -> list[Path]:
    """The procedural clip pairs of the output folder; those that exist already are kept."""
    if config.clips is not None and config.procedural_share <= 0:
        return []
    folder, seed = config.output / "procedural", config.optimisation.seed
    paths = []
    for index in range(config.procedural):
        path = folder / f"world_{seed}_{index:04d}.npz"
        if not path.is_file():
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            write_pair(folder, path.stem, procedural_pair(generator), Provenance("procedural", "none", seed))
        paths.append(path)
    return paths


def read_config(path: Path) -> TrainGeneratorConfig:
    """Config from a YAML file whose keys are the field names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is unknown.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    return _fill(TrainGeneratorConfig, yaml.safe_load(path.read_text()) or {}, str(path))


def _fill(cls: type, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{where}: unknown keys {unknown}; allowed are {sorted(hints)}")
    filled = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _fill(hints[name], value, f"{where}: {name}")
        elif isinstance(value, list):
            value = tuple(value)
        elif "Path" in str(hints[name]) and value is not None:
            value = Path(value)
        filled[name] = value
    return cls(**filled)


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def entrypoint() -> None:
    """Command line: options, optionally after the path of a YAML file that gives other defaults."""
    arguments = sys.argv[1:]
    default = TrainGeneratorConfig()
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        default = read_config(Path(arguments.pop(0)))
    main(tyro.cli(TrainGeneratorConfig, default=default, args=arguments, prog="gf-train-generator"))


if __name__ == "__main__":
    entrypoint()
