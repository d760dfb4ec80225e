"""`gf-bench-loop`: the table is arithmetic on results, and a real run of both sides fills it."""

import json
from pathlib import Path

import pytest
from tiny_capture import make_capture, write_transforms

from genfusion_ns.scripts.bench_loop import BenchLoop, Run, read_results, table_of


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
    rows = table_of(results).splitlines()
    assert rows[2:] == [
        "| a | 3 views | 2 | 11.00, 0.5000 | 11.75, 0.5500 | +0.75 |",
        "| b | 3 views | 1 | 20.00, 0.5000 | 19.00, 0.5000 | -1.00 |",
        "| **mean** | 3 views |  | 15.50, 0.5000 | 15.38, 0.5250 | -0.12 |",
    ]
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")


def test_seeds_count_only_where_both_sides_have_a_result():
    results = {
        Run("a", "masked", 0, "none"): result(10.0),
        Run("a", "masked", 0, "compact"): result(11.0),
        Run("a", "masked", 1, "none"): result(30.0),
    }
    assert "| a | masked | 1 | 10.00, 0.5000 | 11.00, 0.5000 | +1.00 |" in table_of(results)


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
    assert "| tiny | 3 views | 1 |" in (tmp_path / "out/table.md").read_text()
