"""``gf-report``: a finished run as one HTML file, to open from disk and to pass on."""

from __future__ import annotations

import tyro

from genfusion_ns.errors import run_program
from genfusion_ns.fusion.page.settings import ReportSettings


def run(settings: ReportSettings) -> None:
    """Write the page; see `genfusion_ns.fusion.page`."""
    from genfusion_ns.fusion.page.job import write_report  # takes seconds to import, which --help should not

    write_report(settings)


def entrypoint() -> None:
    """Command line."""
    run_program("gf-report", lambda: run(tyro.cli(ReportSettings, prog="gf-report")))


if __name__ == "__main__":
    entrypoint()
