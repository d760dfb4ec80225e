"""Splats as the PLY file of 3DGS, which nearly every viewer and editor reads."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float
from plyfile import PlyData, PlyElement

from genfusion_ns.exports.splats import Splats


def splat_ply(splats: Splats, normals: Float[np.ndarray, "N 3"]) -> bytes:
    """The content of the file; colours above the constant band go channel by channel, as 3DGS has them."""
    columns: dict[str, np.ndarray] = dict(zip(("x", "y", "z"), splats.means.T, strict=True))
    columns |= zip(("nx", "ny", "nz"), normals.T, strict=True)
    columns |= {f"f_dc_{i}": splats.dc[:, i] for i in range(3)}
    by_channel = splats.rest.transpose(0, 2, 1).reshape(len(splats), -1)
    columns |= {f"f_rest_{i}": by_channel[:, i] for i in range(by_channel.shape[1])}
    columns |= {"opacity": splats.logits}
    columns |= {f"scale_{i}": splats.log_scales[:, i] for i in range(3)}
    columns |= {f"rot_{i}": splats.quats[:, i] for i in range(4)}
    rows = np.empty(len(splats), dtype=[(name, "<f4") for name in columns])
    for name, values in columns.items():
        rows[name] = values
    stream = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(stream)
    return stream.getvalue()
