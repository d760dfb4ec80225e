"""Splats in every format by the ending of the file; what compresses them are libraries of the extra ``export``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from genfusion_ns.exports.splat_gltf import splat_glb
from genfusion_ns.exports.splat_ply import splat_ply
from genfusion_ns.exports.splats import Splats
from genfusion_ns.files import write_atomically

ENDINGS = (".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb")
Y_UP = (".glb",)
"""Formats that have y up."""
SPZ_VERSIONS = (2, 3, 4)
_SPZ_REACH = 2047.0
"""Coordinates of spz files end here: 24 bits, 4096 steps in a unit."""


def check_libraries(ending: str) -> None:
    """Refuse a format whose library is missing, before any work is done.

    Raises:
        ImportError: it is not installed.
    """
    wanted = {".compressed.ply": "gsply", ".splat": "gaussforge", ".spz": "gaussforge", ".sog": "gaussforge"}
    if ending not in wanted:
        return
    try:
        __import__(wanted[ending])
    except ImportError as error:
        raise ImportError(
            f"{ending} needs {wanted[ending]}: pip install 'genfusion-ns[export]', or choose .ply or .glb"
        ) from error


def write_splats(
    path: Path, ending: str, splats: Splats, normals: Float[np.ndarray, "N 3"], spz_version: int = 4
) -> None:
    """Write splats, completely or not at all.

    Args:
        path: of the file.
        ending: one of `ENDINGS`, which chooses the format.
        splats: at least one; for `Y_UP` formats in a frame with y up.
        normals: of each, for .ply.
        spz_version: for .spz.

    Raises:
        ImportError: see `check_libraries`.
        ValueError: the format cannot hold them.
        WriteError: the disk is full or not writable.
    """
    if ending == ".ply":
        content = splat_ply(splats, normals)
    elif ending == ".glb":
        content = splat_glb(splats)
    elif ending == ".compressed.ply":
        content = _compressed_ply(splats)
    else:
        content = _converted(splats, normals, ending[1:], spz_version)
    write_atomically(path, content, "the splats")


def _compressed_ply(splats: Splats) -> bytes:
    import gsply

    parts = (splats.means, splats.log_scales, splats.quats, splats.logits, splats.dc)
    arrays = [np.ascontiguousarray(part, dtype=np.float32) for part in parts]
    rest = np.ascontiguousarray(splats.rest, dtype=np.float32) if splats.rest.shape[1] else None
    return gsply.compress_to_bytes(*arrays, shN=rest)


def _converted(splats: Splats, normals: np.ndarray, kind: str, spz_version: int) -> bytes:
    import gaussforge

    farthest = float(np.abs(splats.means).max())
    if kind == "spz" and farthest > _SPZ_REACH:
        raise ValueError(
            f"an .spz file ends {_SPZ_REACH:g} units from its middle, and this scene reaches {farthest:.4g}; crop it "
            "(--crop.obb-scale), or choose .sog or .ply"
        )
    result = gaussforge.GaussForge().convert(splat_ply(splats, normals), "ply", kind, spz_version=spz_version)
    if "data" not in result:
        raise RuntimeError(f"gaussforge did not write .{kind}: {result.get('error')}")
    return bytes(result["data"])
