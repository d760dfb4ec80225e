"""The image tokenizer: a vision transformer of transformers, as a published TripoSR expects it of release 4.35.

Later releases of the library renamed its parameters and resize position embeddings otherwise; both is undone here. The
state has the published names, and holds the position embeddings at their native resolution.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel
from transformers.models.vit.modeling_vit import ViTEmbeddings

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NAMES = (
    (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda found: f".attention.{found[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(^layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
"""From the published names to those of transformers 5, one after the other."""
_BACK = (
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (
        r"\.attention\.([qkv])_proj\.",
        lambda found: f".attention.attention.{ {'q': 'query', 'k': 'key', 'v': 'value'}[found[1]] }.",
    ),
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
)


def _renamed(name: str, table: tuple[tuple[str, Any], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


class _Embeddings(ViTEmbeddings):
    """Position embeddings resized as transformers 4.35 did: by a scale, which carries a tenth of a patch too much."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Float[Tensor, "1 n C"]:
        """Embeddings of the class token and of (height / patch) x (width / patch) patches."""
        first, grid = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        side, patch = round(grid.shape[1] ** 0.5), self.patch_embeddings.projection.kernel_size[0]
        rows, columns = height // patch, width // patch
        planes = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        # By its size in place of a scale the samples would lie elsewhere.
        resized = functional.interpolate(planes.float(), scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([first, resized.to(first).permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)


class ImageTokenizer(nn.Module):
    """Tokens of images: one per patch, and one of the whole."""

    def __init__(
        self,
        native_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        mlp_width: int,
        pooler: bool = True,
    ) -> None:
        """
        Args:
            native_size: pixels along the images that the position embeddings are of.
            patch_size: pixels along a patch.
            width, layers, heads, mlp_width: of the transformer.
        """
        super().__init__()
        config = ViTConfig(
            image_size=native_size,
            patch_size=patch_size,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=mlp_width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=1e-12,
        )
        self.model = ViTModel(config)  # with a pooler, as published files have one, which nothing uses
        self.model.embeddings = _Embeddings(config)
        nn.init.trunc_normal_(self.model.embeddings.position_embeddings, std=0.02)
        nn.init.trunc_normal_(self.model.embeddings.cls_token, std=0.02)
        if hasattr(self.model, "layers"):  # names of transformers 5
            self.register_state_dict_post_hook(_to_published)
            self.register_load_state_dict_pre_hook(_from_published)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B n C"]:
        """Tokens of images in 0..1, whose sides are multiples of the patch; the whole image's token comes first."""
        mean, spread = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        normalised = (images - mean) / spread
        return self.model(normalised, interpolate_pos_encoding=True).last_hidden_state


def _to_published(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    _rename_state(state, f"{prefix}model.", _BACK)


def _from_published(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    _rename_state(state, f"{prefix}model.", _NAMES)


def _rename_state(state: dict[str, Tensor], prefix: str, table: tuple[tuple[str, Any], ...]) -> None:
    """Rename the entries below a prefix, in place and in their order."""
    entries = list(state.items())
    state.clear()
    for name, value in entries:
        inner = name.startswith(prefix)
        state[prefix + _renamed(name.removeprefix(prefix), table) if inner else name] = value
