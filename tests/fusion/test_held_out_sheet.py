"""The picture of held-out views: read back from what ns-eval writes, and each column shows what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genfusion_ns.fusion.held_out_sheet import EvaluatedRun, held_out_sheet

PHOTO, WITHOUT, LOOP = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def evaluated(
    folder: Path, render: tuple[int, int, int], views: int = 5, size: tuple[int, int] = (64, 36)
) -> EvaluatedRun:
    """What ns-eval leaves: photo and render side by side, and the metrics."""
    folder.mkdir()
    for view in range(views):
        pair = [np.full((size[1], size[0], 3), colour, np.uint8) for colour in (PHOTO, render)]
        Image.fromarray(np.concatenate(pair, axis=1)).save(folder / f"eval_img_{view:04d}.png")
    results = {"results": {"psnr": 20.0, "ssim": 0.5, "lpips": 0.25}}
    (folder / "eval.json").write_text(json.dumps(results))
    return EvaluatedRun.read(folder / "eval.json", folder)


def test_columns_are_photo_without_and_with_the_loop(tmp_path: Path):
    sheet = held_out_sheet(evaluated(tmp_path / "without", WITHOUT), evaluated(tmp_path / "loop", LOOP), count=3)
    pixels = np.asarray(sheet).astype(int)
    columns = []
    for colour in (PHOTO, WITHOUT, LOOP):
        rows, across = np.nonzero(np.abs(pixels - colour).sum(-1) < 6)
        assert len(rows) == 3 * 320 * 180  # three views, enlarged to one width
        columns.append(across)
    assert columns[0].max() < columns[1].min() and columns[1].max() < columns[2].min()
    assert (pixels[:40].min(-1) < 100).any(), "the scores stand above"


def test_runs_of_other_views_are_refused_and_no_pictures_are_missed(tmp_path: Path):
    few, many = evaluated(tmp_path / "few", WITHOUT, views=2), evaluated(tmp_path / "many", LOOP)
    with pytest.raises(ValueError, match="different views"):
        held_out_sheet(few, many)
    assert held_out_sheet(few, few).height < held_out_sheet(many, many).height
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="--render-output-path"):
        EvaluatedRun.read(tmp_path / "few" / "eval.json", tmp_path / "none")
