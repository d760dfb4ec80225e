"""``config.yml`` of a run, read without running anything that a stranger may have written into it.

nerfstudio writes these files as YAML with Python tags and reads them with ``yaml.Loader``, which calls whatever a tag
names. Here a tag may name a dataclass or an enum of nerfstudio or of this package, a class of theirs or of
``torch.optim`` as the ``_target`` of such a dataclass, a path, or a tuple. Everything else is refused.
"""

from __future__ import annotations

import dataclasses
import importlib
import reprlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from genfusion_ns.data.captures.location import located
from genfusion_ns.errors import CheckpointError
from genfusion_ns.fusion.checkpoints import checkpoints_of, read_checkpoint
from genfusion_ns.fusion.pipeline import GenFusionPipeline, GenFusionPipelineConfig
from genfusion_ns.yaml_files import read_yaml, refuse, refuse_value

_OWNERS = ("nerfstudio", "genfusion_ns")
_PROGRAMS = ("nerfstudio.scripts", "genfusion_ns.scripts")
_TARGETS = ("torch.optim", *_OWNERS)
_PATHS = tuple(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows", ""))
_PYTHON = "tag:yaml.org,2002:python/"
_WAY_OUT = "Give the config.yml that ns-train wrote for a run of genfusion."


class RunConfigError(ValueError):
    """A config.yml that cannot be read as that of a run; the message names the file, the line and what stands there."""


def read_run_config(path: Path) -> TrainerConfig:
    """The config of a run; nothing in the file is called.

    Raises:
        RunConfigError: no such file, no YAML, a tag that is not allowed, or another thing than the config of a run.
    """
    config = read_yaml(path, _WAY_OUT, RunConfigError, _Loader).value
    if not isinstance(config, TrainerConfig):
        raise RunConfigError(f"{path} holds a {type(config).__name__}, not the config of a run. {_WAY_OUT}")
    return config


def load_run(path: Path, way_out: str = "render it with ns-render, it has no surfels") -> GenFusionPipeline:
    """The pipeline of a run at its latest checkpoint, for renders.

    Args:
        path: ``config.yml`` of the run; its checkpoints are looked for beside it, else where the config says, and its
            capture where that says, else near it.
        way_out: what helps with a run of another method.

    Raises:
        RunConfigError: as `read_run_config`, or a run of another method.
        CheckpointError: no checkpoint, or a damaged one.
        ValueError: the capture of the run cannot be used.
    """
    config = read_run_config(path)
    if not isinstance(config.pipeline, GenFusionPipelineConfig):
        raise RunConfigError(f"{path} is a run of another method ({config.method_name}); {way_out}")
    datamanager = config.pipeline.datamanager
    if datamanager.data is not None:
        datamanager.data = located(Path(datamanager.data), path)
    checkpoint = latest_checkpoint(path, config)
    state = read_checkpoint(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        pipeline = config.pipeline.setup(device=device, test_mode="inference")
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        raise RunConfigError(
            f"{path} does not describe a run that can be set up ({type(error).__name__}: {error}). {_WAY_OUT}"
        ) from error
    try:
        pipeline.load_pipeline(state["pipeline"], state["step"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} does not fit {path}: {error}") from error
    return pipeline.eval()


def latest_checkpoint(path: Path, config: TrainerConfig) -> Path:
    """The newest checkpoint of a run, beside its config.yml or else where the config says.

    Raises:
        CheckpointError: there is none.
    """
    beside = path.parent / config.relative_model_dir
    folder = beside if beside.is_dir() else config.get_checkpoint_dir()
    checkpoints = checkpoints_of(folder)
    if not checkpoints:
        raise CheckpointError(f"{folder}, where {path} has its checkpoints, holds none (step-*.ckpt)")
    return checkpoints[max(checkpoints)]


class _Loader(yaml.SafeLoader):
    """Plain YAML, and the Python tags that configs of runs have; see the module."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, ValueError) as error:  # numbers, dates and entries of enums that there are not
            refuse_value(node, error)

    def tuple_of(self, node: Node) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node))  # pyright: ignore[reportArgumentType]

    def named(self, path: str, node: Node) -> type:
        if not isinstance(node, ScalarNode) or node.value:
            refuse(node, f"the tag {_shown(node)} has a value; none is allowed")
        return _class(path, node, _TARGETS)

    def called(self, path: str, node: Node) -> Path | Enum:
        """A path or an entry of an enum; nothing else is called."""
        if not isinstance(node, SequenceNode):
            refuse(node, f"the tag {_shown(node)} is not allowed in this form")
        values = self.construct_sequence(node, deep=True)
        if path in _PATHS:
            if not all(isinstance(value, str) for value in values):
                refuse(node, f"a path of {reprlib.repr(values)}; parts of a path are text")
            return Path(*values)
        kind = _class(path, node, _OWNERS)
        if not issubclass(kind, Enum) or len(values) != 1:
            refuse(node, f"the tag {_shown(node)} is not allowed: it would call {path}")
        return kind(values[0])

    def dataclass(self, path: str, node: Node) -> Iterator[Any]:
        kind = _class(path, node, _OWNERS)
        if not dataclasses.is_dataclass(kind):
            refuse(node, f"the tag {_shown(node)} is not allowed: {path} is no dataclass")
        instance: Any = object.__new__(kind)
        yield instance  # before its fields, which may refer to it by an alias
        if not isinstance(node, MappingNode):
            refuse(node, f"the tag {_shown(node)} needs fields")
        state: dict[Any, Any] = self.construct_mapping(node, deep=True)
        _check_fields(kind, state, node)
        if hasattr(instance, "__setstate__"):
            instance.__setstate__(state)
        else:
            instance.__dict__.update(state)

    def forbidden(self, suffix: str, node: Node) -> NoReturn:
        refuse(node, f"the tag {_shown(node)} is not allowed")


_Loader.add_constructor(f"{_PYTHON}tuple", _Loader.tuple_of)
_Loader.add_multi_constructor(f"{_PYTHON}name:", _Loader.named)
_Loader.add_multi_constructor(f"{_PYTHON}object/apply:", _Loader.called)
_Loader.add_multi_constructor(f"{_PYTHON}object:", _Loader.dataclass)
_Loader.add_multi_constructor("", _Loader.forbidden)


def _class(path: str, node: Node, packages: tuple[str, ...]) -> type:
    """The class of one of the packages that a tag names, of whichever module has it now."""
    module, _, name = path.rpartition(".")
    if not _within(module, packages) or _within(module, _PROGRAMS):
        refuse(node, f"the tag {_shown(node)} is not allowed: only {' and '.join(packages)} may be named")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        refuse(node, f"the tag {_shown(node)} names a module that this installation lacks ({error})")
    # What a module merely imports, such as a class of subprocess, is not its own.
    if not isinstance(found, type) or not _within(found.__module__, packages):
        refuse(node, f"the tag {_shown(node)} is not allowed: {module} has no class {name} of its own")
    return found


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _check_fields(kind: type, state: dict[Any, Any], node: Node) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in state.items():
        # Fields that have gone since are kept, as yaml.Loader does, unless they would hide a method.
        if not isinstance(name, str) or name.startswith("__") or (name not in fields and hasattr(kind, name)):
            refuse(node, f"{kind.__name__} has no field {reprlib.repr(name)}")
        if name == "_target":
            usual = _default(fields.get(name))
            if not isinstance(value, type) or not (usual is None or issubclass(value, usual)):
                shown = value.__qualname__ if isinstance(value, type) else reprlib.repr(value)
                refuse(node, f"_target of {kind.__name__} is {shown}; only {usual and usual.__qualname__} is allowed")


def _default(field: dataclasses.Field[Any] | None) -> type | None:
    if field is None:
        return None
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _shown(node: Node) -> str:
    return node.tag.replace("tag:yaml.org,2002:", "!!")
