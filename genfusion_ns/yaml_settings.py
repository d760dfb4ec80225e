"""YAML files of ``gf-train-generator``: keys are the names of the fields of a config, and files inherit from others.

``parent: other.yaml`` (relative to the file that says so) takes over all settings of that file that are not given, but
for those of its own run: where it started and where it wrote.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from genfusion_ns.yaml_files import read_yaml

Config = TypeVar("Config")
_OWN = ("parent", "output", "initial", "vae", "resume")
"""Keys that are not inherited."""
_CHILD = "parent"
_LARGEST = 2**63
"""Whole numbers are below it, as seeds must be."""


def read_settings(path: Path, kind: Callable[[Mapping[str, Any]], type[Config]]) -> Config:
    """The config of a file and its parents.

    Args:
        path: of the YAML file.
        kind: the dataclass that settings are of.

    Raises:
        FileNotFoundError: the file, or a parent, is missing.
        ValueError: no YAML, unknown keys, values of another type, or files that are each other's parents.
    """
    settings = _gather(path, kind, ())
    return fill(kind(settings), settings, str(path))


def _gather(path: Path, kind: Callable[[Mapping[str, Any]], type], children: tuple[Path, ...]) -> dict[str, Any]:
    """Settings of a file over those of its parent; each file is checked for itself, so that errors name it."""
    here = path.resolve()
    if here in children:
        raise ValueError(f"{path} is its own ancestor: {' -> '.join(file.name for file in (*children, here))}")
    if not path.is_file():
        whose = f", the parent of {children[-1]}" if children else ""
        raise FileNotFoundError(f"{path}{whose}: no such config file")
    own = _read(path)
    parent = own.get(_CHILD)
    if parent is None:
        fill(kind(own), own, str(path))
        return own
    if not isinstance(parent, str) or not parent.isprintable():
        raise ValueError(f"{path}: parent is {reprlib.repr(parent)}; the path of a YAML file is needed")
    own[_CHILD] = str(here.parent / parent)
    inherited = _gather(here.parent / parent, kind, (*children, here))
    inherited = {name: value for name, value in inherited.items() if name not in _OWN}
    merged = _merge(inherited, own)
    fill(kind(merged), own, str(path))
    return merged


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if content.value is None:
        return {}
    if not isinstance(content.value, dict):
        raise ValueError(f"{path} holds a {type(content.value).__name__}; keys and values are needed")
    return content.value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def fill(cls: type[Config], values: object, where: str) -> Config:
    """A dataclass from a mapping.

    >>> @dataclasses.dataclass
    ... class Settings:
    ...     steps: int = 100
    ...     rate: float = 1e-3
    >>> fill(Settings, {"rate": "1e-5"}, "some.yaml")
    Settings(steps=100, rate=1e-05)
    >>> fill(Settings, {"step": 5}, "some.yaml")
    Traceback (most recent call last):
    ValueError: some.yaml: unknown keys ['step']; allowed are ['rate', 'steps']

    Args:
        cls: a dataclass whose fields are numbers, words, paths, tuples of them, or such dataclasses.
        values: by field name; fields that are not named keep their defaults.
        where: for messages.

    Raises:
        ValueError: an unknown key, or a value of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: found {reprlib.repr(values)}; keys and values are needed")
    hints = get_type_hints(cls)
    unknown = sorted(str(name) for name in set(values) - set(hints))
    if unknown:
        raise ValueError(f"{where}: unknown keys {unknown}; allowed are {sorted(hints)}")
    return cls(**{name: _convert(value, hints[name], f"{where}: {name}") for name, value in values.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return fill(hint, value, where)  # pyright: ignore[reportArgumentType]
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal and value in choices and not isinstance(value, bool):
        return value
    if origin in (Union, types.UnionType):
        present = [choice for choice in choices if choice is not type(None)]
        return None if value is None else _convert(value, present[0], where)
    if origin is tuple and isinstance(value, list):
        kinds = [choices[0]] * len(value) if choices[-1] is Ellipsis else list(choices)
        if len(kinds) == len(value):
            return tuple(_convert(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)  # YAML takes 1e-5, without a point, for a word
            if not math.isnan(number):
                return number
    if hint in (str, Path) and isinstance(value, str) and value.isprintable():
        return hint(value)
    raise ValueError(f"{where} is {reprlib.repr(value)}; {_wanted(hint)} is needed")


def _wanted(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"}
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in choices)}"
    if origin is tuple and choices[-1] is Ellipsis:
        return f"a list, each entry {_wanted(choices[0])},"
    if origin is tuple:
        return f"a list of {len(choices)}, each entry {_wanted(choices[0])},"
    return names[hint]


def to_plain(value: Any) -> Any:
    """What YAML can write of a config; `fill` reads it back."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
