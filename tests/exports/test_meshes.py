"""Depth maps of known shapes, fused into distances and turned into triangles."""

import numpy as np
import pytest
import torch
import trimesh

from genfusion_ns.exports.mesh_files import ENDINGS, write_mesh_file
from genfusion_ns.exports.surface import decimated, surface_of_blocks, without_small_parts
from genfusion_ns.geometry.cameras import c2w_to_viewmat, look_at
from genfusion_ns.geometry.meshes import Mesh
from genfusion_ns.geometry.voxel_blocks import SIDE, DepthView, VolumeFullError, VoxelBlocks, packed, unpacked

RADIUS = 0.5
SIZE = 96


def sphere_views(count=14, radius=RADIUS, distance=2.0):
    """Exact depth of a sphere from all sides; what misses it is known to be empty."""
    turn = torch.pi * (1 + 5**0.5) * torch.arange(count)
    z = 1 - 2 * (torch.arange(count) + 0.5) / count
    flat = (1 - z * z).sqrt()
    places = distance * torch.stack([flat * turn.cos(), flat * turn.sin(), z], -1)
    K = torch.tensor([[110.0, 0, SIZE / 2], [0, 110.0, SIZE / 2], [0, 0, 1]])
    rows, columns = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    rays = torch.stack([columns, rows, torch.ones_like(rows)], -1) @ torch.linalg.inv(K).T
    views = []
    for viewmat in c2w_to_viewmat(look_at(places, torch.zeros(3), torch.tensor([0.0, 0.1, 1.0]))):
        middle = viewmat[:3, 3]
        a, b = rays.square().sum(-1), rays @ middle
        inner = b.square() - a * (middle.square().sum() - radius**2)
        depth = torch.where(inner > 0, (b - inner.clamp_min(0).sqrt()) / a, torch.inf)
        points = (depth.nan_to_num(posinf=0)[..., None] * rays - middle) @ viewmat[:3, :3]
        rgb = torch.where(points[..., :1] > 0, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1]))
        views.append(DepthView(depth, rgb, torch.ones_like(depth), viewmat, K))
    return views


def fused(views, voxel=0.03, **options):
    field = VoxelBlocks(voxel, 4 * voxel, **options)
    for view in views:
        field.integrate(view)
    return field


@pytest.fixture(scope="module")
def ball():
    return surface_of_blocks(fused(sphere_views()))


