"""The published files of TripoSR: config.yaml and model.ckpt, whose tensors keep their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genfusion_ns.json_files import JsonValue
from genfusion_ns.priors.dynamicrafter.conversion.source import CheckpointSource, open_checkpoint
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.priors.weight_files import compare_shapes, require_numbers
from genfusion_ns.yaml_files import read_yaml

CONFIG, WEIGHTS = "config.yaml", ("model.ckpt", "model.safetensors")
REPOSITORY = "stabilityai/TripoSR"
_CLASSES = {
    "image_tokenizer_cls": "tsr.models.tokenizers.image.DINOSingleImageTokenizer",
    "tokenizer_cls": "tsr.models.tokenizers.triplane.Triplane1DTokenizer",
    "backbone_cls": "tsr.models.transformer.transformer_1d.Transformer1D",
    "post_processor_cls": "tsr.models.network_utils.TriplaneUpsampleNetwork",
    "decoder_cls": "tsr.models.network_utils.NeRFMLP",
    "renderer_cls": "tsr.models.nerf_renderer.TriplaneNeRFRenderer",
}
_VISION: dict[str, dict[str, int]] = {
    "facebook/dino-vitb16": {},  # what the network defaults to
    "facebook/dino-vits16": {"vit_width": 384, "vit_heads": 6, "vit_mlp_width": 1536},
}
_MOST = 2**14
_WAY_OUT = f"Take config.yaml and model.ckpt of {REPOSITORY}, or of a training of that code."


def published_sizes(file: Path) -> dict[str, Any]:
    """Sizes of the network that a published config.yaml describes, as `TripoSRNetwork` takes them.

    Raises:
        ValueError: it is no such file, names other classes than the published ones, or has values out of range.
    """
    content = read_yaml(file, _WAY_OUT)
    for key, known in _CLASSES.items():
        content[key].choice([known])
    vision = _at(content, "image_tokenizer.pretrained_model_name_or_path").choice(list(_VISION))
    _at(content, "decoder.activation").choice(["silu"])
    _at(content, "renderer.feature_reduction").choice(["concat"])
    _at(content, "renderer.density_activation").choice(["exp"])
    names = {
        "image_size": "cond_image_size",
        "plane_size": "tokenizer.plane_size",
        "plane_channels": "tokenizer.num_channels",
        "heads": "backbone.num_attention_heads",
        "head_width": "backbone.attention_head_dim",
        "layers": "backbone.num_layers",
        "features": "post_processor.out_channels",
        "decoder_width": "decoder.n_neurons",
        "decoder_layers": "decoder.n_hidden_layers",
        "samples": "renderer.num_samples_per_ray",
    }
    sizes: dict[str, Any] = {name: _whole(content, key) for name, key in names.items()}
    sizes["radius"] = _at(content, "renderer.radius").number("a positive number", lambda value: 0 < value < 1e3)
    sizes["density_bias"] = _at(content, "renderer.density_bias").number()
    sizes |= _VISION[vision]
    _check_widths(content, sizes)
    return sizes


def load_published(weights: Path, sizes: Mapping[str, Any]) -> TripoSRNetwork:
    """The network of a published file, in float32 on the CPU; only tensors are read of the file.

    Args:
        weights: see `open_checkpoint`.
        sizes: of the network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than tensors, or is of another network.
    """
    source = open_checkpoint(weights)
    network = TripoSRNetwork.on_meta(sizes, weights.with_name(CONFIG))
    check_layout(network, source, weights)
    state: dict[str, Tensor] = {name: source.tensor(name) for name in source.names()}
    require_numbers(weights, state)
    # Copied: tensors of a .ckpt are mapped from a file that may change.
    network.load_state_dict({name: value.to(torch.float32, copy=True) for name, value in state.items()}, assign=True)
    return network.eval()


def check_layout(network: TripoSRNetwork, source: CheckpointSource, file: Path) -> None:
    """Refuse tensors that are not exactly those of a network, which may be on the meta device.

    Raises:
        ValueError: names or shapes that are missing, unexpected or different.
    """
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    compare_shapes(file, expected, {name: source.shape(name) for name in source.names()}, CONFIG)


def _at(content: JsonValue, key: str) -> JsonValue:
    """A value by its dotted key, with what it refers to in its place."""
    value = content
    for part in key.split("."):
        value = value[part]
    text = value.value
    if isinstance(text, str) and text.startswith("${") and text.endswith("}") and text[2:-1] != key:
        inner = content
        for part in text[2:-1].split("."):
            inner = inner[part]
        return inner
    return value


def _whole(content: JsonValue, key: str) -> int:
    return _at(content, key).whole(f"a whole number in 1..{_MOST}", 1, _MOST)


def _check_widths(content: JsonValue, sizes: Mapping[str, Any]) -> None:
    """Widths that the file says twice must agree."""
    wanted = {
        "backbone.in_channels": sizes["plane_channels"],
        "backbone.cross_attention_dim": sizes.get("vit_width", 768),
        "post_processor.in_channels": sizes["plane_channels"],
        "decoder.in_channels": 3 * sizes["features"],
    }
    for key, width in wanted.items():
        if _whole(content, key) != width:
            _at(content, key).refuse(f"{width}, as the rest of the file says")
