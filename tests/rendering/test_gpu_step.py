"""A training step on a device from which nothing can be read: what would have a GPU wait raises or is noted here.

Tensors on ``meta`` have shapes but no values, so everything that asks for a value raises; uploads are noted by name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from tiny_model import generated_view, make_model
from torch.overrides import TorchFunctionMode

from genfusion_ns.data.datamanager import GenFusionDataManagerConfig
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.supervision import generated_view_losses
from genfusion_ns.rendering import surfels
from genfusion_ns.rendering.backends import gsplat as gsplat_backend

META = torch.device("meta")
UPLOADS = {"tensor", "as_tensor", "from_numpy", "new_tensor", "pin_memory", "cpu", "numpy"}


class Uploads(TorchFunctionMode):
    """Notes what goes to or comes from the device in a way that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        if name in UPLOADS:
            self.found.append(name)
        elif name == "to" and args[0].device != result.device and not kwargs.get("non_blocking"):
            self.found.append(f"to {result.device}")
        elif name in ("__getitem__", "__setitem__") and isinstance(args[1], tuple | list):
            # a list of indices becomes a tensor on the CPU first
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.found += ["index by list"] * any(isinstance(index, list) for index in indices)
        return result


def rasterize_nothing(*inputs: Any, **_: Any) -> tuple[Any, ...]:
    """In the place of gsplat's kernels: images without values that depend on everything."""
    *tensors, _, _, width, height = inputs
    transforms = sum(t.sum() for t in tensors[:3]).expand(1, len(tensors[0]), 3, 3)
    everything = transforms.sum() + sum(t.sum() for t in tensors)
    images = [everything.expand(1, height, width, channels) for channels in (8, 1, 3, 1, 1)]
    radii = torch.ones(1, len(tensors[0]), dtype=torch.int32, device=META)
    return *images[:3], None, *images[3:], {"radii": radii, "ray_transforms": transforms}


@pytest.fixture
def gsplat_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    harmonics = SimpleNamespace(rasterization_2dgs=rasterize_nothing, __version__="1.5.3")
    harmonics.spherical_harmonics = lambda degree, directions, coefficients: directions + coefficients.sum(1)
    monkeypatch.setitem(sys.modules, "gsplat", harmonics)
    monkeypatch.setattr(surfels, "choose_backend", lambda means: "gsplat")
    monkeypatch.setattr(gsplat_backend, "render", gsplat_backend.render_checked)


def meta_camera() -> Cameras:
    c2w = torch.eye(4)[None, :3].clone()
    camera = Cameras(c2w, fx=30.0, fy=30.0, cx=16.0, cy=12.0, width=32, height=24).to(META)
    camera.metadata = {"cam_idx": 0, "size": (32, 24)}
    return camera


@pytest.mark.usefixtures("gsplat_on_meta")
@pytest.mark.parametrize("background", ["random", "white"])
def test_a_step_asks_the_device_for_nothing_and_uploads_nothing(background: str) -> None:
    model = make_model(distortion_weight=1.0, normal_weight=1.0, background_color=background).to(META).train()
    model.optimizers = {name: torch.optim.Adam([parameter]) for name, parameter in model.gauss_params.items()}
    camera, batch, generated = meta_camera(), {"image": torch.zeros(24, 32, 3, device=META)}, generated_view()
    batch["mask"] = torch.ones(24, 32, 1, dtype=torch.bool, device=META)
    config = FusionConfig(depth_weight=0.1)
    for step in (1, 74):  # at half the size without regularisers, at full size with them
        model.step = step
        with Uploads() as uploads:
            outputs = model.get_outputs(camera)
            losses = model.get_loss_dict(outputs, batch)
            model.get_metrics_dict(outputs, batch)
            model.observe_render(outputs["render"])
            losses |= generated_view_losses(model, generated.to(model.device), 1.0, config, transparent=False, blocks=4)
            sum(losses.values()).backward()
            model.step_post_backward(step)
        assert uploads.found == []
        assert outputs["rgb"].device == META and model.gauss_params["means"].grad is not None
    assert {"distortion", "normal", "generated_depth"} <= set(losses)
    assert model.strategy_state["generated_grad2d"].shape == (model.num_points,)


def test_train_views_lie_on_the_device_and_bring_their_size_along(capture_folder: Path) -> None:
    # Points for the backdrop read the photos before the first step.
    config = GenFusionDataManagerConfig(
        data=capture_folder, cache_images="gpu", surface_points=False, backdrop_points=False
    )
    manager = config.setup(device="meta", test_mode="val")
    manager.next_train(0)  # reads the photos
    with Uploads() as uploads:
        drawn = [manager.next_train(step) for step in range(1, 4)]
    assert uploads.found == []
    for camera, batch in drawn:
        view = camera.metadata["cam_idx"]
        assert camera.shape == (1,) and camera.device == batch["image"].device == META
        assert camera.metadata["size"] == (batch["image"].shape[1], batch["image"].shape[0])
        assert batch["image_idx"] == view


def test_the_watch_sees_what_it_is_for() -> None:
    with Uploads() as uploads:
        matrix = torch.eye(3).to(META)
        matrix.new_tensor([1.0, 2.0])
        _ = matrix[[0, 1], [0, 1]]
    assert uploads.found == ["to meta", "new_tensor", "index by list"]
    with pytest.raises(RuntimeError, match="meta"):
        matrix.sum().item()
