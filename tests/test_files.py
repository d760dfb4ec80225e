"""Locks between processes, and room on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genfusion_ns.files import LockedError, WriteError, in_bytes, locked, require_room

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


def test_a_disk_without_room_is_refused_before_the_work(tmp_path: Path) -> None:
    require_room(tmp_path / "new" / "folder", 1)
    with pytest.raises(WriteError, match=r"folder needs 1152921504.6 GB, but its disk has .* left; free"):
        require_room(tmp_path / "new" / "folder", 1 << 60)
    assert (in_bytes(2.5e9), in_bytes(3e6)) == ("2.5 GB", "3.0 MB")
