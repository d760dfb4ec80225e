"""PixelNeRF (Yu et al. 2021) as the condition of a denoiser: features of posed photos, rendered into the view.

Each ray of the view is sampled evenly in disparity. A sample reads the feature maps of all photos where they see it;
what they say is averaged, with its variance, so that their number and order do not matter; density, colour and feature
of the samples are composited as in NeRF. ReconFusion (section 4.1) names the parts; their inner sizes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.downsampling import Downsample2D
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from genfusion_ns.geometry.cameras import full_precision
from genfusion_ns.priors.reconfusion.inputs import ViewInputs

_RAY_FEATURES = 4
_EPSILON = 1e-6
_EMPTY_BIAS = 1.0
"""Taken off raw densities, so that space is nearly empty before training."""


@dataclass(frozen=True)
class RenderedFeatures:
    """What the view's rays found, at one ray per cell of a square grid."""

    features: Float[Tensor, "B C r r"]
    colours: Float[Tensor, "B 3 r r"]
    """In 0..1."""


@dataclass(frozen=True)
class LiftedRays:
    """Samples of the rays of a view, and where the photos see them."""

    points: Float[Tensor, "B R P 3"]
    """In the axes of each photo's camera; P = rays x samples, sample by sample for each ray."""
    places: Float[Tensor, "B R P 2"]
    """In each photo, (x, y) in 0..1; meaningless where not seen."""
    seen: Bool[Tensor, "B R P 1"]
    """Before the camera and inside the photo."""
    angles: Float[Tensor, "B R P 4"]
    """Unit difference of the directions from view and photo to the sample, in the photo's axes; then their cosine."""
    steps: Float[Tensor, "B r2 N"]
    """Lengths that the samples stand for."""


class PixelNerf(ModelMixin, ConfigMixin):
    """Renders features of photos into a view; see the module."""

    _supports_gradient_checkpointing = True
    config: Any  # fields are read as attributes

    @register_to_config
    def __init__(
        self,
        features: int = 128,
        rays: int = 64,
        samples: int = 128,
        training_samples: int = 64,
        hidden: int = 128,
        frequencies: int = 6,
        widths: tuple[int, ...] = (64, 128, 256, 256, 256, 256),
        level: int = 3,
        norm_num_groups: int = 8,
    ) -> None:
        """
        Args:
            features: channels that come out.
            rays: along either side of the view.
            samples: of a ray.
            training_samples: of a ray in training, where memory is short.
            hidden: width of the two small networks.
            frequencies: of the encoding of places.
            widths: of the image encoder, from the size of the photos to half of it and so on.
            level: at which of these sizes features are read.
            norm_num_groups: of the image encoder; divides all widths.
        """
        super().__init__()
        self.encoder = FeatureEncoder(tuple(widths), level, features, norm_num_groups)
        places = 3 + 6 * frequencies
        self.of_photo = _two_layers(features + 3 + places + _RAY_FEATURES, hidden, hidden)
        self.of_all = _two_layers(2 * hidden + 1, hidden, 1 + 3 + features)
        self.gradient_checkpointing = False

    def forward(self, inputs: ViewInputs) -> RenderedFeatures:
        """Features and colours of a batch of views."""
        photos = inputs.photos.to(self.dtype)
        maps = self.encoder(photos.flatten(0, 1) * 2 - 1)
        samples = self.config.training_samples if self.training else self.config.samples
        lifted = lift_rays(inputs, self.config.rays, samples)
        if self.gradient_checkpointing and self.training:
            found: Any = checkpoint(self._query, lifted, maps, photos, use_reentrant=False)
        else:
            found = self._query(lifted, maps, photos)
        raw = found.view(len(inputs), self.config.rays**2, samples, -1).float()
        values = torch.cat([raw[..., 1:4].sigmoid(), raw[..., 4:]], dim=-1)
        rendered = composite(functional.softplus(raw[..., 0] - _EMPTY_BIAS), values, lifted.steps)
        planes = rendered.transpose(1, 2).unflatten(2, (self.config.rays, self.config.rays))
        return RenderedFeatures(planes[:, 3:], planes[:, :3])

    def _query(self, lifted: LiftedRays, maps: Tensor, photos: Tensor) -> Float[Tensor, "B P C"]:
        """Raw density, colour and feature of all samples."""
        batch, count = photos.shape[:2]
        places = lifted.places.flatten(0, 1)
        read = [read_images(images, places).unflatten(0, (batch, count)) for images in (maps, photos.flatten(0, 1))]
        encoded = encode_places(lifted.points, self.config.frequencies)
        seen = lifted.seen.to(self.dtype)
        inputs = torch.cat([*read, encoded.to(self.dtype), lifted.angles.to(self.dtype)], dim=-1)
        said = self.of_photo(inputs)
        total = seen.sum(1)
        mean = (seen * said).sum(1) / total.clamp(min=1)
        spread = (seen * (said - mean[:, None]).square()).sum(1) / total.clamp(min=1)
        return self.of_all(torch.cat([mean, spread, total / count], dim=-1))


