"""Properties over generated input: parsers fail in one way only, windows partition, paths are made of cameras."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_captures import make_tiny
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from scipy.spatial.transform import Rotation
from torch import Tensor

from genfusion_ns.data.captures.capture import Capture, read_capture, whole_capture_config
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.view_selection import SplitError, ViewSplit, load_split_file
from genfusion_ns.geometry.trajectories import ellipse_path, follow_path, spline_path
from genfusion_ns.geometry.windows import clip_windows

NAMES = [f"frames/img_{i:03d}.jpg" for i in range(12)]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2, 10**15, 10**400])
    | st.floats()
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


# ------------------------------------------------------------------------------------------------ splits


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    order = draw(st.permutations(range(len(NAMES))))
    train = draw(st.integers(2, len(NAMES) - 1))
    return order[:train], order[train : draw(st.integers(train + 1, len(NAMES)))]


def written(folder: Path, content: object) -> Path:
    path = folder / "split.json"
    path.write_text(json.dumps(content))
    return path


@settings(max_examples=60, deadline=None)
@given(split=splits(), data=st.data())
def test_ids_and_names_mean_the_same(tmp_path_factory, split: tuple[list[int], list[int]], data: st.DataObject) -> None:
    def spelled(view: int) -> object:
        name = NAMES[view]
        return data.draw(st.sampled_from([view, name, Path(name).name, Path(name).stem, f"./{name}", f"data/{name}"]))

    folder = tmp_path_factory.mktemp("split")
    content = {"train_ids": [spelled(i) for i in split[0]], "test_ids": [spelled(i) for i in split[1]]}
    expected = ViewSplit(tuple(sorted(split[0])), tuple(sorted(split[1])), "split.json")
    assert load_split_file(written(folder, content), NAMES) == expected
    again = {"train_ids": list(expected.train_ids), "test_ids": list(expected.test_ids)}
    assert load_split_file(written(folder, again), NAMES) == expected


@settings(max_examples=150, deadline=None)
@given(
    content=VALUES
    | st.fixed_dictionaries({"train_ids": VALUES, "test_ids": VALUES})
    | st.builds(
        lambda train, test: {"train_ids": train, "test_ids": test},
        st.lists(SCALARS | st.sampled_from([*range(12), *NAMES]), max_size=5),
        st.lists(SCALARS | st.sampled_from([*range(12), *NAMES]), max_size=3),
    )
)
def test_any_split_file_gives_a_split_or_a_split_error(tmp_path_factory, content: object) -> None:
    path = written(tmp_path_factory.mktemp("split"), content)
    try:
        split = load_split_file(path, NAMES)
    except SplitError as error:
        assert str(path) in str(error)
    else:
        assert len(split.train_ids) >= 2 and split.test_ids
        assert not set(split.train_ids) & set(split.test_ids)
        assert set(split.train_ids) | set(split.test_ids) <= set(range(len(NAMES)))


# ------------------------------------------------------------------------------------------------ transforms.json

TOP_KEYS = ["fl_x", "fl_y", "cx", "cy", "w", "h", "camera_model", "applied_transform", "frames", "ply_file_path"]
OPTIONAL_KEYS = ["k1", "k2", "k3", "k4", "p1", "p2", "distortion_params", "applied_scale", "orientation_override"]
OPTIONAL_KEYS += ["fisheye_crop_radius", "train_filenames", "test_filenames", "val_filenames", "aabb_scale"]
FRAME_KEYS = ["file_path", "transform_matrix", "mask_path", "depth_file_path", "fl_x", "w", "k1", "colmap_im_id"]
PLAUSIBLE = st.sampled_from(
    [
        *(0.01, 30.0, 30, 32, 24, -0.1, "OPENCV", "OPENCV_FISHEYE", "PINHOLE", "none", "sparse_pc.ply"),
        *("images/view_00.png", "images", ".", "../secret.png", "images/VIEW_00.PNG"),
        *(["images/view_00.png", "images/view_01.png"], ["images/view_02.png"]),
        *([[1, 0, 0, 0]] * 3, np.eye(4).tolist(), [0.01, 0.0, 0.0, 0.0, 0.0, 0.0]),
    ]
)


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, int | None, str, object]]:
    """What to do to a valid file: (what, frame or None for the top, key, value)."""
    count = draw(st.integers(1, 3))
    return [
        (
            draw(st.sampled_from(["set", "set", "set", "drop", "entry", "duplicate"])),
            frame := draw(st.none() | st.integers(0, 4)),
            draw(st.sampled_from(TOP_KEYS + OPTIONAL_KEYS if frame is None else FRAME_KEYS)),
            draw(PLAUSIBLE | VALUES),
        )
        for _ in range(count)
    ]


def apply(content: dict, edit: tuple[str, int | None, str, object]) -> None:
    what, frame, key, value = copy.deepcopy(edit)
    frames = content.get("frames")
    if frame is None or not isinstance(frames, list) or frame >= len(frames) or not isinstance(frames[frame], dict):
        holder = content
    else:
        holder = frames[frame]
    if what == "set":
        holder[key] = value
    elif what == "drop":
        holder.pop(key, None)
    elif what == "duplicate" and isinstance(frames, list) and holder is not content:
        frames.append(copy.deepcopy(holder))
    elif what == "entry":
        matrix = holder.get("transform_matrix")
        if isinstance(matrix, list) and len(matrix) > 1 and isinstance(matrix[1], list) and matrix[1]:
            matrix[1][-1] = value


def read(folder: Path) -> Capture:
    config = whole_capture_config(NerfstudioDataParserConfig(data=folder))
    parser = config.setup()
    return read_capture(parser, parser.get_dataparser_outputs(split="train"))


@pytest.fixture(scope="module")
def capture_folder(tmp_path_factory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("properties") / "capture", num_views=5).folder


@pytest.fixture(scope="module")
def valid(capture_folder: Path) -> dict:
    return json.loads((capture_folder / "transforms.json").read_text())


def assert_capture_or_capture_error(folder: Path, content: object) -> bool:
    (folder / "transforms.json").write_text(json.dumps(content))
    try:
        capture = read(folder)
    except CaptureError as error:
        assert len(str(error)) < 2000
        return False
    cameras = capture.outputs.cameras
    assert len(capture.names) == len(set(capture.names)) == len(cameras.camera_to_worlds) >= 2
    assert torch.isfinite(cameras.camera_to_worlds).all()
    assert torch.isfinite(cameras.get_intrinsics_matrices()).all()
    assert (cameras.fx > 0).all() and (cameras.width > 0).all()
    return True


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=edits())
@example(changes=[])
@example(changes=[("set", None, "train_filenames", ["images/view_00.png", "images/view_01.png"])])
@example(changes=[("set", None, "val_filenames", [])])
@example(changes=[("set", None, "k1", 0.01)])
def test_any_edit_of_a_valid_file_gives_a_capture_or_a_capture_error(
    capture_folder: Path, valid: dict, changes: list[tuple[str, int | None, str, object]]
) -> None:
    content = copy.deepcopy(valid)
    for change in changes:
        apply(content, change)
    accepted = assert_capture_or_capture_error(capture_folder, content)
    if not changes:
        assert accepted


@settings(max_examples=100, deadline=None)
@given(content=VALUES | st.builds(lambda frames: {"frames": frames}, VALUES | st.lists(VALUES, max_size=4)))
def test_any_json_is_no_capture(capture_folder: Path, content: object) -> None:
    assert not assert_capture_or_capture_error(capture_folder, content)


# ------------------------------------------------------------------------------------------------ windows


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 40), st.none() | st.integers(1, 12))
def test_windows_partition_the_path(num_frames: int, length: int, max_windows: int | None) -> None:
    windows = clip_windows(num_frames, length, max_windows)
    covered = [frame for window in windows for frame in window.new_frames(num_frames)]
    assert covered == sorted(set(covered)) and set(covered) <= set(range(num_frames))
    needed = -(-num_frames // length)
    assert len(windows) == (needed if max_windows is None else min(needed, max_windows))
    if max_windows is None or max_windows >= needed:
        assert covered == list(range(num_frames))
    for window in windows:
        frames = window.frames(num_frames)
        assert len(frames) == length and max(frames) < num_frames
        assert frames[window.new_from : window.new_from + len(window.new_frames(num_frames))] == list(
            window.new_frames(num_frames)
        )


# ------------------------------------------------------------------------------------------------ camera paths


@st.composite
def poses(draw: st.DrawFn) -> Tensor:
    """Rigid poses with every degeneracy that hypothesis likes: equal, collinear, upside down, all in one place."""
    count = draw(st.integers(1, 6))
    angle, position = st.floats(-3.25, 3.25, width=32), st.floats(-100, 100, width=32)
    angles = draw(st.lists(st.tuples(angle, angle, angle), min_size=count, max_size=count))
    positions = draw(st.lists(st.tuples(position, position, position), min_size=count, max_size=count))
    c2w = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    c2w[:, :3, :3] = torch.from_numpy(Rotation.from_euler("zyx", angles).as_matrix())
    c2w[:, :3, 3] = torch.tensor(positions, dtype=torch.float64)
    return c2w


def assert_cameras(path: Tensor, count: int, like: Tensor) -> None:
    assert path.shape == (count, 4, 4) and path.dtype == like.dtype
    assert torch.isfinite(path).all()
    rotation = path[:, :3, :3].double()
    tolerance = 1e-9 if like.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        rotation.mT @ rotation, torch.eye(3, dtype=torch.float64).expand_as(rotation), atol=tolerance, rtol=0
    )
    assert (torch.linalg.det(rotation) > 0).all()
    assert torch.equal(path[:, 3], torch.tensor([0.0, 0, 0, 1], dtype=path.dtype).expand(count, 4))


@settings(max_examples=100, deadline=None)
@given(poses(), st.integers(1, 20), st.sampled_from([torch.float32, torch.float64]))
def test_splines_are_made_of_cameras(c2w: Tensor, num: int, dtype: torch.dtype) -> None:
    c2w = c2w.to(dtype)
    path = spline_path(c2w, num)
    assert_cameras(path, num, c2w)
    torch.testing.assert_close(path[0], c2w[0], atol=2e-3, rtol=1e-4)


@settings(max_examples=100, deadline=None)
@given(poses(), st.integers(1, 40), st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_walks_are_made_of_cameras(c2w: Tensor, num: int, seed: int, shift: float, turn: float) -> None:
    def walk() -> Tensor:
        return follow_path(c2w, num, torch.Generator().manual_seed(seed), position_jitter=shift, turn_jitter=turn)

    assert_cameras(walk(), num, c2w)
    assert torch.equal(walk(), walk())


@settings(max_examples=100, deadline=None)
@given(poses(), st.integers(1, 20), st.floats(0, 2), st.floats(0, 1), st.floats(0.2, 3), st.floats(-1, 1))
def test_loops_are_made_of_cameras_or_refused(
    c2w: Tensor, num: int, sway: float, phase: float, scale: float, tilt: float
) -> None:
    try:
        path = ellipse_path(c2w, num, height_variation=sway, phase=phase, scale=scale, tilt=tilt)
    except ValueError as error:
        assert any(
            word in str(error) for word in ("no common vertical", "straight above or below", "roll is undefined")
        )
    else:
        assert_cameras(path, num, c2w)
