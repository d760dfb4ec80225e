"""Arrows between layers point one way: geometry <- rendering <- models; data and priors are siblings; fusion joins."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "genfusion_ns"

ALLOWED = {
    "geometry": {"geometry"},
    "rendering": {"geometry", "rendering"},
    "models": {"geometry", "rendering", "models"},
    "data": {"geometry", "data"},
    "priors": {"geometry", "priors"},
    "fusion": {"geometry", "rendering", "models", "data", "priors", "fusion"},
    "scripts": {"geometry", "rendering", "models", "data", "priors", "fusion", "scripts", "methods"},
}
NEUTRAL = {
    "digests": set(),
    "errors": {"files"},
    "files": set(),
    "interrupts": set(),
    "json_files": set(),
    "messages": set(),
    "moved": set(),
    "stored_config": set(),
    "yaml_files": {"json_files"},
}
"""Modules beside the layers, for all of them; with those of the package that they import."""
FORBIDDEN_LIBRARIES = {
    "geometry": {"nerfstudio", "gsplat", "diffusers", "transformers"},
    "rendering": {"nerfstudio", "diffusers", "transformers"},
    "models": {"diffusers", "transformers"},
    "data": {"gsplat", "diffusers", "transformers"},
    "priors": {"nerfstudio", "gsplat"},
    "fusion": {"diffusers", "transformers", "gsplat"},
}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} uses a relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_layer_imports_only_what_it_may(layer):
    files = sorted((PACKAGE / layer).rglob("*.py"))
    assert files, f"the layer {layer} has no modules"
    for path in files:
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "genfusion_ns" and len(parts) > 1:
                assert parts[1] in {*ALLOWED[layer], *NEUTRAL, "__version__"}, f"{layer}/{path.name} imports {name}"
                # It speaks through nerfstudio's console.
                assert parts[1] != "messages" or "nerfstudio" not in FORBIDDEN_LIBRARIES.get(layer, ()), path.name
            assert parts[0] not in FORBIDDEN_LIBRARIES.get(layer, ()), f"{layer}/{path.name} imports {name}"


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_what_all_layers_share_imports_none_of_them(name):
    ours = {parts[1] for found in imports_of(PACKAGE / f"{name}.py") if (parts := found.split("."))[0] == PACKAGE.name}
    assert ours == NEUTRAL[name]


def test_every_module_beside_the_layers_is_known():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*NEUTRAL, "__init__", "methods"}


def test_the_check_sees_imports_inside_functions(tmp_path):
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from genfusion_ns.data import clips\n    import diffusers\n")
    assert {"genfusion_ns.data", "genfusion_ns.data.clips.pairs", "diffusers"} <= imports_of(module)
