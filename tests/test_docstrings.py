"""The examples in docstrings say what happens: each `>>>` is run, and what it prints compared."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "genfusion_ns"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)
"""Those with examples; no others are imported."""


@pytest.mark.parametrize("module", MODULES)
def test_examples_print_what_they_say(module):
    module = importlib.import_module(module.removesuffix(".__init__"))
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted, "no example is found where `>>>` stands: is it in a docstring?"
    assert not found.failed, "what is printed instead stands above"


def test_there_are_examples():
    assert MODULES
