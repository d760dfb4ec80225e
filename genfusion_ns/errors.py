"""The errors that are for the user, and how programs show them: the message alone, without the way through the code.

Whatever is wrong with input, files, flags or the machine is raised as one of `_FOR_USERS`, with a message that says
what was found and what to do. Anything else is a fault of the program, and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from genfusion_ns.files import is_full_disk

TRACEBACK = "GENFUSION_TRACEBACK"
"""Environment variable; set to anything but 0, errors for users keep their traceback."""
_FOR_USERS = (OSError, ValueError, ImportError, FloatingPointError)
_OWN = (*_FOR_USERS, RuntimeError)
"""For users as well where this package raises them itself."""
_PACKAGE = Path(__file__).resolve().parent


class CheckpointError(ValueError):
    """A checkpoint, or a file that belongs to one, that cannot be used: it is damaged, incomplete or of something else.

    The message names the file, what is wrong and the way out.
    """


def wants_traceback() -> bool:
    """Whether the user asks for tracebacks."""
    return os.environ.get(TRACEBACK, "0") not in ("", "0")


def message_of(error: BaseException) -> str:
    """What an error says; its kind where it says nothing."""
    return str(error) or type(error).__name__


def is_for_user(error: BaseException, anywhere: bool = True) -> bool:
    """Whether an error is about what the user gave rather than about the program.

    Args:
        error: as it was caught.
        anywhere: count errors for users also where other libraries raise them; False: only those of this package.
    """
    if is_full_disk(error) or type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be imported
        return True
    if anywhere and isinstance(error, _FOR_USERS):
        return True
    return isinstance(error, _OWN) and _raised_here(error)


def _raised_here(error: BaseException) -> bool:
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and _PACKAGE in Path(frames[-1][0].f_code.co_filename).resolve().parents


def shown(error: BaseException, program: str) -> str:
    """The lines that a program ends with."""
    return f"{program}: {message_of(error)}\n({TRACEBACK}=1 shows where in the program)"


def run_program(program: str, main: Callable[[], object], reword: Callable[[str], str] = str) -> None:
    """Run the command `program`; an error for the user becomes its message and exit status 1, Ctrl-C status 130.

    Args:
        program: its name, which messages begin with.
        main: what it does.
        reword: puts messages of parts that other programs have as well into the words of this one.
    """
    try:
        main()
    except KeyboardInterrupt:
        if wants_traceback():
            raise
        print(f"{program}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if wants_traceback() or not is_for_user(error):
            raise
        raise SystemExit(reword(shown(error, program))) from error


def show_errors_plainly() -> None:
    """Have errors of this package that nothing catches end a program of nerfstudio by their message.

    Errors of other code are shown as before. May be called again and again.
    """
    before = sys.excepthook
    if getattr(before, "shows_plainly", False):
        return

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if wants_traceback() or not is_for_user(error, anywhere=False):
            before(kind, error, trace)
        else:
            print(shown(error, Path(sys.argv[0]).name), file=sys.stderr)

    show.shows_plainly = True  # type: ignore[attr-defined]
    sys.excepthook = show
