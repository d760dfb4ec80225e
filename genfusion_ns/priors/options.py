"""What a kind of prior tells of itself before one is built: its options, their checks, and how it is built.

Each kind has one class here or in its own folder, a subclass of `PriorOptions`, and one field in `RepairerConfig`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch

from genfusion_ns.priors.base import Capabilities, VideoRepairer
from genfusion_ns.stored_config import StoredConfig

FLAG = "--pipeline.repairer"
"""Where the settings of priors are on the command line."""


@dataclass(frozen=True)
class SharedSettings:
    """What a run asks of a prior of any kind."""

    folder: Path
    """Of the weights."""
    device: torch.device
    steps: int | None
    """Denoising steps per clip; None: what the kind is made for."""
    resolution: tuple[int, int] | None
    """(width, height) at which clips are repaired, in pixels; None: what the prior was trained at."""
    dtype: torch.dtype | None
    """Of the arithmetic; None: what suits the device."""


@dataclass
class PriorOptions(StoredConfig, ABC):
    """Base of the options of one kind. A subclass is a dataclass; its fields are the options that this kind alone has.

    Importing it, and checking with it, must not import the libraries that the prior is built with.
    """

    kind: ClassVar[str]
    """Its name, that of its field in `RepairerConfig`."""
    capabilities: ClassVar[Capabilities]
    """Of every repairer of this kind."""
    draws_views: ClassVar[bool] = False
    """What it builds is a `ViewPrior`, which draws single views, and no repairer of clips."""
    weights: ClassVar[Path | None] = None
    """The folder that the kind's own name stands for as a model; None: it comes without weights."""
    usual_steps: ClassVar[int | None] = None
    """For messages; None: it has no steps."""
    usual_resolution: ClassVar[tuple[int, int]]
    """(width, height) in pixels where neither the user nor a folder says another."""
    set_by_tasks: ClassVar[tuple[str, ...]] = ()
    """Fields that methods set, not users."""

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """Whether a folder holds weights of this kind, complete or not."""
        return False

    def given(self) -> list[str]:
        """Names of the options that were set to other values than the usual ones, those of tasks aside."""
        return [
            field.name
            for field in fields(self)
            if field.name not in self.set_by_tasks and getattr(self, field.name) != field.default
        ]

    def flag(self, name: str) -> str:
        """An option as it is on the command line."""
        return f"{FLAG}.{self.kind}.{name.replace('_', '-')}"

    def check_ranges(self) -> None:
        """Refuse values that no weights and no device allow, before anything is looked for.

        Raises:
            ValueError: with the flag, the value and what is allowed.
        """

    def check(self, settings: SharedSettings) -> None:
        """Refuse what could not be built or used, without loading weights.

        Raises:
            ValueError: the weights are damaged or of another kind, or a setting does not fit them or the device.
            FileNotFoundError: the weights are incomplete.
        """

    @abstractmethod
    def build(self, settings: SharedSettings) -> VideoRepairer:
        """The repairer; errors as in `check`."""
