"""Text is UTF-8 and names of files are what they are, whatever the locale."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from broken_captures import edit_transforms, make_tiny
from tiny_capture import write_colmap

PACKAGE = Path(__file__).resolve().parents[1] / "genfusion_ns"
READ = """
import sys
from pathlib import Path
from broken_captures import set_up
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
for parser in (None, ColmapDataParserConfig(colmap_path=Path("sparse/0"))):
    manager = set_up(Path(sys.argv[1]), parser, split_file=Path("teilung.json"))
    print("photos in the train views:", len(manager.cached_train), manager.seeds.kind)
    print("names:", *manager.train_names)
"""


def test_umlauts_in_a_locale_without_them(tmp_path: Path) -> None:
    """Folder, photos, split and text model have umlauts; everything is read, and printing them does not raise."""
    tiny = make_tiny(tmp_path / "Küche 写真")
    names = [f"größe {i}.png" for i in range(6)]

    def rename(content: dict) -> None:
        for frame in content["frames"]:
            i = int(frame["file_path"][-5])
            (tiny.folder / frame["file_path"]).rename(tiny.folder / "images" / names[i])
            frame["file_path"] = f"images/{names[i]}"

    edit_transforms(tiny.folder, rename)
    tiny.names[:] = names
    write_colmap(tiny, ext=".txt")
    split = '{"train_ids": ["größe 1", "größe 3.png"], "test_ids": ["größe 0.png"]}'
    (tiny.folder / "teilung.json").write_text(split, encoding="utf-8")
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    paths = os.pathsep.join(map(str, [PACKAGE.parent, PACKAGE.parent / "tests"]))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tiny.folder)],
        env={**os.environ, **settings, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(b"photos in the train views: 2 visible") == 2, done.stdout
    assert b"gr\\xf6\\xdfe 1.png" in done.stdout


def test_every_text_file_is_opened_as_utf8() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _opens_text(node) and not any(k.arg == "encoding" for k in node.keywords)
    ]
    assert not found, "without encoding="


def _opens_text(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text"):
        return len(call.args) < (1 if call.func.attr == "read_text" else 2)
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if isinstance(call.func, ast.Attribute) and call.func.attr == "open":
        return bool(modes) and modes[0] in ("r", "w", "a", "x", "r+", "w+", "a+")
    return isinstance(call.func, ast.Name) and call.func.id == "open" and not any("b" in mode for mode in modes[-1:])
