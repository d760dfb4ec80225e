"""The video U-Net of GenFusion's generator, of 1.44 billion parameters at its published size.

The architecture is that of DynamiCrafter (Xing et al., ECCV 2024) at 512 and 1024 pixels, with the parameter names of
diffusers' `UNet3DConditionModel`. Three things are missing there and come from here: the second keys and values of the
cross attention (see `cross_attention`), the embedding of the frame rate, and gradient checkpointing.

Inside, frames are part of the batch, ``(B T) C H W``; temporal layers take them apart again. There is no encoding of
the frame number: order enters through the temporal convolutions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from genfusion_ns.priors.dynamicrafter.cross_attention import contexts_per_frame
from genfusion_ns.priors.dynamicrafter.unet_stage import StageWidths, UNetStage, per_clip, run_layer

_INPUT_HEADS = 8  # of the temporal transformer after the first convolution, whatever its width


class DynamiCrafterUNet(ModelMixin, ConfigMixin):
    """Predicts v of noisy RGB-D latents from condition latents, image tokens, time step and frame rate."""

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ("norm", "time_embedding", "fps_embedding")
    config: Any  # diffusers types it as a plain dict, although fields are read as attributes

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        attention_head_dim: int = 64,
        cross_attention_dim: int = 1024,
        norm_num_groups: int = 32,
        dropout: float = 0.1,
        default_fps: int = 30,
    ) -> None:
        """
        Args:
            in_channels: noisy and condition latents together.
            out_channels: channels of the prediction.
            block_out_channels: width of each stage; resolution halves between stages, the last has no attention.
            layers_per_block: residual layers of each stage on the way down; one more on the way up.
            attention_head_dim: width of one head; the number of heads follows.
            cross_attention_dim: width of a context token.
            norm_num_groups: groups of all group norms.
            dropout: of residual layers and temporal convolutions, in training.
            default_fps: frame rate assumed where a call names none.
        """
        super().__init__()
        base = block_out_channels[0]
        widths = StageWidths(base * 4, cross_attention_dim, attention_head_dim, norm_num_groups, dropout)
        self.time_proj = Timesteps(base, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(base, base * 4)
        self.fps_embedding = TimestepEmbedding(base, base * 4)
        self.conv_in = nn.Conv2d(in_channels, base, 3, padding=1)
        self.transformer_in = TransformerTemporalModel(
            _INPUT_HEADS, attention_head_dim, in_channels=base, norm_num_groups=norm_num_groups
        )
        self._build_stages(block_out_channels, layers_per_block, widths)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, base, eps=1e-5)
        self.conv_out = nn.Conv2d(base, out_channels, 3, padding=1)
        self.gradient_checkpointing = False
        self._zero_last_layers()

    def _build_stages(self, widths: Sequence[int], layers: int, shared: StageWidths) -> None:
        """The way down, the middle and the way up; each layer of the last takes one output of the first."""
        last = len(widths) - 1
        current, skips = widths[0], [widths[0]]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = [current] + [width] * (layers - 1)
            attentions = layers if level < last else 0
            self.down_blocks.append(UNetStage(inputs, width, shared, attentions, down=level < last))
            skips += [width] * (layers + (level < last))
            current = width
        self.mid_block = UNetStage([current, current], current, shared, attentions=1)
        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            inputs = [(current if index == 0 else width) + skips.pop() for index in range(layers + 1)]
            attentions = layers + 1 if level < last else 0
            self.up_blocks.append(UNetStage(inputs, width, shared, attentions, up=level > 0))
            current = width

    def _zero_last_layers(self) -> None:
        """Zero the last layer of each residual branch and of the frame rate, as training from scratch starts."""
        zeroed: list[nn.Module] = [self.conv_out, self.fps_embedding.linear_2]
        for module in self.modules():
            if isinstance(module, ResnetBlock2D):
                zeroed.append(module.conv2)
            elif isinstance(module, Transformer2DModel | TransformerTemporalModel):
                zeroed.append(module.proj_out)
        for layer in zeroed:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    @property
    def size_multiple(self) -> int:
        """Height and width of latents must be multiples of this."""
        return 2 ** (len(self.down_blocks) - 1)

    def forward(
        self,
        sample: Float[Tensor, "B C T H W"],
        timestep: Int[Tensor, " B"],
        context: Float[Tensor, "B L D"],
        fps: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B c T H W"]:
        """Predict v.

        Args:
            sample: noisy latents, then condition latents. [B, C, T, H, W], H and W multiples of `size_multiple`
            timestep: 0..999, one per clip.
            context: tokens of the reference photos; see `cross_attention.contexts_per_frame`. [B, L, D]
            fps: frame rate, one per clip; `default_fps` where there is none.

        Raises:
            ValueError: a height or width that the stages cannot halve.
        """
        batch, _, frames, height, width = sample.shape
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"latents are {width} x {height} (width x height); both must be multiples of {self.size_multiple}"
            )
        if fps is None:
            fps = torch.full_like(timestep, self.config.default_fps)
        embedding = self._embed(timestep, fps, sample.dtype).repeat_interleave(frames, dim=0)
        context = contexts_per_frame(context, frames)
        x = self.conv_in(sample.transpose(1, 2).flatten(0, 1))
        x = run_layer(self, per_clip(self.transformer_in, frames), x)
        skips = [x]
        for stage in self.down_blocks:
            x, outputs = stage(x, embedding, context, frames)
            skips += outputs
        x, _ = self.mid_block(x, embedding, context, frames)
        for stage in self.up_blocks:
            x, _ = stage(x, embedding, context, frames, skips)
        x = self.conv_out(nn.functional.silu(self.conv_norm_out(x)))
        return x.unflatten(0, (batch, frames)).transpose(1, 2)

    def _embed(self, timestep: Tensor, fps: Tensor, dtype: torch.dtype) -> Tensor:
        time = self.time_embedding(self.time_proj(timestep).to(dtype))
        return time + self.fps_embedding(self.time_proj(fps).to(dtype))
