"""Depth models of the transformers library at toy size with random weights."""

from pathlib import Path
from typing import Any

import torch


def save_depth_model(folder: Path, kind: str = "relative") -> Path:
    """A tiny Depth Anything or GLPN with random weights, saved as their authors publish them."""
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessor,
        GLPNConfig,
        GLPNForDepthEstimation,
        GLPNImageProcessor,
    )

    torch.manual_seed(0)
    if kind == "glpn":
        config = GLPNConfig(
            hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
        )
        _lively(GLPNForDepthEstimation(config)).save_pretrained(folder)
        GLPNImageProcessor(size_divisor=32).save_pretrained(folder)
        return folder
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14
    )  # fmt: skip
    backbone.out_features = ["stage1", "stage2", "stage3", "stage4"]
    backbone.reshape_hidden_states = False
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], patch_size=14,
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip
    _lively(DepthAnythingForDepthEstimation(config)).save_pretrained(folder)
    DPTImageProcessor(size={"height": 42, "width": 42}, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(
        folder
    )
    return folder


def _lively(network: Any) -> Any:
    """Weights large enough for the output to vary with the image, which the default ones are not."""
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.kaiming_normal_(weight)
    return network
