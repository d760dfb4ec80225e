"""Curves of a training: training.jsonl and validation.jsonl, one line per event, and tensorboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genfusion_ns.files import replacing, write_atomically
from genfusion_ns.geometry.images import to_bytes
from genfusion_ns.json_files import JsonFileError, parse_json

_TRAINING, _VALIDATION = "training.jsonl", "validation.jsonl"


class Curves:
    """Writes curves; lines beyond the step that a training resumes from are dropped, for they will come again."""

    def __init__(self, output: Path, first: int) -> None:
        """
        Args:
            output: folder of the training.
            first: steps that are done.
        """
        # Takes a second to import, and other processes than the main one write nothing.
        from torch.utils.tensorboard import SummaryWriter

        output.mkdir(parents=True, exist_ok=True)
        self._training, self._validation = output / _TRAINING, output / _VALIDATION
        _cut(self._training, first)
        _cut(self._validation, first)
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=first + 1)

    def train(self, step: int, **values: float | None) -> None:
        """One optimiser step; None stands for what could not be told."""
        self._write(self._training, "train", step, values)

    def validate(self, step: int, values: Mapping[str, float], sheet: Float[Tensor, "H W 3"]) -> None:
        """One validation, with its picture; it replaces an earlier one of the same step."""
        _cut(self._validation, step - 1)
        self._write(self._validation, "validation", step, values)
        self._board.add_image("samples", sheet.cpu(), step, dataformats="HWC")
        self._board.flush()

    def _write(self, path: Path, group: str, step: int, values: Mapping[str, float | None]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"{group}/{name}", value, step)

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._board.close()


def write_picture(sheet: Float[Tensor, "H W 3"], path: Path) -> None:
    """Write a picture of colours in 0..1 as PNG."""
    with replacing(path) as unfinished:
        Image.fromarray(to_bytes(sheet).numpy()).save(unfinished)


def _cut(path: Path, first: int) -> None:
    """Keep the lines of steps up to `first`; a last line that a crash cut short goes as well."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            step = parse_json(line, str(path))["step"].whole("a step", 0)
        except JsonFileError:
            continue
        if step <= first:
            kept.append(line + "\n")
    write_atomically(path, "".join(kept).encode())
