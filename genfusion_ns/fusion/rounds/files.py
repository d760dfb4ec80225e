"""The generated views of a run on disk: one file per round, written once, checked against its digest when read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from genfusion_ns.errors import CheckpointError
from genfusion_ns.files import copy_atomically
from genfusion_ns.fusion.rounds.generated_views import GeneratedView, load_views, save_views

VIEWS_FILE = "views.safetensors"


def round_folder(folder: Path, index: int) -> Path:
    """Where round `index` of the run in `folder` lies."""
    return folder / f"round_{index:02d}"


class RoundFiles:
    """View files below one run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[int, str] = {}
        """SHA-256 of each round's file, for checkpoints."""

    def path(self, index: int) -> Path:
        """The file of one round."""
        return round_folder(self.folder, index) / VIEWS_FILE

    def save(self, index: int, views: list[GeneratedView]) -> None:
        """Write the views of a round, completely or not at all.

        Raises:
            WriteError: the disk is full or not writable; the message says what to do.
        """
        what = f"the generated views of round {index} to"
        self.digests[index] = save_views(self.path(index), views, what, "resume with --load-dir")

    def load(self, index: int) -> list[GeneratedView]:
        """Read the views of a round.

        Raises:
            CheckpointError: the file is missing or is not what `save` wrote.
        """
        return load_views(self.path(index), self.digests.get(index))

    def adopt(self, folder: Path, digests: dict[int, str], rounds: Iterable[int]) -> dict[int, str]:
        """Take over rounds of the run in `folder`; returns why for each round that is missing or damaged."""
        lost: dict[int, str] = {}
        for index in rounds:
            source = RoundFiles(folder)
            source.digests = digests
            try:
                source.load(index)
            except CheckpointError as error:
                lost[index] = str(error)
                continue
            if source.path(index) != self.path(index):
                copy_atomically(source.path(index), self.path(index), f"the generated views of round {index} to")
            self.digests[index] = digests[index]
        return lost
