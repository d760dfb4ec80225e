"""Arrays in .npy and .npz files; what a header claims is compared with the file before memory is set aside for it.

A header of a hundred bytes may claim terabytes, and a small archive may unpack to them. Objects (pickles) are refused.
"""

from __future__ import annotations

import lzma
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO
from zipfile import BadZipFile, ZipFile, ZipInfo
from zlib import error as ZlibError

import numpy as np

LARGEST = 8 << 30
"""Bytes that the arrays read from one file may take."""
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    RecursionError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TokenError,
    struct.error,
    BadZipFile,
    ZlibError,
    lzma.LZMAError,
)
"""What numpy and zipfile raise for files that are damaged, or made to be."""


class ArrayFileError(ValueError):
    """A file that holds no usable arrays; the message says why, the caller adds the name and what is wanted."""


def read_array(file: Path) -> np.ndarray:
    """The array in a .npy file.

    Raises:
        ArrayFileError: missing, damaged, cut off, of objects, or beyond `LARGEST`.
    """
    with _damage_named(), file.open("rb") as stream:
        read_layout(stream, file.stat().st_size)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_arrays(
    source: Path | IO[bytes],
    names: Iterable[str] | None = None,
    check: Callable[[dict[str, ArrayLayout]], None] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays in an .npz archive, or those of `names` that it has.

    Args:
        source: the archive.
        names: of the arrays that are wanted; all by default.
        check: looks at what the headers say before anything else is read; what it raises passes through.

    Raises:
        ArrayFileError: missing, damaged, cut off, of objects, or together beyond `LARGEST`.
    """
    arrays = {}
    with ExitStack() as stack:
        with _damage_named():
            archive = stack.enter_context(ZipFile(source))
            members = _members(archive, names)
            layouts = _layouts(archive, members)
        if check is not None:
            check(layouts)
        with _damage_named():
            for name, member in members.items():
                with archive.open(member) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ArrayFileError(_reason(error)) from error


@dataclass(frozen=True)
class ArrayLayout:
    """What the header of an array says."""

    shape: tuple[int, ...]
    is_fortran: bool
    """The first index runs fastest."""
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(stream: IO[bytes], size: int, largest: int | None = LARGEST) -> ArrayLayout:
    """Read the header of an array and compare it with what follows.

    Args:
        stream: of the .npy format, at its beginning; left where the numbers begin.
        size: bytes of the whole stream.
        largest: bytes that the numbers may take; None where they are read a part at a time.

    Raises:
        ValueError: no header, objects, or a shape that the stream does not hold.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it has version {version} of the .npy format; 1.0 and 2.0 are read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    layout = ArrayLayout(*read(stream))
    if layout.dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read; save numbers")
    what = f"{layout.dtype} of shape {layout.shape}"
    if min(layout.shape, default=0) < 0 or layout.nbytes > size - stream.tell():
        raise ValueError(f"its header says {what}, which its {size} bytes do not hold")
    if largest is not None and layout.nbytes > largest:
        raise ValueError(f"it holds {what}, more than the {LARGEST >> 30} GiB that are read at once")
    return layout


def _members(archive: ZipFile, names: Iterable[str] | None) -> dict[str, ZipInfo]:
    """Those of `names`, or all, that there are."""
    there = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    return there if names is None else {name: there[name] for name in names if name in there}


def _layouts(archive: ZipFile, members: dict[str, ZipInfo]) -> dict[str, ArrayLayout]:
    layouts = {}
    room = LARGEST
    for name, member in members.items():
        with archive.open(member) as stream:
            layouts[name] = read_layout(stream, member.file_size, room)
        room -= layouts[name].nbytes
    return layouts


def _reason(error: Exception) -> str:
    return f"no {error} in it" if isinstance(error, KeyError) else str(error) or type(error).__name__
