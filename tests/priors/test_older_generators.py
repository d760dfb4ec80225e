"""Generators of released versions go on working: they load, by the names of then, and repair as they did.

`fixtures/generators` holds one of each kind per version, of tiny size and with random weights, and means over cells of
what they made of a clip; `generator_fixtures.py` writes those of a version.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from generator_fixtures import EXPECTED, GENERATORS, KINDS, repaired_cells

from genfusion_ns.moved import MOVED
from genfusion_ns.priors.config import RepairerConfig, check_repairer

VERSIONS = sorted(path.name for path in GENERATORS.iterdir())
_TOLERANCE = 2e-3
"""Of colours and disparities in 0..1: processors round differently, and another network is off by far more."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_generator_repairs_as_it_did(version: str, kind: str) -> None:
    folder = GENERATORS / version / kind
    assert check_repairer(RepairerConfig(model=str(folder)), "cpu").kind == kind
    expected = json.loads((GENERATORS / version / EXPECTED).read_text())[kind]
    found = repaired_cells(folder)
    assert found["kind"] == expected["kind"] == kind
    cells = torch.tensor(expected["cells"])
    assert cells.std(dim=(2, 3))[:, :3].min() > 5 * _TOLERANCE, "the record tells pictures apart"
    torch.testing.assert_close(torch.tensor(found["cells"]), cells, atol=_TOLERANCE, rtol=0)


def test_parts_whose_modules_have_moved_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "generator"
    shutil.copytree(GENERATORS / "0.1.0" / "dynamicrafter", folder)
    index = json.loads((folder / "model_index.json").read_text())
    for part in ("unet", "scheduler", "image_projection"):
        old, new = f"genfusion_ns.priors.long_gone_{part}", index[part][0]
        monkeypatch.setitem(MOVED, old, MOVED.get(new, new))
        index[part][0] = old
    (folder / "model_index.json").write_text(json.dumps(index))
    expected = json.loads((GENERATORS / "0.1.0" / EXPECTED).read_text())["dynamicrafter"]
    cells = torch.tensor(repaired_cells(folder)["cells"])
    torch.testing.assert_close(cells, torch.tensor(expected["cells"]), atol=_TOLERANCE, rtol=0)
