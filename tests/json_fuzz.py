"""JSON and YAML content with one value after the other replaced by what does not belong there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_DEEP: Any = "x"
for _ in range(60):
    _DEEP = [_DEEP]
_FAR = [10**400, 1e308, -(2**63), 2**31, math.nan, math.inf, -math.inf]
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    0.5,
    *_FAR,
    "",
    "x",
    "1",
    "\0",
    "../x",
    "/etc/hostname",
    [],
    [1],
    ["a"],
    {},
    {"a": 1},
    _DEEP,
]
_DROP = object()


def places(content: Any) -> list[tuple[Any, ...]]:
    """Where values stand: all keys, and the first and last entries of lists."""
    found: list[tuple[Any, ...]] = []
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list):
        keys = sorted({0, len(content) - 1}) if content else []
    else:
        return []
    for key in keys:
        found += [(key,), *((key, *rest) for rest in places(content[key]))]
    return found


def broken(content: Any, extra: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every place with every value, and without its key; a label and the content.

    Args:
        content: dicts, lists and values.
        extra: more values.
    """
    for place in places(content):
        for value in (*VALUES, *extra, _DROP):
            changed = copy.deepcopy(content)
            target = changed
            for key in place[:-1]:
                target = target[key]
            if value is _DROP:
                del target[place[-1]]
            else:
                target[place[-1]] = value
            yield f"{'.'.join(map(str, place))} = {'nothing' if value is _DROP else repr(value)[:40]}", changed
    yield from ((f"all = {value!r:.40}", value) for value in VALUES)


def survey(
    content: Any,
    write: Callable[[Any], object],
    attempt: Callable[[], object],
    names: Path,
    extra: tuple[Any, ...] = (),
    stride: int = 1,
) -> tuple[int, int]:
    """Try all of `broken`: each is taken, or refused by a ValueError or OSError whose message names the file.

    Args:
        content: as it is right.
        write: puts content where `attempt` finds it.
        attempt: reads it.
        names: the file that messages must name.
        extra: as in `broken`.
        stride: try every n-th only. Of a number that shares no factor with that of the values, so that all of them meet
            some key and every key meets some.

    Returns:
        How many were taken and refused.
    """
    if math.gcd(stride, len((*VALUES, *extra, _DROP))) > 1:
        raise ValueError(f"a stride of {stride} leaves out values")
    write(content)
    attempt()
    taken = refused = 0
    wrong = []
    for label, changed in islice(broken(content, extra), 0, None, stride):
        write(changed)
        try:
            attempt()
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            if str(names) not in str(error) or len(str(error)) > 1500:
                wrong.append(f"{label}: {error}")
        except Exception as error:
            wrong.append(f"{label}: {type(error).__name__}: {error}")
        else:
            taken += 1
    assert not wrong, f"{len(wrong)} of {taken + refused + len(wrong)}:\n" + "\n".join(
        line[:400] for line in wrong[:30]
    )
    write(content)
    attempt()
    return taken, refused
