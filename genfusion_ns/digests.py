"""A checksum over nested tensors, numbers and strings: the same for what was saved and what is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def digest_of(value: Any) -> str:
    """SHA-256 of a state as `torch.save` can hold it: mappings, lists, tensors, numbers, strings, bytes and None.

    Every bit of every tensor, all names and their order count; devices do not.

    Raises:
        TypeError: something else is in it.
    """
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}:".encode())
        for key, entry in value.items():
            _add(digest, key)
            _add(digest, entry)
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}:".encode())
        for entry in value:
            _add(digest, entry)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        text = repr(value).encode()
        digest.update(f"{type(value).__name__} {len(text)}:".encode() + text)
    else:
        raise TypeError(f"a checksum can be taken of tensors, numbers and strings, not of {type(value).__name__}")
