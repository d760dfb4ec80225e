"""Shards: tar files of bounded size whose members are read at random, and the record that says a job is finished.

A job is a folder with ``shard-00000.tar``, ``shard-00001.tar``, ... and ``job.json``, which is written last and lists
the shards with their sizes and SHA-256 sums. A sample is the group of members with one key: ``<key>.npz``,
``<key>.json``, in the order in which programs that stream WebDataset shards expect them. A sample is named by a path
below its shard, ``shard-00000.tar/<key>``, which no file system knows. Nothing here knows what is in the members.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from genfusion_ns.files import digest_of_file, write_atomically
from genfusion_ns.json_files import JsonValue, read_json

FORMAT = "genfusion clips"
VERSION = 1
RECORD = "job.json"
_MEMBER = re.compile(r"[^./\\\0]+\.[^/\\\0]+")
"""``KEY.ENDING``; keys have neither dots nor slashes, so that none leads out of its shard."""


@dataclass(frozen=True)
class ShardRecord:
    """What `job.json` says of a shard."""

    file: str
    """Name within the job's folder."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Sum over the file, hexadecimal."""
    samples: int
    """Number of keys."""


class ShardWriter:
    """Writes the samples of a job into shards; the bytes depend on the samples alone."""

    def __init__(self, folder: Path, max_bytes: int = 256 * 2**20) -> None:
        """
        Args:
            folder: of the job, made if needed.
            max_bytes: size at which the next shard begins; one sample may exceed it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.max_bytes = max_bytes
        self.records: list[ShardRecord] = []
        self._archive: tarfile.TarFile | None = None
        self._samples = 0

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Append one sample.

        Args:
            key: without dots and slashes; unique within the job.
            members: contents by file name ending, such as "npz".

        Raises:
            ValueError: a dot or slash in the key.
        """
        if not all(_MEMBER.fullmatch(f"{key}.{ending}") for ending in members) or "." in key:
            raise ValueError(f"{key}: keys of samples must not have dots or slashes")
        if self._archive is not None:
            end = self._archive.offset + sum(tarfile.BLOCKSIZE + _padded(len(member)) for member in members.values())
            # An archive ends with two empty blocks and is filled up to whole records.
            if _padded(end + 2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE) > self.max_bytes:
                self._finish_shard()
        if self._archive is None:
            self._archive = tarfile.open(self._shard(), "w", format=tarfile.PAX_FORMAT, encoding="utf-8")  # noqa: SIM115
        for ending, content in members.items():
            info = tarfile.TarInfo(f"{key}.{ending}")
            info.size = len(content)
            self._archive.addfile(info, io.BytesIO(content))
        self._samples += 1

    def finish(self) -> list[ShardRecord]:
        """Complete the last shard; the records of all."""
        self._finish_shard()
        return self.records

    def _shard(self) -> Path:
        return self.folder / f"shard-{len(self.records):05d}.tar"

    def _finish_shard(self) -> None:
        if self._archive is None:
            return
        self._archive.close()
        path = self._shard()
        self.records.append(ShardRecord(path.name, path.stat().st_size, digest_of_file(path), self._samples))
        self._archive, self._samples = None, 0


