"""From reference photos to the tokens that the U-Net attends to: CLIP pre-processing and the query transformer.

The image encoder between the two is transformers' `CLIPVisionModelWithProjection` (OpenCLIP ViT-H/14), of which all
tokens of the last layer are used, without the final norm or pooling.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import IPAdapterPlusImageProjectionBlock
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_CLIP_SIZE = 224
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageProjection(ModelMixin, ConfigMixin):
    """Learned queries that read the tokens of one photo (a Perceiver resampler; parameter names of IP-Adapter Plus)."""

    config: Any  # as in `DynamiCrafterUNet`

    @register_to_config
    def __init__(
        self,
        embed_dims: int = 1280,
        hidden_dims: int = 1024,
        output_dims: int = 1024,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 12,
        num_queries: int = 256,
        ffn_ratio: int = 4,
    ) -> None:
        """
        Args:
            embed_dims: width of the image encoder's tokens.
            hidden_dims: width of the queries.
            output_dims: width of the context tokens.
            depth: layers.
            dim_head: width of a head.
            heads: heads.
            num_queries: tokens that come out, published as 16 for each of 16 frames.
            ffn_ratio: width of the feed-forward layers over that of the queries.
        """
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, num_queries, hidden_dims) / hidden_dims**0.5)
        self.proj_in = nn.Linear(embed_dims, hidden_dims)
        self.layers = nn.ModuleList(
            IPAdapterPlusImageProjectionBlock(hidden_dims, dim_head, heads, ffn_ratio) for _ in range(depth)
        )
        self.proj_out = nn.Linear(hidden_dims, output_dims)
        self.norm_out = nn.LayerNorm(output_dims)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B Q D"]:
        """Context tokens of each photo. [B, num_queries, output_dims]"""
        tokens = self.proj_in(tokens)
        latents = self.latents.expand(tokens.shape[0], -1, -1)
        for layer in self.layers:
            latents = layer(tokens, latents, latents)
        return self.norm_out(self.proj_out(latents))


def clip_pixels(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 224 224"]:
    """What the image encoder reads: blurred where shrunk, resized without keeping the aspect, normalised.

    Args:
        images: colours in -1..1, of any size. Bicubic overshoot is not clamped, as in training.
    """
    height, width = images.shape[-2:]
    if (height, width) != (_CLIP_SIZE, _CLIP_SIZE):
        factors = (height / _CLIP_SIZE, width / _CLIP_SIZE)
        if max(factors) > 1:
            images = _blur(_blur(images, factors[0], dim=-2), factors[1], dim=-1)
        images = functional.interpolate(images, (_CLIP_SIZE, _CLIP_SIZE), mode="bicubic", align_corners=True)
    mean = images.new_tensor(_CLIP_MEAN)[:, None, None]
    std = images.new_tensor(_CLIP_STD)[:, None, None]
    return ((images + 1) / 2 - mean) / std


def _blur(images: Tensor, factor: float, dim: int) -> Tensor:
    """Gaussian blur along one axis against aliasing when it shrinks by `factor`, with reflected borders."""
    sigma = max((factor - 1) / 2, 0.001)
    size = int(max(4 * sigma, 3))
    size += 1 - size % 2
    offsets = torch.arange(size, device=images.device, dtype=torch.float32) - size // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).to(images.dtype)
    half, channels = size // 2, images.shape[1]
    border = (0, 0, half, half) if dim == -2 else (half, half, 0, 0)
    shape = (channels, 1, size, 1) if dim == -2 else (channels, 1, 1, size)
    kernel = (weights[:, None] if dim == -2 else weights[None, :]).expand(shape)
    return functional.conv2d(functional.pad(images, border, mode="reflect"), kernel, groups=channels)
