"""Splats as glTF with the extension KHR_gaussian_splatting of Khronos, in one binary file.

Readers that do not know the extension show the points with their colours.
"""

from __future__ import annotations

import json
import math
import struct

import numpy as np

from genfusion_ns.exports.harmonics import C0
from genfusion_ns.exports.splats import Splats

_NAME = "KHR_gaussian_splatting"
_FLOAT, _BYTE = 5126, 5121
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def splat_glb(splats: Splats) -> bytes:
    """The content of the file; the frame of the splats is to have y up. Sizes and opacities are linear in it."""
    opacity = 1 / (1 + np.exp(-splats.logits.astype(np.float64)))
    colour = np.concatenate([(0.5 + C0 * splats.dc).clip(0, 1), opacity[:, None]], axis=1)
    values: dict[str, np.ndarray] = {
        "POSITION": splats.means,
        "COLOR_0": np.round(255 * colour).astype(np.uint8),
        f"{_NAME}:ROTATION": np.roll(splats.quats, -1, axis=1),
        f"{_NAME}:SCALE": np.exp(splats.log_scales),
        f"{_NAME}:OPACITY": opacity,
        f"{_NAME}:SH_DEGREE_0_COEF_0": splats.dc,
    }
    for band in range(splats.rest.shape[1]):
        degree = math.isqrt(band + 1)
        values[f"{_NAME}:SH_DEGREE_{degree}_COEF_{band + 1 - degree**2}"] = splats.rest[:, band]
    chunks, accessors, views, offset = [], [], [], 0
    for name, value in values.items():
        stored = np.ascontiguousarray(value, dtype=np.uint8 if name == "COLOR_0" else "<f4")
        accessor: dict = {
            "bufferView": len(views),
            "componentType": _BYTE if name == "COLOR_0" else _FLOAT,
            "count": len(stored),
            "type": _KINDS[1 if stored.ndim == 1 else stored.shape[1]],
        }
        if name == "COLOR_0":
            accessor["normalized"] = True
        if name == "POSITION":
            accessor |= {"min": stored.min(0).tolist(), "max": stored.max(0).tolist()}
        accessors.append(accessor)
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": stored.nbytes, "target": 34962})
        chunks.append(stored.tobytes())
        offset += stored.nbytes
    primitive = {
        "attributes": {name: index for index, name in enumerate(values)},
        "mode": 0,
        "extensions": {_NAME: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    document = {
        "asset": {"version": "2.0", "generator": "genfusion-ns"},
        "extensionsUsed": [_NAME],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    return _glb(json.dumps(document, separators=(",", ":")).encode(), b"".join(chunks))


def _glb(document: bytes, data: bytes) -> bytes:
    document += b" " * (-len(document) % 4)
    data += b"\0" * (-len(data) % 4)
    parts = struct.pack("<II", len(document), 0x4E4F534A) + document + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(parts)) + parts
