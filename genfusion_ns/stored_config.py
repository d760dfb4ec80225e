"""Settings that are read back from the config.yml of a run, which may be older than the settings are."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, ClassVar


class StoredConfig:
    """Base of the dataclasses of this package that config.yml holds: fields that it lacks take their defaults.

    YAML restores an object's fields as they were saved, without calling its constructor. A field that was added since
    would be missing, and one with a default_factory has no value on the class either.
    """

    former_names: ClassVar[dict[str, str]] = {}
    """Fields of earlier versions, with the names that they have today."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {self.former_names.get(name, name): value for name, value in state.items()}
        defaults = {}
        for field in fields(self):  # type: ignore[arg-type]
            if field.name in state:
                continue
            if field.default is not MISSING:
                defaults[field.name] = field.default
            elif field.default_factory is not MISSING:
                defaults[field.name] = field.default_factory()
        self.__dict__.update(defaults | state)
