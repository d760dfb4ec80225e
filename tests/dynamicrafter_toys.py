"""The generator at toy size, with the numbers of the published modules at that size where they are at hand."""

import json
import re
from functools import cache

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from shared_files import HERE, recorded
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.priors.dynamicrafter.architecture import Architecture
from genfusion_ns.priors.dynamicrafter.conversion.key_map import pieces_of
from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet

UNET = {
    "block_out_channels": [32, 32, 32, 64],
    "attention_head_dim": 8,
    "cross_attention_dim": 64,
}
PROJECTION = {"embed_dims": 80, "hidden_dims": 48, "output_dims": 64, "depth": 2, "dim_head": 16, "heads": 4}
VAE = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 32, 32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
ENCODER = {
    "hidden_size": 80,
    "intermediate_size": 320,
    "projection_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}


TINY = Architecture(
    unet={**UNET, "block_out_channels": [8, 8, 8, 8], "cross_attention_dim": 16, "norm_num_groups": 4},
    image_projection={"embed_dims": 16, "hidden_dims": 16, "output_dims": 16, "depth": 1, "dim_head": 8, "heads": 2},
    vae={**VAE, "block_out_channels": [4, 4, 4, 8], "norm_num_groups": 2},
    image_encoder={
        **ENCODER,
        "hidden_size": 16,
        "intermediate_size": 32,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    size=(64, 64),
)
"""Small enough for its weights to lie in the repository."""


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Recorded tensors; those that are too large for one file of the repository lie in several."""
    if parts := sorted((HERE / "fixtures" / "generation").glob(f"{name}*.npz")):
        return {key: torch.from_numpy(value) for part in parts for key, value in np.load(part).items()}
    return load_file(recorded(f"generation/{name}.safetensors"))


def facts(name: str) -> dict:
    return json.loads(recorded(f"generation/{name}.json").read_text())


@cache
def recorded_weights(name: str = "weights") -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in tensors(name).items()}


def toy_pipeline(groups: int = 8) -> DynamiCrafterPipeline:
    """Random weights, none of them zero.

    Eight groups instead of 32, because norms of one or two numbers turn the last digit of float32 into the first.
    """
    sizes = Architecture(
        unet={**UNET, "norm_num_groups": groups},
        image_projection=PROJECTION,
        vae={**VAE, "norm_num_groups": groups},
        image_encoder=ENCODER,
        size=(64, 64),
    )
    return random_pipeline(sizes)


def random_pipeline(sizes: Architecture) -> DynamiCrafterPipeline:
    """Random weights, none of them zero."""
    torch.manual_seed(0)
    pipeline = DynamiCrafterPipeline(
        unet=DynamiCrafterUNet(**sizes.unet),
        vae=AutoencoderKL(**sizes.vae),
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes.image_encoder)),
        image_projection=ImageProjection(**sizes.image_projection),
        scheduler=DynamiCrafterScheduler(),
        width=sizes.size[0],
        height=sizes.size[1],
    )
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return quiet(pipeline)


def quiet(pipeline: DynamiCrafterPipeline) -> DynamiCrafterPipeline:
    pipeline.set_progress_bar_config(disable=True)
    for name in ("unet", "vae", "image_encoder", "image_projection"):
        getattr(pipeline, name).eval()
    return pipeline


def recorded_pipeline(weights: str = "weights") -> DynamiCrafterPipeline:
    """The weights with which the fixtures were made; of the parts for which `weights` has some."""
    pipeline = toy_pipeline(groups=32)
    states: dict[str, dict[str, torch.Tensor]] = {}
    for source, tensor in recorded_weights(weights).items():
        for piece in pieces_of(source):
            component, name = re.fullmatch(r"(\w+?)\.(.+)", piece.target).groups()
            states.setdefault(component, {})[name] = piece.of(tensor)
    for component, state in states.items():
        module = getattr(pipeline, component)
        own = module.state_dict()
        state |= {name: own[name] for name in own if name.endswith("position_ids")}
        module.load_state_dict(state, strict=True)
    return pipeline


def published_names(pipeline: DynamiCrafterPipeline, lvdm: AutoencoderKL | None = None) -> dict[str, torch.Tensor]:
    """The weights under the names of a published checkpoint: the inverse of the rules, written independently.

    With `lvdm`, the autoencoder is that one, under the names of base DynamiCrafter files.
    """
    out: dict[str, torch.Tensor] = {}
    for key, value in pipeline.unet.state_dict().items():
        linear = key in ("transformer_in.proj_in.weight", "transformer_in.proj_out.weight")
        out[f"model.diffusion_model.{_unet_name(key)}"] = value[..., None] if linear else value
    for key, value in (lvdm or pipeline.vae).state_dict().items():
        attention = lvdm is not None and "mid_block.attentions" in key and value.dim() == 2
        name = key if lvdm is None else _lvdm_name(key)
        out[f"first_stage_model.{name}"] = value[..., None, None] if attention else value
    _join(out, pipeline.image_projection.state_dict(), "image_proj_model.", _projection_name)
    _join(out, pipeline.image_encoder.state_dict(), "embedder.model.visual.", _encoder_name)
    return {name: value.contiguous().clone() for name, value in out.items()}


def _join(out, state, prefix, rename):
    """Renamed entries; those that get the same name are stacked in their order."""
    parts: dict[str, list[torch.Tensor]] = {}
    order = {"q": 0, "k": 1, "v": 2}
    rank = lambda key: next((order[m] for m in re.findall(r"(?:to_)?([qkv])(?:_proj)?\.", key)), 0)  # noqa: E731
    for key in sorted(state, key=rank):
        parts.setdefault(rename(key), []).append(state[key])
    for name, values in parts.items():
        value = torch.cat(values)
        out[prefix + name] = value.T if name == "proj" else value


def _replaced(key: str, pairs: dict) -> str:
    for pattern, replacement in pairs.items():
        key = re.sub(pattern, replacement, key)
    return key


def _unet_name(key: str) -> str:
    inner = {
        r"time_embedding\.linear_(\d)": lambda m: f"time_embed.{int(m[1]) * 2 - 2}",
        r"fps_embedding\.linear_(\d)": lambda m: f"fps_embedding.{int(m[1]) * 2 - 2}",
        r"^conv_in": "input_blocks.0.0",
        r"^conv_norm_out": "out.0",
        r"^conv_out": "out.2",
        r"^transformer_in": "init_attn.0",
        r"attn2\.processor\.(to_[kv]_ip)\.0": r"attn2.\1",
        r"^mid_block\.(temp_attentions|attentions)\.0": lambda m: f"middle_block.{1 + (m[1] != 'attentions')}",
        r"^mid_block\.(resnets|temp_convs)\.(\d)": lambda m: f"middle_block.{int(m[2]) * 3}@{m[1]}",
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv": lambda m: f"input_blocks.{int(m[1]) * 3 + 3}.0.op",
        r"^up_blocks\.0\.upsamplers\.0\.conv": "output_blocks.2.1.conv",
        r"^up_blocks\.(\d)\.upsamplers\.0\.conv": lambda m: f"output_blocks.{int(m[1]) * 3 + 2}.3.conv",
        r"^down_blocks\.(\d)\.(\w+)\.(\d)": lambda m: f"input_blocks.{int(m[1]) * 3 + int(m[3]) + 1}.{_slot(m[2])}",
        r"^up_blocks\.(\d)\.(\w+)\.(\d)": lambda m: f"output_blocks.{int(m[1]) * 3 + int(m[3])}.{_slot(m[2])}",
        r"@temp_convs": ".temopral_conv",
        r"@resnets\.norm1": ".in_layers.0",
        r"@resnets\.conv1": ".in_layers.2",
        r"@resnets\.time_emb_proj": ".emb_layers.1",
        r"@resnets\.norm2": ".out_layers.0",
        r"@resnets\.conv2": ".out_layers.3",
        r"@resnets\.conv_shortcut": ".skip_connection",
    }
    return _replaced(key, inner)


def _slot(kind: str) -> str:
    return {"attentions": "1", "temp_attentions": "2"}.get(kind, f"0@{kind}")


def _lvdm_name(key: str) -> str:
    return _replaced(
        key,
        {
            r"conv_shortcut": "nin_shortcut",
            r"conv_norm_out": "norm_out",
            r"mid_block\.resnets\.(\d)": lambda m: f"mid.block_{int(m[1]) + 1}",
            r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
            r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
            r"mid_block\.attentions\.0\.to_": "mid.attn_1.",
            r"down_blocks\.(\d)\.": r"down.\1.",
            r"up_blocks\.(\d)\.": lambda m: f"up.{3 - int(m[1])}.",
            r"resnets": "block",
            r"(down|up)samplers\.0": r"\1sample",
        },
    )


def _projection_name(key: str) -> str:
    return _replaced(
        key,
        {
            r"\.ln0": ".0.norm1",
            r"\.ln1": ".0.norm2",
            r"\.attn\.to_[kv]\.": ".0.to_kv.",
            r"\.attn\.to_q": ".0.to_q",
            r"\.attn\.to_out\.0": ".0.to_out",
            r"\.ff\.0": ".1.0",
            r"\.ff\.1\.net\.0\.proj": ".1.1",
            r"\.ff\.1\.net\.2": ".1.3",
        },
    )


def _encoder_name(key: str) -> str:
    return _replaced(
        key,
        {
            r"vision_model\.embeddings\.class_embedding": "class_embedding",
            r"vision_model\.embeddings\.position_embedding\.weight": "positional_embedding",
            r"vision_model\.embeddings\.patch_embedding": "conv1",
            r"vision_model\.pre_layrnorm": "ln_pre",
            r"vision_model\.post_layernorm": "ln_post",
            r"visual_projection\.weight": "proj",
            r"vision_model\.encoder\.layers": "transformer.resblocks",
            r"layer_norm": "ln_",
            r"self_attn\.[qkv]_proj\.": "attn.in_proj_",
            r"self_attn\.out_proj": "attn.out_proj",
            r"mlp\.fc1": "mlp.c_fc",
            r"mlp\.fc2": "mlp.c_proj",
        },
    )
