"""Points between sparse points: on planes exactly, never across an edge, and only where photos show something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from tiny_capture import make_capture, write_colmap, write_transforms

from genfusion_ns.data.camera_conversion import viewmats_to_cameras
from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.data.points.random_points import views_seeing
from genfusion_ns.data.points.surface_points import find_surface_points
from genfusion_ns.models.starting_points import StartingPoints

SIZE = (96, 72)
K = torch.tensor([[100.0, 0, 48], [0, 100, 36], [0, 0, 1]])
SEEN = torch.ones(1, 1000, dtype=torch.bool)


def camera(count: int = 1, aside: float = 0.0) -> Cameras:
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = aside * torch.arange(count)
    return viewmats_to_cameras(viewmats, K.repeat(count, 1, 1), SIZE)


def photo(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Red from left to right."""
    image = torch.full((SIZE[1], SIZE[0], 3), 0.5)
    image[..., 0] = (torch.arange(SIZE[0]) + 0.5) / SIZE[0]
    return {"image": image, **more}


def pixels(count: int = 1000) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(SIZE)


def lifted(uv: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    x, y = ((uv - K[:2, 2]) / 100).unbind(-1)
    return torch.stack([x * depth, y * depth, depth], dim=-1)


def slanted(uv: torch.Tensor) -> torch.Tensor:
    """Points of the plane z = 2 + x / 2 + y / 4 on the rays of pixels."""
    x, y = ((uv - K[:2, 2]) / 100).unbind(-1)
    return lifted(uv, 2 / (1 - x / 2 - y / 4))


def test_points_of_a_plane_lie_on_it_with_its_normal_and_the_colours_of_the_photo() -> None:
    found = find_surface_points(camera(), [photo()], slanted(pixels()), SEEN)
    x, y, z = found.xyz.unbind(-1)
    torch.testing.assert_close(z, 2 + x / 2 + y / 4, rtol=1e-5, atol=1e-5)
    normal = torch.nn.functional.normalize(torch.tensor([0.5, 0.25, -1.0]), dim=0)
    torch.testing.assert_close((found.normals @ normal).abs(), torch.ones(len(found)), rtol=0, atol=1e-4)
    u = 100 * x / z + 48
    torch.testing.assert_close(found.rgb[:, 0].float(), 255 * u / SIZE[0], rtol=0, atol=1.0)
    assert len(found) > 0.95 * 32 * 24, "cells of three pixels, of which the border alone has no triangle"
    torch.testing.assert_close(found.radius, z * 0.03 / 2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("tracked", [True, False])
def test_nothing_is_put_between_near_and_far(tracked: bool) -> None:
    uv = pixels()
    depth = torch.where(uv[:, 0] < 48, 1.0, 2.0)
    found = find_surface_points(camera(), [photo()], lifted(uv, depth), SEEN if tracked else None)
    z = found.xyz[:, 2]
    assert (torch.minimum((z - 1).abs(), (z - 2).abs()) < 1e-5).all()
    assert ((z < 1.5).sum() > 300) and ((z > 1.5).sum() > 250)


def test_without_tracks_what_lies_behind_others_is_not_taken_for_seen() -> None:
    uv = pixels()
    wall, hidden = lifted(uv, torch.ones(1000)), lifted(uv.flip(0)[:300], torch.full((300,), 3.0))
    found = find_surface_points(camera(), [photo()], torch.cat([wall, hidden]), None)
    torch.testing.assert_close(found.xyz[:, 2], torch.ones(len(found)))


def test_of_a_crowd_without_tracks_the_nearest_point_of_each_cell_counts() -> None:
    uv = pixels(20000)
    depth = torch.where(torch.arange(len(uv)) % 2 == 0, 2.0, 2.1)
    found = find_surface_points(camera(), [photo()], lifted(uv, depth), None)
    assert len(found) > 0.95 * 32 * 24
    torch.testing.assert_close(found.xyz[:, 2], torch.full((len(found),), 2.0), rtol=1e-5, atol=0)


def test_tracks_decide_what_a_photo_sees() -> None:
    uv = pixels()
    left = (uv[:, 0] < 48)[None]
    found = find_surface_points(camera(), [photo()], slanted(uv), left)
    assert len(found) > 300
    assert (100 * found.xyz[:, 0] / found.xyz[:, 2] + 48 < 48).all()


def test_a_second_photo_adds_only_what_the_first_does_not_show() -> None:
    xyz, both = lifted(pixels(), torch.full((1000,), 2.0)), SEEN.expand(2, -1)
    alone = find_surface_points(camera(), [photo()], xyz, SEEN)
    assert len(find_surface_points(camera(2), [photo(), photo()], xyz, both)) == len(alone)
    moved = camera(2, aside=0.9)  # by nearly half of the image
    more = find_surface_points(
        moved, [photo(), photo()], torch.cat([xyz, xyz - torch.tensor([1.8, 0, 0])]), both.repeat(1, 2)
    )
    added = more.xyz[len(alone) :]
    assert 0.3 * len(alone) < len(added) < 0.7 * len(alone)
    assert not views_seeing(moved[:1], added)[0].sum() > 0.05 * len(added)


def test_hidden_and_transparent_places_get_none() -> None:
    mask = torch.zeros(SIZE[1], SIZE[0], 1, dtype=torch.bool)
    mask[:, :48] = True
    xyz = slanted(pixels())
    masked = find_surface_points(camera(), [photo(mask=mask)], xyz, SEEN)
    image = torch.cat([photo()["image"], mask.float()], dim=-1)
    transparent = find_surface_points(camera(), [{"image": image}], xyz, SEEN)
    assert len(masked) > 300
    assert (100 * masked.xyz[:, 0] / masked.xyz[:, 2] + 48 < 48).all()
    torch.testing.assert_close(transparent.xyz, masked.xyz)


@pytest.mark.parametrize("kind", ["none", "two", "a line", "one place", "behind"])
def test_of_points_that_make_no_triangle_there_are_none(kind: str) -> None:
    line = torch.stack([torch.linspace(5, 90, 20), torch.full((20,), 30.0)], dim=-1)
    uv = {"none": pixels(0), "two": pixels(2), "a line": line, "one place": line[:1].repeat(9, 1), "behind": line}[kind]
    depth = torch.full((len(uv),), -2.0 if kind == "behind" else 2.0)
    found = find_surface_points(camera(), [photo()], lifted(uv, depth), None)
    assert len(found) == 0
    assert found.rgb.shape == found.normals.shape == found.xyz.shape == (0, 3)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_they_move_and_grow_with_the_scene(unit: float) -> None:
    cameras, xyz = camera(2, aside=0.3), slanted(pixels())
    here = find_surface_points(cameras, [photo(), photo()], xyz, None)
    cameras.camera_to_worlds[:, :, 3] *= unit
    scaled = find_surface_points(cameras, [photo(), photo()], unit * xyz, None)
    torch.testing.assert_close(scaled.xyz / unit, here.xyz, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scaled.radius / unit, here.radius, rtol=1e-4, atol=0)


def test_surfels_start_flat_on_the_surface_as_large_as_their_cells() -> None:
    found = find_surface_points(camera(), [photo()], slanted(pixels()), SEEN)
    sparse, backdrop = slanted(pixels(50)), torch.randn(40, 3) + 100
    means = torch.cat([sparse, found.xyz, backdrop])
    start = StartingPoints.of(
        (means, torch.full_like(means, 128)),
        {"surface_points": (found.normals, found.radius), "num_backdrop_points": 40},
    )
    values = start.parameter_values(0, 1.0)
    w, x, y, z = values["quats"][50:-40].unbind(-1)
    axis = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=-1)
    torch.testing.assert_close((axis * found.normals).sum(-1).abs(), torch.ones(len(found)), rtol=0, atol=1e-4)
    torch.testing.assert_close(values["scales"][50:-40, 0].exp(), found.radius)
    alone = StartingPoints(sparse, sparse).parameter_values(0, 1.0)
    torch.testing.assert_close(
        values["scales"][:50], alone["scales"], msg="their neighbours are the other sparse points"
    )
    few = start.chosen(torch.tensor([0, 60, len(means) - 1]))
    covered = values["scales"][60, :2] + 0.5 * torch.tensor(len(means) / 3).log()
    torch.testing.assert_close(
        few.parameter_values(0, 1.0)["scales"][1, :2], covered, msg="the few cover the same area"
    )


def test_sparse_points_keep_their_normals_beside_a_backdrop() -> None:
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    means = torch.cat([slanted(pixels(50)), torch.randn(40, 3) + 100])
    metadata = {"points3D_normals": normals, "num_backdrop_points": 40}
    start = StartingPoints.of((means, torch.full_like(means, 128)), metadata)
    assert start.normals is not None and not start.on_surface
    assert torch.equal(start.normals[:50], normals) and not start.normals[50:].any()
    alone = StartingPoints.of((means[:50], means[:50]), {"points3D_normals": normals})
    assert alone.on_surface


def datamanager(folder: Path, **settings: Any) -> GenFusionDataManager:
    capture = make_capture(folder)
    write_transforms(capture)
    write_colmap(capture)
    parser = NerfstudioDataParserConfig(data=folder, load_3D_points=False)
    return GenFusionDataManagerConfig(dataparser=parser, num_views=4, backdrop_points=False, **settings).setup()


def test_a_run_starts_from_them_behind_its_sparse_points(tmp_path: Path) -> None:
    manager = datamanager(tmp_path)
    normals, radius = manager.train_dataset.metadata["surface_points"]
    points = manager.train_dataparser_outputs.metadata["points3D_xyz"]
    torch.testing.assert_close(points[: len(manager.seeds.xyz)], manager.seeds.xyz)
    assert 0 < len(normals) == len(radius) == len(points) - len(manager.seeds.xyz)


@pytest.mark.parametrize(
    "settings", [{"seed_points": "random"}, {"min_seed_points": 10_000}, {"surface_points": False}]
)
def test_random_points_are_no_surface(tmp_path: Path, settings: dict[str, Any]) -> None:
    usual = datamanager(tmp_path / "usual").train_dataset.metadata["surface_points"][0]
    manager = datamanager(tmp_path / "other", num_random_points=500, **settings)
    normals, _ = manager.train_dataset.metadata.get("surface_points", (usual[:0], None))
    assert len(normals) == (len(usual) if "min_seed_points" in settings else 0)
    assert len(manager.train_dataparser_outputs.metadata["points3D_xyz"]) == len(manager.seeds.xyz) + len(normals)