def test_a_sphere_comes_back_closed_and_the_right_way_round(ball):
    distance = np.linalg.norm(ball.vertices, axis=1)
    assert np.abs(distance - RADIUS).max() < 0.02
    assert ball.volume() == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.04)
    outward = ball.vertex_normals()
    assert (outward * ball.vertices).sum(1).min() > 0.7 * RADIUS
    # welded: without borders, and V - E + F = 2
    edges = np.sort(np.concatenate([ball.faces[:, [0, 1]], ball.faces[:, [1, 2]], ball.faces[:, [2, 0]]]), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    assert (counts == 2).all() and len(ball.vertices) - len(unique) + len(ball.faces) == 2


def test_it_has_the_colours_of_the_views(ball):
    side = np.abs(ball.vertices[:, 0]) > 0.1
    expected = np.where(ball.vertices[:, :1] > 0, [1.0, 0, 0], [0, 0, 1.0])
    assert np.abs(ball.colours - expected)[side].max() < 0.25


def test_moving_everything_by_whole_voxels_moves_the_mesh():
    views, shift = sphere_views(4), 7 * 0.03 * torch.tensor([1.0, -2, 3])
    moved = []
    for view in views:
        viewmat = view.viewmat.clone()
        viewmat[:3, 3] -= viewmat[:3, :3] @ shift
        moved.append(DepthView(view.depth, view.rgb, view.weight, viewmat, view.K))
    here, there = surface_of_blocks(fused(views)), surface_of_blocks(fused(moved))
    from scipy.spatial import KDTree

    away, _ = KDTree(there.vertices).query(here.vertices + shift.numpy())
    assert np.quantile(away, 0.9) < 1e-3


def test_half_a_sphere_has_a_border_and_nothing_is_made_up():
    half = surface_of_blocks(fused(sphere_views()[:1]))
    seen = sphere_views()[0].viewmat[2, :3].numpy()
    assert (half.vertices @ seen).max() < 0.1
    assert np.abs(np.linalg.norm(half.vertices, axis=1) - RADIUS).max() < 0.05


def test_memory_is_that_of_the_surface_and_not_of_the_views():
    few, many = fused(sphere_views(14)), fused(sphere_views(14) * 3)
    assert len(few) == len(many)
    area = 4 * np.pi * RADIUS**2
    finer = fused(sphere_views(14), voxel=0.015)
    assert len(few) < 4 * area / (SIDE * 0.03) ** 2
    assert 2.5 < len(finer) / len(few) < 5


def test_more_blocks_than_allowed_are_refused_and_the_field_stays():
    field = VoxelBlocks(0.03, 0.12, most_blocks=20)
    with pytest.raises(VolumeFullError) as error:
        field.integrate(sphere_views(1)[0])
    assert error.value.blocks > 20 and len(field) == 0


def test_two_views_average_by_weight():
    """A wall at depth 1 and at 1.06, weights 3 and 1: the mean is 1.015."""
    K, depth = torch.tensor([[100.0, 0, 32], [0, 100.0, 32], [0, 0, 1]]), torch.ones(64, 64)
    field = VoxelBlocks(0.02, 0.12)
    for factor, weight in ((1.0, 3.0), (1.06, 1.0)):
        rgb = torch.full((64, 64, 3), weight / 4)
        field.integrate(DepthView(factor * depth, rgb, weight * depth, torch.eye(4), K))
    mesh = surface_of_blocks(field)
    assert np.abs(mesh.vertices[:, 2] - 1.015).max() < 2e-3
    assert (mesh.face_normals()[:, 2] < -0.9).all()
    assert np.allclose(mesh.colours, 0.625, atol=0.01)


def test_pixels_that_are_not_allowed_make_no_blocks():
    view = sphere_views(1)[0]
    field = VoxelBlocks(0.03, 0.12)
    field.integrate(view, torch.zeros(SIZE, SIZE, dtype=torch.bool))
    assert len(field) == 0
    assert len(surface_of_blocks(field).faces) == 0


def test_keys_go_both_ways():
    places = torch.tensor([[0, 0, 0], [-5, 7, 1000], [99999, -99999, -1]])
    assert torch.equal(unpacked(packed(places)), places)


@pytest.mark.parametrize(("voxel", "truncation"), [(0.0, 1.0), (0.1, 0.1), (float("nan"), 1.0), (0.1, float("inf"))])
def test_lengths_that_no_field_has(voxel, truncation):
    with pytest.raises(ValueError, match="truncation"):
        VoxelBlocks(voxel, truncation)


def two_balls():
    big, small = trimesh.creation.icosphere(3, 1.0), trimesh.creation.icosphere(2, 0.2)
    small.apply_translation([3, 0, 0])
    whole = trimesh.util.concatenate([big, small])
    return Mesh(np.asarray(whole.vertices), np.asarray(whole.faces), np.full((len(whole.vertices), 3), 0.25))


def test_small_parts_go_and_are_counted():
    mesh = two_balls()
    assert len(np.unique(mesh.parts())) == 2
    cleaned = without_small_parts(mesh, 0.05)
    assert (cleaned.parts, cleaned.removed_parts) == (2, 1)
    assert cleaned.removed_area == pytest.approx(0.04 / 1.04, rel=0.05)
    assert np.linalg.norm(cleaned.mesh.vertices, axis=1).max() < 1.01
    assert without_small_parts(mesh, 0.0).removed_parts == 0
    assert without_small_parts(mesh, 0.0, most=1).removed_parts == 1


def test_fewer_triangles_on_the_same_surface():
    pytest.importorskip("fast_simplification")
    mesh = two_balls()
    fewer = decimated(mesh, 400)
    assert 200 < len(fewer.faces) <= 410 and fewer.colours.shape == fewer.vertices.shape
    assert fewer.volume() == pytest.approx(mesh.volume(), rel=0.06)
    assert decimated(mesh, 10**6) is mesh


def test_points_lie_evenly_on_the_surface():
    points, faces = two_balls().points_on(4000, torch.Generator().manual_seed(0))
    on_small = points[:, 0] > 2
    assert on_small.mean() == pytest.approx(0.04 / 1.04, abs=0.015)
    assert np.abs(np.linalg.norm(points[~on_small], axis=1) - 1).max() < 0.02 and len(faces) == 4000


@pytest.mark.parametrize("ending", ENDINGS)
def test_mesh_files_keep_places_colours_and_normals(tmp_path, ending):
    mesh = two_balls()
    write_mesh_file(tmp_path / f"a{ending}", ending, mesh)
    read = trimesh.load(str(tmp_path / f"a{ending}"), process=False, force="mesh")
    assert np.allclose(read.vertices, mesh.vertices, atol=1e-5) and np.array_equal(read.faces, mesh.faces)
    assert (np.asarray(read.visual.vertex_colors)[:, :3] == 64).all()
    content = (tmp_path / f"a{ending}").read_bytes()
    assert {".ply": b"float nx", ".obj": b"\nvn ", ".glb": b'"NORMAL"'}[ending] in content
