"""Rays of photos of several sizes: of which pixels they are, how wide, and between which depths the capture lies."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_capture import HEIGHT, WIDTH, make_capture, write_blender

from genfusion_ns.data.multiscale.conversion import convert, open_source
from genfusion_ns.data.multiscale.parser import MultiscaleBlenderDataParserConfig
from genfusion_ns.data.multiscale.ray_datamanager import RayDataManager, RayDataManagerConfig
from genfusion_ns.geometry.cone_rays import BASE_RADIUS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rays")
    capture = make_capture(folder / "object")
    write_blender(capture, train=list(range(9)), test=[9, 10, 11])
    for number, file in enumerate(sorted((folder / "object" / "train").glob("*.png"))):
        pixels = torch.randint(0, 256, (HEIGHT, WIDTH, 4), generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.byte().numpy()).save(file)
    convert(open_source(folder / "object"), folder / "ms", 3)
    return folder


def manager(folder: Path, **settings: object) -> RayDataManager:
    config = RayDataManagerConfig(
        dataparser=MultiscaleBlenderDataParserConfig(data=folder / "ms"), num_random_points=50, **settings
    )
    return RayDataManager(config, device="cpu", test_mode="val")


@pytest.fixture(scope="module")
def data(folder) -> RayDataManager:
    return manager(folder, train_num_rays_per_batch=2000)


def test_rays_are_those_of_nerfstudios_cameras_with_the_colours_of_their_pixels(data):
    rays, batch = data.next_train(0)
    view, row, column = batch["indices"].T
    cameras = data.train_dataset.cameras
    coords = torch.stack([row, column], -1) + 0.5
    expected = cameras.generate_rays(camera_indices=view[:, None], coords=coords)
    torch.testing.assert_close(rays.origins, expected.origins)
    torch.testing.assert_close(rays.directions, expected.directions, atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.metadata["directions_norm"], expected.metadata["directions_norm"])
    torch.testing.assert_close(rays.metadata["radii"], BASE_RADIUS / cameras.fx[view])
    torch.testing.assert_close(batch["lossmult"], expected.metadata["lossmult"])
    for i in range(0, 2000, 97):
        pixel = Image.open(data.train_dataset.image_filenames[view[i]]).getpixel((int(column[i]), int(row[i])))
        torch.testing.assert_close(255 * batch["image"][i], torch.tensor(pixel).float())


def test_every_pixel_of_every_size_is_drawn_alike(data):
    views = torch.cat([data.next_train(step)[1]["indices"][:, 0] for step in range(20)])
    labels = data.train_dataset.cameras.metadata["scale_label"][views, 0]
    shares = torch.bincount(labels, minlength=3) / len(labels)
    expected = torch.tensor([16.0, 4, 1]) / 21
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)


def test_what_a_step_draws_depends_on_its_number_alone(folder, data):
    other = manager(folder, train_num_rays_per_batch=2000)
    torch.manual_seed(7)
    assert torch.equal(other.next_train(5)[1]["indices"], data.next_train(5)[1]["indices"])
    assert not torch.equal(data.next_train(6)[1]["indices"], data.next_train(5)[1]["indices"])


def test_the_capture_says_between_which_depths_it_lies(data):
    metadata = data.train_dataset.metadata
    assert tuple(metadata["depth_range"]) == (2, 6)
    assert metadata["transparent"] is True and metadata["alpha_color"].tolist() == [1, 1, 1]


def test_hidden_pixels_are_not_drawn(folder):
    data = manager(folder, train_num_rays_per_batch=2000)
    for photo in data.cached_train:
        photo["mask"] = torch.zeros(*photo["image"].shape[:2], 1, dtype=torch.bool)
        photo["mask"][1:3, 2:5] = True
    _, row, column = data.next_train(0)[1]["indices"].T
    assert (int(row.min()), int(row.max()), int(column.min()), int(column.max())) == (1, 2, 2, 4)
