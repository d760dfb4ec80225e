"""YAML that others wrote: nothing in it is called, and it stays as small as it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from genfusion_ns.json_files import JsonFileError, JsonValue

_LARGEST_FILE = 2**20
_LARGEST_CONTENT = 50_000
"""Values in a file when its aliases are written out; the config of a run has about 300."""


def read_yaml(
    path: Path, way_out: str = "", error: type[ValueError] = JsonFileError, loader: type[yaml.SafeLoader] | None = None
) -> JsonValue:
    """The content of a YAML file in UTF-8; values are read from it by type and range as from JSON.

    Args:
        path: of the file.
        way_out: a sentence for messages: what the user can do.
        error: what is raised.
        loader: what builds values; plain YAML by default.

    Raises:
        error: it cannot be read, is no YAML, or would grow without bound; the message names the file and the line.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise error(f"{path} has {size:,} bytes, more than any file of settings. {way_out}".rstrip())
        text = path.read_text(encoding="utf-8-sig")
        content = _load(text, loader or yaml.SafeLoader)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}. {way_out}".rstrip()) from reason
    except UnicodeDecodeError as reason:
        raise error(f"{path} is no text in UTF-8: {reason}. {way_out}".rstrip()) from reason
    except (yaml.YAMLError, RecursionError) as reason:
        raise error(f"{path}{_said(reason)}. {way_out}".rstrip()) from reason
    return JsonValue(content, str(path), way_out=way_out, error=error)


def refuse(node: Node, problem: str) -> NoReturn:
    """Raise an error of the YAML library that says where something stands."""
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def refuse_value(node: Node, error: AttributeError | ValueError) -> NoReturn:
    """Refuse a number or date that there is not; the YAML library meets some of them with an attribute error."""
    refuse(node, str(error) if isinstance(error, ValueError) else f"no value of its kind ({error})")


def _load(text: str, kind: type[yaml.SafeLoader]) -> Any:
    loader = kind(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        try:
            return loader.construct_document(node)
        except (AttributeError, ValueError) as error:  # the loader may know the line
            refuse_value(node, error)
    finally:
        loader.dispose()


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return " is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return f"{'' if mark is None else f', line {mark.line + 1}'}: {error.problem or error.context}"
    return f": {error}"


def _check_size(root: Node) -> None:
    """Refuse content that grows without bound when aliases and merge keys are written out, and keys that repeat."""
    sizes: dict[int, int | None] = {}  # None: within this node, now

    def size(node: Node) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            refuse(node, "a value that contains itself is not allowed")
        if known:
            return known
        sizes[id(node)] = None
        total = 1
        if isinstance(node, MappingNode):
            _check_keys(node)
            total += sum(size(key) + size(value) for key, value in node.value)
        elif isinstance(node, SequenceNode):
            total += sum(size(item) for item in node.value)
        if total > _LARGEST_CONTENT:
            refuse(node, f"more than {_LARGEST_CONTENT} values with all aliases written out")
        sizes[id(node)] = total
        return total

    size(root)


def _check_keys(node: MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            refuse(key, "merge keys (<<) are not allowed")
        if isinstance(key, ScalarNode):
            name = (key.tag, key.value)
            if name in seen:
                refuse(key, f"the key {key.value[:60]!r} stands twice")
            seen.add(name)
