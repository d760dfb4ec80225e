"""``gf-export``: splats, a mesh or points of a run, as files that other programs read."""

from __future__ import annotations

from typing import Annotated

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.exporting.settings import MeshSettings, PointSettings, SplatSettings

Exports = (
    Annotated[SplatSettings, tyro.conf.subcommand("splat")]
    | Annotated[MeshSettings, tyro.conf.subcommand("mesh")]
    | Annotated[PointSettings, tyro.conf.subcommand("points")]
)


def run(settings: SplatSettings | MeshSettings | PointSettings) -> None:
    """Write what is asked for; see `genfusion_ns.fusion.exporting`."""
    # These take seconds to import, which --help should not.
    if isinstance(settings, SplatSettings):
        from genfusion_ns.fusion.exporting.splats import export_splats

        export_splats(settings)
    elif isinstance(settings, MeshSettings):
        from genfusion_ns.fusion.exporting.mesh import export_mesh

        export_mesh(settings)
    else:
        from genfusion_ns.fusion.exporting.points import export_points

        export_points(settings)


def entrypoint() -> None:
    """Command line."""
    run_program("gf-export", lambda: run(tyro.cli(Exports, prog="gf-export", description=__doc__)))


if __name__ == "__main__":
    entrypoint()
