"""The tables of the pages are what `make tables` writes from docs/results, all of them."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "docs" / "tables.py")
assert _spec is not None and _spec.loader is not None
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda path: path.name)
def test_a_page_is_what_the_command_writes(page: Path):
    text = page.read_text(encoding="utf-8")
    assert "<!-- table " in text
    assert tables.with_tables(text) == text, "run `make tables`; to change a figure, change its file in docs/results"


def test_no_table_of_figures_is_written_by_hand_and_no_results_are_left_over():
    text = (REPOSITORY / "docs" / "figures.md").read_text(encoding="utf-8")
    outside = re.sub(r"<!-- table .*?<!-- end of table -->", "", text, flags=re.DOTALL)
    assert not re.findall(r"^\|.*", outside, re.MULTILINE)
    pages = [page.read_text(encoding="utf-8") for page in tables.PAGES]
    shown = {name for page in pages for name in re.findall(r"<!-- table (\w+)", page)}
    assert shown == {path.stem for path in tables.RESULTS.glob("*.json")}


def test_columns_and_rows_have_their_formats(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = [["a", 1.0, 2], {"cells": ["b", 3, 4.0], "format": "{} ms"}]
    content = {"columns": ["name", "x", "y"], "formats": ["{}", "{:.2f}", "{}"], "rows": rows}
    (tmp_path / "some.json").write_text(json.dumps(content))
    page = "before\n<!-- table some -->\nold\n<!-- end of table -->\nafter\n"
    written = tables.with_tables(page)
    lines = ["| name | x | y |", "| --- | --- | --- |", "| a | 1.00 | 2 |", "| b | 3 ms | 4.0 ms |"]
    table = "\n".join(lines)
    assert written == f"before\n<!-- table some -->\n\n{table}\n\n<!-- end of table -->\nafter\n"
    assert tables.with_tables(written) == written
    (tmp_path / "some.json").write_text(json.dumps({**content, "rows": [["a", 1.0]]}))
    with pytest.raises(ValueError, match=r"some\.json: rows\[0\].*a list of 3 cells"):
        tables.with_tables(page)
    with pytest.raises((ValueError, OSError), match=r"other\.json"):
        tables.with_tables(page.replace("some", "other"))
