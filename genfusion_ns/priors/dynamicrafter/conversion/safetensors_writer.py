"""A safetensors file written tensor by tensor, so that a model never stands in memory as a whole.

Format (https://huggingface.co/docs/safetensors): the length of the header in 8 bytes, little endian; the header, JSON
with type, shape and byte range of each tensor; the bytes, without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, tensor: Callable[[str], Tensor]
) -> None:
    """Write one file.

    Args:
        path: where to.
        shapes: names and shapes, in the order of writing.
        dtype: float32, float16 or bfloat16, to which all tensors are converted.
        tensor: gives a tensor by its name, each once and in order.

    Raises:
        ValueError: a tensor of another shape, or with a value that is not finite in this type.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(_bytes_of(name, tensor(name), shape, dtype))


def _bytes_of(name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> memoryview:
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(shape)}")
    converted = value.to(dtype)
    if not bool(torch.isfinite(converted).all()):
        raise ValueError(
            f"{name} has values that are not finite as {_NAMES[dtype]}: the file is damaged, or another dtype is needed"
        )
    return converted.contiguous().reshape(-1).view(torch.uint8).numpy().data
