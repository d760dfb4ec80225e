"""``gf-sample-scene OUT``: write a generated capture to try the method on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from genfusion_ns.data.sample_scene.capture import SampleSceneConfig, write_sample_scene
from genfusion_ns.errors import run_program


@dataclass
class Command(SampleSceneConfig):
    """Write a generated capture of a room or a yard: images, depths, points, poses and few-view splits."""

    out: tyro.conf.Positional[Path] = tyro.MISSING
    """Folder to write; it must be new or empty."""
    overwrite: bool = False
    """Replace an earlier sample scene in that folder."""


def main(command: Command) -> None:
    """Write the capture and say where it is."""
    write_sample_scene(command, command.out, command.overwrite)
    print(f"Wrote {command.num_views} views of {command.layout} {command.world} {command.seed} to {command.out}")


def entrypoint() -> None:
    """Console script; user errors end with one line and exit status 1."""
    command = tyro.cli(Command)
    run_program("gf-sample-scene", lambda: main(command))


if __name__ == "__main__":
    entrypoint()
