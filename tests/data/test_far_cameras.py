"""Cameras far from all others are named, and scenes of any scale are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from broken_captures import assert_refused, edit_transforms, set_up
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from tiny_capture import TinyCapture, write_colmap

from genfusion_ns.data.captures.checks.views import check_positions, far_cameras
from genfusion_ns.data.captures.image_files import CaptureError

RING = np.stack([np.cos(a := np.arange(40) / 6), np.sin(a), 0.1 * a], axis=1)


def put(capture: TinyCapture, name: str, place: float) -> None:
    """Move one camera to x = `place`."""

    def change(content: dict) -> None:
        frame = next(frame for frame in content["frames"] if name in frame["file_path"])
        frame["transform_matrix"][0][3] = place

    edit_transforms(capture.folder, change)


@pytest.mark.parametrize("place", [1e3, 1e9, -1e20])
def test_one_camera_at_the_end_of_the_world(tiny: TinyCapture, place: float) -> None:
    put(tiny, "view_03", place)
    said = r"1 of 6 cameras stand farther .*: images/view_03.png \(\S+ times\)\. Their registration probably failed"
    assert_refused(tiny.folder, CaptureError, said)


def test_one_image_of_a_colmap_model_at_the_end_of_the_world(tiny: TinyCapture) -> None:
    write_colmap(tiny)
    folder = str(tiny.folder / "sparse/0")
    cameras, images, points = colmap.read_model(folder, ".bin")
    images[3] = images[3]._replace(tvec=np.array([0, 0, 1e9]))
    colmap.write_model(cameras, images, points, folder, ".bin")
    parser = ColmapDataParserConfig(colmap_path=Path("sparse/0"))
    assert_refused(tiny.folder, CaptureError, r"images.bin: 1 of 6 cameras .*view_05.png", parser)


def test_a_camera_that_stands_apart_is_logged(tiny: TinyCapture, capsys: pytest.CaptureFixture[str]) -> None:
    put(tiny, "view_03", 100.0)
    assert len(set_up(tiny.folder).capture.names) == 6
    said = " ".join(capsys.readouterr().out.split())
    assert "images/view_03.png" in said and "farther from the other cameras" in said


def test_how_far_they_stand_is_in_units_of_the_others() -> None:
    centers = np.concatenate([RING, [[50.0, 0, 0], [-400.0, 0, 0]]])
    far = far_cameras(centers)
    middle = np.median(centers, axis=0)
    spread = np.linalg.norm(RING - middle, axis=1).max()
    assert far == pytest.approx({i: np.linalg.norm(centers[i] - middle) / spread for i in (41, 40)})
    assert list(far) == [41, 40]
    for scale in (1e-8, 1e6):
        assert far_cameras(scale * centers) == pytest.approx(far), "no length is absolute"


@pytest.mark.parametrize(
    "centers",
    [
        RING,
        np.concatenate([RING, RING + np.array([30, 0, 0])]),  # two places
        np.concatenate([0.001 * RING, [[5 * i, 0, 0] for i in range(10)]]),  # a tripod and a walk
        np.stack([np.arange(50.0) ** 2, np.zeros(50), np.zeros(50)], axis=1),  # ever faster on a line
        np.array([[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]),  # turned in one place
        np.array([[0.0, 0, 0], [0.001, 0, 0], [1, 0, 0]]),  # too few to say
    ],
)
def test_cameras_that_belong_together(centers: np.ndarray) -> None:
    assert far_cameras(centers) == {}
    check_positions(Path("transforms.json"), [""] * len(centers), centers)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize(
    "parser",
    [NerfstudioDataParserConfig(auto_scale_poses=False), InstantNGPDataParserConfig(scene_scale=1.0)],
    ids=["nerfstudio", "instant-ngp"],
)
def test_scenes_of_any_scale_are_read(tiny: TinyCapture, scale: float, parser: object) -> None:
    plain = set_up(tiny.folder, parser).capture.outputs.cameras.camera_to_worlds[:, :, 3]

    def change(content: dict) -> None:
        for frame in content["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] *= scale

    edit_transforms(tiny.folder, change)
    manager = set_up(tiny.folder, parser)
    torch.testing.assert_close(
        manager.capture.outputs.cameras.camera_to_worlds[:, :, 3] / scale, plain, rtol=1e-4, atol=1e-4
    )
    assert torch.isfinite(manager.seeds.xyz).all()
