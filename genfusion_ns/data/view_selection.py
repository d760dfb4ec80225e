"""Which views of a capture train the scene and which are held out.

A view id is a position among the capture's registered images sorted by name (as text). Ids are therefore the same for
every dataparser and every image resolution, and for the split files published with the ReconFusion evaluation.
"""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

MIN_TRAIN_VIEWS = 2
_FLAG = "--pipeline.datamanager"


class SplitError(ValueError):
    """A split that cannot be used; the message names the file, the value found, what is allowed and the way out."""


@dataclass(frozen=True)
class ViewSplit:
    """Train and test view ids of one capture, ascending; disjoint, unless nothing is held out and both are all."""

    train_ids: tuple[int, ...]
    """Views that may be used for training."""
    test_ids: tuple[int, ...]
    """Held-out views, used for evaluation only."""
    source: str
    """Where the split comes from, for the log."""

    @property
    def holds_out(self) -> bool:
        """Test views are not trained on; otherwise figures say how well the photos are reproduced, and no more."""
        return not set(self.train_ids) & set(self.test_ids)


class NameIndex:
    """Finds images by name, forgiving a missing folder prefix or another file extension."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [_plain(name) for name in names]
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(self._names):
            self._by_stem[name.stem.casefold()].append(i)

    def find(self, name: str) -> list[int]:
        """Positions of the images that `name` may mean; empty when unknown, several when ambiguous.

        Two names agree when one is a trailing part of the other. Agreement with the extension beats agreement without,
        that of upper and lower case beats that of letters.

        >>> NameIndex(["left/a.png", "right/a.png", "right/b.png"]).find("a.jpg")
        [0, 1]
        """
        wanted = _plain(name)
        # "frame.001" has no extension to strip although it looks like one, hence both stems.
        stems = dict.fromkeys([wanted.stem, wanted.name])
        alike = {i for stem in stems for i in self._by_stem.get(stem.casefold(), ())}
        candidates = [i for i in sorted(alike) if _same_folder(wanted, self._names[i])]
        for agree in (
            lambda name: name.name == wanted.name,
            lambda name: name.name.casefold() == wanted.name.casefold(),
            lambda name: name.stem in stems,
        ):
            closest = [i for i in candidates if agree(self._names[i])]
            if closest:
                return closest
        return candidates


def load_split_file(path: Path, names: Sequence[str]) -> ViewSplit:
    """Read a split file.

    Args:
        path: JSON object with the lists `train_ids` and `test_ids`; entries are view ids or image names.
        names: registered image names sorted as text; index = view id.

    Raises:
        SplitError: unreadable file, entry of the wrong type or out of range, duplicate, overlap, fewer than two train
            views, no test view.
    """
    content = _read_json_object(path)
    index = NameIndex(names)
    train = _resolve_list(path, content, "train_ids", names, index)
    test = _resolve_list(path, content, "test_ids", names, index)
    overlap = sorted(set(train) & set(test))
    if overlap:
        raise SplitError(
            f"{path}: view {overlap[0]} ({names[overlap[0]]}) is in both train_ids and test_ids. "
            "A test view must not be trained on; remove it from one of the lists."
        )
    if len(train) < MIN_TRAIN_VIEWS:
        raise SplitError(
            f"{path}: train_ids has {len(train)} view(s), at least {MIN_TRAIN_VIEWS} are needed. {_allowed(names)}"
        )
    if not test:
        raise SplitError(f"{path}: test_ids is empty, at least 1 test view is needed. {_allowed(names)}")
    return ViewSplit(tuple(sorted(train)), tuple(sorted(test)), source=path.name)


def dense_split(num_images: int, test_every: int = 8) -> ViewSplit:
    """Hold out views 0, test_every, 2 test_every, ... and train on all others; 0 holds out none, see `ViewSplit`.

    Raises:
        SplitError: `test_every` is 1 or below 0, or does not leave two train views.
    """
    if test_every < 0 or test_every == 1:
        raise SplitError(
            f"{_FLAG}.test-every is {test_every}; it must be 2 or more, or every view would be a test view, or 0 to "
            "train on all of them."
        )
    ids = np.arange(num_images)
    held_out = ids % test_every == 0 if test_every else np.zeros(num_images, dtype=bool)
    train = tuple(ids[~held_out].tolist())
    if len(train) < MIN_TRAIN_VIEWS:
        raise SplitError(
            f"The capture has {num_images} registered image(s), of which {len(train)} remain for training with "
            f"{_FLAG}.test-every {test_every}; at least {MIN_TRAIN_VIEWS} are needed. Add images or name a "
            f"{_FLAG}.split-file."
        )
    if not test_every:
        return ViewSplit(train, train, source="none held out, so figures are of photos that the scene was fitted to")
    return ViewSplit(train, tuple(ids[held_out].tolist()), source=f"1 view in {test_every} held out")


def spread_split(num_images: int, num_views: int, test_every: int = 8) -> ViewSplit:
    """Hold out every `test_every`-th view and train on `num_views` of the others, evenly spaced in name order.

    Raises:
        SplitError: `num_views` below 2 or more than there are.

    >>> split = spread_split(num_images=20, num_views=3)
    >>> split.train_ids, split.test_ids
    ((1, 10, 19), (0, 8, 16))
    """
    return _thin(dense_split(num_images, test_every), num_views)


def strided_split(num_images: int, train_every: int) -> ViewSplit:
    """Train on views 0, train_every, 2 train_every, ... and hold out all others: GenFusion's masked protocol.

    Raises:
        SplitError: `train_every` below 2 (nothing would be held out) or leaving fewer than two train views.
    """
    if train_every < 2:
        raise SplitError(
            f"{_FLAG}.train-every is {train_every}; it must be 2 or more, or nothing would be held out. Leave it out "
            f"to hold out every n-th view with {_FLAG}.test-every instead."
        )
    train = tuple(range(0, num_images, train_every))
    if len(train) < MIN_TRAIN_VIEWS:
        raise SplitError(
            f"The capture has {num_images} registered image(s), of which {len(train)} remain for training with "
            f"{_FLAG}.train-every {train_every}; at least {MIN_TRAIN_VIEWS} are needed."
        )
    test = tuple(i for i in range(num_images) if i % train_every)
    return ViewSplit(train, test, source=f"1 view in {train_every} trained on")


def select_views(
    names: Sequence[str],
    data_dir: Path,
    num_views: int | None = None,
    *,
    split_file: Path | None = None,
    test_every: int = 8,
    declared: ViewSplit | None = None,
    train_every: int | None = None,
) -> ViewSplit:
    """Decide the split of a capture.

    The first that applies wins: `split_file`; without `num_views`, `train_every`; `train_test_split_{num_views}.json`
    in `data_dir`; the split that the capture itself declares (Blender's train and test files, file lists in
    transforms.json), thinned to `num_views`;
    every `test_every`-th view held out and `num_views` spread over the rest. `test_every` 0 without `num_views` trains
    on every view, whatever the capture declares.

    Args:
        names: registered image names sorted as text; index = view id.
        data_dir: folder of the capture; a relative `split_file` that does not exist as given is looked up here.
        num_views: train views to use; None or 0 uses every view that is not a test view.
        split_file: split to use whatever `num_views` says.
        test_every: stride of the held-out views when nothing else says which they are.
        declared: split that the capture declares.
        train_every: train on every n-th view and test on all others.

    Raises:
        SplitError: see the functions above.
    """
    if split_file is not None:
        return load_split_file(_locate(split_file, data_dir), names)
    if not num_views and train_every is not None:
        return _about(data_dir, lambda: strided_split(len(names), train_every))
    if not num_views and test_every == 0:
        return _about(data_dir, lambda: dense_split(len(names), 0))
    if not num_views:
        return (
            _usable(declared, data_dir) if declared else _about(data_dir, lambda: dense_split(len(names), test_every))
        )
    published = data_dir / f"train_test_split_{num_views}.json"
    if published.exists():
        split = load_split_file(published, names)
        if len(split.train_ids) != num_views:
            raise SplitError(
                f"{published}: train_ids has {len(split.train_ids)} views, its name promises {num_views}. "
                f"Rename the file, or name it with {_FLAG}.split-file to use it as it is."
            )
        return split
    if declared is not None:
        return _about(data_dir, lambda: _thin(declared, num_views))
    return _about(data_dir, lambda: spread_split(len(names), num_views, test_every))


def _thin(split: ViewSplit, num_views: int) -> ViewSplit:
    available = len(split.train_ids)
    if not MIN_TRAIN_VIEWS <= num_views <= available:
        remain = f"remain beside {len(split.test_ids)} test views: {split.source}" if split.holds_out else "in all"
        raise SplitError(
            f"{_FLAG}.num-views is {num_views}; allowed are {MIN_TRAIN_VIEWS}..{available} ({available} views "
            f"{remain}), or 0 for all of them."
        )
    picks = np.round(np.linspace(0, available - 1, num_views)).astype(int)
    train = tuple(split.train_ids[i] for i in picks)
    if split.holds_out:
        return ViewSplit(train, split.test_ids, source=f"{num_views} views spread evenly, {split.source}")
    others = tuple(i for i in split.test_ids if i not in train)
    if not others:
        return ViewSplit(train, train, source=split.source)
    return ViewSplit(train, others, source=f"{num_views} views spread evenly, all others held out")


def _usable(declared: ViewSplit, data_dir: Path) -> ViewSplit:
    if len(declared.train_ids) < MIN_TRAIN_VIEWS or not declared.test_ids:
        raise SplitError(
            f"{data_dir}: {declared.source} are {len(declared.train_ids)} and {len(declared.test_ids)}; at least "
            f"{MIN_TRAIN_VIEWS} train views and 1 test view are needed. Correct the capture, or name a "
            f"{_FLAG}.split-file."
        )
    return declared


def _about(data_dir: Path, make) -> ViewSplit:
    try:
        return make()
    except SplitError as error:
        raise SplitError(f"{data_dir}: {error}") from error


def _locate(split_file: Path, data_dir: Path) -> Path:
    # An absolute name may be that of a capture that was moved since.
    candidates = [split_file, data_dir / (split_file.name if split_file.is_absolute() else split_file)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    nearby = sorted(path.name for path in data_dir.glob("train_test_split_*.json"))
    raise SplitError(
        f"{_FLAG}.split-file {split_file} does not exist (looked for {', '.join(map(str, candidates))}). "
        f"Split files beside the data: {', '.join(nearby) if nearby else 'none'}."
    )


def _read_json_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not JSON, absurdly long numbers, deep nesting
        raise SplitError(f"{path} cannot be read as a split file: {error}.") from error
    if not isinstance(content, dict):
        raise SplitError(f"{path}: expected an object with train_ids and test_ids, found a {type(content).__name__}.")
    return content


def _resolve_list(path: Path, content: dict, key: str, names: Sequence[str], index: NameIndex) -> list[int]:
    entries = content.get(key)
    if not isinstance(entries, list):
        found = "nothing" if key not in content else f"a {type(entries).__name__}"
        raise SplitError(
            f"{path}: {key} must be a list of view ids or image names, found {found}; keys: {sorted(content)}."
        )
    ids: list[int] = []
    for position, entry in enumerate(entries):
        view = _resolve(f"{path}: {key}[{position}] = {entry!r}", entry, names, index)
        if view in ids:
            raise SplitError(f"{path}: {key}[{position}] = {entry!r} repeats view {view} ({names[view]}).")
        ids.append(view)
    return ids


def _resolve(where: str, entry: object, names: Sequence[str], index: NameIndex) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        if not 0 <= entry < len(names):
            raise SplitError(
                f"{where} is out of range. {_allowed(names)} If the split was made for another set of registered "
                "images, list image names instead of ids."
            )
        return entry
    if isinstance(entry, str):
        found = index.find(entry)
        if len(found) == 1:
            return found[0]
        problem = "is no registered image" if not found else f"may mean any of {[names[i] for i in found[:4]]}"
        raise SplitError(f"{where} {problem}. {_allowed(names)}")
    raise SplitError(f"{where} is a {type(entry).__name__}, neither a view id nor an image name. {_allowed(names)}")


def _allowed(names: Sequence[str]) -> str:
    return (
        f"Allowed: 0..{len(names) - 1}, positions among the {len(names)} registered images sorted by name, or their "
        f"names ({names[0]} .. {names[-1]})."
    )


def _plain(name: str) -> PurePosixPath:
    """A name with slashes, whatever system it was written on, and umlauts as one letter, which macOS takes apart."""
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))


def _same_folder(a: PurePosixPath, b: PurePosixPath) -> bool:
    depth = min(len(a.parts), len(b.parts)) - 1
    folders = ([part.casefold() for part in path.parts[-depth - 1 : -1]] for path in (a, b))
    return depth == 0 or next(folders) == next(folders)
