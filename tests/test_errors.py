"""Errors for the user end programs by their message; faults of the program keep their traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genfusion_ns.errors import TRACEBACK, is_for_user, run_program
from genfusion_ns.messages import say


def raised_in_a_library() -> ValueError:
    try:
        int("x")
    except ValueError as error:
        return error
    raise AssertionError


def raised_in_the_package() -> ValueError:
    from genfusion_ns.fusion.rounds.generated_views import GeneratedViewStore

    try:
        GeneratedViewStore(0)
    except ValueError as error:
        return error
    raise AssertionError


def test_what_is_for_the_user():
    ours, theirs = raised_in_the_package(), raised_in_a_library()
    assert is_for_user(ours, anywhere=False) and not is_for_user(theirs, anywhere=False)
    assert is_for_user(ours) and is_for_user(theirs)
    assert is_for_user(OSError(28, "No space left on device"), anywhere=False), "wherever a full disk is noticed"
    assert is_for_user(torch.OutOfMemoryError("no memory"), anywhere=False)
    for fault in (KeyError("x"), TypeError("x"), RuntimeError("x"), AssertionError()):
        assert not is_for_user(fault)


def test_a_command_ends_with_the_message_of_an_error_for_the_user(monkeypatch):
    def fails():
        raise ValueError("--flag is 3; it must be 4")

    monkeypatch.delenv(TRACEBACK, raising=False)
    with pytest.raises(SystemExit, match=r"^gf-x: --flag is 3; it must be 4\n\(GENFUSION_TRACEBACK=1 shows"):
        run_program("gf-x", fails)
    with pytest.raises(SystemExit, match="--own is 3"):
        run_program("gf-x", fails, lambda message: message.replace("--flag", "--own"))
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="--flag is 3"):
        run_program("gf-x", fails)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    with pytest.raises(ZeroDivisionError):
        run_program("gf-x", lambda: 1 // 0)


def test_ctrl_c_ends_a_command_with_130(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.delenv(TRACEBACK, raising=False)
    with pytest.raises(SystemExit) as ended:
        run_program("gf-x", interrupted)
    assert ended.value.code == 130 and capsys.readouterr().err == "gf-x: interrupted\n"


_UNCAUGHT = """
import sys
from genfusion_ns.errors import show_errors_plainly
show_errors_plainly(); show_errors_plainly()
sys.argv = ["/bin/ns-train", "genfusion"]
{}
"""


@pytest.mark.parametrize(
    ("code", "plain", "environment"),
    [
        ("from genfusion_ns.errors import run_program; run_program('x', 3)", False, {}),
        ("from genfusion_ns.files import *; write_atomically(Path('/dev/null/x'), b'')", True, {}),
        ("from genfusion_ns.files import *; write_atomically(Path('/dev/null/x'), b'')", False, {TRACEBACK: "1"}),
        ("int('x')", False, {}),
    ],
)
def test_uncaught_errors_of_this_package_are_shown_plainly(code, plain, environment):
    run = subprocess.run(
        [sys.executable, "-c", _UNCAUGHT.format(code)],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
    )
    assert run.returncode == 1
    assert ("Traceback" in run.stderr) is not plain
    if plain:
        assert run.stderr.startswith("ns-train: cannot write /dev/null/x: ") and run.stderr.count("\n") == 2


@pytest.mark.parametrize("text", ["a[/x]b", "[red]photo", "[/]", ":smile: [link=x]", "[bold", "\\[b]", "50 % [/50 %]"])
def test_messages_are_printed_as_they_are(text, capsys):
    for colour in ("", "yellow", "red"):
        say(text, colour)
        assert capsys.readouterr().out == text + "\n"


def test_commands_to_be_copied_stay_on_one_line(capsys):
    say("x y " * 100, wrap=False)
    assert capsys.readouterr().out.count("\n") == 1


def test_nothing_else_in_the_package_prints_with_markup():
    """One helper speaks to the user; rich's console is for progress bars and tracebacks."""
    package = Path(__file__).parents[1] / "genfusion_ns"
    strangers = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if ("CONSOLE.print(" in line or "CONSOLE.log(" in line or "CONSOLE.rule(" in line)
        and path.name != "messages.py"
    ]
    assert strangers == []
