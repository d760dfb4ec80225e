"""Cross attention of the DynamiCrafter family: one query, two sets of keys and values.

The first `TEXT_TOKENS` tokens of a context have keys and values of their own, all later ones share a second pair; the
two results are added before the output projection. GenFusion feeds image tokens alone and kept the constant, so that
its first 77 image tokens go through what used to be the text weights. The published weights depend on it.
"""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

TEXT_TOKENS = 77
"""Length of a CLIP prompt, where the context is split."""
FRAME_TOKENS = 16
"""Image tokens of one frame in contexts that differ by frame."""


class SplitContextProcessor(nn.Module):
    """Attention processor with a second pair of keys and values for the tokens from `TEXT_TOKENS` on."""

    def __init__(self, inner_dim: int, context_dim: int) -> None:
        """
        Args:
            inner_dim: width of queries, keys and values, all heads together.
            context_dim: width of a context token.
        """
        super().__init__()
        # Lists of one, as in the IP-adapters of diffusers, whose parameter names these are.
        self.to_k_ip = nn.ModuleList([nn.Linear(context_dim, inner_dim, bias=False)])
        self.to_v_ip = nn.ModuleList([nn.Linear(context_dim, inner_dim, bias=False)])

    def forward(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B L D"],
        attention_mask: None = None,
    ) -> Float[Tensor, "B N C"]:
        """Attend to both parts of the context; the signature is that of diffusers' processors."""
        heads = attn.heads
        query = _split(attn.to_q(hidden_states), heads)
        first, rest = encoder_hidden_states[:, :TEXT_TOKENS], encoder_hidden_states[:, TEXT_TOKENS:]
        to_k, to_v = cast(nn.Linear, attn.to_k), cast(nn.Linear, attn.to_v)
        attended = _attend(query, to_k(first), to_v(first), heads)
        if rest.shape[1] > 0:
            attended = attended + _attend(query, self.to_k_ip[0](rest), self.to_v_ip[0](rest), heads)
        for layer in cast(nn.ModuleList, attn.to_out):
            attended = layer(attended)
        return attended


def contexts_per_frame(context: Float[Tensor, "B L D"], frames: int) -> Float[Tensor, "B*T l D"]:
    """One context per frame, frames fastest.

    A context of exactly ``TEXT_TOKENS + frames * FRAME_TOKENS`` tokens holds a prompt for all frames and then the image
    tokens of each; any other context is the same for all frames.
    """
    if context.shape[1] != TEXT_TOKENS + frames * FRAME_TOKENS:
        return context.repeat_interleave(frames, dim=0)
    prompt = context[:, :TEXT_TOKENS].repeat_interleave(frames, dim=0)
    images = context[:, TEXT_TOKENS:].reshape(-1, FRAME_TOKENS, context.shape[2])
    return torch.cat([prompt, images], dim=1)


def _split(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    attended = functional.scaled_dot_product_attention(query, _split(key, heads), _split(value, heads))
    return attended.transpose(1, 2).flatten(2)
