"""Camera paths of nerfstudio's viewer: read as nerfstudio reads them, and refused with a reason where they are bad."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.camera_paths import get_path_from_json
from scipy.spatial.transform import Rotation

from genfusion_ns.data.camera_path import CameraPathError, read_camera_path

torch.set_num_threads(1)


def frame(turn: float, fov: float = 50.0, aspect: float = 16 / 9) -> dict:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.1 * turn, turn, 0.0]).as_matrix())
    matrix[:3, 3] = torch.tensor([turn, 2 * turn, 0.5])
    return {"camera_to_world": matrix.flatten().tolist(), "fov": fov, "aspect": aspect}


def content(frames: int = 5) -> dict:
    """As the render panel of nerfstudio 1.1.5 writes it, without its keyframes."""
    return {
        "default_fov": 50.0,
        "keyframes": [],
        "camera_type": "perspective",
        "render_height": 1080,
        "render_width": 1920,
        "fps": 30,
        "seconds": 2.0,
        "is_cycle": False,
        "smoothness_value": 0.0,
        "camera_path": [frame(0.2 * i, fov=40.0 + 5 * i) for i in range(frames)],
    }


@pytest.fixture
def write(tmp_path):
    def to_file(value, name="path.json"):
        file = tmp_path / name
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return file

    return to_file


def test_poses_and_angles_are_those_of_ns_render(write):
    path = read_camera_path(write(content()))
    theirs = get_path_from_json(content())
    torch.testing.assert_close(path.c2w[:, :3].float(), theirs.camera_to_worlds)
    focal = path.height / (2 * torch.tan(path.fov_y / 2))
    torch.testing.assert_close(focal, theirs.fy[:, 0].double(), rtol=1e-5, atol=0)
    assert (path.width, path.height, path.fps, len(path)) == (1920, 1080, 30.0, 5)
    torch.testing.assert_close(path.aspect, torch.full((5,), 16 / 9, dtype=torch.float64))


def test_what_may_be_missing(write):
    value = content()
    for key in ("camera_type", "fps", "default_fov", "keyframes", "is_cycle"):
        del value[key]
    for item in value["camera_path"]:
        del item["aspect"]
    path = read_camera_path(write(value))
    assert path.fps is None
    torch.testing.assert_close(path.aspect, torch.full((5,), 16 / 9, dtype=torch.float64))
    for item in value["camera_path"]:
        item["aspect"] = 1.5
    del value["render_width"]
    path = read_camera_path(write(value))
    assert path.width is None and path.aspect.tolist() == [1.5] * 5


def test_resampling_keeps_both_ends_and_turns_evenly(write):
    path = read_camera_path(write(content()))
    for num in (5, 9, 48):
        shorter = path.resampled(num)
        torch.testing.assert_close(shorter.c2w[[0, -1]], path.c2w[[0, -1]])
        torch.testing.assert_close(shorter.fov_y[-1], path.fov_y[-1])
        assert len(shorter) == len(shorter.aspect) == num and shorter.width == 1920
    torch.testing.assert_close(path.resampled(5).c2w, path.c2w)
    torch.testing.assert_close(path.resampled(9).c2w[::2], path.c2w)
    halfway = path.resampled(9).c2w[1]
    torch.testing.assert_close(halfway[:3, 3], (path.c2w[0, :3, 3] + path.c2w[1, :3, 3]) / 2)
    step = Rotation.from_matrix((path.c2w[0, :3, :3].T @ halfway[:3, :3]).numpy()).magnitude()
    whole = Rotation.from_matrix((path.c2w[0, :3, :3].T @ path.c2w[1, :3, :3]).numpy()).magnitude()
    assert step == pytest.approx(whole / 2)
    assert path.resampled(1).c2w.shape == (1, 4, 4)
    with pytest.raises(ValueError, match="num is 0"):
        path.resampled(0)


def _set(*keys, value):
    def change(content):
        target = content
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value

    return change


def _drop(*keys):
    def change(content):
        target = content
        for key in keys[:-1]:
            target = target[key]
        del target[keys[-1]]

    return change


def _transpose(content):
    matrix = torch.tensor(content["camera_path"][2]["camera_to_world"]).view(4, 4)
    content["camera_path"][2]["camera_to_world"] = matrix.T.flatten().tolist()


def _scale(factor):
    def change(content):
        numbers = content["camera_path"][1]["camera_to_world"]
        for row in range(3):
            for column in range(3):
                numbers[4 * row + column] *= factor if column == 0 else abs(factor)

    return change


POSE = ("camera_path", 1, "camera_to_world")
BAD = {
    "no camera_path": (_drop("camera_path"), "camera_path is missing"),
    "camera_path is a number": (_set("camera_path", value=7), "camera_path is 7; allowed: a list"),
    "empty path": (_set("camera_path", value=[]), r"camera_path is \[\]; allowed: a list of frames. Add keyframes"),
    "one frame": (_set("camera_path", value=[frame(0.0)]), "at least 2 frames. Add a second keyframe"),
    "frame is a list": (_set("camera_path", 3, value=[1]), r"camera_path\[3\] is \[1\]"),
    "no pose": (_drop(*POSE), r"camera_path\[1\].camera_to_world is missing"),
    "12 numbers": (_set(*POSE, value=[0.0] * 12), "is 'a list of 12'; allowed: 16 finite numbers"),
    "pose is text": (_set(*POSE, value="identity"), "is 'identity'; allowed: 16"),
    "pose of rows": (_set(*POSE, value=torch.eye(4).tolist()), "is 'a list of 4'"),
    "nan in a pose": (_set(*POSE, 3, value=math.nan), "is nan; allowed: 16 finite"),
    "infinite pose": (_set(*POSE, 7, value=math.inf), "is inf; allowed: 16 finite"),
    "null in a pose": (_set(*POSE, 0, value=None), "16 finite"),
    "truth in a pose": (_set(*POSE, 0, value=True), "is True; allowed: 16 finite"),
    "huge integer": (_set(*POSE, 3, value=10**400), "16 finite"),
    "by columns": (_transpose, r"camera_path\[2\].camera_to_world is .*as the last row.*by rows"),
    "scaled": (_scale(1.1), "without scale or mirror"),
    "mirrored": (_scale(-1.0), "without scale or mirror"),
    "no fov": (_drop("camera_path", 0, "fov"), r"camera_path\[0\].fov is missing; allowed: degrees of at least 0.01"),
    "fov 0": (_set("camera_path", 0, "fov", value=0), "fov is 0; allowed"),
    "a view of no width": (_set("camera_path", 0, "fov", value=1e-300), "fov is 1e-300; allowed"),
    "fps beyond videos": (_set("fps", value=1e31), r"fps is 1e\+31; allowed"),
    "fov 180": (_set("camera_path", 0, "fov", value=180.0), "fov is 180.0; allowed"),
    "fov is text": (_set("camera_path", 0, "fov", value="50"), "fov is '50'; allowed"),
    "aspect 0": (_set("camera_path", 4, "aspect", value=0), "aspect is 0; allowed: width / height"),
    "negative aspect": (_set("camera_path", 4, "aspect", value=-1.5), "aspect is -1.5"),
    "extreme aspect": (_set("camera_path", 4, "aspect", value=1e6), "between 0.1 and 10"),
    "fisheye": (_set("camera_type", value="fisheye"), "camera_type is 'fisheye'; allowed: perspective. Choose"),
    "equirectangular": (_set("camera_type", value="equirectangular"), "allowed: perspective"),
    "camera type 3": (_set("camera_type", value=3), "camera_type is 3"),
    "no width": (_set("render_width", value=0), "render_width is 0; allowed: a whole number"),
    "height is half a pixel": (_set("render_height", value=0.5), "render_height is 0.5"),
    "height without end": (_set("render_height", value=math.inf), "render_height is inf; allowed: a whole number"),
    "height is nan": (_set("render_height", value=math.nan), "render_height is nan; allowed: a whole number"),
    "width of a billion": (_set("render_width", value=10**9), r"render_width is 1000000000; allowed: .* 1\.\.32768"),
    "width is true": (_set("render_width", value=True), "render_width is True; allowed: a whole number"),
    "endless fps": (_set("fps", value=math.inf), "fps is inf; allowed: 0.01..1000 frames per second"),
    "fps 0": (_set("fps", value=0), "fps is 0; allowed: 0.01..1000 frames per second"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_content_is_explained(write, name):
    change, message = BAD[name]
    value = content()
    change(value)
    with pytest.raises(CameraPathError, match=message) as error:
        read_camera_path(write(value))
    assert "path.json" in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2",
        "\x00",
        '{"camera_path": ',
        "[" * 100_000,
        "1" * 5000,
        '"just text"',
        "null",
        "[]",
        '{"fps": 1, "fps": 2}',
    ],
)
def test_what_is_no_json_object_is_explained(write, text):
    with pytest.raises(CameraPathError, match=r"path\.json"):
        read_camera_path(write(text))


def test_a_byte_order_mark_is_no_fault(write):
    assert len(read_camera_path(write("\ufeff" + json.dumps(content())))) == 5


def test_files_that_cannot_be_read_are_explained(tmp_path):
    with pytest.raises(CameraPathError, match=r"nowhere\.json cannot be read: No such file.*render panel"):
        read_camera_path(tmp_path / "nowhere.json")
    with pytest.raises(CameraPathError, match="cannot be read: Is a directory"):
        read_camera_path(tmp_path)
    (tmp_path / "image.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(CameraPathError, match=r"image\.json cannot be read as JSON"):
        read_camera_path(tmp_path / "image.json")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
places = st.sampled_from(
    [(key,) for key in content()]
    + [("camera_path", 1), POSE, (*POSE, 0), (*POSE, 15)]
    + [("camera_path", 1, key) for key in ("fov", "aspect")]
)


@settings(deadline=None, max_examples=150)
@given(place=places, value=values)
def test_no_json_value_anywhere_fails_in_another_way(tmp_path_factory, place, value):
    broken = copy.deepcopy(content())
    _set(*place, value=value)(broken)
    file = tmp_path_factory.mktemp("paths") / "path.json"
    for candidate in (broken, value):
        file.write_text(json.dumps(candidate))
        try:
            path = read_camera_path(file)
        except CameraPathError:
            continue
        assert torch.isfinite(path.c2w).all() and (path.fov_y > 0).all() and len(path.resampled(3)) == 3
