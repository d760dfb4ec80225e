"""Surfels in few bytes, for a page that unpacks them itself (`web/unpack.js`).

All values are rounded to even steps of a range: places to 24 bits, colours, sizes and opacities to 16, the three
smaller numbers of a quaternion to 10, harmonics above the constant band to 8. One array follows another, compressed by
zlib.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt32

from genfusion_ns.exports.splats import Splats

_ALIGNMENT = 4
_KINDS = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32}
_LEVELS_OF_QUATERNIONS = 1023
_TAILS = 1e-4
"""Share of the coefficients of a band at either end of its range that are cut off, so that a few large ones do not make
the steps of all others coarse."""

Ranges = list[list[float]]
"""Least and largest value of each column."""


@dataclass(frozen=True)
class PackedSurfels:
    """What the page holds of a scene."""

    header: dict[str, Any]
    """Number, degree, and per array its kind, offset, columns and range; ready for JSON."""
    content: bytes
    """All arrays, compressed."""


def pack(splats: Splats, seen: Int[np.ndarray, " N"], sides: Int[np.ndarray, " N"]) -> PackedSurfels:
    """Round and compress surfels.

    Args:
        splats: at least one, finite.
        seen: number of photos that see each of them; above 255 counts as 255.
        sides: from which sides they are shown, as `seen_sides` has it.
    """
    opacities = 1 / (1 + np.exp(-splats.logits.astype(np.float64)))
    places, place_ranges = _rounded(splats.means, 2**24 - 1)
    arrays: dict[str, tuple[str, np.ndarray, Ranges]] = {
        "quat": ("u4", _packed_quats(splats.quats)[:, None], []),
        "place_low": ("u2", places & 65535, place_ranges),
        "size": ("u2", *_rounded(splats.log_scales[:, :2], 65535)),
        "opacity": ("u2", *_rounded(opacities[:, None], 65535)),
        "dc": ("u2", *_rounded(splats.dc, 65535)),
        "place_high": ("u1", places >> 16, place_ranges),
        "seen": ("u1", np.minimum(seen, 255)[:, None], []),
        "sides": ("u1", sides[:, None], []),
    }
    degree = math.isqrt(splats.rest.shape[1] + 1) - 1
    if degree:
        rest = splats.rest.reshape(len(splats), -1)
        arrays["rest"] = ("u1", *_rounded(rest, 255, _TAILS))
    return _laid_out(arrays, len(splats), degree)


def unpack(packed: PackedSurfels) -> Splats:
    """What the page makes of it; see `web/unpack.js`."""
    header, content = packed.header, zlib.decompress(packed.content)
    count, degree = header["count"], header["degree"]

    def whole(name: str) -> np.ndarray:
        array = header["arrays"][name]
        kind, columns = np.dtype(_KINDS[array["kind"]]), array["columns"]
        flat = np.frombuffer(content, kind, count * columns, array["offset"])
        return flat.reshape(count, columns)

    def values(name: str, levels: int, integers: np.ndarray | None = None) -> np.ndarray:
        least, most = np.asarray(header["arrays"][name]["range"]).T
        return (least + (most - least) / levels * (whole(name) if integers is None else integers)).astype(np.float32)

    places = whole("place_low").astype(np.int64) + 65536 * whole("place_high").astype(np.int64)
    sizes, opacities = values("size", 65535), values("opacity", 65535)[:, 0].astype(np.float64)
    rest = values("rest", 255).reshape(count, -1, 3) if degree else np.zeros((count, 0, 3), np.float32)
    return Splats(
        means=values("place_low", 2**24 - 1, places),
        quats=_unpacked_quats(whole("quat")[:, 0]),
        log_scales=np.concatenate([sizes, sizes.min(axis=1, keepdims=True)], axis=1),
        logits=np.log(opacities / (1 - opacities).clip(1e-9)).astype(np.float32),
        dc=values("dc", 65535),
        rest=rest,
    )


def _rounded(
    values: Float[np.ndarray, "N columns"], levels: int, tails: float = 0.0
) -> tuple[Int[np.ndarray, "N columns"], Ranges]:
    """Whole numbers 0..levels, even steps from the least to the largest value of a column."""
    exact = values.astype(np.float64)
    least, most = np.quantile(exact, [tails, 1 - tails], axis=0)
    step = np.where(most > least, most - least, 1.0) / levels
    whole = np.round((exact - least) / step).clip(0, levels).astype(np.int64)
    return whole, np.stack([least, least + step * levels], axis=1).tolist()


def _packed_quats(quats: Float[np.ndarray, "N 4"]) -> UInt32[np.ndarray, " N"]:
    """Two bits say which number is largest; the other three follow, which lie within 1/sqrt(2) of 0."""
    unit = quats.astype(np.float64) / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(unit).argmax(axis=1)
    signed = unit * np.where(np.take_along_axis(unit, largest[:, None], 1) < 0, -1.0, 1.0)
    others = signed[np.arange(4) != largest[:, None]].reshape(-1, 3)
    scaled = np.round((others * math.sqrt(0.5) + 0.5) * _LEVELS_OF_QUATERNIONS).clip(0, _LEVELS_OF_QUATERNIONS)
    bits = scaled.astype(np.uint32)
    return largest.astype(np.uint32) << 30 | bits[:, 0] << 20 | bits[:, 1] << 10 | bits[:, 2]


def _unpacked_quats(packed: UInt32[np.ndarray, " N"]) -> Float[np.ndarray, "N 4"]:
    largest = (packed >> 30).astype(np.int64)
    bits = np.stack([packed >> 20, packed >> 10, packed], axis=1) & 1023
    others = bits / _LEVELS_OF_QUATERNIONS * math.sqrt(2) - math.sqrt(0.5)
    quats = np.zeros((len(packed), 4))
    quats[np.arange(4) != largest[:, None]] = others.ravel()
    np.put_along_axis(quats, largest[:, None], np.sqrt((1 - (others**2).sum(1)).clip(0))[:, None], 1)
    return quats.astype(np.float32)


def _laid_out(arrays: dict[str, tuple[str, np.ndarray, Ranges]], count: int, degree: int) -> PackedSurfels:
    described, parts, offset = {}, [], 0
    for name, (kind, values, ranges) in arrays.items():
        content = np.ascontiguousarray(values.astype(_KINDS[kind])).tobytes()
        described[name] = {"kind": kind, "offset": offset, "columns": values.shape[1], "range": ranges}
        padding = -len(content) % _ALIGNMENT
        parts += [content, bytes(padding)]
        offset += len(content) + padding
    header = {"count": count, "degree": degree, "arrays": described}
    return PackedSurfels(header, zlib.compress(b"".join(parts), 9))
