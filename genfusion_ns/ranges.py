"""Numbers among settings that have to lie within a range."""

from __future__ import annotations

import math
from collections.abc import Mapping

LEAST_0: tuple[float, float] = (0, math.inf)
"""A weight, a length or a count."""


def require_ranges(settings: object, ranges: Mapping[str, tuple[float, float]], flags: str = "--") -> None:
    """Refuse numbers out of range; those that are None are left to others.

    Args:
        settings: whose attributes they are.
        ranges: least and largest value of each, by the attribute's name; a largest one of infinity is no limit, but
            infinity itself is not allowed.
        flags: what stands before the names on the command line, such as ``--pipeline.model.``.

    Raises:
        ValueError: with the flag, the value and what is allowed.

    >>> from types import SimpleNamespace
    >>> require_ranges(SimpleNamespace(view_size=8), {"view_size": (16, 4096)})
    Traceback (most recent call last):
    ValueError: --view-size is 8; allowed are 16..4096
    """
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if value is None or (least <= value <= most and value < math.inf):  # false for NaN
            continue
        allowed = f"{_shown(least)}..{_shown(most)}" if most < math.inf else f"numbers of {_shown(least)} or more"
        raise ValueError(f"{flags}{name.replace('_', '-')} is {value}; allowed are {allowed}")


def _shown(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
