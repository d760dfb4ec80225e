"""The head that selects among sources instead of painting: what is sharp in them stays sharp in the repair.

Every pixel of the repair is a convex combination of candidates,

    the render, the render sharpened, the render blurred to several scales, each photo warped into the frame, and one
    colour that is generated at an eighth of the resolution,

plus a correction that varies as slowly. Detail thus comes from the render and the photos alone, and where no source is
any good there is a smooth fill: no pattern of patches can appear, for whatever is predicted per patch is enlarged
bilinearly. Weights are a softmax of scores at full resolution; the photos share theirs, in any number and order, and
fade towards the border of what each shows, so that it leaves no edge. Disparity is left as it was rendered.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from genfusion_ns.priors.compact.blurs import BLURS, blur_images

_HIDDEN = 16
_PIXEL_CHANNELS = 9  # artifact rgb, disparity, alpha; render minus its finest blur; share of valid photos
_PHOTO_CHANNELS = 9  # difference to render, its size, to other photos, valid, visible, alignment, fade
_FADE = 15  # pixels of the square over which a photo fades at its border
_LEAST = 1e-4
_AGAINST = -3.0  # score of all candidates but the render (0) before training: the untrained repair is nearly the render
LOG_VARIANCE = -3.0
"""Where the untrained estimate of the error starts: an rms error of 0.22 of the -1..1 range."""


class SelectionHead(nn.Module):
    """Candidates and their weights, from the features of the U-Net; see the module docstring."""

    def __init__(self, features: int, reference_features: int) -> None:
        """
        Args:
            features: channels of the U-Net per patch.
            reference_features: channels of what was read of each warped photo, per patch.
        """
        super().__init__()
        self.slow = nn.Conv2d(features, 6, 3, padding=1, bias=False)
        self.from_features = nn.Conv2d(features, 2 * _HIDDEN + 8, 1)
        self.from_pixels = nn.Conv2d(_PIXEL_CHANNELS, _HIDDEN, 3, padding=1)
        self.scores = nn.Conv2d(_HIDDEN, len(BLURS) + 2, 3, padding=1)
        self.from_reference = nn.Conv2d(reference_features, _HIDDEN, 1)
        self.from_photo = nn.Conv2d(_PHOTO_CHANNELS, _HIDDEN, 3, padding=1)
        self.photo_score = nn.Conv2d(_HIDDEN, 1, 3, padding=1)
        self.from_spread = nn.Conv2d(4, 8, 3, padding=1)
        self.log_variance = nn.Conv2d(8, 1, 1)
        for layer in (self.slow, self.scores, self.photo_score, self.log_variance):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        # What the U-Net says counts nothing before it has learned something: the head may learn first.
        for layer in (self.from_features, self.from_reference):
            nn.init.zeros_(layer.weight)
        for layer in (self.scores, self.photo_score):
            nn.init.constant_(layer.bias, _AGAINST)  # pyright: ignore[reportArgumentType]
        nn.init.constant_(self.log_variance.bias, LOG_VARIANCE)  # pyright: ignore[reportArgumentType]

    def forward(
        self,
        features: Float[Tensor, "N C h w"],
        references: Float[Tensor, "N R c h w"],
        artifact: Float[Tensor, "N 5 H W"],
        warped: Float[Tensor, "N R 6 H W"],
    ) -> tuple[Float[Tensor, "N 4 H W"], Float[Tensor, "N 1 H W"]]:
        """Clean rgb and disparity, and the logarithm of the expected squared colour error.

        Args:
            features: of the U-Net, per patch; of one patch where they are the same everywhere.
            references: of each warped photo, likewise.
            artifact: rgb and disparity in -1..1, alpha in 0..1.
            warped: rgb in -1..1, valid, visible, alignment of each photo.
        """
        size = (artifact.shape[-2], artifact.shape[-1])
        rgb, valid = warped[:, :, :3], warped[:, :, 3:4]
        render, fade = artifact[:, :3], _fade(valid)
        blurs = blur_images(render)
        slow = _enlarged(functional.avg_pool2d(self.slow(features).float(), 2, ceil_mode=True), size)
        shared = _enlarged(self.from_features(features), size)
        for_render, for_photos, for_variance = shared.split([_HIDDEN, _HIDDEN, 8], dim=1)
        fine = torch.cat([artifact, render - blurs[:, 0], fade.amax(dim=1)], dim=1)
        scores = self.scores(functional.silu(self.from_pixels(fine) + for_render)).float()
        photo_scores = self._photo_scores(references, artifact, warped, fade, for_photos)
        faded = photo_scores + (fade[:, :, 0] + _LEAST).log()
        weights = torch.cat([torch.zeros_like(fade[:, 0]), scores, faded], dim=1).softmax(dim=1)
        generated = blurs[:, -1] + slow[:, :3]
        own = torch.stack([render, 2 * render - blurs[:, 0], *blurs.unbind(1), generated], dim=1)
        candidates = torch.cat([own, torch.where(valid > 0, rgb, render[:, None])], dim=1)
        colours = (weights[:, :, None] * candidates).sum(dim=1)
        spread = (weights[:, :, None] * (candidates - colours[:, None]).abs()).sum(dim=1).mean(dim=1, keepdim=True)
        colours = colours + slow[:, 3:]
        clean = torch.cat([colours, artifact[:, 3:4]], dim=1)
        change = (colours - render).abs().mean(dim=1, keepdim=True)
        seen = torch.cat([spread, change, artifact[:, 4:5], weights[:, own.shape[1] :].sum(1, keepdim=True)], 1)
        seen = seen.detach()
        hidden = functional.silu(self.from_spread(seen) + for_variance)
        return clean, self.log_variance(hidden).float()

    def _photo_scores(
        self, references: Tensor, artifact: Tensor, warped: Tensor, fade: Tensor, features: Tensor
    ) -> Float[Tensor, "N R H W"]:
        count, size = warped.shape[1], (artifact.shape[-2], artifact.shape[-1])
        rgb, valid = warped[:, :, :3], warped[:, :, 3:4]
        difference = (rgb - artifact[:, None, :3]) * valid
        mean = (rgb * fade).sum(dim=1, keepdim=True) / fade.sum(dim=1, keepdim=True).clamp(min=_LEAST)
        others = (rgb - mean).abs().mean(dim=2, keepdim=True) * valid
        own = difference.abs().mean(dim=2, keepdim=True)
        pixels = torch.cat([difference, own, others, warped[:, :, 3:], fade], dim=2).flatten(0, 1)
        read = _enlarged(self.from_reference(references.flatten(0, 1)), size)
        hidden = (self.from_photo(pixels) + read).unflatten(0, (-1, count)) + features[:, None]
        return self.photo_score(functional.silu(hidden.flatten(0, 1))).float().view(-1, count, *size)


def _fade(valid: Float[Tensor, "N R 1 H W"]) -> Float[Tensor, "N R 1 H W"]:
    """1 inside of what a photo shows, falling to 0 at its border."""
    flat = valid.flatten(0, 1)
    share = functional.avg_pool2d(flat, (_FADE, 1), 1, (_FADE // 2, 0), count_include_pad=False)
    share = functional.avg_pool2d(share, (1, _FADE), 1, (0, _FADE // 2), count_include_pad=False)
    return ((2 * share - 1).clamp(min=0) * flat).view_as(valid)


def _enlarged(maps: Float[Tensor, "N C h w"], size: tuple[int, int]) -> Float[Tensor, "N C H W"]:
    if maps.shape[-2:] == (1, 1):
        return maps  # the same everywhere
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
