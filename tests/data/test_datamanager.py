"""The datamanager: the right views, in one frame, and nothing of the held-out ones before evaluation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.cameras.camera_paths import get_spiral_path
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from shared_files import real_capture
from tiny_capture import HEIGHT, WIDTH, TinyCapture, make_capture, write_blender, write_colmap, write_transforms

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.captures.image_sizes import ImageSizeError
from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.data.view_selection import SplitError

torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCapture:
    capture = make_capture(tmp_path / "capture")
    write_transforms(capture)
    write_colmap(capture)
    return capture


def set_up(
    folder: Path, parser: DataParserConfig | None = None, test_mode: str = "val", **options: object
) -> GenFusionDataManager:
    options = {"backdrop_points": False, **options}  # it alone reads the photos before the first step
    config = GenFusionDataManagerConfig(data=folder, dataparser=parser or NerfstudioDataParserConfig(), **options)
    return config.setup(device="cpu", test_mode=test_mode)


def colors(batches: list[dict]) -> list[list[int]]:
    return [batch["image"][0, 0].tolist() for batch in batches]


@pytest.mark.parametrize("parser", [NerfstudioDataParserConfig(), ColmapDataParserConfig(downscale_factor=1)])
def test_train_and_test_images_are_those_of_the_split(tiny: TinyCapture, parser: DataParserConfig) -> None:
    (tiny.folder / "train_test_split_3.json").write_text(json.dumps({"train_ids": [9, 2, 5], "test_ids": [0, 11]}))
    manager = set_up(tiny.folder, parser, num_views=3)
    assert (manager.train_view_ids, manager.test_view_ids) == ((2, 5, 9), (0, 11))
    assert manager.train_names == ("view_02.png", "view_05.png", "view_09.png")
    assert colors(manager.cached_train) == [list(tiny.color(i)) for i in (2, 5, 9)]
    assert colors(manager.cached_eval) == [list(tiny.color(i)) for i in (0, 11)]
    assert len(manager.train_dataset.cameras) == len(manager.train_dataset) == 3


def test_all_parsers_agree_on_the_split_and_the_seeds(tiny: TinyCapture) -> None:
    managers = [
        set_up(tiny.folder, parser, num_views=4, split_file=None, min_seed_points=1)
        for parser in (NerfstudioDataParserConfig(), ColmapDataParserConfig(downscale_factor=1))
    ]
    first, second = (manager.describe() for manager in managers)
    assert first == second
    assert first["seed_points"] == "visible"
    assert first["num_seed_points"] == tiny.seen[list(managers[0].train_view_ids)].any(0).sum()
    assert json.loads(json.dumps(first)) == first


def test_the_frame_is_the_same_for_every_split(tiny: TinyCapture) -> None:
    few, many = set_up(tiny.folder, num_views=2), set_up(tiny.folder)
    assert len(many.train_view_ids) == 10 and len(few.train_view_ids) == 2
    assert torch.equal(few.capture.outputs.cameras.camera_to_worlds, many.capture.outputs.cameras.camera_to_worlds)
    rows = [many.train_view_ids.index(i) for i in few.train_view_ids]
    assert torch.equal(few.train_dataset.cameras.camera_to_worlds, many.train_dataset.cameras.camera_to_worlds[rows])
    assert torch.equal(few.eval_dataset.cameras.camera_to_worlds, many.eval_dataset.cameras.camera_to_worlds)


def test_poses_are_those_that_nerfstudio_gives(tiny: TinyCapture) -> None:
    ours = set_up(tiny.folder)
    theirs = FullImageDatamanager(
        FullImageDatamanagerConfig(
            data=tiny.folder, dataparser=NerfstudioDataParserConfig(eval_mode="interval", eval_interval=8)
        )
    )
    for mine, other in ((ours.train_dataset, theirs.train_dataset), (ours.eval_dataset, theirs.eval_dataset)):
        assert mine.image_filenames == other.image_filenames
        assert torch.equal(mine.cameras.camera_to_worlds, other.cameras.camera_to_worlds)
        assert torch.equal(mine.cameras.get_intrinsics_matrices(), other.cameras.get_intrinsics_matrices())
    mine, other = ours.train_dataparser_outputs, theirs.train_dataparser_outputs
    assert mine.dataparser_scale == other.dataparser_scale
    assert torch.equal(mine.dataparser_transform, other.dataparser_transform)


def test_held_out_images_are_not_decoded_before_evaluation(tiny: TinyCapture) -> None:
    """Headers and ends are looked at when training starts; damage in between shows only to who decodes the pixels."""
    parser = NerfstudioDataParserConfig(downscale_factor=1)
    train_ids = set_up(tiny.folder, parser, num_views=3).train_view_ids
    for i in set(range(len(tiny.names))) - set(train_ids):
        path = tiny.folder / "images" / tiny.names[i]
        content = path.read_bytes()
        start = content.index(b"IDAT") + 4
        path.write_bytes(content[:start] + b"\0" * 8 + content[start + 8 :])
    manager = set_up(tiny.folder, parser, num_views=3)
    drawn = {tuple(colors([manager.next_train(step)[1]])[0]) for step in range(3)}
    assert drawn == {tiny.color(i) for i in train_ids}
    with pytest.raises(CaptureError, match="is damaged or cut off"):
        manager.next_eval_image(0)


def test_points_of_held_out_views_do_not_seed(tiny: TinyCapture) -> None:
    manager = set_up(tiny.folder, num_views=2, min_seed_points=1, surface_points=False)
    metadata = manager.train_dataparser_outputs.metadata
    assert metadata["seed_points_kind"] == "visible"
    assert metadata["points3D_xyz"].dtype == metadata["points3D_rgb"].dtype == torch.float32
    seen = tiny.seen[list(manager.train_view_ids)].any(0)
    np.testing.assert_array_equal(metadata["points3D_rgb"].numpy(), tiny.rgb[seen])
    assert "points3D_xyz" not in manager.eval_dataset.metadata


def test_a_few_points_are_filled_up_by_default(tiny: TinyCapture) -> None:
    manager = set_up(tiny.folder, num_views=2, min_seed_points=10_000, num_random_points=77, surface_points=False)
    seen = int(tiny.seen[list(manager.train_view_ids)].any(0).sum())
    assert manager.describe()["seed_points"] == "visible+random"
    assert len(manager.train_dataparser_outputs.metadata["points3D_xyz"]) == seen + 77
    again = set_up(tiny.folder, num_views=2, min_seed_points=10_000, num_random_points=77)
    assert torch.equal(again.seeds.xyz, manager.seeds.xyz)
    other = set_up(tiny.folder, num_views=2, min_seed_points=10_000, num_random_points=77, random_points_seed=1)
    assert not torch.equal(other.seeds.xyz, manager.seeds.xyz)


@pytest.mark.parametrize("test_mode", ["val", "test", "inference"])
def test_every_test_mode_has_the_same_views(tiny: TinyCapture, test_mode: str) -> None:
    manager = set_up(tiny.folder, test_mode=test_mode, num_views=3)
    assert [file.name for file in manager.eval_dataset.image_filenames] == list(manager.test_names)
    assert [file.name for file in manager.train_dataset.image_filenames] == list(manager.train_names)


def test_the_config_survives_yaml_and_set_up(tiny: TinyCapture) -> None:
    config = GenFusionDataManagerConfig(
        data=tiny.folder, num_views=3, split_file=Path("mine.json"), dataparser=NerfstudioDataParserConfig()
    )
    (tiny.folder / "mine.json").write_text(json.dumps({"train_ids": [1, 2], "test_ids": [0]}))
    text = yaml.dump(config)
    loaded = yaml.load(text, Loader=yaml.Loader)
    assert loaded == config
    loaded.setup(device="cpu")
    assert yaml.dump(loaded) == text, "setting up must not change what is saved"
    assert loaded.setup(device="cpu").train_view_ids == (1, 2)


def test_data_may_be_given_to_the_parser(tiny: TinyCapture) -> None:
    parser = NerfstudioDataParserConfig(data=tiny.folder / "transforms.json")
    manager = GenFusionDataManagerConfig(dataparser=parser, num_views=2).setup(device="cpu")
    assert len(manager.train_dataset) == 2
    assert manager.get_datapath() == tiny.folder / "transforms.json"


def test_a_declared_split_is_respected(tiny: TinyCapture) -> None:
    names = [f"images/{name}" for name in tiny.names]
    write_transforms(tiny, train_filenames=names[4:], test_filenames=names[:2], val_filenames=names[2:4])
    manager = set_up(tiny.folder)
    assert (manager.train_view_ids, manager.test_view_ids) == (tuple(range(4, 12)), (0, 1))
    assert len(manager.capture.names) == 12
    assert colors(manager.cached_train) == [list(tiny.color(i)) for i in range(4, 12)]
    assert set_up(tiny.folder, num_views=2).train_view_ids == (4, 11)


def test_a_split_by_file_name_is_respected(tiny: TinyCapture) -> None:
    meta = json.loads((tiny.folder / "transforms.json").read_text())
    for frame in meta["frames"]:
        old = tiny.folder / frame["file_path"]
        new = old.with_name(f"{old.stem}_{'eval' if old.stem.endswith('5') else 'train'}.png")
        frame["file_path"] = old.rename(new).relative_to(tiny.folder).as_posix()
    (tiny.folder / "transforms.json").write_text(json.dumps(meta))
    manager = set_up(tiny.folder, NerfstudioDataParserConfig(eval_mode="filename"))
    assert manager.test_view_ids == (5,) and len(manager.train_view_ids) == 11


def test_blender_files_are_train_and_test(tmp_path: Path) -> None:
    tiny = make_capture(tmp_path)
    write_blender(tiny, train=[1, 3, 5, 7, 9, 11], test=[0, 6])
    write_colmap(tiny)
    manager = set_up(tmp_path, BlenderDataParserConfig(alpha_color="white"), num_views=3)
    assert manager.test_names == ("test/r_0.png", "test/r_1.png")
    assert manager.train_names == ("train/r_0.png", "train/r_2.png", "train/r_5.png")
    assert colors(manager.cached_train) == [[255, 255, 255]] * 3, "alpha is 0, the background is white"
    assert manager.cached_train[0]["image"].shape == (HEIGHT, WIDTH, 3)
    assert manager.seeds.kind == "random", "the COLMAP model has other image names"


def test_images_of_unequal_size(tiny: TinyCapture) -> None:
    meta = json.loads((tiny.folder / "transforms.json").read_text())
    for key in ("w", "h", "cx", "cy"):
        del meta[key]
    for frame in meta["frames"]:
        number = int(frame["file_path"][-6:-4])
        width, height = (20, 30) if number % 2 else (WIDTH, HEIGHT)
        Image.new("RGB", (width, height), tiny.color(number)).save(tiny.folder / frame["file_path"])
        frame.update(w=width, h=height, cx=width / 2, cy=height / 2)
    (tiny.folder / "transforms.json").write_text(json.dumps(meta))
    manager = set_up(tiny.folder)
    sizes = {}
    for step in range(len(manager.train_dataset)):
        camera, batch = manager.next_train(step)
        sizes[batch["image_idx"]] = (camera.width.item(), camera.height.item())
        assert batch["image"].shape[:2] == (camera.height.item(), camera.width.item())
    assert {sizes[i] for i in sizes} == {(20, 30), (WIDTH, HEIGHT)}


@pytest.mark.parametrize("cache", ["cpu", "gpu"])
def test_images_are_cached_without_a_driver(tiny: TinyCapture, cache: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a driver")
    manager = set_up(tiny.folder, num_views=2, cache_images=cache, cache_images_type="uint8")
    camera, batch = manager.next_train(0)
    assert batch["image"].dtype == torch.uint8
    assert camera.camera_to_worlds.device.type == batch["image"].device.type == "cpu"


def test_cameras_follow_images_that_were_rounded_otherwise(tiny: TinyCapture) -> None:
    """33 x 24 files where 32 x 24 were expected: the whole field of view is kept, stretched by 33/32."""
    for i, name in enumerate(tiny.names):
        Image.new("RGB", (WIDTH + 1, HEIGHT), tiny.color(i)).save(tiny.folder / "images" / name)
    manager = set_up(tiny.folder, NerfstudioDataParserConfig(downscale_factor=1), num_views=2)
    before = manager.train_dataparser_outputs.cameras.get_intrinsics_matrices()
    camera, batch = manager.next_train(0)
    assert batch["image"].shape == (HEIGHT, WIDTH + 1, 3)
    assert (camera.width.item(), camera.height.item()) == (WIDTH + 1, HEIGHT)
    stretch = torch.diag(torch.tensor([(WIDTH + 1) / WIDTH, 1.0, 1.0]))
    torch.testing.assert_close(camera.get_intrinsics_matrices()[0], stretch @ before[0])
    assert manager.fixed_indices_eval_dataloader[0][0].width.item() == WIDTH + 1


def test_an_image_that_its_camera_does_not_explain_is_named(tiny: TinyCapture) -> None:
    for name in tiny.names:
        Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(tiny.folder / "images" / name)
    said = r"view_00.png has 16 x 12 pixels, its camera 32 x 24; .*view_01.*; and 9 more.*--downscale-factor"
    with pytest.raises(ImageSizeError, match=said):
        set_up(tiny.folder, num_views=2)


@pytest.mark.parametrize("strategy", ["random", "fps"])
def test_the_order_of_views_continues_after_a_restart(tiny: TinyCapture, strategy: str) -> None:
    options = {"num_views": 9, "train_cameras_sampling_strategy": strategy}
    manager = set_up(tiny.folder, **options)
    for step in range(12):
        manager.next_train(step)
    state = json.loads(json.dumps(manager.sampler_state()))
    expected = [manager.next_train(step)[1]["image_idx"] for step in range(23)]
    resumed = set_up(tiny.folder, **options)
    resumed.load_sampler_state(state)
    assert [resumed.next_train(step)[1]["image_idx"] for step in range(len(expected))] == expected


def test_too_few_views_for_farthest_point_sampling(tiny: TinyCapture) -> None:
    with pytest.raises(ValueError, match=r"fps needs 8 or more train views, the split has 3"):
        set_up(tiny.folder, num_views=3, train_cameras_sampling_strategy="fps")


def test_an_order_for_another_split_is_refused(tiny: TinyCapture) -> None:
    state = set_up(tiny.folder, num_views=9).sampler_state()
    with pytest.raises(ValueError, match=r"does not fit 2 train views \(0..1\)"):
        set_up(tiny.folder, num_views=2).load_sampler_state(state)
    with pytest.raises(ValueError, match="this run has fps"):
        set_up(tiny.folder, num_views=9, train_cameras_sampling_strategy="fps").load_sampler_state(state)


def test_split_errors_reach_the_user(tiny: TinyCapture) -> None:
    with pytest.raises(SplitError, match=r"--pipeline.datamanager.num-views is 40; allowed are 2\.\.10"):
        set_up(tiny.folder, num_views=40)


def test_a_model_in_the_other_usual_folder_is_found(tiny: TinyCapture) -> None:
    manager = set_up(tiny.folder, ColmapDataParserConfig(downscale_factor=1), num_views=2)
    assert manager.config.dataparser.colmap_path == Path("sparse/0")


def test_nothing_imports_open3d(tiny: TinyCapture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    write_blender(tiny, train=[1, 3, 5], test=[0, 6])
    ply = Path("sparse_pc.ply")
    parsers = [
        NerfstudioDataParserConfig(load_3D_points=True),
        ColmapDataParserConfig(load_3D_points=True, downscale_factor=1),
        BlenderDataParserConfig(ply_path=ply),
    ]
    assert all(len(set_up(tiny.folder, parser, num_views=2).seeds.xyz) for parser in parsers)


def test_masks_and_depths_follow_their_views(tiny: TinyCapture) -> None:
    meta = json.loads((tiny.folder / "transforms.json").read_text())
    (tiny.folder / "seen").mkdir()
    for frame in meta["frames"]:
        name = Path(frame["file_path"]).name
        Image.new("L", (WIDTH, HEIGHT), 255).save(tiny.folder / "seen" / name)
        frame["mask_path"], frame["depth_file_path"] = f"seen/{name}", f"depths/{name}"
    (tiny.folder / "transforms.json").write_text(json.dumps(meta))
    outputs = set_up(tiny.folder, num_views=3).train_dataparser_outputs
    names = [file.name for file in outputs.image_filenames]
    assert outputs.mask_filenames is not None
    assert [file.name for file in outputs.mask_filenames] == names
    assert [file.name for file in outputs.metadata["depth_filenames"]] == names


@pytest.mark.parametrize(
    ("scene", "parser"),
    [
        ("fox", NerfstudioDataParserConfig(downscale_factor=2)),
        ("fox", ColmapDataParserConfig(downscale_factor=2)),
        ("stone_horse", NerfstudioDataParserConfig(downscale_factor=2)),
        ("lego", NerfstudioDataParserConfig()),
        ("lego", BlenderDataParserConfig()),
        ("lego", ColmapDataParserConfig(images_path=Path("."), downscale_factor=1)),
    ],
)
def test_nine_views_of_a_real_capture(scene: str, parser: DataParserConfig) -> None:
    folder = real_capture(scene)
    manager = set_up(folder, parser, num_views=9)
    split = json.loads((folder / "train_test_split_9.json").read_text())
    assert list(manager.train_view_ids) == split["train_ids"]
    assert list(manager.test_view_ids) == split["test_ids"]
    assert manager.seeds.kind == "visible" and len(manager.seeds.xyz) > 1000
    camera, batch = manager.next_train(0)
    assert batch["image"].shape[:2] == (camera.height.item(), camera.width.item())


def test_renders_of_a_single_held_out_view_are_named_after_it(tiny: TinyCapture) -> None:
    """As `ns-render dataset` names them: by what the photos have beyond the folder that they share."""
    (tiny.folder / "train_test_split_3.json").write_text(json.dumps({"train_ids": [9, 2, 5], "test_ids": [4]}))
    manager = set_up(tiny.folder, num_views=3, test_mode="test")
    files = manager.eval_dataset._dataparser_outputs.image_filenames
    root = Path(os.path.commonpath(files))
    assert Path("renders") / files[0].relative_to(root) == Path("renders/view_04.png")
    assert files[0].relative_to(tiny.folder) == Path("images/view_04.png")
    with pytest.raises(ValueError, match="not in the subpath"):
        files[0].relative_to(tiny.folder / "masks")


def test_doors_of_ray_datamanagers(tiny: TinyCapture) -> None:
    """`ns-render spiral` wants a VanillaDataManager and its first held-out camera, `ns-export pointcloud` rays."""
    manager = set_up(tiny.folder, num_views=3, test_mode="test")
    assert isinstance(manager, VanillaDataManager)
    camera, batch = manager.eval_dataloader.get_camera(image_idx=0)
    assert len(get_spiral_path(camera, steps=4, radius=0.1)) == 4
    assert batch["image"].shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match="ns-export gaussian-splat"):
        _ = manager.train_pixel_sampler
