"""The installed commands: in a process of their own, or by the same entry points in this one, which saves imports."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from unittest import mock

BIN = Path(sys.executable).parent
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run_command(*words: object, cwd: Path, succeed: bool = True) -> str:
    """Output of a command that runs on its own; its status must tell whether it is to succeed."""
    text = [str(word) for word in words]
    run = subprocess.run(
        [str(BIN / text[0]), *text[1:]], cwd=cwd, capture_output=True, text=True, env=os.environ | PLAIN, timeout=900
    )
    output = run.stdout + run.stderr
    assert (run.returncode == 0) == succeed, f"{' '.join(text)} ended with {run.returncode}:\n{output[-6000:]}"
    return output


def run_here(*words: object, cwd: Path, succeed: bool = True) -> str:
    """Output of a command that runs in this process; `sys.exit` and errors are failures and part of the output."""
    text = [str(word) for word in words]
    (entry,) = entry_points(group="console_scripts", name=text[0])
    command, said, failed = entry.load(), io.StringIO(), False
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        mock.patch.object(sys, "argv", text),
        mock.patch.dict(os.environ, PLAIN),
    ):
        try:
            command()
        except SystemExit as end:
            failed = end.code not in (None, 0)
            said.write(str(end.code) if isinstance(end.code, str) else "")
        except Exception as error:  # what the interpreter would print
            failed = True
            said.write(str(error))
    assert failed != succeed, f"{' '.join(text)}:\n{said.getvalue()[-6000:]}"
    return said.getvalue()
