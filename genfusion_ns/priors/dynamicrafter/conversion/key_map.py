"""Where each tensor of a published checkpoint belongs, as rules.

Sources are the names of GenFusion's and DynamiCrafter's training code, targets those of our pipeline, led by the name
of the component: ``unet.``, ``vae.``, ``image_projection.``, ``image_encoder.``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

IGNORED = {
    r"(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod|"
    r"sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|scale_arr|lvlb_weights)": (
        "noise schedule, computed anew by the scheduler"
    ),
    r"cond_stage_model\..+": "text encoder, which has no influence on the output",
    r"embedder\.model\.(positional_embedding|text_projection|logit_scale|attn_mask|"
    r"token_embedding\.weight|ln_final\.(weight|bias)|transformer\..+)": "text half of the image encoder's CLIP",
    r"first_stage_model\.loss\..+": "training loss of the autoencoder",
}
"""Sources that are left out on purpose, as patterns of whole names, with the reason."""

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_EMBEDDING = {"0": "linear_1", "2": "linear_2"}
_CLIP_TOP = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre": "vision_model.pre_layrnorm",
    "ln_post": "vision_model.post_layernorm",
}
_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PROJECTION_LAYER = {
    "0.norm1": "ln0",
    "0.norm2": "ln1",
    "0.to_q": "attn.to_q",
    "0.to_out": "attn.to_out.0",
    "1.0": "ff.0",
    "1.1": "ff.1.net.0.proj",
    "1.3": "ff.1.net.2",
}
_LVDM_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


@dataclass(frozen=True)
class Piece:
    """What becomes of (a part of) one source tensor."""

    target: str
    """Component and parameter name."""
    operation: Literal["copy", "squeeze", "transpose", "rows"] = "copy"
    """squeeze drops trailing dimensions of size 1 beyond the second; rows takes one of several equal row blocks."""
    part: int = 0
    """Which row block."""
    parts: int = 1
    """How many row blocks there are."""

    def of(self, source: Tensor) -> Tensor:
        """The values of the target, as a view of the source.

        Raises:
            ValueError: the source has no shape that the operation fits.
        """
        if self.operation == "squeeze":
            if source.dim() < 3 or any(size != 1 for size in source.shape[2:]):
                raise ValueError(f"{self.target} is a matrix, but its source has shape {tuple(source.shape)}")
            return source.flatten(1)
        if self.operation == "transpose":
            return source.T
        if self.operation == "rows":
            if source.shape[0] % self.parts:
                raise ValueError(f"{tuple(source.shape)} cannot be cut into {self.parts} row blocks for {self.target}")
            return torch.chunk(source, self.parts)[self.part]
        return source


def ignored_as(source: str) -> str | None:
    """Why a source is not needed; None where it is."""
    return next((reason for pattern, reason in IGNORED.items() if re.fullmatch(pattern, source)), None)


def pieces_of(source: str, layers_per_block: int = 2, vae_levels: int = 4) -> tuple[Piece, ...]:
    """Targets of one source.

    Args:
        source: name in the checkpoint, without the prefix of DeepSpeed.
        layers_per_block: residual layers per stage of the U-Net on its way down.
        vae_levels: resolutions of the autoencoder, needed for the original (lvdm) names only.

    Returns:
        The targets; none where no rule knows the name.
    """
    rules = {
        "model.diffusion_model.": lambda name: _unet(name, layers_per_block),
        "first_stage_model.": lambda name: _vae(name, vae_levels),
        "embedder.model.visual.": _image_encoder,
        "image_proj_model.": _image_projection,
    }
    for prefix, rule in rules.items():
        if source.startswith(prefix):
            return rule(source.removeprefix(prefix))
    return ()


def _unet(name: str, layers: int) -> tuple[Piece, ...]:
    if match := re.fullmatch(r"(time_embed|fps_embedding|framestride_embed)\.([02])\.(weight|bias)", name):
        kind = "time_embedding" if match[1] == "time_embed" else "fps_embedding"
        return (Piece(f"unet.{kind}.{_EMBEDDING[match[2]]}.{match[3]}"),)
    if match := re.fullmatch(r"(input_blocks\.0\.0|out\.0|out\.2)\.(weight|bias)", name):
        plain = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
        return (Piece(f"unet.{plain[match[1]]}.{match[2]}"),)
    if match := re.fullmatch(r"init_attn\.0\.(.+)", name):
        operation = "squeeze" if match[1] in ("proj_in.weight", "proj_out.weight") else "copy"
        return (Piece(f"unet.transformer_in.{match[1]}", operation),)
    if match := re.fullmatch(r"middle_block\.([0-3])\.(.+)", name):
        kind = ("resnet", "attentions", "temp_attentions", "resnet")[int(match[1])]
        return _unet_layer("unet.mid_block", kind, int(match[1]) // 3, match[2])
    if match := re.fullmatch(r"input_blocks\.(\d+)\.([0-2])\.(.+)", name):
        level, position = divmod(int(match[1]) - 1, layers + 1)
        return _unet_layer(f"unet.down_blocks.{level}", _kind(match[2]), position, match[3])
    if match := re.fullmatch(r"output_blocks\.(\d+)\.([0-3])\.(.+)", name):
        level, position = divmod(int(match[1]), layers + 1)
        return _unet_layer(f"unet.up_blocks.{level}", _kind(match[2]), position, match[3])
    return ()


def _kind(slot: str) -> str:
    return {"0": "resnet", "1": "attentions", "2": "temp_attentions"}.get(slot, "resample")


def _unet_layer(stage: str, kind: str, position: int, rest: str) -> tuple[Piece, ...]:
    """One entry of a stage. Resampling sits in whatever slot comes last and shows by its name."""
    if match := re.fullmatch(r"(op|conv)\.(weight|bias)", rest):
        return (Piece(f"{stage}.{'downsamplers' if match[1] == 'op' else 'upsamplers'}.0.conv.{match[2]}"),)
    if kind == "resnet":
        if rest.startswith("temopral_conv."):  # misspelt in the published files
            return (Piece(f"{stage}.temp_convs.{position}.{rest.removeprefix('temopral_conv.')}"),)
        layer, _, leaf = rest.rpartition(".")
        return (Piece(f"{stage}.resnets.{position}.{_RESNET[layer]}.{leaf}"),) if layer in _RESNET else ()
    if kind in ("attentions", "temp_attentions"):
        renamed = re.sub(r"attn2\.(to_[kv]_ip)\.", r"attn2.processor.\1.0.", rest)
        return (Piece(f"{stage}.{kind}.{position}.{renamed}"),)
    return ()


def _image_encoder(name: str) -> tuple[Piece, ...]:
    if name == "proj":
        return (Piece("image_encoder.visual_projection.weight", "transpose"),)
    if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", name):
        layer = f"image_encoder.vision_model.encoder.layers.{match[1]}"
        return (Piece(f"{layer}.{_CLIP_LAYER[match[2]]}.{match[3]}"),) if match[2] in _CLIP_LAYER else ()
    if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
        layer = f"image_encoder.vision_model.encoder.layers.{match[1]}.self_attn"
        return tuple(Piece(f"{layer}.{x}_proj.{match[2]}", "rows", i, 3) for i, x in enumerate("qkv"))
    if name in _CLIP_TOP:
        return (Piece(f"image_encoder.{_CLIP_TOP[name]}"),)
    layer, _, leaf = name.rpartition(".")
    return (Piece(f"image_encoder.{_CLIP_TOP[layer]}.{leaf}"),) if layer in ("ln_pre", "ln_post") else ()


def _image_projection(name: str) -> tuple[Piece, ...]:
    if match := re.fullmatch(r"layers\.(\d+)\.0\.to_kv\.weight", name):
        layer = f"image_projection.layers.{match[1]}.attn"
        return tuple(Piece(f"{layer}.to_{x}.weight", "rows", i, 2) for i, x in enumerate("kv"))
    if match := re.fullmatch(r"layers\.(\d+)\.(\d.+)\.(weight|bias)", name):
        if match[2] not in _PROJECTION_LAYER:
            return ()
        return (Piece(f"image_projection.layers.{match[1]}.{_PROJECTION_LAYER[match[2]]}.{match[3]}"),)
    return (Piece(f"image_projection.{name}"),)


def _vae(name: str, levels: int) -> tuple[Piece, ...]:
    """GenFusion's files hold diffusers' names already; base files hold the original ones, with levels from the top."""
    shortcut = name.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.block_([12])\.(.+)", shortcut):
        return (Piece(f"vae.{match[1]}.mid_block.resnets.{int(match[2]) - 1}.{match[3]}"),)
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.attn_1\.(norm|q|k|v|proj_out)\.(weight|bias)", name):
        operation = "squeeze" if match[3] == "weight" and match[2] != "norm" else "copy"
        target = f"vae.{match[1]}.mid_block.attentions.0.{_LVDM_ATTENTION[match[2]]}.{match[3]}"
        return (Piece(target, operation),)
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(.+)", shortcut):
        down = match[1] == "encoder.down"
        level = int(match[2]) if down else levels - 1 - int(match[2])
        rest = re.sub(r"^block\.", "resnets.", match[3])
        rest = re.sub(r"^(downsample|upsample)\.", r"\1rs.0.", rest)
        return (Piece(f"vae.{match[1]}_blocks.{level}.{rest}"),)
    if re.match(r"(encoder|decoder)\.norm_out\.", name):
        return (Piece(f"vae.{shortcut}"),)
    return (Piece(f"vae.{name}"),)
