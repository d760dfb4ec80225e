"""The network of the ``compact`` repairer: a small video U-Net on 4x4 pixel patches that can copy from photos.

What it makes of the features of the U-Net is one of two heads. `selection` combines sources, see `selection`. The older
`correction` predicts the clean clip as a correction of the artifact clip,

    clean = artifact + sum_r gate_r * valid_r * (photo_r - artifact) + sum_s gate_s * (blur_s - artifact) + residual,

where photo_r is a reference photo warped into each frame and blur_s the artifact clip blurred to one of several
scales: what is wrong in detail is often right on average. Gates and residual leave zero-initialised layers, so that
the untrained network is the identity. All references share their weights and meet in a mean and a maximum: any number
of them is accepted, in any order. Spatial residual blocks run per frame, temporal convolutions join the frames at the
two coarser levels, and at the coarsest one tokens of the whole photos are attended to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from genfusion_ns.priors.compact.blurs import BLURS, blur_images
from genfusion_ns.priors.compact.selection import LOG_VARIANCE, SelectionHead

Output = Literal["correction", "selection"]
STATE_CHANNELS = 4  # rgb, disparity
ARTIFACT_CHANNELS = 5  # rgb, disparity, alpha
WARPED_CHANNELS = 6  # rgb, valid, visible, alignment
PHOTO_SIZE = (64, 64)  # (height, width) at which photos are read into tokens


@dataclass(frozen=True)
class CompactPrediction:
    """What the network says of one noisy clip."""

    clean: Float[Tensor, "B 4 T H W"]
    """Estimated clean rgb and disparity, nominally in -1..1."""
    log_variance: Float[Tensor, "B 1 T H W"]
    """Logarithm of the expected squared rgb error (of values in -1..1)."""


class _Level(nn.Module):
    """One residual block per frame, then optionally a temporal convolution over the frames."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int, temporal: bool) -> None:
        super().__init__()
        self.spatial = ResnetBlock2D(
            in_channels=inputs, out_channels=outputs, temb_channels=embedding, groups=groups, eps=1e-5
        )
        self.temporal = TemporalConvLayer(outputs, outputs, dropout=0.0, norm_num_groups=groups) if temporal else None

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        x = self.spatial(x, embedding)
        return x if self.temporal is None else self.temporal(x, num_frames=frames)


