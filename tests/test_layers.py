"""Arrows between layers point one way: geometry <- rendering <- models; data and priors are siblings; fusion joins."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "genfusion_ns"

ALLOWED = {
    "geometry": {"geometry"},
    "rendering": {"geometry", "rendering"},
    "models": {"geometry", "rendering", "models"},
    "data": {"geometry", "data"},
    "priors": {"geometry", "priors"},
    "exports": {"geometry", "rendering", "exports"},
    "fusion": {"geometry", "rendering", "models", "data", "priors", "exports", "fusion"},
    "scripts": {"geometry", "rendering", "models", "data", "priors", "exports", "fusion", "scripts", "methods"},
}
NEUTRAL = {
    "digests": set(),
    "errors": {"files"},
    "files": set(),
    "interrupts": set(),
    "json_files": set(),
    "messages": set(),
    "moved": set(),
    "programs": set(),
    "perceptual": set(),
    "ranges": set(),
    "seeds": set(),
    "stored_config": set(),
    "yaml_files": {"json_files"},
    "yaml_settings": {"yaml_files"},
}
"""Modules beside the layers, for all of them; with those of the package that they import."""
FORBIDDEN_LIBRARIES = {
    "geometry": {"nerfstudio", "gsplat", "diffusers", "transformers"},
    "rendering": {"nerfstudio", "diffusers", "transformers"},
    "models": {"diffusers", "transformers"},
    "data": {"gsplat", "diffusers", "transformers"},
    "priors": {"nerfstudio", "gsplat"},
    "exports": {"nerfstudio", "gsplat", "diffusers", "transformers"},
    "fusion": {"diffusers", "transformers", "gsplat"},
}


GEOMETRY_NEEDS = {"torch", "numpy", "scipy", "jaxtyping", "genfusion_ns"}


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
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*NEUTRAL, "__init__", "methods", "dataparsers"}


def test_the_check_sees_imports_inside_functions(tmp_path):
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from genfusion_ns.data.clips import pairs\n    import diffusers\n")
    assert {"genfusion_ns.data.clips", "genfusion_ns.data.clips.pairs", "diffusers"} <= imports_of(module)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports_between(files: dict[str, Path]) -> dict[str, set[str]]:
    """Modules that each module imports; inside functions and under TYPE_CHECKING counts too."""
    found = {}
    for module, path in files.items():
        names = imports_of(path)
        longest = {name for name in names if name in files}
        # `from a.b import c` names a.b as well, which is the package where c is a module of its own.
        packages = {name.rpartition(".")[0] for name in longest if files[name].name != "__init__.py"}
        found[module] = {name for name in longest if not (name in packages and files[name].name == "__init__.py")}
        found[module].discard(module)
    return found


def arrows_of_the_package() -> dict[str, set[str]]:
    return imports_between({module_of(path): path for path in PACKAGE.rglob("*.py")})


def test_no_files_import_each_other_in_a_circle():
    arrows = arrows_of_the_package()
    assert sum(map(len, arrows.values())) > 300
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(f"these import each other: {' <- '.join(error.args[1])}") from None


def reached_from(module: str, arrows: dict[str, set[str]]) -> set[str]:
    """Modules that a module imports, and those that they import, and so on."""
    reached, ahead = set(), [module]
    while ahead:
        found = arrows[ahead.pop()] - reached
        reached |= found
        ahead += found
    return reached


IGNORANT = {
    "fusion.rounds.round": {"fusion.rounds.report", "fusion.rounds.contact_sheet"},
}
"""Modules with those that they must not know, on whatever way."""


@pytest.mark.parametrize("module", sorted(IGNORANT))
def test_what_is_done_does_not_know_how_it_is_told(module):
    reached = reached_from(f"genfusion_ns.{module}", arrows_of_the_package())
    assert reached and not reached & {f"genfusion_ns.{name}" for name in IGNORANT[module]}


ROUNDS = ("loop", "panel", "rounds", "schedule", "supervision")


@pytest.mark.parametrize("module", ["fusion.contract", "fusion.pipeline", "fusion.trainer"])
def test_pipeline_and_trainer_name_nothing_of_rounds(module):
    named = arrows_of_the_package()[f"genfusion_ns.{module}"]
    assert named and not {name for name in named if name.split(".")[1:2] == ["fusion"] and name.split(".")[2] in ROUNDS}


def test_the_contract_of_supervision_knows_no_implementation():
    reached = reached_from("genfusion_ns.fusion.contract", arrows_of_the_package())
    assert {name for name in reached if name.startswith("genfusion_ns.fusion")} == set()


def test_a_circle_is_seen(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("def f():\n    import two\n")
    two.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from one import f\n")
    arrows = imports_between({"one": one, "two": two})
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(arrows).prepare()


def test_geometry_needs_little():
    for path in (PACKAGE / "geometry").rglob("*.py"):
        foreign = {name.split(".")[0] for name in imports_of(path)} - GEOMETRY_NEEDS - set(sys.stdlib_module_names)
        assert not foreign, f"{path.name} imports {foreign}"
