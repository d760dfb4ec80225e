"""The package as a wheel, away from the checkout: its networks come with it, and the generator repairs a clip."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LOAD = """
import sys, torch
from pathlib import Path
import genfusion_ns
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.priors.config import RepairerConfig, build_repairer
assert Path(genfusion_ns.__file__).is_relative_to(sys.argv[1]), genfusion_ns.__file__
pair = procedural_pair(torch.Generator().manual_seed(0), frames=4, size=(64, 48))
repaired = build_repairer(RepairerConfig(model="compact"), "cpu").repair(
    pair.artifact, pair.references, torch.Generator().manual_seed(0)
)
print("changed by", float((repaired.rgb - pair.artifact.rgb).abs().mean()))
"""


@pytest.mark.slow
def test_a_wheel_brings_the_weights(tmp_path: Path):
    source = tmp_path / "source"  # a build in place would leave its files in the checkout
    shutil.copytree(REPOSITORY / "genfusion_ns", source / "genfusion_ns", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True
    )
    if built.returncode != 0 and ("No matching distribution" in built.stderr or "Connection" in built.stderr):
        pytest.skip(f"no wheel can be built without the build tools of pyproject.toml: {built.stderr[-300:]}")
    assert built.returncode == 0, built.stderr[-3000:]
    (wheel,) = tmp_path.glob("genfusion_ns-*.whl")
    assert wheel.stat().st_size < 17e6
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    for prior in ("compact", "reconfusion/unet", "triposr_small"):
        assert [name for name in names if name.startswith(f"genfusion_ns/priors/weights/{prior}/")], prior
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True)
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(target)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert float(run.stdout.split()[-1]) > 0.001
