"""Occupancy, mesh, points and textures of fields: the recorded one, and a ball whose answers are known."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import KDTree
from triposr_toys import Ball, settings, small_triposr, stages

from genfusion_ns.geometry.pixel_rays import evenly_around, intrinsics, orbit_poses
from genfusion_ns.priors.triposr.marching import render_views
from genfusion_ns.priors.triposr.mesh import (
    EmptySurfaceError,
    Mesh,
    density_grid,
    extract_mesh,
    surface_of,
    surface_points,
)
from genfusion_ns.priors.triposr.mesh_files import write_mesh
from genfusion_ns.priors.triposr.occupancy import Occupancy
from genfusion_ns.priors.triposr.texture import bake_texture
from genfusion_ns.seeds import seeded_generator


@pytest.fixture(scope="module")
def recorded_field():
    network = small_triposr()
    return network.field(stages()["scene_codes"][0])


@pytest.fixture
def ball():
    return Ball().field()


def test_mesh_is_the_recorded_one(recorded_field):
    said = settings()["mesh"]
    grid = density_grid(recorded_field, said["resolution"])
    torch.testing.assert_close(grid, stages()["mesh_density_grid"], rtol=1e-4, atol=0)
    expected = Mesh(stages()["mesh_vertices"].numpy(), stages()["mesh_faces"].numpy().astype(np.int64))
    open_mesh = unpadded(grid, said["threshold"])
    assert open_mesh.areas().sum() == pytest.approx(expected.areas().sum(), rel=1e-4)
    # Open where it meets the cube, so that cells that can be read in two ways count for much.
    assert open_mesh.volume() == pytest.approx(expected.volume(), rel=2e-2) and expected.volume() > 0
    exact = surface_of(stages()["mesh_density_grid"], said["threshold"], recorded_field.radius)
    assert KDTree(exact.vertices).query(expected.vertices)[0].max() < 1e-5
    mesh = extract_mesh(recorded_field, said["resolution"], said["threshold"])
    distance, nearest = KDTree(mesh.vertices).query(expected.vertices)
    assert distance.max() < 3e-4  # where the density hardly changes, a digit of it moves a vertex
    difference = np.abs(mesh.colours[nearest] - stages()["mesh_vertex_color"].numpy()).max()
    assert difference < 1e-3


def unpadded(grid, threshold):
    """The surface without what closes it at the faces of the cube."""
    mesh = surface_of(grid, threshold, 0.87)
    flat = np.abs(mesh.vertices[mesh.faces]) >= 0.87 - 1e-6
    return Mesh(mesh.vertices, mesh.faces[~flat.all(1).any(1)])


def test_surfaces_are_closed_and_turned_outwards(recorded_field, ball):
    for field, threshold in ((recorded_field, 3.0), (ball, 5.0)):
        mesh = extract_mesh(field, 32, threshold)
        solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        assert solid.is_watertight and mesh.volume() > 0
        assert mesh.volume() == pytest.approx(solid.volume, rel=1e-4)


def test_the_ball_has_its_size(ball):
    mesh = extract_mesh(ball, 64, 1.0)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert radius.min() > 0.97 * radius.max()
    points = surface_points(mesh, ball, 4000, seeded_generator(0))
    assert np.einsum("pi,pi->p", points.normals, points.xyz / np.linalg.norm(points.xyz, axis=1)[:, None]).min() > 0.8
    np.testing.assert_allclose(np.linalg.norm(points.normals, axis=1), 1, atol=1e-5)
    assert np.abs(points.xyz.mean(0)).max() < 0.03 * radius.mean()
    assert points.rgb.min() >= 0 and points.rgb.max() <= 1


def test_no_surface_names_the_range(ball):
    with pytest.raises(EmptySurfaceError, match=r"--threshold 1e\+20: densities are \S+\.\.\S+\. Give a value between"):
        extract_mesh(ball, 16, 1e20)
    with pytest.raises(EmptySurfaceError):
        surface_of(torch.full((8, 8, 8), 30.0), 25.0, 0.87)


def test_what_is_empty_is_not_asked(ball):
    poses, size = orbit_poses(evenly_around(8), 10.0, 1.9), (64, 64)
    K = intrinsics(40.0, size)
    with torch.no_grad():
        dense = render_views(ball, poses, K, size, samples=128)
        asked, ball.queries = ball.queries, 0
        occupancy = Occupancy.of(ball)
        sparse = render_views(ball, poses, K, size, samples=128, occupancy=occupancy)
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(sparse, name), getattr(dense, name), atol=1e-3, rtol=0)
    assert ball.queries <= asked / 5
    assert 0 < float(dense.alpha.mean()) < 0.5 and float(dense.alpha.max()) > 0.9


def test_what_lies_at_the_faces_of_the_cube_is_seen():
    field = Ball(fades=True).field()  # dense in the outermost half texel alone, beside the ball
    occupancy = Occupancy.of(field)
    assert bool(occupancy.cells[0, 16, 16]) and not bool(occupancy.cells[3, 3, 16])
    poses, size = orbit_poses(evenly_around(4), 30.0, 1.9), (32, 32)
    with torch.no_grad():
        dense, sparse = (render_views(field, poses, intrinsics(40.0, size), size, 128, o) for o in (None, occupancy))
    torch.testing.assert_close(sparse.rgb, dense.rgb, atol=1e-3, rtol=0)


def test_skipping_changes_no_surface(ball, recorded_field):
    for field, threshold in ((ball, 1.0), (recorded_field, 3.0)):
        whole, parts = (extract_mesh(field, 48, threshold, occupancy=o) for o in (None, Occupancy.of(field)))
        np.testing.assert_array_equal(whole.faces, parts.faces)
        np.testing.assert_allclose(whole.vertices, parts.vertices, atol=1e-6)


def test_a_field_that_is_full_everywhere_is_seen_whole(recorded_field):
    occupancy = Occupancy.of(recorded_field)
    poses, size = orbit_poses(evenly_around(2), 15.0, 1.9), (16, 16)
    with torch.no_grad():
        images = [
            render_views(recorded_field, poses, intrinsics(40.0, size), size, 32, occupancy=o)
            for o in (None, occupancy)
        ]
    torch.testing.assert_close(images[0].rgb, images[1].rgb, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["obj", "glb", "ply"])
def test_files_with_colours_of_vertices(ball, tmp_path, kind):
    mesh = extract_mesh(ball, 24, 1.0)
    path = write_mesh(tmp_path, mesh, kind)
    read = trimesh.load(path, force="mesh", process=False)
    assert len(read.faces) == len(mesh.faces) and read.is_watertight
    assert read.volume == pytest.approx(mesh.volume(), rel=1e-3)
    colours = np.asarray(read.visual.vertex_colors)[:, :3] / 255
    vertices = np.asarray(read.vertices)
    if kind == "glb":  # y up
        vertices = vertices @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).T
    distance, nearest = KDTree(mesh.vertices).query(vertices)
    assert distance.max() < 1e-4
    np.testing.assert_allclose(colours, mesh.colours[nearest], atol=0.01)


@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_a_texture_shows_the_colours_of_the_field(ball, tmp_path, kind):
    mesh = extract_mesh(ball, 24, 1.0)
    textured = bake_texture(mesh, ball, size=256)
    path = write_mesh(tmp_path, textured, kind)
    read = trimesh.load(path, force="mesh", process=False)
    material = read.visual.material
    image = np.asarray(material.image if kind == "obj" else material.baseColorTexture)[..., :3] / 255
    assert image.shape[:2] == (256, 256)
    points, faces = trimesh.sample.sample_surface(read, 500, seed=0)
    weights = trimesh.triangles.points_to_barycentric(read.triangles[faces], points)
    uv = (np.asarray(read.visual.uv)[read.faces[faces]] * weights[..., None]).sum(1)
    row, column = ((1 - uv[:, 1]) * 256).astype(int), (uv[:, 0] * 256).astype(int)
    if kind == "glb":
        points = points @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).T
    expected = ball.query(torch.from_numpy(points).float()).colours.numpy()
    difference = np.abs(image[row.clip(0, 255), column.clip(0, 255)] - expected)
    assert np.quantile(difference, 0.99) < 0.05 and expected.std() > 0.1


def test_a_ply_takes_no_texture(ball, tmp_path):
    textured = bake_texture(extract_mesh(ball, 16, 1.0), ball, size=64)
    with pytest.raises(ValueError, match="--format obj or glb"):
        write_mesh(tmp_path, textured, "ply")
    assert not list(tmp_path.iterdir())
