"""Files and folders that are written completely or not at all, and what is said when the disk does not take them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class WriteError(OSError):
    """A file that could not be written; the message names it, the reason and the way out."""


_AS_THEY_ARE = (WriteError, ValueError)
"""Errors with a message of their own, such as of a file that is read meanwhile."""


def write_error(path: Path, error: BaseException, what: str = "", way_out: str = "") -> WriteError:
    """What to raise where a write failed.

    Args:
        path: that was to be written.
        error: as it came; libraries hide the one of the system behind errors of their own.
        what: the thing in words, such as "the checkpoint".
        way_out: what helps, apart from room on the disk.
    """
    reason = system_error(error) or error
    helps = [] if isinstance(reason, OSError) and reason.errno not in _NO_ROOM else ["free disk space"]
    helps += [way_out] if way_out else []
    named = f"{what} {path}".strip()
    return WriteError(f"cannot write {named}: {reason}" + (f"; {' and '.join(helps)}" if helps else ""))


def system_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind an error: the thing itself, its cause, or what it was raised after."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error comes from a disk, a quota or a file-size limit that has no room left."""
    reason = system_error(error)
    return reason is not None and reason.errno in _NO_ROOM


@contextmanager
def replacing(path: Path, what: str = "", way_out: str = "", staging: Path | None = None) -> Iterator[Path]:
    """A name to write a file under, which takes the place of `path` when the block ends without an error.

    A crash at any moment leaves the old file or the new one, never a part. The folder is created when missing.

    Args:
        path: to be replaced.
        what: the thing in words, for the error.
        way_out: what helps apart from room on the disk, for the error.
        staging: folder, on the same disk, for the unfinished file; that of `path` by default.

    Raises:
        WriteError: the system does not let it be written. Other errors of the block pass as they are.
    """
    folder = path.parent if staging is None else staging
    # The ending stays last: some writers append it where it is missing, and ffmpeg goes by it.
    unfinished = folder / f".{path.stem}.{os.getpid()}.part{path.suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            _to_disk(unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        _to_disk_names(path.parent)
    except Exception as error:
        if isinstance(error, _AS_THEY_ARE) or system_error(error) is None:
            raise
        raise write_error(path, error, what, way_out) from error


def write_atomically(path: Path, content: bytes, what: str = "", way_out: str = "") -> None:
    """Write `content` to `path`, completely or not at all; arguments and errors as in `replacing`."""
    with replacing(path, what, way_out) as unfinished:
        unfinished.write_bytes(content)


def copy_atomically(source: Path, path: Path, what: str = "", way_out: str = "") -> None:
    """Copy a file, completely or not at all; arguments and errors as in `replacing`."""
    with replacing(path, what, way_out) as unfinished:
        shutil.copyfile(source, unfinished)


@contextmanager
def replacing_files(folder: Path, what: str = "", way_out: str = "") -> Iterator[Path]:
    """An empty folder to fill, whose files move into `folder` one by one when the block ends without an error.

    Other files of the folder stay. Folders that are written anew never hold a part of a file. Arguments and errors as
    in `replacing`.
    """
    staging = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        for source in files_of(staging):
            _to_disk(source)
            target = folder / source.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    except Exception as error:
        if isinstance(error, _AS_THEY_ARE) or system_error(error) is None:
            raise
        raise write_error(folder, error, what, way_out) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def require_room(path: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        path: to be written, or written into; it need not exist.
        needed: bytes.

    Raises:
        WriteError: its disk has less left.
    """
    absolute = path.absolute()
    existing = next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise WriteError(f"{path} needs {in_bytes(needed)}, but its disk has {in_bytes(free)} left; free disk space")


def in_bytes(size: float) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


class LockedError(OSError):
    """Another process holds a lock."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder}")
        self.holder = holder
        """That process in words."""


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Context manager: this process alone holds the lock file `path`, which is made where it is missing and stays.

    Its descriptor is given; a process that inherits it holds the lock as well, until both have ended.

    The system frees it when the process ends in whatever way, so none is left over from a crash. Where the disk has no
    locks (some of networks), nothing is held.

    Raises:
        LockedError: another one holds it, also another block of this process.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                number = os.read(handle, 32).decode(errors="replace").strip()
                raise LockedError(path, f"process {number}" if number else "another process") from error
            except OSError:
                pass
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield handle
    finally:
        os.close(handle)


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_to_disk(folder: Path) -> None:
    """Wait until all files below a folder are on the disk."""
    for path in files_of(folder):
        _to_disk(path)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _to_disk_names(folder: Path) -> None:
    """The renames in a folder, where the system can wait for them."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
