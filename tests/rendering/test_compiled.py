"""Compiled kernels: the same bits whatever the disk holds of them, and at work where it can hold nothing."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from rendering_scenes import random_scene

from genfusion_ns.models import photometric_kernels
from genfusion_ns.rendering.backends import cpu as cpu_backend
from genfusion_ns.rendering.backends import cpu_kernels
from genfusion_ns.rendering.surfels import RasterSettings

REPOSITORY = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: object, **environment: str) -> tuple[list[str], str]:
    """Words and errors of a new process."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split(), result.stderr


def kernels() -> dict[str, Dispatcher]:
    modules = (cpu_kernels, photometric_kernels)
    return {k: v for module in modules for k, v in vars(module).items() if isinstance(v, Dispatcher)}


def test_relaxed_arithmetic_is_never_called_across_kernels() -> None:
    everything = kernels()
    called = {name for kernel in everything.values() for name in kernel.py_func.__code__.co_names}
    relaxed = {name for name, kernel in everything.items() if kernel.targetoptions.get("fastmath")}
    assert {"_shade", "_shade_backward", "_blur_row", "_moments"} <= relaxed
    for name in relaxed & called:
        assert everything[name].targetoptions.get("forceinline"), f"{name} stays a call with bits of its own"


def save_inputs(path: Path) -> None:
    """What the kernels of the gradients work on, so that a process need not compile the others."""
    scene = random_scene(31, count=400, size=(60, 40))
    arrays = tuple(tensor.numpy() for tensor in astuple(scene.surfels)[:5])
    settings = RasterSettings(60, 40, None, 0.2, 1e10, "intersection")
    camera = (cpu_backend._view_rows(scene.viewmats[0]), cpu_backend._pinhole(scene.Ks[0]), np.zeros(3, np.float32))
    rest = np.empty((400, 0, 3), np.float32)
    view = cpu_backend._prepare((*arrays, rest), camera, settings, np.empty(400, np.int32))
    random = np.random.default_rng(5)
    cotangents = tuple(
        random.standard_normal((2400, 3) if channels == 3 else 2400, np.float32) for channels in cpu_backend._CHANNELS
    )
    images = (*(np.empty_like(cotangent) for cotangent in cotangents), np.empty(2400, np.float32))
    cpu_backend._blend(view, images)
    lists = (view.size, *view.lists, view.records, view.near, view.at_hit, camera[2])
    photos = random.random((2, 40, 180), np.float32)
    path.write_bytes(pickle.dumps((lists, images, cotangents, photos)))


RUN_KERNELS = """
import hashlib, pickle, sys
from pathlib import Path
import numpy as np
from genfusion_ns.models import photometric_kernels as loss
from genfusion_ns.rendering.backends import cpu_kernels as kernels

lists, images, cotangents, photos = pickle.loads(Path(sys.argv[1]).read_bytes())
slots = np.zeros((len(lists[2]), kernels.SLOT), np.float32)
kernels.backward(np.zeros(1, np.int64), 4, *lists, images, cotangents, slots, None)
partials, gradient, sums = np.zeros((3, 40, 180), np.float32), np.zeros((40, 180), np.float32), np.zeros(2)
trust = np.ones((1, 1), np.float32)
loss._moments(*photos, trust, partials, sums, 0, 40)
loss._gradient(*photos, trust, partials, gradient, 0, 40, np.float32(0.8), np.float32(0.2))
assert np.abs(slots).max() > 1 and np.abs(gradient).max() > 0
for group in ([slots], [sums, partials, gradient]):
    print(hashlib.sha256(b"".join(array.tobytes() for array in group)).hexdigest())
"""


def test_same_bits_from_an_empty_a_full_and_a_partly_filled_cache(tmp_path: Path) -> None:
    inputs, cache = tmp_path / "inputs.pickle", tmp_path / "cache"
    save_inputs(inputs)

    def digests(compiles: bool) -> list[str]:
        words, said = run(RUN_KERNELS, inputs, NUMBA_CACHE_DIR=str(cache))
        assert ("Compiling the CPU kernels" in said) == compiles
        return words

    empty = digests(compiles=True)
    assert digests(compiles=False) == empty
    for name in ("*.backward-*", "*._fold-*", "*._moments-*", "*._blur_column-*"):
        removed = list(cache.rglob(name))
        assert removed, name
        for path in removed:
            path.unlink()
    assert digests(compiles=True) == empty


HALVE = """
import sys
from genfusion_ns.rendering.compiled import kernel, vector_kernel

@kernel
def halve(x):
    return 0.5 * x

@vector_kernel
def twice(x):
    return x + x

assert halve(3.0) == 1.5 and twice(3.0) == 6.0 and halve(3) == 1.5
"""


@pytest.fixture
def halve(tmp_path: Path) -> Path:
    module = tmp_path / "package" / "halve.py"
    module.parent.mkdir()
    module.write_text(HALVE)
    return module


IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); "


def test_no_folder_for_a_cache(halve: Path) -> None:
    # nobody may write there, not even root
    nowhere = {"NUMBA_CACHE_DIR": "/proc/cache", "HOME": "/proc", "XDG_CACHE_HOME": "/proc/cache", "LC_ALL": "C"}
    (halve.parent / "__pycache__").write_text("in the way of a folder")
    _, said = run(IMPORT + "import halve", halve.parent, PYTHONDONTWRITEBYTECODE="1", **nowhere)
    assert said.count("Compiling the CPU kernels: some seconds, in every process") == 1
    assert said.count("NUMBA_CACHE_DIR") == 1


def test_a_full_disk(halve: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60)); "
    _, said = run(limit + IMPORT + "import halve", halve.parent, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert said.count("cannot be kept in") == 1
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_damaged_caches(halve: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    run(IMPORT + "import halve", halve.parent, NUMBA_CACHE_DIR=cache)
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert len(files) == 5
    for suffix in (".nbi", ".nbc"):
        for path in [path for path in files if path.suffix == suffix]:
            path.write_bytes(path.read_bytes()[:-20] if suffix == ".nbc" else b"not a pickle")
        _, said = run(IMPORT + "import halve", halve.parent, NUMBA_CACHE_DIR=cache)
        assert said.count("cannot be read from") == 1
        _, said = run(IMPORT + "import halve", halve.parent, NUMBA_CACHE_DIR=cache)
        assert not said, "the cache was mended"
