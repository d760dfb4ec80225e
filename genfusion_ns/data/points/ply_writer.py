"""Point clouds as PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from plyfile import PlyData, PlyElement


def write_points(
    path: Path,
    xyz: Float[np.ndarray, "M 3"],
    rgb: UInt8[np.ndarray, "M 3"],
    normals: Float[np.ndarray, "M 3"] | None = None,
) -> None:
    """Write points with colours, and normals where there are some, as a binary PLY file."""
    columns: dict[str, np.ndarray] = dict(zip(("x", "y", "z"), xyz.T, strict=True))
    if normals is not None:
        columns |= zip(("nx", "ny", "nz"), normals.T, strict=True)
    kinds = [(name, "f4") for name in columns] + [(name, "u1") for name in ("red", "green", "blue")]
    columns |= zip(("red", "green", "blue"), rgb.T, strict=True)
    rows = np.empty(len(xyz), dtype=kinds)
    for name, values in columns.items():
        rows[name] = values
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))
