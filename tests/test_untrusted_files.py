"""Files of settings and records whose values are replaced one by one: taken, or refused by name, nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from json_fuzz import survey

from genfusion_ns.data.camera_path import read_camera_path
from genfusion_ns.data.clip_shards import RECORD, ShardWriter, finished_shards, write_record
from genfusion_ns.data.clips import Provenance, pack, read_provenance, write_pair
from genfusion_ns.data.procedural_clips import procedural_pair
from genfusion_ns.data.published_clips import FrameSequencePair, list_published, write_published
from genfusion_ns.json_files import JsonFileError, parse_json, path_inside, read_json

ORIGIN = Provenance("fox", "6 views", 3, stage=0.5, train_views=("a", "b"), frames=("a",), references=("b",), psnr=20.5)


def into(path: Path) -> Any:
    return lambda content: path.write_text(json.dumps(content))


def test_camera_paths(tmp_path: Path) -> None:
    frame = {"camera_to_world": [1, 0, 0, 0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], "fov": 50, "aspect": 1.5}
    content = {
        "camera_type": "perspective",
        "render_width": 96,
        "render_height": 64,
        "fps": 24,
        "camera_path": [frame] * 3,
    }
    path = tmp_path / "path.json"
    taken, refused = survey(content, into(path), lambda: read_camera_path(path).resampled(2), path)
    assert taken > 20 and refused > 400


def test_records_of_jobs(tmp_path: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=2, size=(32, 24))
    writer = ShardWriter(tmp_path)
    writer.add("a", pack("a", pair, ORIGIN))
    write_record(tmp_path, writer.finish(), recipe={"views": [3]})
    record = tmp_path / RECORD
    _, refused = survey(json.loads(record.read_text()), into(record), lambda: finished_shards(tmp_path), tmp_path)
    assert refused > 100


def test_provenance_of_clips(tmp_path: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=2, size=(32, 24))
    path = write_pair(tmp_path, "clip", pair, ORIGIN)
    content = json.loads(path.with_suffix(".json").read_text())
    del content["arrays"]
    survey(content, into(path.with_suffix(".json")), lambda: read_provenance(path), tmp_path / "clip.json")
    assert read_provenance(path) == ORIGIN


def test_lists_of_published_scenes(tmp_path: Path) -> None:
    half = torch.rand(3, 16, 16, 4)
    frames = FrameSequencePair(half[..., :3], half[..., 3:], half[..., :3], half[..., 3:])
    for name in ("a", "below/b"):
        write_published(tmp_path / "set" / name, 0, frames)
    write_published(tmp_path / "elsewhere", 0, frames)
    (tmp_path / "set" / "link").symlink_to("../elsewhere")
    path = tmp_path / "set" / "list.json"
    survey(["a", "below/b"], into(path), lambda: list_published(path), tmp_path / "set")
    assert len(list_published(path)) == 2
    for name in ("../elsewhere", str(tmp_path / "elsewhere"), "link", "a/../../elsewhere"):
        path.write_text(json.dumps(["a", name]))
        with pytest.raises(JsonFileError, match=r"list\.json: \[1\] is .*allowed: a path that stays inside"):
            list_published(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe{}", "cannot be read as JSON: 'utf-8'"),
        (b"{", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"[" * 10**5, "cannot be read as JSON: maximum recursion"),
        (b"9" * 5000, "cannot be read as JSON: Exceeds the limit"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "cannot be read as JSON: the key 'b' stands twice"),
    ],
)
def test_what_is_no_json(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    for attempt in (
        lambda: read_json(tmp_path / "x.json", "Do this."),
        lambda: parse_json(content, "x.json", "Do this."),
    ):
        with pytest.raises(JsonFileError, match=rf"x\.json {said}.* Do this\.$"):
            attempt()


def test_values_are_named_by_their_place() -> None:
    value = parse_json('{"a": [{"b": 1.5}, {"c": null}], "n": 3.0, "t": true}', "x.json", "Write it again.")
    first, second = value["a"].entries()
    assert first["b"].number() == 1.5 and value["n"].whole("n", 0) == 3 and value["t"].flag()
    assert not second["c"].is_given and not second["d"].is_given and first["b"].is_given
    for attempt, said in (
        (lambda: first["b"].whole("a count", 0), r"x\.json: a\[0\]\.b is 1\.5; allowed: a count\. Write it again\."),
        (lambda: second["d"].text(), r"x\.json: a\[1\]\.d is missing; allowed: text"),
        (lambda: second["c"].flag(), r"a\[1\]\.c is None; allowed: true or false"),
        (lambda: value["a"]["b"], r"x\.json: a is \[.*\]; allowed: an object"),
        (lambda: value["t"].number(), "t is True; allowed: a number"),
        (lambda: value["n"].choice(("p", "q")), "n is 3.0; allowed: p or q"),
        (lambda: value.text(), r"^x\.json is \{.*\}; allowed: text"),
    ):
        with pytest.raises(JsonFileError, match=said):
            attempt()


def test_paths_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    (tmp_path / "in" / "circle").symlink_to("circle")
    (tmp_path / "in" / "same").symlink_to(".")
    inside = tmp_path / "in"
    for name in ("a", "a/b", "./a", "same/a", "ä b"):
        assert path_inside(inside, name) == inside / name
    for name in (
        "/a",
        "..",
        "a/../../b",
        "out",
        "out/a",
        "circle/a",
        "C:/a",
        "C:a",
        "\\a",
        "a\\..\\..\\b",
        "a\0",
        "//h/s",
    ):
        assert path_inside(inside, name) is None, name
