"""Locks between processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genfusion_ns.files import LockedError, locked

HOLD = """
import sys
from pathlib import Path
from genfusion_ns.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="nothing is locked on this system")
    path = tmp_path / "lock"
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"lock is locked by process {holder.pid}"), locked(path):
            pass
        holder.kill()
    with locked(path), pytest.raises(LockedError), locked(path):
        pass
    with locked(path):
        pass
