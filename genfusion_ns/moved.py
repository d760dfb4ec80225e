"""Modules that have moved: their old names answer with the module of the new name.

Files on users' disks name our modules: the ``config.yml`` of a run names those of its config classes,
``model_index.json`` of a generator those of its parts. A module that has been named in such a file keeps its entry for
ever; an entry is never removed, and one that moves again gets its old entry changed and a second one.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

MOVED: dict[str, str] = {
    "genfusion_ns.fusion.view_samplers": "genfusion_ns.fusion.cameras.sparse",
    "genfusion_ns.fusion.masked_sampler": "genfusion_ns.fusion.cameras.masked",
    "genfusion_ns.fusion.completion_sampler": "genfusion_ns.fusion.cameras.completion",
}
"""Old name -> new name, both in full."""


class _Alias(importlib.abc.Loader):
    """Loads the module of the new name in place of one of the old name; both are the same object."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just put that of the old name there


class _MovedFinder(importlib.abc.MetaPathFinder):
    """Asked last, so that it answers only for names that no file has any more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        new = MOVED.get(fullname)
        return None if new is None else importlib.machinery.ModuleSpec(fullname, _Alias(new))


def answer_for_old_names() -> None:
    """Let imports of old names succeed from now on; calling it again changes nothing."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
