"""Importing the plugin is light: nerfstudio does it for every command, unguarded."""

import subprocess
import sys

import pytest

HEAVY = ("diffusers", "transformers", "accelerate", "numba", "gsplat.cuda._backend", "open3d", "imageio_ffmpeg")


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('MODULES', *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = next(line for line in run.stdout.splitlines() if line.startswith("MODULES"))
    return set(line.split()[1:])


def test_plugin_adds_no_heavy_module_to_what_nerfstudio_imports():
    # nerfstudio's own method list is imported first: what it drags in is not ours to answer for.
    baseline = modules_after("import nerfstudio.configs.method_configs")
    added = modules_after("import nerfstudio.configs.method_configs, genfusion_ns.methods") - baseline
    assert "genfusion_ns.methods" in added or "genfusion_ns.methods" in baseline
    loaded = sorted(name for name in added if name in HEAVY or name.split(".")[0] in HEAVY)
    assert not loaded, f"importing the plugin also imports {loaded}"


@pytest.mark.parametrize(
    "module", ["genfusion_ns.geometry.cameras", "genfusion_ns.rendering.surfels", "genfusion_ns.priors.base"]
)
def test_lower_layers_work_without_nerfstudio(module):
    blocked = f"import sys\nsys.modules['nerfstudio'] = None\nimport {module}"
    assert module in modules_after(blocked)
