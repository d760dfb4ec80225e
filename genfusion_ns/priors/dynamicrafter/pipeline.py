"""GenFusion's generator as a diffusers pipeline: renders and photos in, repaired RGB-D frames out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from genfusion_ns.priors.dynamicrafter.denoising import Conditions, sample_latents
from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection, clip_pixels
from genfusion_ns.priors.dynamicrafter.images import from_network, to_network
from genfusion_ns.priors.dynamicrafter.sampling import (
    Denoised,
    Guide,
    KnownFrames,
    RecordedNoise,
    Sampling,
    keep_frames,
    start_guide,
)
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet

_RGBD = 4


@dataclass
class RepairOutput(BaseOutput):
    """End of one call of the pipeline."""

    rgb: Float[Tensor, "T H W 3"]
    """Colours in 0..1."""
    disparity: Float[Tensor, "T H W 1"]
    """Relative disparity in 0..1; larger is nearer."""
    latents: Float[Tensor, "1 4 T h w"]
    """What was decoded."""
    variance: Float[Tensor, "1 1 T h w"]
    """See `Denoised`."""


class DynamiCrafterPipeline(DiffusionPipeline):
    """Repairs a clip of RGB-D renders, conditioned on real photos of the scene.

    `from_pretrained` reads a folder written by ``gf-convert-generator`` or `save_pretrained`; types of half precision,
    `to`, and `enable_model_cpu_offload` work as with every diffusers pipeline.
    """

    model_cpu_offload_seq = "image_encoder->image_projection->unet->vae"

    unet: DynamiCrafterUNet
    vae: AutoencoderKL
    image_encoder: CLIPVisionModelWithProjection
    image_projection: ImageProjection
    scheduler: DynamiCrafterScheduler

    def __init__(
        self,
        unet: DynamiCrafterUNet,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        image_projection: ImageProjection,
        scheduler: DynamiCrafterScheduler,
        frames_per_slice: int = 2,
        width: int = 960,
        height: int = 512,
    ) -> None:
        """
        Args:
            unet: predicts v.
            vae: between RGB-D frames and latents.
            image_encoder: CLIP, reads photos.
            image_projection: turns its tokens into a context.
            scheduler: noise levels and steps.
            frames_per_slice: frames that the autoencoder treats at once; memory grows with it, results stay the same.
            width, height: size in pixels that the network was trained at, for those who ask for no other.
        """
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            image_encoder=image_encoder,
            image_projection=image_projection,
            scheduler=scheduler,
        )
        self.register_to_config(frames_per_slice=frames_per_slice, width=width, height=height)
        self.frames_per_slice = frames_per_slice
        self.resolution = (width, height)
        self._null_tokens: tuple[CLIPVisionModelWithProjection, Tensor] | None = None

    @property
    def size_multiple(self) -> int:
        """Width and height of clips must be multiples of this many pixels."""
        return self.unet.size_multiple * self.pixels_per_latent

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one latent stands for."""
        return 2 ** (len(self._autoencoder_config.block_out_channels) - 1)

    @property
    def _autoencoder_config(self) -> Any:
        return self.vae.config  # diffusers types it as a plain dict, although fields are read as attributes

    @torch.no_grad()
    def __call__(
        self,
        rgb: Float[Tensor, "T H W 3"],
        disparity: Float[Tensor, "T H W 1"],
        references: Float[Tensor, "R h w 3"],
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        noise: RecordedNoise | None = None,
        alpha: Float[Tensor, "T H W 1"] | None = None,
        known: KnownFrames | None = None,
    ) -> RepairOutput:
        """Repair one clip.

        Args:
            rgb: rendered colours in 0..1. The network was trained on 16 frames of 960 x 512 (width x height).
            disparity: rendered disparity in 0..1 over the clip, 0 where unknown.
            references: real photos of any size, in 0..1. The network was trained with one.
            sampling: steps and guidance.
            generator: source of all randomness.
            noise: recorded noise instead.
            alpha: coverage of the renders in 0..1; needed where the sampling starts below pure noise.
            known: frames to keep as they are, for the others to go on from.

        Returns:
            The repaired frames, in float32 on the device of the pipeline.

        Raises:
            ValueError: shapes that disagree, a size that the network cannot take, or an autoencoder without depth.
            RuntimeError: the networks gave values that are not finite.
        """
        sampling, noise = sampling or Sampling(), noise or RecordedNoise()
        self._check(rgb, disparity, references)
        device = self._execution_device
        video = to_network(torch.cat([rgb, disparity], dim=-1).to(device)).permute(3, 0, 1, 2)[None]
        photos = to_network(references.to(device)).permute(0, 3, 1, 2)
        context = self.encode_references(photos[None])
        null = self.null_context(len(references)) if sampling.guidance_scale != 1 else None
        condition = self.encode_video(video, sampling.sample_condition, generator, noise.condition)
        guide = self._guide(condition, alpha, known, sampling)
        end = self.denoise(condition, context, null, sampling, generator, noise=noise, guide=guide)
        pixels = self.decode_video(end.latents)[0].permute(1, 2, 3, 0).float()
        self.maybe_free_model_hooks()
        self._require_finite(end.latents, pixels)
        decoded = from_network(pixels)
        return RepairOutput(
            rgb=decoded[..., :3], disparity=decoded[..., 3:], latents=end.latents, variance=end.variance
        )

    def encode_references(self, photos: Float[Tensor, "B R 3 h w"]) -> Float[Tensor, "B L D"]:
        """Context tokens of photos in -1..1, those of one clip in a row; gradients reach the projection."""
        return self._project(self.photo_tokens(photos.flatten(0, 1)), photos.shape[0])

    def photo_tokens(self, photos: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B N C"]:
        """What the image encoder says of photos in -1..1; no gradients pass."""
        return self._tokens(clip_pixels(photos.float()))

    def null_context(self, references: int, batch: int = 1) -> Float[Tensor, "B L D"]:
        """Context of as many mid-grey photos, the branch without references of the guidance.

        The tokens of the image encoder are kept between calls; the projection is not, because training changes it.
        """
        encoder = self.image_encoder
        if self._null_tokens is None or self._null_tokens[0] is not encoder:
            # Any size will do: resizing and blurring leave a constant image as it is.
            grey = torch.zeros(1, 3, 224, 224, device=self._execution_device)
            self._null_tokens = encoder, self._tokens(clip_pixels(grey))
        tokens = self._null_tokens[1].to(self._execution_device, encoder.dtype)
        return self._project(tokens, 1).repeat(batch, references, 1)

    @torch.no_grad()
    def _tokens(self, pixels: Tensor) -> Tensor:
        return self.image_encoder(pixel_values=pixels.to(self.image_encoder.dtype)).last_hidden_state

    def _project(self, tokens: Tensor, batch: int) -> Tensor:
        return self.image_projection(tokens.to(self.image_projection.dtype)).unflatten(0, (batch, -1)).flatten(1, 2)

    @torch.no_grad()
    def encode_video(
        self,
        video: Float[Tensor, "B 4 T H W"],
        sample: bool = True,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "B*T 4 h w"] | None = None,
    ) -> Float[Tensor, "B 4 T h w"]:
        """Scaled latents of RGB-D frames in -1..1, in float32.

        Args:
            video: channels are red, green, blue and disparity.
            sample: draw from the distribution of the latents; False gives its mode.
            generator: source of the draw.
            noise: recorded draw instead.
        """
        frames = video.transpose(1, 2).flatten(0, 1).to(self.vae.dtype)
        slices = frames.split(self.frames_per_slice)
        moments = [self.vae.encode(part).latent_dist for part in slices]  # pyright: ignore[reportAttributeAccessIssue]
        latents = torch.cat([moment.mean for moment in moments]).float()
        if sample:
            if noise is None:
                noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=torch.float32)
            latents = latents + torch.cat([moment.std for moment in moments]).float() * noise.to(latents)
        return (latents * self._autoencoder_config.scaling_factor).unflatten(0, (len(video), -1)).transpose(1, 2)

    @torch.no_grad()
    def decode_video(self, latents: Float[Tensor, "B 4 T h w"]) -> Float[Tensor, "B 4 T H W"]:
        """RGB-D frames, nominally in -1..1, of scaled latents."""
        frames = (latents / self._autoencoder_config.scaling_factor).transpose(1, 2).flatten(0, 1).to(self.vae.dtype)
        decoded = [self.vae.decode(part, return_dict=False)[0] for part in frames.split(self.frames_per_slice)]
        return torch.cat(decoded).unflatten(0, (len(latents), -1)).transpose(1, 2)

    @torch.no_grad()
    def denoise(
        self,
        condition: Float[Tensor, "B 4 T h w"],
        context: Float[Tensor, "B L D"],
        null_context: Float[Tensor, "B L D"] | None,
        sampling: Sampling,
        generator: torch.Generator | None = None,
        *,
        noise: RecordedNoise | None = None,
        fps: Tensor | None = None,
        guide: Guide | None = None,
    ) -> Denoised:
        """Sample latents; arguments as in `Conditions` and `denoising.sample_latents`."""
        conditions = Conditions(condition, context, null_context, fps)
        with self.progress_bar(total=sampling.steps) as progress:  # pyright: ignore[reportCallIssue]
            return sample_latents(
                self.unet,
                self.scheduler,
                conditions,
                sampling,
                generator,
                noise=noise,
                guide=guide,
                progress=progress.update,
            )

    def _guide(
        self, condition: Tensor, alpha: Tensor | None, known: KnownFrames | None, sampling: Sampling
    ) -> Guide | None:
        """What the sampling follows, if anything."""
        guide = None
        if sampling.start_noise < 1:
            if alpha is None:
                raise ValueError(f"start_noise is {sampling.start_noise}; below 1 the coverage (alpha) is needed")
            cell = self.pixels_per_latent
            coverage = functional.avg_pool2d(alpha.to(condition).permute(0, 3, 1, 2), cell)
            guide = start_guide(condition, coverage.transpose(0, 1)[None], sampling.start_noise)
        if known is None:
            return guide
        video = to_network(known.video.to(condition.device)).permute(3, 0, 1, 2)[None]
        latents = torch.zeros_like(condition)
        latents[:, :, known.places] = self.encode_video(video, sample=False)
        return keep_frames(guide, latents, known.places)

    def _require_finite(self, latents: Tensor, pixels: Tensor) -> None:
        """A result with holes would go unnoticed into the scene."""
        if torch.isfinite(pixels).all():
            return
        part, dtype = ("unet", self.unet.dtype) if not torch.isfinite(latents).all() else ("vae", self.vae.dtype)
        way_out = (
            "bf16 or fp32 (--pipeline.repairer.dtype) have the wider range"
            if dtype == torch.float16
            else "the weights are damaged; convert them again with gf-convert-generator"
        )
        raise RuntimeError(f"the generator's {part} gave NaN or infinity in {dtype}: {way_out}")

    def _check(self, rgb: Tensor, disparity: Tensor, references: Tensor) -> None:
        channels = self._autoencoder_config.in_channels
        if channels != _RGBD:
            raise ValueError(
                f"the autoencoder of this pipeline has {channels} channels, but RGB-D needs {_RGBD}: convert "
                "the base checkpoint with an RGB-D autoencoder (--vae)"
            )
        if rgb.dim() != 4 or rgb.shape[-1] != 3 or disparity.shape != (*rgb.shape[:3], 1):
            raise ValueError(
                f"rgb must be [T, H, W, 3] and disparity [T, H, W, 1], found {tuple(rgb.shape)} and "
                f"{tuple(disparity.shape)}"
            )
        height, width = rgb.shape[1:3]
        if len(rgb) == 0 or height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"the clip has {len(rgb)} frames of {width} x {height} (width x height); there must be at least one, "
                f"and both sides must be multiples of {self.size_multiple}: pad or resize the clip"
            )
        if references.dim() != 4 or references.shape[-1] != 3 or len(references) == 0:
            raise ValueError(
                f"references must be [R, H, W, 3] with at least one photo, found {tuple(references.shape)}"
            )
