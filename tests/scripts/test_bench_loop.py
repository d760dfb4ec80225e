"""`gf-bench-loop`: the table is arithmetic on results, and a real run of both sides fills it."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tiny_capture import make_capture, write_transforms

from genfusion_ns.fusion.benchmark.table import Run, means_of, read_results, read_rows, rows_of, table_of, write_table
from genfusion_ns.json_files import read_json
from genfusion_ns.scripts.bench_loop import BenchLoop


def result(psnr: float, ssim: float = 0.5) -> dict[str, float]:
    return {"psnr": psnr, "ssim": ssim, "seconds": 1.0}


def test_the_table_means_over_seeds_then_captures():
    results = {
        Run("a", "3 views", 0, "none"): result(10.0, 0.4),
        Run("a", "3 views", 0, "compact"): result(11.0, 0.5),
        Run("a", "3 views", 1, "none"): result(12.0, 0.6),
        Run("a", "3 views", 1, "compact"): result(12.5, 0.6),
        Run("b", "3 views", 0, "none"): result(20.0),
        Run("b", "3 views", 0, "compact"): result(19.0),
    }
    rows = table_of(rows_of(results)).splitlines()
    assert rows == [
        "| capture | task | PSNR | SSIM | gain in dB (of each seed) |",
        "| --- | --- | --- | --- | --- |",
        "| a | 3 views | 11.00 → 11.75 | 0.500 → 0.550 | +0.75 (+1.00, +0.50) |",
        "| b | 3 views | 20.00 → 19.00 | 0.500 → 0.500 | -1.00 (-1.00) |",
        "| **mean** | 3 views | 15.50 → 15.38 | 0.500 → 0.525 | **-0.12** |",
    ]
    assert means_of(rows_of(results)).splitlines() == [
        "| task | without the loop: PSNR, SSIM | with the loop | gain |",
        "| --- | --- | --- | --- |",
        "| 3 views | 15.50, 0.500 | 15.38, 0.525 | -0.12 dB |",
    ]


def test_metrics_that_every_run_has_are_shown_and_the_table_is_read_back(tmp_path: Path):
    perceptual = {"lpips": 0.31, "lpips_vgg": 0.42, "sharpness": 0.7}
    results = {
        Run("a", "3 views", 0, "none"): result(10.0) | perceptual,
        Run("a", "3 views", 0, "compact"): result(11.0) | perceptual | {"sharpness": 0.9},
        Run("b", "3 views", 0, "none"): result(10.0) | perceptual,
        Run("b", "3 views", 0, "compact"): result(12.0) | perceptual,
        Run("b", "3 views", 1, "none"): result(12.0),  # without a partner, it decides about nothing
    }
    table = write_table(tmp_path, results)
    assert "| a | 3 views | 10.00 → 11.00 | 0.500 → 0.500 | 0.310 → 0.310 | 0.420 → 0.420 | 0.70 → 0.90 |" in table
    assert (tmp_path / "table.md").read_text() == table
    assert table_of(read_rows(read_json(tmp_path / "table.json"))) == table
    del results[Run("a", "3 views", 0, "none")]["lpips"]
    assert "LPIPS VGG" in (fewer := table_of(rows_of(results))) and "| LPIPS |" not in fewer


def test_seeds_count_only_where_both_sides_have_a_result():
    results = {
        Run("a", "masked", 0, "none"): result(10.0),
        Run("a", "masked", 0, "compact"): result(11.0),
        Run("a", "masked", 1, "none"): result(30.0),
    }
    assert "| a | masked | 10.00 → 11.00 | 0.500 → 0.500 | +1.00 (+1.00) |" in table_of(rows_of(results))


def test_results_are_read_back(tmp_path: Path):
    run = Run("a", "6 views", 2, "none")
    line = {"capture": "a", "task": "6 views", "seed": 2, "repairer": "none", **result(9.0)}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    assert read_results(tmp_path) == {run: result(9.0)}
    assert read_results(tmp_path / "nowhere") == {}


def test_wrong_counts_and_captures_are_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match="--generators has 3 entries"):
        BenchLoop(tmp_path, (tmp_path,), generators=("a", "b", "c")).run([])
    with pytest.raises(SystemExit, match=r"no transforms\.json"):
        BenchLoop(tmp_path, (tmp_path / "x",)).run([])
    with pytest.raises(SystemExit, match="must differ"):
        BenchLoop(tmp_path, (tmp_path / "1/x", tmp_path / "2/x")).run([])


@pytest.mark.slow
def test_a_bench_of_real_runs_goes_on_where_it_was(tmp_path: Path, capsys):
    write_transforms(make_capture(tmp_path / "tiny"))
    bench = BenchLoop(tmp_path / "out", (tmp_path / "tiny",), views=(3,), masked=False, seeds=(0,), steps=20)
    bench.run(["--pipeline.fusion.sampler.num-frames", "16", "--pipeline.repairer.resolution", "64", "48"])
    first = read_results(tmp_path / "out")
    assert {run.repairer for run in first} == {"none", "compact"}
    assert (tmp_path / "out/runs/tiny_3_views_s0_compact/run/genfusion/bench/genfusion/round_00").is_dir()
    bench.run([])
    assert read_results(tmp_path / "out") == first
    assert "| tiny | 3 views |" in (tmp_path / "out/table.md").read_text()
    with Image.open(tmp_path / "out/pictures/tiny_3_views_s0.png") as sheet:
        assert sheet.width > sheet.height > 100
