"""genfusion_ns: surfel reconstruction and video generation in one loop, as a nerfstudio plugin."""

import io
import sys

from genfusion_ns.moved import answer_for_old_names

__version__ = "0.1.0"


def _print_anything() -> None:
    """In a locale without Unicode, print what it lacks as escapes: names of files and nerfstudio's emoji."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")


_print_anything()
answer_for_old_names()
