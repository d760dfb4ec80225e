"""How a run was set up: what differs from the defaults of its method, the command that repeats it, versions."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.registry import discover_methods

from genfusion_ns import __version__
from genfusion_ns.json_files import JsonFileError, read_json

_DATAPARSER = "pipeline.datamanager.dataparser"
_PLACES = (
    *("data", "pipeline.datamanager.data", "output_dir", "timestamp", "experiment_name", "project_name", "prompt"),
    *("load_dir", "load_step", "load_checkpoint", "load_config", "viewer", "logging", "method_name"),
    *("relative_model_dir", "print_config", _DATAPARSER),
)
"""Fields, or groups of them, that say where files lie or what a screen shows, and nothing of the result."""
_MISSING = object()


@dataclass(frozen=True)
class Setting:
    """A setting that is not the default of its method."""

    flag: str
    """As on the command line; of the dataparser without a prefix."""
    words: tuple[str, ...]
    """Its value, as on the command line."""
    default: str

    @property
    def value(self) -> str:
        """In one piece."""
        return " ".join(self.words)


@dataclass(frozen=True)
class Setup:
    """How a run was set up."""

    settings: tuple[Setting, ...]
    """Of the method."""
    dataparser: str
    """Its subcommand; empty where it is that of the method, with the same settings."""
    dataparser_settings: tuple[Setting, ...]
    lines: tuple[str, ...]
    """Of the command: one flag each."""
    versions: tuple[tuple[str, str, str], ...]
    """Name of a package, its version in training as far as rounds recorded it, and today's."""

    @property
    def command(self) -> str:
        """That repeats the run, in one line."""
        return " ".join(self.lines)


def setup_of(config: TrainerConfig, rounds: list[Path]) -> Setup:
    """See `Setup`.

    Args:
        config: of the run.
        rounds: folders of its rounds, in their order.
    """
    methods, _ = discover_methods()
    default = methods.get(config.method_name or "")
    settings = tuple(_differences(config, default, "")) if default is not None else ()
    ours, usual = config.pipeline.datamanager.dataparser, None  # type: ignore[attr-defined]
    if default is not None:
        usual = default.pipeline.datamanager.dataparser  # type: ignore[attr-defined]
    dataparser, parsed = _dataparser(ours, usual)
    return Setup(
        settings=settings,
        dataparser=dataparser,
        dataparser_settings=parsed,
        lines=_lines(config, settings, dataparser, parsed),
        versions=tuple(_versions(rounds)),
    )


def _differences(ours: Any, default: Any, prefix: str) -> Iterator[Setting]:
    """Fields of a dataclass, entries of a dictionary, and what is within them, that differ."""
    for name, value in _parts(ours).items():
        path = f"{prefix}{name}"
        if name.startswith("_") or path in _PLACES:
            continue
        usual = _parts(default).get(name, _MISSING)
        if usual is _MISSING or value == usual:
            continue
        if _parts(value) and type(value) is type(usual):
            yield from _differences(value, usual, f"{path}.")
        else:
            yield Setting(f"--{path.replace('_', '-')}", tuple(_words(value)), " ".join(_words(usual)))


def _parts(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {
            field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)
        }
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [word for entry in value for word in _words(entry)]
    if isinstance(value, Enum):
        return [value.name]
    if dataclasses.is_dataclass(value):
        return [type(value).__name__]
    return [str(value)]


def _dataparser(ours: Any, usual: Any) -> tuple[str, tuple[Setting, ...]]:
    """The subcommand for a dataparser and its settings; nothing where they are those of the method."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers  # takes seconds to import

    name, plain = next(((n, p) for n, p in all_dataparsers.items() if type(p) is type(ours)), ("", None))
    # A subcommand that the method has by default keeps the settings that the method gives it.
    before = usual if type(usual) is type(ours) else plain
    found = [] if before is None else list(_differences(ours, before, ""))
    settings = tuple(setting for setting in found if setting.flag != "--data")
    return (name, settings) if settings or type(ours) is not type(usual) else ("", ())


def _lines(
    config: TrainerConfig, settings: tuple[Setting, ...], dataparser: str, parsed: tuple[Setting, ...]
) -> tuple[str, ...]:
    data = config.pipeline.datamanager.data or config.data  # type: ignore[attr-defined]
    lines = [["ns-train", str(config.method_name), "--data", str(data)]]
    lines += [[setting.flag, *setting.words] for setting in settings]
    if dataparser:
        lines.append([dataparser])
        lines += [[setting.flag, *setting.words] for setting in parsed]
    return tuple(map(shlex.join, lines))


def _versions(rounds: list[Path]) -> Iterator[tuple[str, str, str]]:
    recorded: dict[str, str] = {}
    for folder in rounds:
        try:
            recorded |= {
                name: found.text() for name, found in read_json(folder / "round.json")["versions"].fields().items()
            }
        except JsonFileError:
            continue
    today = {"genfusion_ns": __version__, "python": platform.python_version()}
    for package in ("torch", "nerfstudio", "gsplat"):
        try:
            today[package] = version(package)
        except PackageNotFoundError:
            today[package] = "not installed"
    for name in ("genfusion_ns", "torch", "nerfstudio", "gsplat", "python"):
        yield name, recorded.get(name, ""), today[name]
