"""Sphinx: plain Markdown pages and API pages from the docstrings. `sphinx-build -W --keep-going docs docs/_build`."""

from genfusion_ns import __version__

project = "genfusion-ns"
author = "The genfusion-ns authors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.apidoc"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "results"]
apidoc_modules = [
    {
        "path": "../genfusion_ns",
        "destination": "api",
        "exclude_patterns": ["../genfusion_ns/scripts/**"],
        "separate_modules": True,
        "module_first": True,
        "include_private": False,
    }
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_title = f"genfusion-ns {version}"

default_role = "literal"  # single backquotes in docstrings name code, as in Markdown
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # else those of torch come along, with links into its own pages
autodoc_typehints = "none"  # signatures of tensors are jaxtyping strings; their shapes stand in the docstrings
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def _no_type_before_the_colon(app, what, name, obj, options, lines) -> None:
    """Napoleon takes what stands before a colon in the first line of a field's docstring for its type."""
    if what in ("attribute", "data", "property") and lines and ":" in lines[0]:
        lines[:0] = ["..", ""]  # a comment without text; empty lines would be skipped


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _no_type_before_the_colon, priority=400)  # napoleon has 500
