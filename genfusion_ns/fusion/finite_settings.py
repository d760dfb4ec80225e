"""Numbers of a run's settings that are none: text such as nan and inf is a float to every command line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass


def require_finite(config: object, flag: str) -> None:
    """Refuse settings that are not finite, of a dataclass and of those within it.

    Args:
        config: instance of a dataclass.
        flag: its place on the command line, such as ``--pipeline.model``.

    Raises:
        ValueError: with the flag of the first such setting.
    """
    for name, value in _floats(config, flag):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; a finite number is needed")


def _floats(config: object, flag: str) -> Iterator[tuple[str, float]]:
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        name = f"{flag}.{field.name.replace('_', '-')}"
        if isinstance(value, float):
            yield name, value
        elif is_dataclass(value) and not isinstance(value, type):
            yield from _floats(value, name)
