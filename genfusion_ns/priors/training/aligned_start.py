"""Weights that a small TripoSR starts from: tokens of the planes look where the image shows their place.

The planes lie in the frame of the image: what is further along y stands further right in it, what is further along z
further up. Layers as they usually begin attend to all of the image alike, and have to find this out; a small network
on little data does not. So places are written into the tokens in waves, those of the planes along their two axes, those
of the image along y and z, and queries and keys begin by comparing them. Nothing of the architecture changes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genfusion_ns.priors.triposr.field import PLANE_AXES
from genfusion_ns.priors.triposr.network import TripoSRNetwork

_AXES = 3
_SHARPNESS = 3.0
"""Factor of the agreement of two places in the logits of attention."""
_CONTENT = 0.3
"""Deviation of what else is in the tokens of the planes, whose places have 0.7."""
_NOISE = 0.02


def waves(places: Float[Tensor, " n"], count: int) -> Float[Tensor, "n count"]:
    """Places in -1..1 as cosines and sines, whose scalar product is largest for places that are the same.

    Args:
        places: along an axis.
        count: of channels, even.
    """
    frequencies = math.pi / 2 * torch.arange(1, count // 2 + 1)
    phases = places[:, None] * frequencies
    return torch.cat([phases.cos(), phases.sin()], dim=1)


@torch.no_grad()
def align(network: TripoSRNetwork) -> None:
    """Give a fresh network such weights; the rest stays as it is. Random where it is, from torch's generator."""
    sizes = network.config
    width = sizes["heads"] * sizes["head_width"]
    # Places along y and z share a head, and those along all axes a token.
    room = min(sizes["head_width"] // 2, min(width, sizes["plane_channels"], sizes["vit_width"]) // _AXES)
    count = room // 2 * 2
    if count == 0:
        return
    _place_planes(network.tokenizer.embeddings, count)
    image: nn.Parameter = network.image_tokenizer.model.embeddings.position_embeddings  # type: ignore[assignment]
    _place_image(image, count)
    backbone = network.backbone
    nn.init.eye_(backbone.proj_in.weight)
    backbone.proj_in.weight.add_(_NOISE * torch.randn_like(backbone.proj_in.weight))
    nn.init.zeros_(backbone.proj_in.bias)
    image_axes = [*range(count, _AXES * count)]
    blocks: Any = backbone.transformer_blocks
    for block in blocks:
        for head in range(sizes["heads"]):
            # Within the planes a head looks along one axis; every fourth is left free.
            axis = head % (_AXES + 1)
            own = [*range(axis * count, (axis + 1) * count)] if axis < _AXES else []
            _compare(block.attn1, head, sizes["head_width"], own)
            _compare(block.attn2, head, sizes["head_width"], image_axes)


def _place_planes(embeddings: Float[Tensor, "3 C n n"], count: int) -> None:
    size = embeddings.shape[-1]
    along = waves(_middles(size), count).T
    embeddings.copy_(_CONTENT * torch.randn_like(embeddings))
    embeddings[:, : _AXES * count] = 0
    for plane, (column, row) in zip(embeddings, PLANE_AXES, strict=True):
        plane[column * count : (column + 1) * count] = along[:, None, :].expand(-1, size, -1)
        plane[row * count : (row + 1) * count] = along[:, :, None].expand(-1, -1, size)


def _place_image(embeddings: Float[Tensor, "1 m C"], count: int) -> None:
    """Columns of the image go along y, rows down along z; the token of the whole image comes first."""
    side = round((embeddings.shape[1] - 1) ** 0.5)
    along = waves(_middles(side), count)
    grid = _NOISE * torch.randn(side, side, embeddings.shape[2])
    grid[..., count : 2 * count] += along[None]
    grid[..., 2 * count : 3 * count] += along.flip(0)[:, None]
    embeddings[0, 1:] = grid.flatten(0, 1)


def _compare(attention: Any, head: int, width: int, channels: list[int]) -> None:
    """Let a head compare these channels of queries and keys."""
    rows = slice(head * width, (head + 1) * width)
    for layer in (attention.to_q, attention.to_k):
        weights: Tensor = layer.weight
        weights[rows] = 2 * _NOISE * torch.randn_like(weights[rows])
        for row, channel in enumerate(channels):
            weights[rows][row, channel] += _SHARPNESS**0.5


def _middles(count: int) -> Float[Tensor, " count"]:
    return (torch.arange(count) + 0.5) / count * 2 - 1