def write_record(folder: Path, shards: list[ShardRecord], **content: Any) -> None:
    """Write `job.json`, which declares the job finished."""
    record = {"format": FORMAT, "version": VERSION, **content, "shards": [asdict(shard) for shard in shards]}
    write_atomically(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def read_record(folder: Path) -> JsonValue:
    """Content of a job's `job.json`; values that are read from it are checked then, with a ValueError.

    Raises:
        FileNotFoundError: the job is not finished.
        ValueError: the file is damaged, or of a newer version.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no finished job: it has no {RECORD}")
    record = read_json(path, f"Delete {folder} and make it again.")
    if record["format"].value != FORMAT:
        raise ValueError(f"{path} is not the record of a job of gf-make-clips; delete it, or name another folder")
    if record["version"].value != VERSION:
        raise ValueError(
            f"{path} has version {record['version'].value}, this program reads version {VERSION}; update it"
        )
    return record


def _shard_record(entry: JsonValue) -> ShardRecord:
    return ShardRecord(
        file=entry["file"].text("the name of a file"),
        bytes=entry["bytes"].whole("a number of bytes", 0),
        sha256=entry["sha256"].text("a sum in hexadecimal"),
        samples=entry["samples"].whole("a number of samples", 0),
    )


def finished_shards(folder: Path, check_sums: bool = False) -> list[Path]:
    """Shards of a finished job.

    Args:
        folder: of the job.
        check_sums: read them whole and compare their SHA-256 sums.

    Raises:
        FileNotFoundError: the job is not finished.
        ValueError: the record is damaged or names files outside of the folder, or a shard is missing or differs from
            the record; the message names it.
    """
    paths = []
    for entry in read_record(folder)["shards"].entries():
        shard, path = _shard_record(entry), entry["file"].path_in(folder)
        found = path.stat().st_size if path.is_file() else None
        if found != shard.bytes:
            what = "is missing" if found is None else f"has {found} bytes, {RECORD} says {shard.bytes}"
            raise ValueError(f"{path} {what}; copy it again, or delete {folder} and make its clips again")
        if check_sums and digest_of_file(path) != shard.sha256:
            raise ValueError(
                f"{path} is damaged: its SHA-256 sum is not that of {RECORD}; copy it again, or delete {folder} and "
                "make its clips again"
            )
        paths.append(path)
    return paths


def sample_paths(shard: Path) -> list[Path]:
    """Paths ``shard/<key>`` of the samples in a shard, in the order of writing; errors as in `read_member`."""
    return [shard / key for key in dict.fromkeys(name.split(".", 1)[0] for name in _index(shard))]


def is_sample(path: Path) -> bool:
    """Whether `path` lies below a shard, as those of `sample_paths` do."""
    return path.parent.suffix == ".tar" and path.parent.is_file()


def read_member(sample: Path, ending: str) -> bytes:
    """One member of a sample.

    Raises:
        ValueError: the shard is damaged or has no such member; the message names it.
    """
    shard, name = sample.parent, f"{sample.name}.{ending}"
    index = _index(shard)
    if name not in index:
        raise ValueError(f"{shard} has no member {name}")
    start, size = index[name]
    with shard.open("rb") as stream:
        stream.seek(start)
        content = stream.read(size)
    if len(content) != size:
        raise ValueError(f"{shard} ends within {name}: it is damaged or was not copied completely")
    return content


def _index(shard: Path) -> dict[str, tuple[int, int]]:
    """Where each member begins and how long it is."""
    if not shard.is_file():
        raise ValueError(f"{shard} does not exist")
    status = shard.stat()
    return _read_index(shard, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_index(shard: Path, size: int, changed: int) -> dict[str, tuple[int, int]]:
    try:
        with tarfile.open(shard, "r:") as archive:
            index = _places(archive.getmembers())
        # tarfile takes a file that ends within a header for complete.
        with shard.open("rb") as stream:
            stream.seek(max((_padded(sum(place)) for place in index.values()), default=0))
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except (OSError, tarfile.TarError, ValueError, OverflowError) as error:
        raise ValueError(f"{shard} cannot be read as a shard: {error}; it is damaged or not complete") from error
    return index


def _places(members: list[tarfile.TarInfo]) -> dict[str, tuple[int, int]]:
    """Offset and size of each member; links, and names that would lead to other places than the shard, are refused."""
    index: dict[str, tuple[int, int]] = {}
    for member in members:
        if not member.isreg() or member.size < 0 or not _MEMBER.fullmatch(member.name):
            raise tarfile.ReadError(f"its member {member.name!r} is no file KEY.ENDING without slashes")
        if member.name in index:
            raise tarfile.ReadError(f"it has two members {member.name!r}")
        index[member.name] = member.offset_data, member.size
    return index


def _padded(size: int, unit: int = tarfile.BLOCKSIZE) -> int:
    return -(-size // unit) * unit