class FeatureEncoder(nn.Module):
    """A small U-Net from images to feature maps."""

    def __init__(self, widths: tuple[int, ...], level: int, features: int, groups: int) -> None:
        """
        Args: see `PixelNerf`.

        Raises:
            ValueError: no such level.
        """
        super().__init__()
        if not 0 <= level < len(widths):
            raise ValueError(f"level is {level}; the {len(widths)} widths allow 0..{len(widths) - 1}")

        def block(inputs: int, outputs: int) -> ResnetBlock2D:
            no_time: Any = None
            return ResnetBlock2D(in_channels=inputs, out_channels=outputs, temb_channels=no_time, groups=groups)

        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(block(widths[max(0, i - 1)], width) for i, width in enumerate(widths))
        self.shrink = nn.ModuleList(Downsample2D(width, use_conv=True, name="op") for width in widths[:-1])
        back = range(len(widths) - 2, level - 1, -1)
        self.grow = nn.ModuleList(Upsample2D(widths[i + 1], use_conv=True) for i in back)
        self.up = nn.ModuleList(block(widths[i + 1] + widths[i], widths[i]) for i in back)
        self.norm_out = nn.GroupNorm(groups, widths[level])
        self.conv_out = nn.Conv2d(widths[level], features, 3, padding=1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Feature maps of images in -1..1."""
        x = self.conv_in(images)
        kept = []
        for index, stage in enumerate(self.down):
            x = stage(x, None)
            kept.append(x)
            if index < len(self.shrink):
                x = self.shrink[index](x)
        kept.pop()
        for grow, stage in zip(self.grow, self.up, strict=True):
            skip = kept.pop()
            x = grow(x, output_size=skip.shape[-2:])
            x = stage(torch.cat([x, skip], dim=1), None)
        return self.conv_out(functional.silu(self.norm_out(x)))


@full_precision()
def lift_rays(inputs: ViewInputs, rays: int, samples: int) -> LiftedRays:
    """Samples of the rays through the middles of the cells of a square grid over the view, evenly in disparity.

    Args:
        inputs: a batch.
        rays: along either side.
        samples: of a ray.
    """
    K, poses = inputs.K.float(), inputs.poses.float()
    cells = (torch.arange(rays, device=K.device) + 0.5) / rays
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    homogeneous = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)
    directions = homogeneous @ torch.linalg.inv(K).transpose(-1, -2)  # [B, r2, 3], z 1
    edges = torch.linspace(0, 1, samples + 1, device=K.device)
    near, far = (value.float()[:, None] for value in (inputs.near, inputs.far))
    middles = (edges[1:] + edges[:-1]) / 2
    depths = 1 / ((1 - middles) / near + middles / far)  # [B, N]
    borders = 1 / ((1 - edges) / near + edges / far)
    steps = borders.diff(dim=-1)[:, None] * directions.norm(dim=-1)[..., None]
    points = (directions[:, :, None] * depths[:, None, :, None]).flatten(1, 2)  # [B, P, 3]
    rotations, shifts = poses[..., :3, :3], poses[..., :3, 3]
    turned = torch.einsum("brij,bpj->brpi", rotations, points)
    there = turned + shifts[:, :, None]
    projected = torch.einsum("brij,brpj->brpi", inputs.photo_Ks.float(), there)
    z = there[..., 2:]
    places = projected[..., :2] / z.clamp(min=_EPSILON)
    seen = (z > _EPSILON) & ((places >= 0) & (places <= 1)).all(-1, keepdim=True)
    from_view, from_photo = _normalised(turned), _normalised(there)
    apart = _normalised(from_view - from_photo, least=1e-4)
    angles = torch.cat([apart, (from_view * from_photo).sum(-1, keepdim=True)], dim=-1)
    return LiftedRays(there, places, seen, angles, steps)


def read_images(images: Float[Tensor, "B C h w"], places: Float[Tensor, "B P 2"]) -> Float[Tensor, "B P C"]:
    """Images of any size at places in 0..1, bilinear; beyond the border the border goes on."""
    grid = (2 * places - 1).clamp(-2, 2)[:, None].to(images)
    read = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return read[:, :, 0].transpose(1, 2)


def encode_places(points: Float[Tensor, "*B 3"], frequencies: int) -> Float[Tensor, "*B C"]:
    """Places, and sines and cosines of them at doubling frequencies (NeRF, equation 4, without pi)."""
    scales = 2.0 ** torch.arange(frequencies, device=points.device)
    angles = (points[..., None, :] * scales[:, None]).flatten(-2)
    return torch.cat([points, angles.sin(), angles.cos()], dim=-1)


def composite(
    density: Float[Tensor, "*rays N"], values: Float[Tensor, "*rays N C"], steps: Float[Tensor, "*rays N"]
) -> Float[Tensor, "*rays C"]:
    """Values along rays weighted as in NeRF (equation 3); rays that meet nothing give zeros."""
    opaque = density * steps
    before = opaque.cumsum(-1) - opaque
    weights = -torch.expm1(-opaque) * torch.exp(-before)
    return (weights[..., None] * values).sum(-2)


def _normalised(vectors: Float[Tensor, "*B 3"], least: float = 1e-12) -> Float[Tensor, "*B 3"]:
    """Vectors of length 1; torch's own takes tens of times as long over so short an axis."""
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt().clamp(min=least)


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
