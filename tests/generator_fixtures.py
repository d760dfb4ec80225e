"""Writes the generators of one version into `fixtures/generators`, and what they make of a clip.

`python tests/generator_fixtures.py VERSION` when a version is released; those of older versions are never written anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

GENERATORS = Path(__file__).parent / "fixtures" / "generators"
KINDS = ("compact", "dynamicrafter")
EXPECTED = "expected.json"
_CELLS = 4


def clip_and_photos() -> tuple[Any, Any]:
    """Three frames of a waving picture with a hole, and two photos of it; in closed form, so that it never changes."""
    from genfusion_ns.geometry.clips import Clip, References

    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    time = torch.arange(3.0)[:, None, None]
    rgb = (
        torch.stack([(3 * x + time / 4).sin(), (5 * y - time / 4).cos(), (4 * (x + y) + time / 4).sin()], -1) / 2 + 0.5
    )
    alpha = torch.ones(3, 64, 64, 1)
    alpha[:, 20:40, 24:52] = 0
    viewmats = torch.eye(4).repeat(3, 1, 1)
    viewmats[:, 0, 3] = 0.05 * torch.arange(3)
    K = torch.tensor([[64.0, 0, 32], [0, 64, 32], [0, 0, 1]])
    depth = (2 + x + time / 10)[..., None]
    clip = Clip(rgb * alpha, depth * alpha, alpha, viewmats, K.repeat(3, 1, 1))
    return clip, References(rgb[[0, 2]], viewmats[[0, 2]], K.repeat(2, 1, 1))


def repaired_cells(folder: Path) -> dict[str, Any]:
    """What the generator of a folder makes of the clip, as means over cells of each frame."""
    from genfusion_ns.priors.config import RepairerConfig, build_repairer

    repairer = build_repairer(RepairerConfig(model=str(folder), steps=2, resolution=(64, 64), dtype="fp32"), "cpu")
    repaired = repairer.repair(*clip_and_photos(), torch.Generator().manual_seed(0))
    images = torch.cat([repaired.rgb, repaired.disparity, repaired.confidence], -1).permute(0, 3, 1, 2)
    return {"kind": repairer.name, "cells": torch.nn.functional.avg_pool2d(images, 64 // _CELLS).tolist()}


def write_compact(folder: Path) -> None:
    """As `gf-train-generator` writes it; the layers that start at zero are stirred."""
    from genfusion_ns.priors.compact.unet import CompactUNet
    from genfusion_ns.priors.training import save_network

    torch.manual_seed(0)
    network = CompactUNet(channels=(8, 8, 16), reference_channels=4, attention_head_dim=8, norm_groups=4)
    for parameter in (*network.head.parameters(), *network.gate.parameters()):
        torch.nn.init.normal_(parameter, std=0.02)
    save_network(network, folder)


def write_dynamicrafter(folder: Path) -> None:
    """As `gf-convert-generator` writes it, from a checkpoint of random weights."""
    from dynamicrafter_toys import TINY, published_names, random_pipeline

    from genfusion_ns.priors.dynamicrafter.conversion.convert import convert_checkpoint

    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "toy.ckpt"
        torch.save({"state_dict": published_names(random_pipeline(TINY))}, checkpoint)
        convert_checkpoint(checkpoint, folder, architecture=TINY)


def main(version: str) -> None:
    """Write all of a version, which must not be there."""
    root = GENERATORS / version
    root.mkdir(parents=True)
    write_compact(root / "compact")
    write_dynamicrafter(root / "dynamicrafter")
    expected = {kind: repaired_cells(root / kind) for kind in KINDS}
    (root / EXPECTED).write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
