"""ReconFusion's prior as a diffusers pipeline: a render and posed photos in, what the view should show out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from genfusion_ns.geometry.clips import References, RenderedView
from genfusion_ns.priors.reconfusion.inputs import GUIDE_CHANNELS, ViewInputs, shrink_images, stack_inputs, view_inputs
from genfusion_ns.priors.reconfusion.ladder import add_noise, alphas_of, descend, guided, ladder, require_signal
from genfusion_ns.priors.reconfusion.pixelnerf import PixelNerf

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Condition:
    """What the denoiser reads beside the noisy latents."""

    tokens: Float[Tensor, "B R D"]
    """One of each photo."""
    planes: Float[Tensor, "B C h w"]
    """Features of PixelNeRF, then the guide, at the size of the latents."""


class ReconFusionPipeline(DiffusionPipeline):
    """Draws a view, conditioned on posed photos and, by where the sampling starts, on its render.

    `from_pretrained` reads a folder written by ``gf-train-generator`` or `save_pretrained`; half precision and `to`
    work as with every diffusers pipeline.
    """

    model_cpu_offload_seq = "image_encoder->pixelnerf->unet->vae"
    _optional_components = ["vae"]  # noqa: RUF012  as the library has it

    unet: UNet2DConditionModel
    vae: AutoencoderKL | None
    image_encoder: CLIPVisionModelWithProjection
    pixelnerf: PixelNerf
    scheduler: DDIMScheduler

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | None,
        image_encoder: CLIPVisionModelWithProjection,
        pixelnerf: PixelNerf,
        scheduler: DDIMScheduler,
        width: int = 512,
        height: int = 512,
        fold: int = 1,
        guided: bool = False,
        num_references: int = 3,
        steps: int = 10,
        guidance_scale: float = 3.0,
    ) -> None:
        """
        Args:
            unet: predicts noise or v from noisy latents, features and guide; cross-attends to the photos' tokens.
            vae: between images and latents; None: latents are pixels.
            image_encoder: CLIP, gives one token per photo.
            pixelnerf: renders features of the photos into the view.
            scheduler: noise levels.
            width, height: size in pixels that the networks were trained at.
            fold: without vae, pixels along the squares that make one latent.
            guided: the U-Net also reads render and photos through the depth of the render; see `view_guide`.
            num_references: photos that it was trained with at most.
            steps, guidance_scale: for those who ask for no others.
        """
        super().__init__()
        self.register_modules(unet=unet, vae=vae, image_encoder=image_encoder, pixelnerf=pixelnerf, scheduler=scheduler)
        self.register_to_config(
            width=width,
            height=height,
            fold=fold,
            guided=guided,
            num_references=num_references,
            steps=steps,
            guidance_scale=guidance_scale,
        )
        self.latents = Latents(vae, fold)
        self.resolution = (width, height)
        """(width, height) in pixels of what is drawn; may be changed."""
        require_signal(alphas_of(scheduler), scheduler.config["prediction_type"])

    @property
    def facts(self) -> Any:
        """The settings that are no networks, as attributes."""
        return self.config  # diffusers types it as a plain dict

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this many pixels."""
        return self.latents.side * 2 ** (len(facts_of(self.unet).block_out_channels) - 1)

    @torch.no_grad()
    def __call__(
        self,
        view: RenderedView,
        references: References,
        level: float = 1.0,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        pure_noise: bool = True,
    ) -> Float[Tensor, "H W 3"]:
        """Draw one view; arguments as in `ViewPrior.sample`.

        Args:
            view: the render.
            references: the photos.
            level: noise level at which sampling starts.
            generator: source of the noise, on the CPU.
            steps: of the ladder; those of the folder by default.
            guidance_scale: weight of the photos; that of the folder by default; 1 takes half the time.
            pure_noise: level 1 knows nothing of the render's colours; False leaves it the trace that training had.
        """
        device = self._execution_device
        inputs = view_inputs(view, references, self.facts.num_references, self.facts.guided).to(device)
        batch = stack_inputs([inputs])
        render = view.rgb.to(device).permute(2, 0, 1)[None] * 2 - 1
        noise_like = self.latents.shape(self.resolution)
        noise = torch.randn(1, *noise_like, generator=generator).to(device)
        clean = self.draw(batch, render, noise, level, steps, guidance_scale, pure_noise)
        self.maybe_free_model_hooks()
        return (clean[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def draw(
        self,
        inputs: ViewInputs,
        renders: Float[Tensor, "B 3 H W"],
        noise: Float[Tensor, "B c h w"],
        level: float,
        steps: int | None = None,
        guidance_scale: float | None = None,
        pure_noise: bool = True,
    ) -> Float[Tensor, "B 3 H W"]:
        """Draw a batch of views; renders and result in -1..1, nominally, in float32.

        Raises:
            RuntimeError: the networks gave values that are not finite.
        """
        facts = self.facts
        scale = facts.guidance_scale if guidance_scale is None else guidance_scale
        alphas = alphas_of(self.scheduler)
        rungs = ladder(level, facts.steps if steps is None else steps, len(alphas))
        condition = self.condition(inputs if scale == 1 else inputs.twice())
        start = noise
        if level < 1 or not pure_noise:
            start = add_noise(self.latents.encode(renders), noise, alphas[rungs[0]])

        def predict(noisy: Tensor, step: int) -> Tensor:
            if scale == 1:
                return self.predict(noisy, step, condition)
            shown, hidden = self.predict(torch.cat([noisy, noisy]), step, condition).chunk(2)
            return guided(shown, hidden, scale)

        clean = descend(start.float(), rungs, alphas, facts_of(self.scheduler).prediction_type, predict)
        images = self.latents.decode(clean)
        if not bool(torch.isfinite(images).all()):
            raise RuntimeError(
                f"the networks of the prior gave NaN or infinity in {self.unet.dtype}: bf16 or fp32 have a wider range"
            )
        return images

    def condition(self, inputs: ViewInputs) -> Condition:
        """What a batch of inputs says to the denoiser."""
        rendered = self.pixelnerf(inputs)
        tokens = photo_tokens(self.image_encoder, inputs.photos)
        planes = condition_planes(rendered.features, inputs.guide, self.latents, self.resolution)
        return Condition(tokens.to(self.unet.dtype), planes.to(self.unet.dtype))

    def predict(self, noisy: Float[Tensor, "B c h w"], step: int, condition: Condition) -> Float[Tensor, "B c h w"]:
        """What the denoiser says of noisy latents, in float32."""
        sample = torch.cat([noisy.to(condition.planes), condition.planes], dim=1)
        return self.unet(sample, step, condition.tokens, return_dict=False)[0].float()


class Latents:
    """Between images in -1..1 and what is diffused: an autoencoder's latents, or folded pixels."""

    def __init__(self, vae: AutoencoderKL | None, fold: int) -> None:
        """Args: see `ReconFusionPipeline`."""
        self.vae, self.fold = vae, fold
        config = None if vae is None else facts_of(vae)
        self.channels: int = 3 * fold**2 if config is None else config.latent_channels
        self.side: int = fold if config is None else 2 ** (len(config.block_out_channels) - 1)
        """Pixels along the square that one latent stands for."""
        self.scale: float = 1.0 if config is None else config.scaling_factor

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of (width, height) pixels."""
        return self.channels, size[1] // self.side, size[0] // self.side

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """The mean of the latents of images, in float32."""
        if self.vae is None:
            return functional.pixel_unshuffle(images.float(), self.fold)
        moments: Any = self.vae.encode(images.to(self.vae.dtype))
        return moments.latent_dist.mean.float() * self.scale

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images of latents, in float32."""
        if self.vae is None:
            return functional.pixel_shuffle(latents, self.fold)
        scaled: Any = (latents / self.scale).to(self.vae.dtype)
        decoded: Any = self.vae.decode(scaled, return_dict=False)
        return decoded[0].float()

    def guide(self, planes: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Planes of the size of the images at that of the latents: folded as pixels are, or averaged."""
        if self.vae is None:
            return functional.pixel_unshuffle(planes, self.fold)
        return functional.avg_pool2d(planes, self.side)

    def guide_channels(self) -> int:
        """Channels that the guide then has."""
        return GUIDE_CHANNELS * (self.fold**2 if self.vae is None else 1)


def condition_planes(
    features: Float[Tensor, "B C r r"], guide: Tensor | None, latents: Latents, size: tuple[int, int]
) -> Float[Tensor, "B c h w"]:
    """Features, and the guide where there is one, at the size of the latents."""
    shape = latents.shape(size)[1:]
    if features.shape[-2:] != shape:
        features = functional.interpolate(features, size=shape, mode="bilinear", align_corners=False)
    return features if guide is None else torch.cat([features, latents.guide(guide).to(features)], dim=1)


def photo_tokens(encoder: CLIPVisionModelWithProjection, photos: Float[Tensor, "B R 3 h w"]) -> Float[Tensor, "B R D"]:
    """One token of each photo in 0..1."""
    side: Any = encoder.config.image_size
    pixels = photos.flatten(0, 1).float()
    if pixels.shape[-2:] != (side, side):
        pixels = shrink_images(pixels, (side, side))
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (_CLIP_MEAN, _CLIP_STD))
    found = encoder(pixel_values=((pixels - mean) / std).to(encoder.dtype))
    return found.image_embeds.unflatten(0, photos.shape[:2])


def facts_of(part: Any) -> Any:
    """The config of a part, whose fields are read as attributes although diffusers types it as a plain dict."""
    return part.config
