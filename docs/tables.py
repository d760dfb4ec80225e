"""Writes the tables of the pages from docs/results, where the figures are kept: `make tables`.

A table stands between ``<!-- table NAME -->`` and ``<!-- end of table -->`` and is docs/results/NAME.json:

- ``{"rows": [{"capture": ..., "task": ..., "none": {...}, "loop": {...}, "gains": [...]}, ...]}``, the table.json that
  gf-bench-loop writes, copied; ``<!-- table NAME means -->`` shows the means over captures alone;
- ``{"columns": [names], "formats": [of each column, as in str.format], "rows": [[cells], ...]}``; a row that is
  ``{"cells": [...], "format": ...}`` has one format for all its figures. Cells that are text are shown as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from genfusion_ns.files import write_atomically
from genfusion_ns.fusion.benchmark.table import means_of, read_rows, table_of
from genfusion_ns.json_files import JsonValue, read_json

DOCS = Path(__file__).resolve().parent
PAGES = (
    DOCS / "figures.md",
    DOCS / "antialias.md",
    DOCS / "mipnerf.md",
    DOCS / "methods" / "reconfusion.md",
    DOCS.parent / "README.md",
)
RESULTS = DOCS / "results"
_TABLE = re.compile(r"(<!-- table (?P<name>\w+)(?P<means> means)? -->\n).*?(?P<end><!-- end of table -->\n)", re.DOTALL)


def with_tables(page: str) -> str:
    """A page with its tables as the results say.

    Raises:
        ValueError: a table's results are missing or cannot be used; the message names the file.
    """

    def written(found: re.Match[str]) -> str:
        return f"{found[1]}\n{_table(found['name'], found['means'] is not None)}\n{found['end']}"

    return _TABLE.sub(written, page)


def _table(name: str, means: bool) -> str:
    content = read_json(RESULTS / f"{name}.json")
    if not content["columns"].is_given:
        return (means_of if means else table_of)(read_rows(content))
    columns = [column.value for column in content["columns"].entries()]
    formats = [column.text() for column in content["formats"].entries()]
    lines = [columns, ["---"] * len(columns), *(_cells(row, formats) for row in content["rows"].entries())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(row: JsonValue, formats: Sequence[str]) -> list[str]:
    cells = row
    if isinstance(row.value, dict):
        cells, formats = row["cells"], [row["format"].text()] * len(formats)
    values = cells.entries()
    if len(values) != len(formats):
        cells.refuse(f"a list of {len(formats)} cells")
    shown = zip(values, formats, strict=True)
    return [cell.value if isinstance(cell.value, str) else how.format(cell.value) for cell, how in shown]


def main() -> None:
    """Write the tables of all pages."""
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = with_tables(before)
        if after != before:
            write_atomically(path, after.encode())
            print(f"{path.name}: tables written")


if __name__ == "__main__":
    sys.exit(main())
