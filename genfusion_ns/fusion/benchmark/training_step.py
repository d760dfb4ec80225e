"""A full training step of `genfusion` on given surfels: model, spherical harmonics, losses, backward and Adam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.models.insertion import FLAT_LOG_SCALE
from genfusion_ns.models.surfel_model import GenFusionModel, GenFusionModelConfig
from genfusion_ns.rendering.surfels import Surfels
from genfusion_ns.seeds import seeded_generator


def training_step(
    surfels: Surfels, viewmat: Tensor, K: Tensor, width: int, height: int, *, optimizers: Mapping[str, Any]
) -> Callable[[], None]:
    """One step as `ns-train genfusion` does it at full resolution with all bands of spherical harmonics.

    Args:
        surfels: start of the scene; its colours are taken as rgb.
        viewmat: world-to-camera, OpenCV axes. [4, 4]
        K: intrinsics in pixels. [3, 3]
        width, height: size of the image in pixels.
        optimizers: of the method, by parameter group, as its config has them.

    Returns:
        A function that takes one step on a random target image.
    """
    model = _model(surfels)
    model.step = 3 * model.schedule.sh_interval
    camera = Cameras(
        viewmat_to_c2w(viewmat)[None, :3],
        *(float(K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))),
        width=width,
        height=height,
    )
    batch = {"image": torch.rand(height, width, 3, generator=seeded_generator(0))}
    model.optimizers = {
        name: optimizers[name]["optimizer"].setup(params=parameters)
        for name, parameters in model.get_gaussian_param_groups().items()
    }

    def step() -> None:
        for optimizer in model.optimizers.values():
            optimizer.zero_grad()
        outputs = model.get_outputs(camera)
        model.observe_render(outputs["render"])
        losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        torch.stack(list(losses.values())).sum().backward()
        for optimizer in model.optimizers.values():
            optimizer.step()
        model.step_post_backward(1)

    return step


def _model(surfels: Surfels) -> GenFusionModel:
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    points = (surfels.means.detach().clone(), surfels.features_dc.detach() * 255)
    config = GenFusionModelConfig(num_downscales=0)
    model: GenFusionModel = config.setup(scene_box=box, num_train_data=1, seed_points=points, device="cpu", metadata={})
    flat = torch.full((len(surfels), 1), FLAT_LOG_SCALE)
    with torch.no_grad():
        model.gauss_params["scales"].copy_(torch.cat([surfels.scales[:, :2].log(), flat], dim=1))
        model.gauss_params["quats"].copy_(surfels.quats)
        model.gauss_params["opacities"].copy_(torch.logit(surfels.opacities, eps=1e-4)[:, None])
    return model.train()
