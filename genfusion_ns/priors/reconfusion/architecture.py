"""The networks of the prior: a small one from nothing, and the full one from the weights of Stable Diffusion."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.priors.reconfusion.inputs import GUIDE_CHANNELS
from genfusion_ns.priors.reconfusion.pipeline import Latents, ReconFusionPipeline, facts_of
from genfusion_ns.priors.reconfusion.pixelnerf import PixelNerf
from genfusion_ns.priors.training.settings import ReconFusionSizes

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""Those of Stable Diffusion."""
SD21_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
"""The U-Net of Stable Diffusion 2.1."""


def small_pipeline(sizes: ReconFusionSizes) -> ReconFusionPipeline:
    """A fresh pipeline that diffuses pixels, with an image encoder of its own; its first prediction is 0.

    Raises:
        ValueError: sizes that do not go together.
    """
    check_sizes(sizes)
    width, height = sizes.size
    levels = len(sizes.channels)
    latent = 3 * sizes.fold**2
    guide = GUIDE_CHANNELS * sizes.fold**2 if sizes.guided else 0
    plain = levels - 1
    unet = UNet2DConditionModel(
        sample_size=(height // sizes.fold, width // sizes.fold),  # pyright: ignore[reportArgumentType]
        in_channels=latent + sizes.features + guide,
        out_channels=latent,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),  # pyright: ignore[reportArgumentType]
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,  # pyright: ignore[reportArgumentType]
        block_out_channels=sizes.channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=sizes.layers,
        cross_attention_dim=sizes.token_width,
        attention_head_dim=sizes.heads,
        norm_num_groups=sizes.norm_groups,
        use_linear_projection=True,
    )
    nn.init.zeros_(unet.conv_out.weight)
    side = min(width, height)
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=sizes.token_width,
            intermediate_size=2 * sizes.token_width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=max(1, side // 4),
            projection_dim=sizes.token_width,
        )
    )
    return ReconFusionPipeline(
        unet,
        None,
        encoder,
        _pixelnerf(sizes),
        DDIMScheduler(
            **_BETAS,
            clip_sample=False,
            set_alpha_to_one=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
        ),
        width=width,
        height=height,
        fold=sizes.fold,
        guided=sizes.guided,
        num_references=sizes.num_references,
        steps=sizes.steps,
        guidance_scale=sizes.guidance_scale,
    )


def _pixelnerf(sizes: ReconFusionSizes) -> PixelNerf:
    return PixelNerf(
        features=sizes.features,
        rays=sizes.rays,
        samples=sizes.samples,
        training_samples=sizes.samples,
        hidden=sizes.hidden,
        widths=sizes.encoder_channels,
        level=sizes.encoder_level,
        norm_num_groups=sizes.norm_groups,
    )


def check_sizes(sizes: ReconFusionSizes) -> None:
    """Refuse sizes that do not go together.

    Raises:
        ValueError: with the flag.
    """
    flag = "--optimisation.network."
    numbers = {
        name: value if isinstance(value, tuple) else (value,)
        for name, value in asdict(sizes).items()
        if name not in ("guided", "encoder_level")
    }
    for name, values in numbers.items():
        if not values or not all(value > 0 for value in values):
            raise ValueError(f"{flag}{name.replace('_', '-')} is {getattr(sizes, name)}; it must be above 0")
    multiple = sizes.fold * 2 ** (len(sizes.channels) - 1)
    if any(side % multiple for side in sizes.size):
        raise ValueError(
            f"{flag}size is {sizes.size}; with a fold of {sizes.fold} and {len(sizes.channels)} levels both sides must "
            f"be multiples of {multiple}"
        )
    if any(width % sizes.norm_groups for width in (*sizes.channels, *sizes.encoder_channels)):
        raise ValueError(
            f"{flag}norm-groups is {sizes.norm_groups}; it must divide all of {sizes.channels} and "
            f"{sizes.encoder_channels}"
        )
    if not 0 <= sizes.encoder_level < len(sizes.encoder_channels):
        raise ValueError(
            f"{flag}encoder-level is {sizes.encoder_level}; allowed are 0..{len(sizes.encoder_channels) - 1}, one per "
            "entry of encoder-channels"
        )
    if sizes.token_width % 2 or sizes.channels[-1] % sizes.heads:
        raise ValueError(f"{flag}token-width must be even, and {flag}heads divide the last of {flag}channels")


def extended_unet(base: UNet2DConditionModel, channels: int, token_width: int) -> UNet2DConditionModel:
    """A copy of a text-to-image denoiser that reads further channels, and the tokens of photos in place of a text's.

    The new channels have weights of zero, so that it says what the base does whatever they hold.

    Args:
        base: of Stable Diffusion's family.
        channels: that are new.
        token_width: of the tokens; a linear layer is added where it is not that of the base's context.

    Raises:
        ValueError: the base has conditions of its own beside a text, or reads more than latents.
    """
    config = dict(base.config)
    extra = [name for name in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type") if config.get(name)]
    if extra or config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"the denoiser reads {config['in_channels']} channels and has {', '.join(extra) or 'no conditions'} beside "
            "its text; a text-to-image one is needed, such as that of stabilityai/stable-diffusion-2-1-base"
        )
    config["in_channels"] += channels
    if token_width != config["cross_attention_dim"]:
        config |= {"encoder_hid_dim": token_width, "encoder_hid_dim_type": "text_proj"}
    with torch.device(base.device):
        unet: Any = UNet2DConditionModel.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    state = dict(base.state_dict())
    weight = state["conv_in.weight"]
    added = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    state["conv_in.weight"] = torch.cat([weight, added], dim=1)
    missing = unet.load_state_dict(state, strict=False).missing_keys
    new = [name for name in missing if not name.startswith("encoder_hid_proj.")]
    if new:
        raise ValueError(f"the denoiser lacks {len(new)} tensors, such as {new[0]}")
    return unet.to(base.dtype)


def from_stable_diffusion(
    unet: UNet2DConditionModel,
    vae: Any,
    scheduler: Any,
    image_encoder: CLIPVisionModelWithProjection,
    size: tuple[int, int] = (512, 512),
    pixelnerf: PixelNerf | None = None,
) -> ReconFusionPipeline:
    """The pipeline at the start of its training: a text-to-image model that knows nothing of photos yet.

    Args:
        unet, vae, scheduler: of a Stable Diffusion.
        image_encoder: gives the tokens.
        size: (width, height) of the views, multiples of what latents and levels of the U-Net halve.
        pixelnerf: a fresh one of the full size by default, with a ray per latent.
    """
    pixelnerf = pixelnerf or PixelNerf(rays=Latents(vae, 1).shape(size)[2])
    width = facts_of(pixelnerf).features
    return ReconFusionPipeline(
        extended_unet(unet, width, image_encoder.config.projection_dim),
        vae,
        image_encoder,
        pixelnerf,
        DDIMScheduler.from_config(scheduler.config, clip_sample=False, set_alpha_to_one=False),  # pyright: ignore[reportArgumentType]
        width=size[0],
        height=size[1],
    )
