"""One resolution of the generator's U-Net: residual layers, transformers and a change of resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from genfusion_ns.priors.dynamicrafter.cross_attention import SplitContextProcessor


@dataclass(frozen=True)
class StageWidths:
    """Sizes that all stages share."""

    embedding: int
    """Of time step and frame rate."""
    context: int
    """Of a context token."""
    head: int
    """Of an attention head."""
    groups: int
    """Of group norms."""
    dropout: float
    """Of residual layers and temporal convolutions, in training."""


class UNetStage(nn.Module):
    """Residual layers at one resolution, each with a temporal convolution and, in most stages, two transformers."""

    def __init__(
        self,
        inputs: Sequence[int],
        width: int,
        shared: StageWidths,
        attentions: int,
        *,
        down: bool = False,
        up: bool = False,
    ) -> None:
        """
        Args:
            inputs: channels that enter each residual layer, skips included; its length is the number of layers.
            width: channels that leave.
            shared: sizes of all stages.
            attentions: layers, from the first on, that have transformers.
            down: halve the resolution at the end.
            up: double the resolution at the end.
        """
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock2D(
                in_channels=channels,
                out_channels=width,
                temb_channels=shared.embedding,
                groups=shared.groups,
                eps=1e-5,
                dropout=shared.dropout,
            )
            for channels in inputs
        )
        self.temp_convs = nn.ModuleList(
            TemporalConvLayer(width, width, dropout=shared.dropout, norm_num_groups=shared.groups) for _ in inputs
        )
        self.attentions = nn.ModuleList(_spatial_transformer(width, shared) for _ in range(attentions))
        self.temp_attentions = nn.ModuleList(
            TransformerTemporalModel(
                width // shared.head, shared.head, in_channels=width, norm_num_groups=shared.groups
            )
            for _ in range(attentions)
        )
        if down:
            self.downsamplers = nn.ModuleList([Downsample2D(width, use_conv=True, padding=1, name="op")])
        if up:
            self.upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True)])
        self.gradient_checkpointing = False

    def forward(
        self, x: Tensor, embedding: Tensor, context: Tensor, frames: int, skips: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the stage.

        Args:
            x: [B*T, C, H, W], frames fastest.
            embedding: of time step and frame rate, one per frame. [B*T, E]
            context: one per frame. [B*T, L, D]
            frames: T.
            skips: stack from which each layer takes the last entry, on the way up.

        Returns:
            The result, and the outputs of all layers and of the change of resolution.
        """
        outputs = []
        for index, (resnet, convolution) in enumerate(zip(self.resnets, self.temp_convs, strict=True)):
            if skips is not None:
                x = torch.cat([x, skips.pop()], dim=1)
            x = run_layer(self, resnet, x, embedding)
            x = run_layer(self, lambda y, layer=convolution: layer(y, num_frames=frames), x)
            if index < len(self.attentions):
                # This one checkpoints its own blocks.
                x = self.attentions[index](x, encoder_hidden_states=context, return_dict=False)[0]
                x = run_layer(self, per_clip(self.temp_attentions[index], frames), x)
            outputs.append(x)
        for resample in [*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())]:
            x = resample(x)
            outputs.append(x)
        return x, outputs


def _spatial_transformer(width: int, shared: StageWidths) -> Transformer2DModel:
    transformer = Transformer2DModel(
        width // shared.head,
        shared.head,
        in_channels=width,
        cross_attention_dim=shared.context,
        norm_num_groups=shared.groups,
        use_linear_projection=True,
    )
    for block in transformer.transformer_blocks:
        attention = cast(Attention, block.attn2)
        attention.set_processor(SplitContextProcessor(width, shared.context))  # pyright: ignore[reportArgumentType]
    return transformer


def per_clip(transformer: nn.Module, frames: int) -> Callable[[Tensor], Tensor]:
    """A temporal transformer as a function of its input alone, [B*T, C, H, W]."""
    return lambda x: transformer(x, num_frames=frames, return_dict=False)[0]


def run_layer(owner: Any, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Call a function, keeping only its inputs for the backward pass where `owner` has checkpointing enabled."""
    if owner.gradient_checkpointing and torch.is_grad_enabled():
        return owner._gradient_checkpointing_func(function, *arguments)
    return function(*arguments)
