"""pycolmap, which only `gf-capture` needs: asked for by name where it is missing, and silent."""

from __future__ import annotations

from typing import Any


def load_colmap() -> Any:
    """The library.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(
            "poses are found by pycolmap, which is not installed: pip install 'genfusion-ns[capture]'; or bring poses "
            "from elsewhere, such as ns-process-data, Polycam or COLMAP itself"
        ) from error
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)  # what matters is said in our words
    return pycolmap
