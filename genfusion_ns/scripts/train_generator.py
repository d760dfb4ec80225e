"""``gf-train-generator``: train a generator, repairers on clips and a TripoSR on objects."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.generator_training import AnyTrainConfig, TrainCompactConfig, read_config, train_generator


def entrypoint() -> None:
    """Command line: options, optionally after the path of a YAML file that gives other defaults."""
    run_program("gf-train-generator", lambda: _run(sys.argv[1:]))


def _run(arguments: list[str]) -> None:
    default: AnyTrainConfig = TrainCompactConfig()
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        default = read_config(Path(arguments.pop(0)))
    train_generator(tyro.cli(type(default), default=default, args=arguments, prog="gf-train-generator"))


if __name__ == "__main__":
    entrypoint()
