"""How far repaired pixels are off, by the confidence that the generator gives them: a reliability diagram as a table.

    python docs/confidence.py --clips CLIPS --generator compact

CLIPS is a folder of gf-make-clips of captures that the generator never saw. Prints the rows of docs/results/confidence.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

_EDGES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)


@dataclass
class Reliability:
    """Compare confidence with error on clips."""

    clips: Path
    generator: str = "compact"

    def run(self) -> None:
        """Frames that no given photo shows, all clips together."""
        from genfusion_ns.data.clips.pairs import list_pairs, read_pair
        from genfusion_ns.geometry.clips import select_references
        from genfusion_ns.priors.config import RepairerConfig, build_repairer
        from genfusion_ns.priors.training.validation import novel_frames

        repairer = build_repairer(RepairerConfig(model=self.generator), "cpu")
        confidences, squares, before = [], [], []
        for path in list_pairs(self.clips):
            pair = read_pair(path)
            photos = select_references(pair.references, list(range(min(4, len(pair.references)))))
            repaired = repairer.repair(pair.artifact, photos, torch.Generator().manual_seed(0))
            novel = novel_frames(pair)
            confidences.append(repaired.confidence[novel].flatten())
            squares.append((repaired.rgb - pair.clean.rgb)[novel].square().mean(-1).flatten())
            before.append((pair.artifact.rgb - pair.clean.rgb)[novel].square().mean(-1).flatten())
        confidence, square, rendered = torch.cat(confidences), torch.cat(squares), torch.cat(before)
        rows = []
        for low, high in zip(_EDGES, _EDGES[1:], strict=False):
            inside = (confidence >= low) & (confidence < high)
            if not bool(inside.any()):
                continue
            share = 100 * float(inside.float().mean())
            errors = [float(values[inside].mean().sqrt()) for values in (square, rendered)]
            rows.append([f"{low:g} to {high:g}", round(share, 1), *(round(error, 4) for error in errors)])
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    tyro.cli(Reliability).run()
