"""The loss by which a generated view supervises the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from genfusion_ns.fusion.rounds.generated_views import GeneratedView
from genfusion_ns.fusion.rounds.settings import RoundSettings
from genfusion_ns.geometry.cameras import full_precision
from genfusion_ns.geometry.clips import SOLID_ALPHA
from genfusion_ns.models.losses import block_means, disparity_loss, photometric_loss
from genfusion_ns.models.surfel_model import GenFusionModel


@full_precision()
def generated_view_losses(
    model: GenFusionModel,
    view: GeneratedView,
    weight: float,
    config: RoundSettings,
    *,
    transparent: bool,
    blocks: int,
) -> dict[str, Tensor]:
    """Loss terms of one generated view, which also counts for densification unless the config says otherwise.

    Args:
        model: the scene, in training.
        view: on the device of the model.
        weight: of all terms.
        config: shares of the terms.
        transparent: the photos have alpha; generated colours are then those over black.
        blocks: side in pixels of the blocks whose mean colours are compared; 1: each pixel.

    Returns:
        ``generated_rgb`` (L1 and SSIM, weighted per pixel by confidence) and, where the config weighs it,
        ``generated_depth`` (relative disparity), ``generated_distortion`` and ``generated_normal`` (`regularizers` of
        the model, which `weight` does not touch).
    """
    background = torch.zeros(3, device=view.rgb.device) if transparent else model.training_background()
    render = model.render_shown(view.viewmat, view.K, *view.size, background=background)
    if config.densify:
        model.observe_render(render, generated=True)
    confidence = view.confidence.float()
    shown, target, trust = render.rgb[0], view.rgb_float(), confidence
    if blocks > 1:
        (shown, target), trust = block_means([shown, target], confidence, blocks)
    colour = photometric_loss(shown, target, config.ssim_weight, trust)
    losses = {"generated_rgb": weight * colour}
    if config.depth_weight:
        covered = (render.alpha[0] > SOLID_ALPHA) & (render.depth[0] > 0)
        depth = disparity_loss(render.depth[0], view.disparity.float(), covered, confidence)
        losses["generated_depth"] = weight * config.depth_weight * depth
    if config.regularize:
        terms = model.regularizers(render, view.K[None], view.viewmat[None])
        losses |= {f"generated_{name}": term for name, term in terms.items()}
    return losses
