"""Point clouds as PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from plyfile import PlyData, PlyElement


def write_points(path: Path, xyz: Float[np.ndarray, "M 3"], rgb: UInt8[np.ndarray, "M 3"]) -> None:
    """Write points with colours as a binary PLY file."""
    kinds = [(name, "f4") for name in ("x", "y", "z")] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(xyz), dtype=kinds)
    for k in range(3):
        rows["xyz"[k]], rows[("red", "green", "blue")[k]] = xyz[:, k], rgb[:, k]
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))
