"""Reading checkpoints that strangers wrote: nothing is executed, and only what is asked for is brought into memory."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_DEEPSPEED_PREFIX = "_forward_module."
_POINTER = b"version https://git-lfs"


class ConversionError(ValueError):
    """A checkpoint that cannot be used; the message says why and what to do."""


class CheckpointSource(Protocol):
    """Named tensors of one file."""

    def names(self) -> list[str]:
        """All names, without DeepSpeed's prefix."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        ...

    def tensor(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        ...


class _Mapped:
    """Tensors that torch maps from the file, paged in when they are read."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = _strip(tensors)

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]


class _Safetensors:
    """A safetensors file, read tensor by tensor."""

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, framework="pt", device="cpu")
        keys: list[str] = self._file.keys()
        self._keys = _strip({key: key for key in keys})

    def names(self) -> list[str]:
        return list(self._keys)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(self._keys[name]).get_shape())

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(self._keys[name])


def open_checkpoint(path: Path) -> CheckpointSource:
    """Open a checkpoint of Lightning, DeepSpeed or safetensors.

    Args:
        path: ``.ckpt``, ``.pt`` or ``.pth`` with ``state_dict`` (Lightning), ``module`` (DeepSpeed) or tensors alone;
            ``.safetensors`` with the same names.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: the file is incomplete, of another kind, or holds more than plain data.
    """
    if path.is_dir():
        raise ConversionError(f"{path} is a folder; give the checkpoint file in it")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ConversionError(f"{path} is a Git LFS pointer, not the weights; fetch them with git lfs pull")
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> CheckpointSource:
    try:
        return _Safetensors(path)
    except (SafetensorError, OSError) as error:
        raise ConversionError(_incomplete(path, "safetensors", error)) from error


def _open_pickle(path: Path) -> CheckpointSource:
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} holds something other than tensors and plain values, or is no checkpoint at all; nothing of it "
            "was run. Where you trust its origin, save its state_dict alone as .safetensors and convert that. "
            f"torch says: {_first_line(error)}"
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, struct.error) as error:
        raise ConversionError(_incomplete(path, "PyTorch (zip)", error)) from error
    return _Mapped(_state_of(content, path))


def _state_of(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a Lightning or DeepSpeed checkpoint, or of a bare state dict."""
    if isinstance(content, dict):
        for entry in ("state_dict", "module"):
            if isinstance(content.get(entry), dict):
                content = content[entry]
                break
    if not isinstance(content, dict) or not content:
        raise ConversionError(f"{path} holds a {type(content).__name__}, but a state_dict or module entry was expected")
    wrong = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if wrong:
        raise ConversionError(f"{path} has entries that are no tensors, such as {wrong[:3]}: not a model checkpoint")
    return content


def _strip(entries: dict[str, Any]) -> dict[str, Any]:
    """Without DeepSpeed's prefix, where every name has it."""
    if not all(name.startswith(_DEEPSPEED_PREFIX) for name in entries):
        return entries
    return {name.removeprefix(_DEEPSPEED_PREFIX): value for name, value in entries.items()}


def _incomplete(path: Path, kind: str, error: Exception) -> str:
    size = path.stat().st_size
    return (
        f"{path} ({size:,} bytes) is not a complete {kind} file; compare its size with that at the source and download "
        f"it again. The reader says: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
