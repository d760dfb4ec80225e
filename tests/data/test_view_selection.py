"""Splits: disjoint, in range, as many views as asked; every way to get one wrong is named."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_files import real_capture

from genfusion_ns.data.view_selection import (
    NameIndex,
    SplitError,
    ViewSplit,
    dense_split,
    load_split_file,
    select_views,
    spread_split,
)

NAMES = [f"img_{i:03d}.jpg" for i in range(20)]


def write_split(folder: Path, content: object, name: str = "split.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@given(num_images=st.integers(4, 300), test_every=st.integers(2, 20), data=st.data())
def test_spread_split_is_disjoint_in_range_and_complete(num_images: int, test_every: int, data: st.DataObject) -> None:
    available = len(dense_split(num_images, test_every).train_ids)
    num_views = data.draw(st.integers(2, available))
    split = spread_split(num_images, num_views, test_every)
    assert len(set(split.train_ids)) == num_views
    assert not set(split.train_ids) & set(split.test_ids)
    assert list(split.train_ids) == sorted(split.train_ids)
    assert list(split.test_ids) == list(range(0, num_images, test_every))
    assert set(split.train_ids) <= set(range(num_images))


@given(num_images=st.integers(4, 300), test_every=st.integers(2, 20))
def test_dense_split_uses_every_view_once(num_images: int, test_every: int) -> None:
    split = dense_split(num_images, test_every)
    assert sorted(split.train_ids + split.test_ids) == list(range(num_images))


@given(num_views=st.integers(2, 175))
def test_spread_views_have_even_gaps(num_views: int) -> None:
    candidates = dense_split(200, 8).train_ids
    positions = [candidates.index(i) for i in spread_split(200, num_views, 8).train_ids]
    gaps = [b - a for a, b in pairwise(positions)]
    assert positions[0] == 0 and positions[-1] == len(candidates) - 1
    assert max(gaps) - min(gaps) <= 1


@given(st.permutations(range(20)), st.integers(2, 10), st.integers(1, 10))
def test_a_valid_file_is_read_as_it_is(tmp_path_factory, order: list[int], num_train: int, num_test: int) -> None:
    train, test = order[:num_train], order[num_train : num_train + num_test]
    path = write_split(tmp_path_factory.mktemp("split"), {"train_ids": train, "test_ids": test})
    assert load_split_file(path, NAMES) == ViewSplit(tuple(sorted(train)), tuple(sorted(test)), "split.json")


def test_names_stand_for_ids(tmp_path: Path) -> None:
    content = {"train_ids": ["img_003.jpg", "images/img_001.jpg", 7], "test_ids": ["img_000", "img_009.png"]}
    split = load_split_file(write_split(tmp_path, content), NAMES)
    assert (split.train_ids, split.test_ids) == ((1, 3, 7), (0, 9))


def test_name_index_keeps_folders_apart() -> None:
    index = NameIndex(["test/r_0.png", "train/r_0.png", "train/r_1.png", "a.b.jpg"])
    assert index.find("train/r_0.png") == [1]
    assert index.find("./train/r_0") == [1]
    assert index.find("data/train/r_0.jpg") == [1]
    assert index.find("r_1.png") == [2]
    assert index.find("r_0.png") == [0, 1]
    assert index.find("val/r_1.png") == []
    assert index.find("a.b") == [3]
    assert index.find("a") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"train_ids": [1, 61], "test_ids": [0]}, r"train_ids\[1\] = 61 is out of range\. Allowed: 0\.\.19"),
        ({"train_ids": [1, -1], "test_ids": [0]}, r"train_ids\[1\] = -1 is out of range"),
        ({"train_ids": [1, 2], "test_ids": [20]}, r"test_ids\[0\] = 20 is out of range.*list image names"),
        ({"train_ids": [1, 2, 0], "test_ids": [3, 0]}, r"view 0 \(img_000.jpg\) is in both"),
        ({"train_ids": [1, 2, 1], "test_ids": [0]}, r"train_ids\[2\] = 1 repeats view 1"),
        ({"train_ids": ["img_001.jpg", 1], "test_ids": [0]}, r"train_ids\[1\] = 1 repeats view 1"),
        ({"train_ids": [1], "test_ids": [0]}, r"train_ids has 1 view\(s\), at least 2"),
        ({"train_ids": [1, 2], "test_ids": []}, r"test_ids is empty"),
        ({"train_ids": [1, 2]}, r"test_ids must be a list.*found nothing; keys: \['train_ids'\]"),
        ({"train_ids": 3, "test_ids": [0]}, r"train_ids must be a list.*found a int"),
        ({"train_ids": [1, True], "test_ids": [0]}, r"train_ids\[1\] = True is a bool"),
        ({"train_ids": [1, 2.0], "test_ids": [0]}, r"train_ids\[1\] = 2.0 is a float"),
        ({"train_ids": [1, "dog.jpg"], "test_ids": [0]}, r"'dog.jpg' is no registered image"),
        ([1, 2], r"expected an object .* found a list"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_allowed(tmp_path: Path, content: object, said: str) -> None:
    path = write_split(tmp_path, content)
    with pytest.raises(SplitError, match=f"^{re.escape(str(path))}.*{said}"):
        load_split_file(path, NAMES)


def test_an_ambiguous_name_lists_what_it_may_mean(tmp_path: Path) -> None:
    path = write_split(tmp_path, {"train_ids": ["r_0.png", 2], "test_ids": [3]})
    with pytest.raises(SplitError, match=r"may mean any of \['a/r_0.png', 'b/r_0.png'\]"):
        load_split_file(path, ["a/r_0.png", "b/r_0.png", "b/r_1.png", "b/r_2.png"])


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text("train: 1 2 3")
    with pytest.raises(SplitError, match="cannot be read as a split file"):
        load_split_file(path, NAMES)


@pytest.mark.parametrize("num_views", [1, -3, 18])
def test_impossible_numbers_of_views(tmp_path: Path, num_views: int) -> None:
    flag = "--pipeline.datamanager.num-views"
    with pytest.raises(SplitError, match=rf"{tmp_path}.*{flag} is {num_views}; allowed are 2\.\.17"):
        select_views(NAMES, tmp_path, num_views)


@given(num_images=st.integers(2, 300), data=st.data())
def test_nothing_is_held_out_when_every_photo_is_asked_for(num_images: int, data: st.DataObject) -> None:
    everything = dense_split(num_images, 0)
    assert everything.train_ids == everything.test_ids == tuple(range(num_images)) and not everything.holds_out
    num_views = data.draw(st.integers(2, num_images))
    few = spread_split(num_images, num_views, 0)
    assert len(few.train_ids) == num_views and few.holds_out == (num_views < num_images)
    if few.holds_out:
        assert sorted(few.train_ids + few.test_ids) == list(range(num_images))


def test_every_photo_is_trained_on_whatever_the_capture_declares(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(6)]
    declared = ViewSplit((0, 1, 2, 3), (4, 5), "those of the capture")
    assert select_views(names, tmp_path, test_every=0, declared=declared).train_ids == tuple(range(6))
    assert select_views(names, tmp_path, num_views=2, test_every=0, declared=declared).test_ids == (4, 5)


@pytest.mark.parametrize(
    ("count", "test_every", "said"), [(20, 1, "2 or more"), (20, -1, "2 or more"), (2, 8, "1 remain")]
)
def test_impossible_strides(count: int, test_every: int, said: str) -> None:
    with pytest.raises(SplitError, match=said):
        dense_split(count, test_every)


def test_precedence(tmp_path: Path) -> None:
    write_split(tmp_path, {"train_ids": [1, 2, 3], "test_ids": [0]}, "train_test_split_3.json")
    named = write_split(tmp_path, {"train_ids": [4, 5], "test_ids": [6]}, "mine.json")
    declared = ViewSplit((10, 11, 12, 13), (14, 15), "declared")
    assert select_views(NAMES, tmp_path, 3, split_file=named, declared=declared).train_ids == (4, 5)
    assert select_views(NAMES, tmp_path, 3, split_file=Path("mine.json")).train_ids == (4, 5)
    assert select_views(NAMES, tmp_path, 3, declared=declared).train_ids == (1, 2, 3)
    assert select_views(NAMES, tmp_path, 2, declared=declared).train_ids == (10, 13)
    assert select_views(NAMES, tmp_path, 2, declared=declared).test_ids == (14, 15)
    assert select_views(NAMES, tmp_path, None, declared=declared) == declared
    assert select_views(NAMES, tmp_path, 0) == select_views(NAMES, tmp_path) == dense_split(20, 8)
    assert select_views(NAMES, tmp_path, 4).train_ids == spread_split(20, 4).train_ids


def test_a_missing_split_file_names_those_that_exist(tmp_path: Path) -> None:
    write_split(tmp_path, {}, "train_test_split_6.json")
    flag = "--pipeline.datamanager.split-file"
    with pytest.raises(SplitError, match=rf"{flag} nine.json does not exist .* train_test_split_6.json"):
        select_views(NAMES, tmp_path, None, split_file=Path("nine.json"))


def test_a_split_file_of_another_size_than_its_name(tmp_path: Path) -> None:
    write_split(tmp_path, {"train_ids": [1, 2, 3], "test_ids": [0]}, "train_test_split_4.json")
    with pytest.raises(SplitError, match="has 3 views, its name promises 4"):
        select_views(NAMES, tmp_path, 4)


@pytest.mark.parametrize("scene", ["room", "fox", "stone_horse"])
@pytest.mark.parametrize("num_views", [3, 6, 9])
def test_published_splits_hold_out_every_8th_view(scene: str, num_views: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("sample_capture") if scene == "room" else real_capture(scene)
    names = sorted(path.name for path in (folder / "images").iterdir())
    split = select_views(names, folder, num_views)
    assert len(split.train_ids) == num_views
    assert split.test_ids == dense_split(len(names), 8).test_ids
