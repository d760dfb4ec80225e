"""Importing the plugin is light: nerfstudio does it for every command, unguarded."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HEAVY = (
    *("diffusers", "transformers", "accelerate", "numba", "gsplat.cuda._backend", "open3d", "imageio_ffmpeg"),
    *("torchmetrics", "huggingface_hub", "scipy.signal", "scipy.ndimage"),
)


ALONE = """
import nerfstudio.plugins.registry as registry
registry.discover_methods = lambda: ({}, {})
import nerfstudio.configs.method_configs
"""
"""What every ns-* command imports where no plugin is installed."""


def modules_after(*statements: str) -> list[set[str]]:
    """Modules of one process after each of these statements."""
    show = "print('MODULES', *sys.modules)"
    code = "\n".join(["import sys", *(f"{statement}\n{show}" for statement in statements)])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()[1:]) for line in run.stdout.splitlines() if line.startswith("MODULES")]


@pytest.fixture(scope="module")
def alone_and_with_plugin() -> list[set[str]]:
    return modules_after(ALONE, "import genfusion_ns.methods")


def test_plugin_adds_no_heavy_module_to_what_nerfstudio_imports(alone_and_with_plugin):
    alone, both = alone_and_with_plugin
    assert "genfusion_ns.methods" in both - alone
    loaded = sorted(name for name in both - alone if name in HEAVY or name.split(".")[0] in HEAVY)
    assert not loaded, f"importing the plugin also imports {loaded}"


def test_plugin_adds_at_most_four_percent_to_the_modules_of_nerfstudio(alone_and_with_plugin):
    alone, both = alone_and_with_plugin
    assert len(both - alone) <= 0.04 * len(alone), sorted(both - alone)


@pytest.mark.parametrize(
    "module", ["genfusion_ns.geometry.cameras", "genfusion_ns.rendering.surfels", "genfusion_ns.priors.base"]
)
def test_lower_layers_work_without_nerfstudio(module):
    blocked = f"import sys\nsys.modules['nerfstudio'] = None\nimport {module}"
    assert module in modules_after(blocked)[0]


def test_help_of_our_programs_imports_nothing_heavy():
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    code = f"""
import contextlib, io, sys
from importlib import import_module
for program, target in {scripts!r}.items():
    module, function = target.split(":")
    sys.argv = [program, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        getattr(import_module(module), function)()
    assert "--help" in said.getvalue(), program
    loaded = sorted({{name.split(".")[0] for name in sys.modules}} & {{"nerfstudio", "gsplat", "ray", *{HEAVY!r}}})
    assert not loaded, f"{{program}} --help imports {{loaded}}"
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
