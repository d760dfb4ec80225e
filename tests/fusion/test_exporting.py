"""`gf-export` on a trained run of toy size, through its entry point."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import trimesh
from plyfile import PlyData

from genfusion_ns.exports.errors import EmptyExportError
from genfusion_ns.fusion.exporting.mesh import export_mesh, free_memory, fuse
from genfusion_ns.fusion.exporting.points import export_points
from genfusion_ns.fusion.exporting.settings import Crop, MeshSettings, PointSettings, SplatSettings
from genfusion_ns.fusion.exporting.splats import export_splats, splats_of
from genfusion_ns.fusion.exporting.views import SurfaceViews, cameras_of_run
from genfusion_ns.fusion.run_config import load_run

# Surfels of five steps are noise: no test of theirs may remove them all.
LOOSE = {"agreement": 0.0, "spread": 0.0, "reach": 100.0}


@pytest.fixture(scope="module")
def config(trained_run):
    return trained_run / "config.yml"


@pytest.fixture(scope="module")
def pipeline(config):
    return load_run(config)


def test_splats_are_those_of_the_run(config, pipeline, tmp_path):
    path = export_splats(SplatSettings(config, tmp_path / "a.ply"))
    vertices = PlyData.read(path)["vertex"]
    scene = pipeline.scene
    kept = scene.opacities[:, 0].detach().sigmoid() >= 1 / 255
    assert len(vertices.data) == int(kept.sum()) > 0
    assert np.allclose(vertices["x"], scene.means[kept, 0].detach())
    assert np.allclose(vertices["scale_2"], scene.scales[kept, 2].detach())
    assert (vertices["scale_2"] < np.minimum(vertices["scale_0"], vertices["scale_1"])).all()
    normals = np.stack([vertices[name] for name in ("nx", "ny", "nz")], axis=-1)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_harmonics_can_be_left_out(config, tmp_path):
    export_splats(SplatSettings(config, tmp_path / "a.ply", sh_degree=0))
    names = {prop.name for prop in PlyData.read(tmp_path / "a.ply")["vertex"].properties}
    assert "f_dc_2" in names and "f_rest_0" not in names


def test_splats_without_harmonics_keep_their_colours(pipeline):
    splats = splats_of(pipeline.scene)
    rgb = 0.5 + 0.28209479177387814 * splats.dc
    if pipeline.scene.config.sh_degree == 0:
        assert np.allclose(rgb, torch.sigmoid(pipeline.scene.gauss_params["features_dc"]).detach())
    else:
        assert np.allclose(splats.dc, pipeline.scene.gauss_params["features_dc"].detach())


def test_a_mesh_comes_out_in_each_frame(config, pipeline, tmp_path):
    settings = MeshSettings(config, tmp_path / "a.ply", voxel=0.1, **LOOSE)
    export_mesh(settings)
    plain = trimesh.load(str(settings.output), process=False)
    assert len(plain.faces) > 0 and plain.visual.kind == "vertex"
    export_mesh(dataclasses.replace(settings, output=tmp_path / "b.ply", frame="capture"))
    capture = trimesh.load(str(tmp_path / "b.ply"), process=False)
    outputs = pipeline.datamanager.train_dataset._dataparser_outputs
    transform = outputs.dataparser_transform.numpy()
    back = outputs.dataparser_scale * (capture.vertices @ transform[:, :3].T + transform[:, 3])
    assert np.allclose(back, plain.vertices, atol=1e-4)


def test_depth_is_that_of_the_surfels(config, pipeline):
    """A solid wall of surfels: its mesh is flat where the surfels are."""
    settings = MeshSettings(config, config, voxel=0.05, **LOOSE)
    views = SurfaceViews(pipeline.scene, cameras_of_run(pipeline, settings, config), settings)
    fused = fuse(views, settings)
    nearest = torch.cdist(torch.from_numpy(fused.mesh.vertices[::20]), pipeline.scene.means.detach()).min(1).values
    assert float(nearest.median()) < 0.5 * pipeline.scene.length
    assert views.pixels.kept <= views.pixels.all


def test_extra_views_are_added(config, pipeline):
    settings = MeshSettings(config, config, extra_views=4, downscale=2, **LOOSE)
    cameras = cameras_of_run(pipeline, settings, config)
    photos = len(pipeline.datamanager.whole_train_cameras)
    assert len(cameras) == photos + 4
    assert {camera.size for camera in cameras} == {(16, 12)}
    with pytest.raises(ValueError, match="--generated-views"):
        cameras_of_run(pipeline, dataclasses.replace(settings, generated_views=True), config)


@pytest.mark.parametrize("source", ["depth", "surfels"])
def test_points_have_normals_and_repeat(config, tmp_path, source):
    settings = PointSettings(config, tmp_path / "a.ply", source=source, num_points=100, **LOOSE)
    export_points(settings)
    export_points(dataclasses.replace(settings, output=tmp_path / "b.ply"))
    points = PlyData.read(tmp_path / "a.ply")["vertex"]
    assert 0 < len(points.data) <= 100 and (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    normals = np.stack([points[name] for name in ("nx", "ny", "nz")], axis=-1)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)


def test_what_removed_everything_is_said(config, tmp_path):
    far = Crop(obb_center=(1e4, 0.0, 0.0), obb_scale=(1.0, 1.0, 1.0))
    with pytest.raises(EmptyExportError, match="outside of the crop box"):
        export_splats(SplatSettings(config, tmp_path / "a.ply", crop=far))
    with pytest.raises(EmptyExportError, match=r"% are outside of the crop box"):
        export_mesh(MeshSettings(config, tmp_path / "b.obj", crop=far, **LOOSE))
    with pytest.raises(EmptyExportError, match=r"% are beyond --reach"):
        export_points(PointSettings(config, tmp_path / "c.ply", **(LOOSE | {"reach": 1e-3})))
    assert not list(tmp_path.iterdir())


def test_too_fine_a_voxel_says_which_would_fit(config, tmp_path):
    with pytest.raises(ValueError, match=r"--voxel [0-9.]+ would fit") as error:
        export_mesh(MeshSettings(config, tmp_path / "a.ply", voxel=0.02, max_memory=1e-3, **LOOSE))
    fitting = float(str(error.value).split("--voxel ")[1].split()[0])
    assert fitting > 0.02 and not list(tmp_path.iterdir())
    assert free_memory("cpu") > 1e6


def test_bad_input_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"ends with \.ply, \.obj, \.glb"):
        export_mesh(MeshSettings(config, tmp_path / "a.stl"))
    with pytest.raises(ValueError, match="--truncation is 1"):
        export_mesh(MeshSettings(config, tmp_path / "a.ply", truncation=1))
    with pytest.raises(ValueError, match="give both or none"):
        export_splats(SplatSettings(config, tmp_path / "a.ply", crop=Crop(obb_center=(0.0, 0.0, 0.0))))
    with pytest.raises(ValueError, match="config"):
        export_splats(SplatSettings(tmp_path / "none.yml", tmp_path / "a.ply"))
    copied = tmp_path / "run"
    shutil.copytree(config.parent, copied)
    for file in copied.rglob("*.ckpt"):
        file.unlink()
    with pytest.raises(ValueError, match="holds none"):
        export_splats(SplatSettings(copied / "config.yml", tmp_path / "a.ply"))
    assert not (tmp_path / "a.ply").exists()
