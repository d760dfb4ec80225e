"""What all tests share: no network, one thread, kernels compiled once, small captures and runs, and the order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from tiny_capture import TinyCapture

# Before anything imports torch, numba or huggingface_hub, and for the commands that tests start. This file itself
# imports none of them at the top: the process that hands tests to the others reads it too.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1")

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests run last, these at their end: `--dist loadfile` hands files out whole, in this order."""
    slow = {item: item.get_closest_marker("slow") is not None for item in items}
    late = {item.path for item in items if slow[item]}
    items.sort(key=lambda item: (item.path in late, slow[item]))


def pytest_runtest_setup() -> None:
    """Each test starts with one thread, whatever the one before has set: two processes run on two cores."""
    import torch

    from genfusion_ns.rendering.thread_pool import set_num_threads

    torch.set_num_threads(1)
    set_num_threads(None)  # OMP_NUM_THREADS


@pytest.fixture(scope="session", autouse=True)
def no_downloads() -> Iterator[None]:
    """Weights that are not on this machine are missing at once, with a network as without one."""
    import torch

    def refuse(url: str, *args: object, **kwargs: object) -> None:
        raise URLError(f"tests download nothing, {url} either")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "download_url_to_file", refuse)
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, make)` is a folder that `make(folder)` fills: once for all processes, to read only."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # that of the whole session

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(made_once: MadeOnce) -> None:
    """With several processes, one compiles the kernels into their cache and the others load them from there."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        made_once("kernels", lambda _: use_all_kernels())


def use_all_kernels() -> None:
    """Render, and follow the loss back to the surfels, by the compiled kernels."""
    import torch
    from rendering_scenes import backpropagate, cotangents, random_scene

    from genfusion_ns.models.losses import photometric_loss
    from genfusion_ns.rendering.surfels import rasterize_surfels

    scene = random_scene(0, count=20, size=(24, 20), sh_degree=1).requiring_grad()
    place = (scene.viewmats, scene.Ks, scene.width, scene.height)
    result = rasterize_surfels(scene.surfels, *place, background=scene.background, sh_degree=1, backend="cpu")
    backpropagate(result, cotangents(result))
    photometric_loss(result.rgb[0].detach().requires_grad_(), torch.rand(20, 24, 3), 0.2).backward()


@pytest.fixture(scope="session")
def capture_folder(made_once: MadeOnce) -> Path:
    """A capture of twelve small images with transforms.json and points; to read only."""
    from tiny_capture import make_capture, write_transforms

    return made_once("capture", lambda folder: write_transforms(make_capture(folder)))


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCapture:
    """A capture of six small photos, for a test to damage."""
    from broken_captures import make_tiny

    return make_tiny(tmp_path / "capture")


@pytest.fixture(scope="session")
def sample_capture(made_once: MadeOnce) -> Path:
    """Thirteen small views of a generated room, with a COLMAP model and splits; to read only."""
    from genfusion_ns.data.sample_scene.capture import SampleSceneConfig, write_sample_scene

    config = SampleSceneConfig(num_views=13, width=64, height=36, num_points=300, light_spacing=1.0)
    return made_once("room", lambda folder: write_sample_scene(config, folder, progress=False))


@pytest.fixture(scope="session")
def generator_folder(made_once: MadeOnce) -> Path:
    """A compact generator of toy size that returns its input; to read only."""
    from tiny_run import save_toy_generator

    return made_once("generator", save_toy_generator)


@pytest.fixture(scope="session")
def trained_run(made_once: MadeOnce, capture_folder: Path) -> Path:
    """The folder of a run of five steps on `capture_folder`, without a repairer; to read only."""
    from tiny_run import make_trainer

    def train(folder: Path) -> None:
        trainer: Any = make_trainer(capture_folder, folder, "none", steps=5)
        trainer.train()
        trainer.config.save_config()

    (checkpoints,) = made_once("short_run", train).rglob("nerfstudio_models")
    return checkpoints.parent
