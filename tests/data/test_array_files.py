"""Array files whose headers claim more than there is, or that unpack to more than anybody wants."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from genfusion_ns.data import array_files
from genfusion_ns.data.array_files import ArrayFileError, ArrayLayout, read_array, read_arrays, read_layout
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.clips.pairs import read_pair
from genfusion_ns.data.clips.published import PublishedClip
from genfusion_ns.data.media.frame_sequences import DepthFolder

ARRAYS = {"a": np.arange(12, dtype=np.int16).reshape(3, 4), "b": np.asfortranarray(np.eye(3)), "c": np.array(7.0)}


def claim(shape: tuple[int, ...], descr: str = "<f4", content: bytes = b"") -> bytes:
    """An array whose header claims a shape and a type, before `content`."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


BOMBS = {
    "terabytes": (claim((10**6, 10**6)), r"its header says float32 of shape \(1000000, 1000000\), which its \d+ bytes"),
    "one number too many": (claim((3, 2), content=bytes(20)), "which its .* bytes do not hold"),
    "negative": (claim((-2, -3), content=bytes(24)), r"float32 of shape \(-2, -3\), which"),
    "wider than any integer": (claim((2**62, 2**62)), "which its .* bytes do not hold"),
    "objects": (claim((1,), "|O", bytes(8)), "Python objects"),
    "no header": (b"PK\x03\x04 but no more", "."),
    "cut header": (claim((3,))[:20], "."),
    "nested header": (claim((3,))[:12] + b"(" * 5000, "."),
    "empty": (b"", "."),
}


@pytest.mark.parametrize("name", BOMBS)
def test_headers_are_compared_with_the_file(tmp_path: Path, name: str) -> None:
    content, said = BOMBS[name]
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ArrayFileError, match=said):
        read_array(tmp_path / "a.npy")
    with pytest.raises(ArrayFileError, match=said):
        read_arrays(archive(tmp_path / "a.npz", a=content))


def test_arrays_come_back(tmp_path: Path) -> None:
    for name, array in ARRAYS.items():
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(read_array(tmp_path / f"{name}.npy"), array)
    np.savez_compressed(tmp_path / "all.npz", **ARRAYS)
    back = read_arrays(tmp_path / "all.npz")
    assert list(back) == list(ARRAYS) and all(np.array_equal(back[name], ARRAYS[name]) for name in ARRAYS)
    assert list(read_arrays(tmp_path / "all.npz", ["b", "missing"])) == ["b"]


def test_what_a_check_of_the_headers_raises_passes_through(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "all.npz", **ARRAYS)

    def refuse(layouts: dict[str, ArrayLayout]) -> None:
        assert (layouts["b"].shape, layouts["b"].dtype, layouts["b"].is_fortran) == ((3, 3), np.float64, True)
        raise ValueError(f"seen: {list(layouts)}")

    with pytest.raises(ValueError, match=r"seen: \['b'\]") as refused:
        read_arrays(tmp_path / "all.npz", ["b", "missing"], check=refuse)
    assert not isinstance(refused.value, ArrayFileError)


def test_an_archive_may_not_unpack_to_more_than_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(3000, np.uint8), b=np.zeros(3000, np.uint8))
    monkeypatch.setattr(array_files, "LARGEST", 6000)
    assert len(read_arrays(tmp_path / "zeros.npz")) == 2
    monkeypatch.setattr(array_files, "LARGEST", 5999)
    with pytest.raises(ArrayFileError, match=r"it holds uint8 of shape \(3000,\), more than"):
        read_arrays(tmp_path / "zeros.npz")


def test_parts_of_an_array_of_any_size_can_be_read() -> None:
    content = claim((4, 2), content=bytes(32))
    stream = io.BytesIO(content)
    assert read_layout(stream, len(content), largest=None).nbytes == 32
    assert stream.read() == bytes(32)


def test_every_reader_refuses_such_files_by_name(tmp_path: Path) -> None:
    bomb = BOMBS["terabytes"][0]
    with pytest.raises(ValueError, match=r"clip\.npz cannot be read as a clip pair: its header says"):
        read_pair(archive(tmp_path / "clip.npz", artifact_rgb=bomb))
    (tmp_path / "depths").mkdir()
    (tmp_path / "depths/0.npy").write_bytes(bomb)
    with pytest.raises(CaptureError, match=r"0\.npy cannot be read \(its header says"):
        DepthFolder(tmp_path / "depths", 1).read([0], (4, 4))
    part = PublishedClip(tmp_path / "v.mp4", archive(tmp_path / "depth_part_0.npz", disparity=claim((9, 10**6, 10**6))))
    with pytest.raises(ValueError, match=r"depth_part_0\.npz cannot be read as disparities of a part: its header says"):
        len(part)
