"""A round in few figures: its line on the console, and its entries in tensorboard and the like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nerfstudio.engine.trainer import writer
from PIL import Image

from genfusion_ns.fusion.rounds.record import RoundRecord

_GROUP = "Rounds"
"""What the entries of rounds are filed under."""


@dataclass(frozen=True)
class RoundSummary:
    """Means over the clips of a round; nan where no clip has such a figure."""

    photos_psnr: float
    """Of the scene against the photos before the round, in dB."""
    rendered_psnr: float
    """Of the rendered clips against what photos show of them, in dB."""
    repaired_psnr: float
    """Of the repaired clips, likewise."""
    coverage: float
    """Of the rendered clips, 0..1."""
    clips: int
    kept: int
    """Clips that were not rejected."""
    seeded: int
    """Surfels that were inserted."""
    seconds: float

    @classmethod
    def of(cls, record: RoundRecord, seconds: float) -> RoundSummary:
        """The figures of a round that took so long."""

        def mean(name: str) -> float:
            return _mean(scores[name] for scores in record.scores)

        return cls(
            photos_psnr=record.details["photos_psnr"],
            rendered_psnr=mean("artifact_psnr"),
            repaired_psnr=mean("repaired_psnr"),
            coverage=mean("coverage"),
            clips=len(record.rejected),
            kept=sum(reason is None for reason in record.rejected),
            seeded=sum(log["inserted"] for log in record.details.get("seeding", [])),
            seconds=seconds,
        )

    def line(self) -> str:
        """All of it in one line."""
        agreement = "seen by no photo"
        if math.isfinite(self.rendered_psnr):
            agreement = f"agreement {self.rendered_psnr:.1f} dB rendered, {self.repaired_psnr:.1f} dB repaired"
        seeded = f", {self.seeded} surfels seeded" if self.seeded else ""
        return (
            f"photos {self.photos_psnr:.1f} dB before, {agreement}, {self.kept} of {self.clips} clips kept, "
            f"coverage {self.coverage:.0%}{seeded}, {self.seconds:.0f} s"
        )

    def publish(self, step: int, sheets: Sequence[Image.Image]) -> None:
        """Hand figures and contact sheets to the writers of nerfstudio that keep them, if the run has any."""
        if all(isinstance(kept, writer.LocalWriter) for kept in writer.EVENT_WRITERS):
            return
        names = ("photos_psnr", "rendered_psnr", "repaired_psnr", "coverage", "seconds")
        figures = {name: getattr(self, name) for name in names} | {"kept": self.kept / max(self.clips, 1)}
        writer.put_dict(_GROUP, {name: value for name, value in figures.items() if math.isfinite(value)}, step)
        for number, sheet in enumerate(sheets):
            image = torch.from_numpy(np.asarray(sheet).copy()).float() / 255
            writer.put_image(f"{_GROUP}/clip_{number:02d}", image, step)


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
