"""`TripoSRNetwork`: from an image to the three planes of features that its object's radiance field is read from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from genfusion_ns.priors.config_checks import TRIPOSR
from genfusion_ns.priors.triposr.field import TriplaneField
from genfusion_ns.priors.triposr.vision import ImageTokenizer
from genfusion_ns.priors.weight_files import load_weights, read_config

_GROUPS = 32
PLANES = 3


class _PlaneTokens(nn.Module):
    """Learned tokens that the planes start from."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(PLANES, channels, size, size) / channels**0.5)

    def forward(self, batch: int) -> Float[Tensor, "B C n"]:
        return self.embeddings.transpose(0, 1).flatten(1)[None].expand(batch, -1, -1)


class _Backbone(nn.Module):
    """A transformer over the tokens of the planes, which look at each other and at those of the image."""

    def __init__(self, channels: int, heads: int, head_width: int, layers: int, image_width: int) -> None:
        super().__init__()
        width = heads * head_width
        self.norm = nn.GroupNorm(_GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, width)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(width, heads, head_width, cross_attention_dim=image_width, activation_fn="geglu")
            for _ in range(layers)
        )
        self.proj_out = nn.Linear(width, channels)
        self.checkpointing = False

    def forward(self, tokens: Float[Tensor, "B C n"], image: Float[Tensor, "B m D"]) -> Float[Tensor, "B C n"]:
        x = self.proj_in(self.norm(tokens).transpose(1, 2))
        for block in self.transformer_blocks:
            if self.checkpointing and self.training:
                x = torch.utils.checkpoint.checkpoint(block, x, None, image, use_reentrant=False)
            else:
                x = block(x, encoder_hidden_states=image)
        return self.proj_out(x).transpose(1, 2) + tokens


class _Upsampler(nn.Module):
    """Doubles the resolution of each plane."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, features, kernel_size=2, stride=2)

    def forward(self, planes: Float[Tensor, "B P C h w"]) -> Float[Tensor, "B P F H W"]:
        return self.upsample(planes.flatten(0, 1)).unflatten(0, planes.shape[:2])


class Decoder(nn.Module):
    """From features of a point to its raw density and raw colour, before activations."""

    def __init__(self, features: int, width: int, hidden_layers: int) -> None:
        super().__init__()
        widths = [PLANES * features, *[width] * hidden_layers]
        hidden = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.SiLU(inplace=True))]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 4))

    def forward(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N 4"]:
        return self.layers(features)


class TripoSRNetwork(ModelMixin, ConfigMixin):
    """The network of one image; sizes default to the published ones."""

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        image_size: int = 512,
        vit_native_size: int = 224,
        vit_patch_size: int = 16,
        vit_width: int = 768,
        vit_layers: int = 12,
        vit_heads: int = 12,
        vit_mlp_width: int = 3072,
        plane_size: int = 32,
        plane_channels: int = 1024,
        heads: int = 16,
        head_width: int = 64,
        layers: int = 16,
        features: int = 40,
        decoder_width: int = 64,
        decoder_layers: int = 9,
        radius: float = 0.87,
        samples: int = 128,
        density_bias: float = -1.0,
        surface_density: float = 25.0,
    ) -> None:
        """
        Args:
            image_size: pixels along the image, a multiple of the patch.
            vit_native_size: pixels along the images that the stored position embeddings are of.
            vit_patch_size, vit_width, vit_layers, vit_heads, vit_mlp_width: of the image tokenizer.
            plane_size: tokens along a plane; features have twice the resolution.
            plane_channels: of a token, a multiple of 32.
            heads, head_width, layers: of the backbone.
            features: of a point, per plane.
            decoder_width, decoder_layers: of the decoder's hidden layers.
            radius: half the side of the cube that the field fills.
            samples: steps of a ray, each of which counts as 1 / samples, however long it is.
            density_bias: added before the exponential.
            surface_density: where the surface of an object is, if nobody says otherwise.
        """
        super().__init__()
        self.image_tokenizer = ImageTokenizer(
            vit_native_size, vit_patch_size, vit_width, vit_layers, vit_heads, vit_mlp_width
        )
        self.tokenizer = _PlaneTokens(plane_size, plane_channels)
        self.backbone = _Backbone(plane_channels, heads, head_width, layers, vit_width)
        self.post_processor = _Upsampler(plane_channels, features)
        self.decoder = Decoder(features, decoder_width, decoder_layers)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 F S S"]:
        """Planes of features ("scene codes") of images of `image_size` pixels along, in 0..1."""
        tokens = self.image_tokenizer(images)
        planes = self.backbone(self.tokenizer(len(images)), tokens)
        size = self.config["plane_size"]
        split = planes.unflatten(2, (PLANES, size, size)).transpose(1, 2)
        return self.post_processor(split)

    def condition(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 s s"]:
        """Images of any size, colours in 0..1, as the network takes them."""
        size = self.config["image_size"]
        planes = images.permute(0, 3, 1, 2)
        return functional.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=True)

    def field(self, code: Float[Tensor, "3 F S S"]) -> TriplaneField:
        """The radiance field of one object."""
        dtype = next(self.decoder.parameters()).dtype
        return TriplaneField(code, self.decoder, self.config["radius"], self.config["density_bias"], dtype)

    @classmethod
    def from_pretrained(cls, folder: Path | str, **_: Any) -> TripoSRNetwork:  # type: ignore[override]
        """The network of a folder that `save_pretrained` wrote, in float32 on the CPU.

        Raises:
            FileNotFoundError: one of its two files is missing.
            ValueError: config.json is of another network, or the weights are damaged or do not fit it.
        """
        folder = Path(folder)
        config = read_config(folder, cls.__name__, TRIPOSR, "a TripoSR")
        network = cls.on_meta({name: value for name, value in config.items() if not name.startswith("_")}, folder)
        load_weights(network, folder)
        return network.eval()

    @classmethod
    def on_meta(cls, sizes: Mapping[str, Any], where: Path) -> TripoSRNetwork:
        """A network of these sizes without weights; `to_memory` of its buffers is what `load_weights` does.

        Raises:
            ValueError: sizes that no network has; `where` is the file that they stand in.
        """
        try:
            with torch.device("meta"):  # sizes are compared with the file before any memory is taken
                return cls(**sizes)
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise ValueError(f"{where} describes a network that cannot be built: {error}") from error
