"""Shards of samples: random access, records of finished jobs, and damage that is noticed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genfusion_ns.data.clips.pairs import Provenance, list_pairs, pack, read_pair, read_provenance
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.data.clips.shards import (
    RECORD,
    ShardWriter,
    finished_shards,
    is_sample,
    read_member,
    read_record,
    sample_paths,
    write_record,
)


def write_job(folder: Path, samples: int = 9, max_bytes: int = 20_480) -> dict[str, bytes]:
    """A finished job of samples with contents that tell them apart."""
    contents = {f"s{number}": bytes([number]) * (3000 + 100 * number) for number in range(samples)}
    writer = ShardWriter(folder, max_bytes)
    for key, content in contents.items():
        writer.add(key, {"npz": content, "json": key.encode()})
    write_record(folder, writer.finish(), answer=42)
    return contents


def test_members_come_back_from_shards_of_bounded_size(tmp_path: Path) -> None:
    contents = write_job(tmp_path / "job")
    shards = finished_shards(tmp_path / "job", check_sums=True)
    assert len(shards) > 1
    assert all(shard.stat().st_size <= 20_480 for shard in shards)
    paths = [path for shard in shards for path in sample_paths(shard)]
    assert [path.name for path in paths] == list(contents)
    for path in reversed(paths):
        assert is_sample(path)
        assert read_member(path, "npz") == contents[path.name]
        assert read_member(path, "json") == path.name.encode()
    assert read_record(tmp_path / "job")["answer"].value == 42
    # Programs that know nothing of us read them in order, by key.
    with tarfile.open(shards[0]) as archive:
        assert archive.getnames()[:4] == ["s0.npz", "s0.json", "s1.npz", "s1.json"]


def test_pairs_know_whether_their_clean_side_is_a_render(tmp_path: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=3, size=(32, 24))
    writer = ShardWriter(tmp_path)
    for clean in ("photo", "render"):
        writer.add(clean, pack(clean, pair, Provenance("world", "none", 0, clean=clean)))
    write_record(tmp_path, writer.finish())
    rendered = {path.name: read_pair(path).rendered for path in list_pairs(tmp_path)}
    assert rendered == {"photo": False, "render": True}


def test_bytes_depend_on_samples_alone(tmp_path: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=3, size=(32, 24))
    for name in ("one", "two"):
        writer = ShardWriter(tmp_path / name)
        writer.add("a", pack("a", pair, Provenance("world", "none", 0)))
        writer.finish()
    first, second = (tmp_path / name / "shard-00000.tar" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("key", ["a.b", "a/b"])
def test_keys_that_would_not_come_back_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="dots or slashes"):
        ShardWriter(tmp_path).add(key, {"npz": b""})


def test_damage_is_noticed_and_named(tmp_path: Path) -> None:
    write_job(tmp_path, samples=4, max_bytes=10**6)
    shard = tmp_path / "shard-00000.tar"
    whole = shard.read_bytes()
    sample = sample_paths(shard)[3]

    shard.write_bytes(whole[:5000])
    for attempt in (lambda: finished_shards(tmp_path), lambda: sample_paths(shard), lambda: read_member(sample, "npz")):
        with pytest.raises(ValueError, match=r"shard-00000\.tar"):
            attempt()
    shard.write_bytes(whole[:1000] + b"x" + whole[1001:])
    assert finished_shards(tmp_path) == [shard]
    with pytest.raises(ValueError, match=r"shard-00000\.tar is damaged"):
        finished_shards(tmp_path, check_sums=True)
    shard.write_bytes(whole)
    with pytest.raises(ValueError, match=r"no member s0\.png"):
        read_member(shard / "s0", "png")
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00000\.tar is missing"):
        finished_shards(tmp_path)


def test_records_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path)
    write_job(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    for change, message in (({"version": 99}, "version 99"), ({"format": "other"}, "not the record")):
        (tmp_path / RECORD).write_text(json.dumps(record | change))
        with pytest.raises(ValueError, match=message):
            read_record(tmp_path)
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ValueError, match=RECORD):
        read_record(tmp_path)


def test_pairs_are_listed_from_finished_jobs_and_single_files(tmp_path: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(1), frames=3, size=(32, 24))
    for job in ("b_s0", "a_s0"):
        writer = ShardWriter(tmp_path / job)
        writer.add(f"{job}_clip", pack("clip", pair, Provenance(job, "none", 0, stage=0.5, frames=("x", "y", "z"))))
        write_record(tmp_path / job, writer.finish())
    for unfinished in (".c_s0.partial", "d_s0"):
        ShardWriter(tmp_path / unfinished).add("clip", {"npz": b""})
    paths = list_pairs(tmp_path)
    assert [path.name for path in paths] == ["a_s0_clip", "b_s0_clip"]
    assert list_pairs(tmp_path / "b_s0") == paths[1:]
    assert read_provenance(paths[0]) == Provenance("a_s0", "none", 0, stage=0.5, frames=("x", "y", "z"))
    assert torch.equal(read_pair(paths[0]).artifact.viewmats, pair.artifact.viewmats)
    shard = paths[0].parent
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 255  # inside the compressed arrays
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="a_s0_clip"):
        read_pair(paths[0])


def rewrite(shard: Path, change: Callable[[tarfile.TarInfo], object]) -> None:
    """The shard with other headers of its members."""
    with tarfile.open(shard) as archive:
        members = [(info, archive.extractfile(info)) for info in archive.getmembers()]
        contents = [(info, stream.read() if stream is not None else b"") for info, stream in members]
    with tarfile.open(shard, "w") as archive:
        for info, content in contents:
            change(info)
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m, "name", f"/etc/{m.name}"), r"its member '/etc/s0\.npz' is no file KEY\.ENDING"),
        (lambda m: setattr(m, "name", f"../{m.name}"), r"'\.\./s0\.npz' is no file"),
        (lambda m: setattr(m, "name", f"a/{m.name}"), r"'a/s0\.npz' is no file"),
        (lambda m: setattr(m, "name", "s0"), "'s0' is no file"),
        (lambda m: setattr(m, "name", "s0.npz"), r"two members 's0\.npz'"),
        (
            lambda m: (setattr(m, "type", tarfile.SYMTYPE), setattr(m, "linkname", "/etc/passwd")),
            r"'s0\.npz' is no file",
        ),
        (lambda m: (setattr(m, "type", tarfile.LNKTYPE), setattr(m, "linkname", "s1.npz")), r"'s0\.npz' is no file"),
        (lambda m: setattr(m, "type", tarfile.DIRTYPE), r"'s0\.npz' is no file"),
        (lambda m: setattr(m, "type", tarfile.CHRTYPE), r"'s0\.npz' is no file"),
    ],
)
def test_members_that_lead_elsewhere_are_refused(tmp_path: Path, change: Callable, said: str) -> None:
    write_job(tmp_path, samples=2, max_bytes=10**6)
    shard = tmp_path / "shard-00000.tar"
    rewrite(shard, change)
    with pytest.raises(ValueError, match=rf"shard-00000\.tar cannot be read as a shard: .*{said}"):
        sample_paths(shard)


@pytest.mark.parametrize(
    "name",
    ["/etc/hostname", "../other.tar", "a/../../other.tar", "link.tar", "folder/hostname", "C:\\x.tar", "..\\other.tar"],
)
def test_records_name_shards_of_their_own_folder_alone(tmp_path: Path, name: str) -> None:
    write_job(tmp_path / "job")
    (tmp_path / "other.tar").write_bytes(b"of somebody else")
    (tmp_path / "job" / "link.tar").symlink_to("../other.tar")
    (tmp_path / "job" / "folder").symlink_to("/etc")
    record = json.loads((tmp_path / "job" / RECORD).read_text())
    record["shards"][1] |= {"file": name, "bytes": 16}
    (tmp_path / "job" / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"job\.json: shards\[1\]\.file is .* allowed: a path that stays inside"):
        finished_shards(tmp_path / "job")


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    write_job(tmp_path / "real")
    (tmp_path / "data").symlink_to("real")
    (shard, *_) = finished_shards(tmp_path / "real")
    shard.rename(tmp_path / "real" / "moved")
    shard.symlink_to("moved")
    assert finished_shards(tmp_path / "data", check_sums=True)[0] == tmp_path / "data" / shard.name
