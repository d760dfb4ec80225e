"""How every numba kernel of the package is compiled, kept on disk, and announced.

The bits of a result may not depend on what the disk already holds. A process that compiles a kernel has the functions
it calls in memory as well; one that loads the kernel has only the copies inside its object code. Where a call remains,
the two run different machine code, and relaxed arithmetic rounds differently in different code. So `vector_helper`
leaves no call behind, and `vector_kernel` is for what only Python calls. Strict arithmetic rounds the same in any code.

numba keeps what it compiled in NUMBA_CACHE_DIR, beside the source, or in the user's cache folder, whichever can be
written first. Where none can, or where the disk is full, kernels are compiled in memory and the user is told once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import caching, event

_RELAXED = {"contract", "reassoc", "nsz", "arcp"}
"""What vector code needs: sums in any order, products fused into them. NaN and infinity keep their meaning."""
_WAY_OUT = "set NUMBA_CACHE_DIR to a folder that can be written to keep them"

_compiled_here: set[Callable[..., Any]] = set()
_unkept: str | None = None
_said: set[str] = set()


def kernel(function: Callable[..., Any]) -> Any:
    """Decorator: compiled without the GIL at the first call, strict arithmetic, numpy's rules of division."""
    return _compiled(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: becomes part of the kernels that call it, with their arithmetic."""
    return _compiled(function, inline="always")


def vector_kernel(function: Callable[..., Any]) -> Any:
    """Decorator: a kernel with relaxed arithmetic, to be called from Python and not from other kernels."""
    return _compiled(function, fastmath=_RELAXED)


def vector_helper(function: Callable[..., Any]) -> Any:
    """Decorator: relaxed arithmetic for other kernels to call; compiled apart, then always inlined as it is."""
    return _compiled(function, fastmath=_RELAXED, forceinline=True)


class _Cache(caching.FunctionCache):
    """numba's cache, for which a disk that cannot be used is no reason to stop a run."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is kept for this signature, None where nothing is or where it cannot be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # damaged files raise anything; compiling anew is right in every case
            self._give_up("read from", error)
            try:
                self.flush()
            except OSError:
                self.disable()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self._give_up("kept in", error)

    def _give_up(self, what: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        _say_once("disk", f"Compiled CPU kernels cannot be {what} {self.cache_path}: {reason}; {_WAY_OUT}.")


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    """A kernel with these options of numba, and with a cache as its `cache=True` gives it where that works."""
    global _unkept
    dispatcher: Any = njit(nogil=True, error_model="numpy", **options)(function)
    _compiled_here.add(function)
    try:
        dispatcher._cache = _Cache(function)
    except (RuntimeError, OSError) as error:  # no folder that can be written, or a source that cannot be read
        _unkept = str(error)
    return dispatcher


class _Announcement(event.Listener):
    """Tells the user why the first call takes a while; numba's events fire only where its cache has no answer."""

    def on_start(self, event: Any) -> None:
        """Print one line before the first of the package's kernels is compiled."""
        dispatcher = (event.data or {}).get("dispatcher")
        if getattr(dispatcher, "py_func", None) in _compiled_here:
            kept = "then they are kept on disk" if _unkept is None else f"in every process ({_unkept}); {_WAY_OUT}"
            _say_once("compiling", f"Compiling the CPU kernels: some seconds, {kept}.")

    def on_end(self, event: Any) -> None:
        """Nothing to say."""


def _say_once(about: str, line: str) -> None:
    if about not in _said:
        _said.add(about)
        print(line, file=sys.stderr, flush=True)


event.register("numba:compile", _Announcement())
