"""ReconFusion's prior at toy size, and posed views in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.geometry.cameras import c2w_to_viewmat, look_at
from genfusion_ns.geometry.clips import Clip, ClipPair, References, RenderedView
from genfusion_ns.priors.reconfusion.architecture import small_pipeline
from genfusion_ns.priors.reconfusion.pipeline import ReconFusionPipeline
from genfusion_ns.priors.training.settings import ReconFusionOptimisation, ReconFusionSizes

SIZES = ReconFusionSizes(
    size=(32, 32),
    channels=(16, 32),
    heads=2,
    features=8,
    rays=8,
    samples=12,
    hidden=32,
    encoder_channels=(8, 16, 16),
    token_width=32,
)
TINY = ReconFusionOptimisation(
    steps=6, batch_size=2, warmup=1, validate_every=6, checkpoint_every=2, network=SIZES, ema=0.9
)
UP = torch.tensor([0.0, 0.0, 1.0])


def toy_pipeline(stirred: bool = True, **sizes: Any) -> ReconFusionPipeline:
    """A fresh one; `stirred`: the layer that starts at zero is not."""
    torch.manual_seed(0)
    pipeline = small_pipeline(replace(SIZES, **sizes))
    if stirred:
        torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.05)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.pixelnerf, pipeline.image_encoder):
        part.eval()
    return pipeline


def orbit(angles: torch.Tensor, distance: float = 3.0, height: float = 1.0) -> torch.Tensor:
    """View matrices of cameras around the origin."""
    places = torch.stack([distance * angles.cos(), distance * angles.sin(), torch.full_like(angles, height)], dim=-1)
    return c2w_to_viewmat(look_at(places, torch.zeros(3), UP))


def blob_images(viewmats: torch.Tensor, K: torch.Tensor, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Shaded balls before a plain backdrop, by ray casting: colours [V, H, W, 3] and depth [V, H, W, 1]."""
    generator = torch.Generator().manual_seed(seed)
    centers = (torch.rand(3, 3, generator=generator) - 0.5) * 1.6
    colours = torch.rand(3, 3, generator=generator)
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(K).T
    images, depths = [], []
    for viewmat in viewmats:
        there = centers @ viewmat[:3, :3].T + viewmat[:3, 3]
        a = (rays * rays).sum(-1)[..., None]
        b = rays @ there.T
        c = (there * there).sum(-1) - 0.5**2
        root = b * b - a * c
        z = torch.where(root > 0, (b - root.clamp(min=0).sqrt()) / a, torch.inf)
        z, nearest = z.min(-1)
        hit = torch.isfinite(z)
        shade = 0.6 + 0.4 * ((z[..., None] * rays - there[nearest])[..., 1] / 0.5).nan_to_num()
        images.append(torch.where(hit[..., None], colours[nearest] * shade[..., None], 0.5).clamp(0, 1))
        depths.append(torch.where(hit, z, 0.0)[..., None])
    return torch.stack(images), torch.stack(depths)


def blob_pair(seed: int, size: int = 32, photos: int = 3) -> ClipPair:
    """A view of balls, the same too dark and without its right half, and photos from beside it."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.cat([torch.zeros(1), (torch.arange(photos) - (photos - 1) / 2) * 0.5 + 0.2])
    viewmats = orbit(angles + 6.28 * torch.rand(1, generator=generator))
    K = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]])
    rgb, depth = blob_images(viewmats, K, size, seed)
    alpha = torch.ones(1, size, size, 1)
    alpha[:, :, size // 2 :] = 0
    camera = (viewmats[:1], K[None])
    return ClipPair(
        Clip(0.6 * rgb[:1] * alpha, depth[:1] * alpha, alpha, *camera),
        Clip(rgb[:1], depth[:1], torch.ones_like(alpha), *camera),
        References(rgb[1:], viewmats[1:], K.expand(photos, 3, 3)),
    )


def view_and_photos(seed: int = 0, size: int = 32, photos: int = 3) -> tuple[RenderedView, References]:
    """The render and the photos of `blob_pair`."""
    pair = blob_pair(seed, size, photos)
    clip = pair.artifact
    return RenderedView(clip.rgb[0], clip.depth[0], clip.alpha[0], clip.viewmats[0], clip.Ks[0]), pair.references


def turned(viewmats: torch.Tensor, angle: float, shift: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The same cameras in a world that is turned about an oblique axis, shifted and scaled."""
    axis = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, 3.0], dtype=viewmats.dtype), dim=0)
    cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=viewmats.dtype)).T
    rotation = torch.eye(3, dtype=viewmats.dtype) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    moved = viewmats.clone()
    moved[..., :3, :3] = viewmats[..., :3, :3] @ rotation.T
    moved[..., :3, 3] = scale * viewmats[..., :3, 3] - (moved[..., :3, :3] @ shift.to(viewmats.dtype))
    return moved


class TextToImage(DiffusionPipeline):
    """The parts of a Stable Diffusion that a prior starts from."""

    def __init__(self, unet: Any, vae: Any, scheduler: Any, image_encoder: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler, image_encoder=image_encoder)


def toy_stable_diffusion(folder: Path | None = None, token_width: int = 32, prediction: str = "epsilon") -> TextToImage:
    """Of the same classes as the published one, for images of 32 x 32 pixels."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=token_width,
    )
    found = TextToImage(unet, vae, scheduler, CLIPVisionModelWithProjection(vision))
    if folder is not None:
        found.save_pretrained(folder)
    return found
