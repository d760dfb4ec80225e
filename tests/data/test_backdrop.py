"""Backdrops: what photos show far from all seed points starts on a far sphere, in the photos' colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from PIL import Image
from tiny_capture import HEIGHT, WIDTH, TinyCapture, make_capture, write_colmap, write_transforms
from tiny_run import make_trainer

from genfusion_ns.data.camera_conversion import viewmats_to_cameras
from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.data.points.backdrop import find_backdrop
from genfusion_ns.data.points.random_points import views_seeing
from genfusion_ns.models.surfel_model import GenFusionModel, GenFusionModelConfig

COUNT, SIZE = 6, (48, 36)
K = torch.tensor([[50.0, 0, 24], [0, 50, 18], [0, 0, 1]])


@pytest.fixture
def ring() -> Cameras:
    """Cameras on a ring of radius 3 that look at its middle."""
    angles = torch.arange(COUNT) * 2 * torch.pi / COUNT
    forwards = -torch.stack([angles.cos(), torch.zeros(COUNT), angles.sin()], dim=1)
    down = torch.tensor([0.0, 1.0, 0.0]).expand(COUNT, 3)
    viewmats = torch.eye(4).repeat(COUNT, 1, 1)
    viewmats[:, :3, :3] = torch.stack([torch.linalg.cross(down, forwards), down, forwards], dim=1)
    viewmats[:, :3, 3] = torch.tensor([0.0, 0.0, 3.0])
    return viewmats_to_cameras(viewmats, K.repeat(COUNT, 1, 1), SIZE)


def ball(radius: float = 0.4, count: int = 500) -> torch.Tensor:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return radius * torch.nn.functional.normalize(points, dim=-1)


def photos(colour: tuple[float, float, float] = (1.0, 0.9, 0.8), **more: torch.Tensor) -> list[dict]:
    return [{"image": torch.tensor(colour).expand(SIZE[1], SIZE[0], 3), **more} for _ in range(COUNT)]


def seen_cells(cameras: Cameras, xyz: torch.Tensor, view: int) -> torch.Tensor:
    """Cells of 4 x 4 pixels with a point of these in them. [9, 12]"""
    here = xyz[views_seeing(cameras, xyz)[view]]
    pose = cameras.camera_to_worlds[view]
    x, y, z = ((here - pose[:, 3]) @ pose[:, :3]).T
    count = torch.zeros(SIZE[1] // 4, SIZE[0] // 4)
    count[((-50 * y / -z + 18) / 4).long(), ((50 * x / -z + 24) / 4).long()] = 1
    return count > 0


def test_the_backdrop_fills_what_the_points_leave_and_nothing_else(ring: Cameras) -> None:
    found = find_backdrop(ring, photos(), ball())
    xyz, rgb = found.xyz, found.rgb
    assert rgb.dtype == torch.uint8 and (rgb.int() - torch.tensor([255, 230, 204])).abs().max() <= 1
    assert xyz.norm(dim=-1).min() > 3.5, "behind all cameras, so that it hides nothing from anywhere"
    for view in range(COUNT):
        things, backdrop = seen_cells(ring, ball(), view), seen_cells(ring, xyz, view)
        assert not (things & backdrop)[1:-1, 1:-1].any()
        assert backdrop[:, [0, -1]].all(), "the border of the photo"


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_backdrop_moves_and_grows_with_the_scene(ring: Cameras, unit: float) -> None:
    xyz = find_backdrop(ring, photos(), ball()).xyz
    ring.camera_to_worlds[:, :, 3] *= unit
    scaled = find_backdrop(ring, photos(), unit * ball()).xyz
    assert len(scaled) == len(xyz)
    torch.testing.assert_close(scaled / unit, xyz, rtol=1e-3, atol=1e-3)


def test_there_is_no_backdrop_where_points_are(ring: Cameras) -> None:
    line = torch.linspace(-2.5, 2.5, 26)
    everywhere = torch.cartesian_prod(line, line, line)
    assert len(find_backdrop(ring, photos(), everywhere).xyz) == 0


def test_hidden_and_transparent_places_stay_empty(ring: Cameras) -> None:
    left = torch.zeros(SIZE[1], SIZE[0], 1, dtype=torch.bool)
    left[:, :16] = True
    hidden = find_backdrop(ring, photos(mask=left), ball()).xyz
    rgba = [{"image": torch.cat([photo["image"], left.float()], dim=-1)} for photo in photos()]
    transparent = find_backdrop(ring, rgba, ball()).xyz
    assert torch.equal(hidden, transparent) and 0 < len(hidden) < len(find_backdrop(ring, photos(), ball()).xyz)
    nothing = [{"image": torch.cat([photo["image"], 0 * left.float()], dim=-1)} for photo in photos()]
    assert len(find_backdrop(ring, nothing, ball()).xyz) == 0


def test_only_a_large_backdrop_of_one_colour_is_plain(ring: Cameras) -> None:
    plain = find_backdrop(ring, photos(), ball()).plain
    assert plain is not None and plain.tolist() == pytest.approx([1.0, 0.9, 0.8], abs=0.01)
    striped = photos()
    for photo in striped:
        photo["image"] = photo["image"].clone()
        photo["image"][::2] = photo["image"][:, 1::2] = 0.0
        photo["image"][:18] = 0.0
    assert find_backdrop(ring, striped, ball()).plain is None
    hall = photos()  # grey as a whole, walls and windows out of focus
    for photo in hall:
        photo["image"] = torch.full((SIZE[1], SIZE[0], 3), 0.5)
        photo["image"][:14] = 0.65
    assert find_backdrop(ring, hall, ball()).plain is None
    line = torch.linspace(-1.1, 1.1, 40)
    wide = torch.cartesian_prod(line, torch.zeros(1), line)
    much = torch.cat([wide + torch.tensor([0.0, y, 0.0]) for y in torch.linspace(-0.8, 0.55, 20)])
    few = find_backdrop(ring, photos(), much)
    assert few.plain is None and len(few.xyz) == 0


def test_a_backdrop_of_many_colours_is_what_is_far_from_every_point(ring: Cameras) -> None:
    """Points all along the left third of a photo, and then one in the middle of what they leave."""
    colours = torch.rand(SIZE[1] // 4, SIZE[0] // 4, 3, generator=torch.Generator().manual_seed(0)).round()
    photo = {"image": colours.repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)}
    pose = ring.camera_to_worlds[0]

    def before_camera(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """At shares of width and height of the photo, at depth 3."""
        local = torch.stack([(x - 0.5) * SIZE[0], (0.5 - y) * SIZE[1], torch.full_like(x, -50.0)], dim=-1) * 3 / 50
        return local @ pose[:, :3].T + pose[:, 3]

    left = before_camera(*torch.cartesian_prod(torch.linspace(0.01, 0.32, 30), torch.linspace(0, 1, 40)).T)
    found = find_backdrop(ring[:1], [photo], left)
    assert found.plain is None
    cells = seen_cells(ring[:1], found.xyz, 0)
    assert not cells[:, :6].any(), "an eighth of the width from the points, and in any case two cells"
    assert cells[:, 6:].all()
    assert (found.rgb / 255).mean(0).tolist() == pytest.approx(colours[:, 6:].mean((0, 1)).tolist(), abs=0.1)
    more = torch.cat([left, before_camera(torch.tensor([0.8]), torch.tensor([0.5]))])
    there = seen_cells(ring[:1], find_backdrop(ring[:1], [photo], more).xyz, 0)
    assert not there[3:6, 8:11].any() and there[[0, -1]][:, 6:].all()


def test_what_is_not_of_the_colour_of_the_backdrop_is_none_of_it(ring: Cameras) -> None:
    """A dark thing without points at the border of every photo."""
    spotted = photos()
    for photo in spotted:
        photo["image"] = photo["image"].clone()
        photo["image"][:8, :8] = 0.1
    found = find_backdrop(ring, spotted, ball())
    assert 0 < len(found.xyz) < len(find_backdrop(ring, photos(), ball()).xyz)
    assert found.rgb.min() > 150


def test_bytes_and_numbers_give_the_same_colours(ring: Cameras) -> None:
    whole = [{"image": (255 * photo["image"]).round().to(torch.uint8)} for photo in photos()]
    mine, theirs = (find_backdrop(ring, given, ball()).rgb.int() for given in (photos(), whole))
    assert (mine - theirs).abs().max() <= 1


def test_a_plain_backdrop_shows_where_renders_are_empty_and_stays_with_the_checkpoint(ring: Cameras) -> None:
    def model(colour: torch.Tensor | None, **settings: str) -> GenFusionModel:
        config = GenFusionModelConfig(**settings)
        box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
        seeds = (ball(), 255 * torch.rand(len(ball()), 3))
        metadata = {"backdrop_color": colour}
        return config.setup(scene_box=box, num_train_data=2, seed_points=seeds, device="cpu", metadata=metadata).eval()

    def corner(scene: GenFusionModel) -> list[float]:
        return scene.get_outputs_for_camera(ring[:1])["rgb"][0, 0].tolist()

    plain, unknown = model(torch.tensor([1.0, 0.9, 0.8])), model(None)
    assert corner(plain) == pytest.approx([1.0, 0.9, 0.8])
    assert corner(model(torch.tensor([1.0, 0.9, 0.8]), background_color="black")) == [0, 0, 0]
    assert corner(unknown) != corner(plain)
    unknown.load_state_dict(plain.state_dict())
    assert corner(unknown) == corner(plain)


def before_white(folder: Path) -> TinyCapture:
    """A capture whose points are small and in the middle of every view, before a white wall."""
    capture = make_capture(folder)
    capture.points = 0.02 * (capture.points - capture.points.mean(0)) + capture.points.mean(0)
    capture.seen[:] = True
    write_transforms(capture)
    write_colmap(capture)
    for name in capture.names:
        Image.new("RGB", (WIDTH, HEIGHT), (250, 250, 245)).save(folder / "images" / name)
    return capture


def data_manager(folder: Path, test_mode: str = "val", **options: object) -> GenFusionDataManager:
    parser = NerfstudioDataParserConfig(downscale_factor=1)
    config = GenFusionDataManagerConfig(data=folder, dataparser=parser, num_views=3, **options)
    return config.setup(device="cpu", test_mode=test_mode)


def test_held_out_photos_colour_no_backdrop_and_only_training_makes_one(tmp_path: Path) -> None:
    capture = before_white(tmp_path / "capture")
    first = data_manager(capture.folder)
    added = first.protocol()["num_backdrop_points"]
    assert added > 0 and len(first.train_dataparser_outputs.metadata["points3D_xyz"]) == len(first.seeds.xyz) + added
    for view in set(range(len(capture.names))) - set(first.train_view_ids):
        Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 255)).save(capture.folder / "images" / capture.names[view])
    again = data_manager(capture.folder)
    for name in ("points3D_xyz", "points3D_rgb"):
        metadata = [manager.train_dataparser_outputs.metadata[name] for manager in (first, again)]
        assert torch.equal(*metadata)
    without = data_manager(capture.folder, backdrop_points=False)
    assert len(without.train_dataparser_outputs.metadata["points3D_xyz"]) == len(without.seeds.xyz)
    loaded = data_manager(capture.folder, test_mode="test")
    assert len(loaded.train_dataparser_outputs.metadata["points3D_xyz"]) == len(loaded.seeds.xyz)


def test_a_plain_backdrop_is_there_from_the_first_step(tmp_path: Path) -> None:
    """An object in the middle of photos that are otherwise of one colour."""
    capture = before_white(tmp_path / "capture")
    trainer = make_trainer(capture.folder, tmp_path / "out", "none")
    model = trainer.pipeline.model.eval()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
    assert model.get_outputs_for_camera(camera)["accumulation"].mean() > 0.1
    sizes = model.gauss_params["scales"][:, 0].exp()
    near = len(trainer.pipeline.datamanager.seeds.xyz)
    assert sizes[near:].median() > 2 * sizes[:near].median()