class _PhotoTokens(nn.Module):
    """Whole photos as 64 tokens each, with their place in the photo; palette and content rather than geometry."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.position = nn.Parameter(torch.randn(64, width) * 0.02)

    def forward(self, photos: Tensor) -> Tensor:
        batch, count = photos.shape[:2]
        resized = functional.interpolate(photos.flatten(0, 1), size=PHOTO_SIZE, mode="bilinear", antialias=True)
        tokens = self.convs(resized).flatten(2).transpose(1, 2) + self.position
        return tokens.reshape(batch, count * tokens.shape[1], -1)


class CompactUNet(ModelMixin, ConfigMixin):
    """Conditional flow-matching network over RGB-D clips; see the module docstring."""

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, int, int] = (64, 96, 128),
        reference_channels: int = 32,
        patch_size: int = 4,
        attention_head_dim: int = 32,
        norm_groups: int = 8,
        sigma_min: float = 0.02,
        sigma_max: float = 1.0,
        output: Output = "correction",
    ) -> None:
        """
        Args:
            channels: widths of the three levels, each a multiple of `norm_groups`.
            reference_channels: width of the features of one warped photo.
            patch_size: pixels per side of a patch; H and W must be multiples of `pixel_multiple`.
            attention_head_dim: width of an attention head at the coarsest level.
            norm_groups: groups of the group normalisations.
            sigma_min: share of noise in the start point where alpha is 1; stored here because the weights depend on it.
            sigma_max: the same where alpha is 0.
            output: the head; see the module docstring. Configs from before there were two say nothing of it.

        Raises:
            ValueError: an unknown head.
        """
        super().__init__()
        fine, middle, coarse = channels
        embedding, cells = 4 * fine, patch_size**2
        self.time_proj = Timesteps(fine, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(fine, embedding)
        self.conv_in = nn.Conv2d((STATE_CHANNELS + ARTIFACT_CHANNELS) * cells, fine, 3, padding=1)
        self.reference_in = nn.Sequential(
            nn.Conv2d((WARPED_CHANNELS + 1) * cells, reference_channels, 3, padding=1), nn.SiLU()
        )
        self.reference_out = nn.Conv2d(2 * reference_channels, fine, 1)
        self.photo_tokens = _PhotoTokens(coarse)
        self.down_fine = _Level(fine, fine, embedding, norm_groups, temporal=False)
        self.to_middle = Downsample2D(fine, use_conv=True, name="op")
        self.down_middle = _Level(fine, middle, embedding, norm_groups, temporal=True)
        self.to_coarse = Downsample2D(middle, use_conv=True, name="op")
        self.down_coarse = _Level(middle, coarse, embedding, norm_groups, temporal=True)
        self.attention = BasicTransformerBlock(
            coarse, coarse // attention_head_dim, attention_head_dim, cross_attention_dim=coarse
        )
        self.mid = _Level(coarse, coarse, embedding, norm_groups, temporal=True)
        self.from_coarse = Upsample2D(coarse, use_conv=True, out_channels=middle)
        self.up_middle = _Level(2 * middle, middle, embedding, norm_groups, temporal=True)
        self.from_middle = Upsample2D(middle, use_conv=True, out_channels=fine)
        self.up_fine = _Level(2 * fine, fine, embedding, norm_groups, temporal=False)
        self.norm_out = nn.GroupNorm(norm_groups, fine)
        if output == "selection":
            self.selection = SelectionHead(fine, reference_channels)
            return
        if output != "correction":
            raise ValueError(f"output is {output!r}; correction or selection is known")
        self.head = nn.Conv2d(fine, (STATE_CHANNELS + 1) * cells, 3, padding=1)
        self.gate = nn.Conv2d(fine + reference_channels, cells, 3, padding=1)
        self.blur_gate = nn.Conv2d(fine, len(BLURS) * cells, 3, padding=1)
        for layer in (self.head, self.gate, self.blur_gate):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    @property
    def pixel_multiple(self) -> int:
        """H and W must be multiples of this."""
        return 4 * self.config["patch_size"]

    @property
    def follows_path(self) -> bool:
        """Whether the estimate depends on state and time; what a selection chooses from is known at once."""
        return self.config["output"] == "correction"

    def forward(
        self,
        state: Float[Tensor, "B 4 T H W"],
        artifact: Float[Tensor, "B 5 T H W"],
        warped: Float[Tensor, "B R 6 T H W"],
        photos: Float[Tensor, "B R 3 h w"],
        time: Float[Tensor, " B"],
        head_only: bool = False,
    ) -> CompactPrediction:
        """Estimate the clean clip.

        Args:
            state: point on the path between clean clip (time 0) and start point (time 1), rgb and disparity in -1..1.
            artifact: rgb and disparity in -1..1, alpha in 0..1.
            warped: photos in every frame, rgb in -1..1, valid and visible in {0, 1}, alignment in -1..1.
            photos: the photos as they are, rgb in -1..1, any size.
            time: in 0..1.
            head_only: of a selection, without the U-Net, as if its features were 0: only what is near counts.
        """
        if head_only:
            return self._select(*self._no_features(artifact, warped), artifact, warped)
        if not self.follows_path:
            state, time = artifact[:, :4], torch.ones_like(time)
        frames = state.shape[2]
        difference = (warped[:, :, :3] - artifact[:, None, :3]) * warped[:, :, 3:4]
        seen = self._read_references(torch.cat([difference, warped[:, :, 3:]], dim=2))
        embedding = self.time_embedding(self.time_proj(time * 1000).to(state.dtype)).repeat_interleave(frames, dim=0)
        pooled = torch.cat([seen.mean(dim=1), seen.amax(dim=1)], dim=1)
        x = self.conv_in(self._to_patches(torch.cat([state, artifact], dim=1))) + self.reference_out(pooled)
        x = self._u_net(x, embedding, self.photo_tokens(photos), frames)
        return (self._correct if self.follows_path else self._select)(x, seen, artifact, warped)

    def _no_features(self, artifact: Tensor, warped: Tensor) -> tuple[Tensor, Tensor]:
        images, photos = artifact.shape[0] * artifact.shape[2], warped.shape[1]
        fine, reference = self.config["channels"][0], self.config["reference_channels"]
        return artifact.new_zeros(images, fine, 1, 1), artifact.new_zeros(images, photos, reference, 1, 1)

    def _select(self, x: Tensor, seen: Tensor, artifact: Tensor, warped: Tensor) -> CompactPrediction:
        frames = artifact.shape[2]
        images, photos = artifact.transpose(1, 2).flatten(0, 1), warped.permute(0, 3, 1, 2, 4, 5).flatten(0, 1)
        parts = self.selection(x, seen, images, photos)
        clean, log_variance = (part.view(-1, frames, *part.shape[1:]).transpose(1, 2) for part in parts)
        return CompactPrediction(clean=clean, log_variance=log_variance)

    def _correct(self, x: Tensor, seen: Tensor, artifact: Tensor, warped: Tensor) -> CompactPrediction:
        batch, _, frames, height, width = artifact.shape
        difference = (warped[:, :, :3] - artifact[:, None, :3]) * warped[:, :, 3:4]
        head = self._to_pixels(self.head(x), frames)
        gate = self.gate(torch.cat([x[:, None].expand(-1, seen.shape[1], -1, -1, -1), seen], dim=2).flatten(0, 1))
        gate = functional.pixel_shuffle(gate, self.config["patch_size"]).view(batch, frames, -1, 1, height, width)
        copied = (gate.permute(0, 2, 3, 1, 4, 5) * difference).sum(dim=1)
        blurred = self._to_pixels(self.blur_gate(x), frames)[:, :, None] * _blurs(artifact[:, :3])
        copied = copied + blurred.sum(dim=1)
        residual = head[:, :4].float()
        clean = artifact[:, :4] + torch.cat([residual[:, :3] + copied, residual[:, 3:]], dim=1)
        return CompactPrediction(clean=clean, log_variance=head[:, 4:].float() + LOG_VARIANCE)

    def _read_references(self, warped: Tensor) -> Tensor:
        """Features of each warped photo. [B, R, 6, T, H, W] -> [B * T, R, c, h, w]"""
        count = warped.shape[1]
        disagreement = _disagreement(warped)
        patches = self._to_patches(torch.cat([warped, disagreement], dim=2).transpose(1, 2).flatten(1, 2), count)
        features = self.reference_in(patches)
        return features.view(-1, count, *features.shape[1:])

    def _u_net(self, x: Tensor, embedding: Tensor, tokens: Tensor, frames: int) -> Tensor:
        fine = self.down_fine(x, embedding, frames)
        middle = self.down_middle(self.to_middle(fine), embedding, frames)
        x = self.down_coarse(self.to_coarse(middle), embedding, frames)
        flat = x.flatten(2).transpose(1, 2)
        context = tokens.repeat_interleave(frames, dim=0)
        x = self.attention(flat, encoder_hidden_states=context).transpose(1, 2).reshape(x.shape)
        x = self.mid(x, embedding, frames)
        x = self.up_middle(torch.cat([self.from_coarse(x), middle], dim=1), embedding, frames)
        x = self.up_fine(torch.cat([self.from_middle(x), fine], dim=1), embedding, frames)
        return functional.silu(self.norm_out(x))

    def _to_patches(self, clip: Tensor, groups: int = 1) -> Tensor:
        """[B, g * C, T, H, W] -> [B * T * g, C * p * p, H / p, W / p]"""
        batch, channels, frames, height, width = clip.shape
        images = clip.view(batch, channels // groups, groups, frames, height, width).permute(0, 3, 2, 1, 4, 5)
        return functional.pixel_unshuffle(images.flatten(0, 2), self.config["patch_size"])

    def _to_pixels(self, patches: Tensor, frames: int) -> Tensor:
        """[B * T, C * p * p, h, w] -> [B, C, T, H, W]"""
        images = functional.pixel_shuffle(patches, self.config["patch_size"])
        return images.view(-1, frames, *images.shape[1:]).transpose(1, 2)


def _blurs(rgb: Tensor) -> Tensor:
    """Each blur of a clip minus the clip itself. [B, 3, T, H, W] -> [B, S, 3, T, H, W]"""
    batch, frames = rgb.shape[0], rgb.shape[2]
    images = rgb.transpose(1, 2).flatten(0, 1)
    change = blur_images(images) - images[:, None]
    return change.view(batch, frames, *change.shape[1:]).permute(0, 2, 3, 1, 4, 5)


def _disagreement(warped: Tensor) -> Tensor:
    """How far each warped photo is from the mean of all valid ones, mean over colours. [B, R, 1, T, H, W]"""
    rgb, valid = warped[:, :, :3], warped[:, :, 3:4]
    mean = (rgb * valid).sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True).clamp(min=1)
    return ((rgb - mean).abs().mean(dim=2, keepdim=True)) * valid
