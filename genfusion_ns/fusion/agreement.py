"""How well repaired clips agree with the photos: per-pixel confidence, and a verdict per clip.

A generated view can only help where it says nothing that the photos contradict. Each repaired pixel that a photo also
shows (through the clip's own depth, not hidden by the clip's own surfaces) is compared with that photo; a clip that
contradicts the photos more than the render it replaces is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, References, RepairedClip
from genfusion_ns.geometry.images import psnr
from genfusion_ns.geometry.warping import warp_references

_VISIBLE = 0.03
"""Colour difference (0..1) below which a render is not worth mending."""
_BLUR = 5  # pixels: the depth under a warp is rarely exact to the pixel, so textures are compared a little blurred


@dataclass(frozen=True)
class Agreement:
    """Comparison of one repaired clip with the photos that see the same surfaces."""

    artifact_psnr: float
    """PSNR in dB of the artifact clip against the photos, where they see it; nan when they see nothing."""
    repaired_psnr: float
    """The same for the repaired clip."""
    shown_share: float
    """Share of the clip's pixels that some photo shows, 0..1."""
    confidence: Float[Tensor, "T H W 1"]
    """Trust per pixel in 0..1: the repairer's own, lowered where a photo disagrees."""
    shown: Bool[Tensor, "T H W 1"]
    """Pixels whose surface some photo shows."""

    def verdict(self, tolerance: float, least_shown: float = 0.0) -> str | None:
        """Why the clip must not be used, or None.

        Args:
            tolerance: dB that it may lose against the photos.
            least_shown: share of it that photos must show.
        """
        if self.shown_share < least_shown:
            return f"no photo speaks for it: they show {self.shown_share:.0%}, at least {least_shown:.0%} are asked for"
        if self.shown_share < 0.02 or self.repaired_psnr >= self.artifact_psnr - tolerance:
            return None
        return (
            f"contradicts the photos: {self.repaired_psnr:.2f} dB where they see it, "
            f"the render had {self.artifact_psnr:.2f} dB"
        )


@torch.no_grad()
def photo_agreement(
    clip: Clip, repaired: RepairedClip, photos: References, softness: float = 0.15, better_only: bool = False
) -> Agreement:
    """Compare a repaired clip with photos through the geometry of its artifact clip.

    Args:
        clip: artifact clip, whose depth and alpha tell which surface each pixel shows.
        repaired: its repair.
        photos: real views near the clip.
        softness: colour difference (0..1) at which trust in a pixel falls to 1/e.
        better_only: pixels that photos show are trusted only as far as the repair is nearer to the photos there than
            the render: the share of the squared error that it takes away, where that error is one that can be seen.

    Returns:
        Scores and the confidence per pixel. Pixels that no photo sees keep the repairer's own confidence.
    """
    solid = clip.alpha > SOLID_ALPHA
    warped = warp_references(clip.depth * solid, clip.viewmats, clip.Ks, photos, solid=solid)
    compared = torch.stack([repaired.rgb, clip.rgb.clamp(0, 1)])
    repaired_error, artifact_error = _nearest_photo_errors(compared, warped.rgb, warped.visible)
    shown = warped.visible.any(dim=0)
    doubt = torch.where(shown, (repaired_error / softness).square(), torch.zeros_like(repaired_error))
    confidence = repaired.confidence * torch.exp(-doubt)
    if better_only:
        gain = artifact_error.square() - repaired_error.square()
        gain = (gain / (artifact_error.square() + _VISIBLE**2)).clamp(min=0)
        confidence = torch.where(shown, confidence * gain, confidence)
    return Agreement(
        artifact_psnr=_psnr(artifact_error, shown),
        repaired_psnr=_psnr(repaired_error, shown),
        shown_share=float(shown.float().mean()),
        confidence=confidence,
        shown=shown,
    )


def _nearest_photo_errors(clips: Tensor, photos: Tensor, visible: Tensor) -> Tensor:
    """Root mean square colour difference of each clip to the photo that agrees best; 0 where none sees the pixel.

    One frame at a time, as planes, which stay in the processor's cache. [C, T, H, W, 3] -> [C, T, H, W, 1]
    """
    frames = [_frame_errors(*frame) for frame in zip(clips.unbind(1), photos.unbind(1), visible.unbind(1), strict=True)]
    return torch.stack(frames, dim=1)[..., None]


def _frame_errors(clips: Tensor, photos: Tensor, visible: Tensor) -> Tensor:
    """[C, H, W, 3] -> [C, H, W]"""
    planes, best = clips.movedim(-1, 1), clips.new_full(clips.shape[:3], torch.inf)
    for photo, mask in zip(photos, visible[..., 0], strict=True):
        # The mean over the visible pixels of a window: the pixels of the window itself cancel.
        shown = mask.to(clips.dtype)
        red, green, blue = _window_sums((planes - photo.movedim(-1, 0)) * shown).square_().unbind(1)
        squares = (red + green + blue) / (3 * _window_sums(shown).square_()).clamp_min_(1e-6)
        best = torch.where(mask, torch.minimum(best, squares), best)
    return torch.where(best.isinf(), torch.zeros_like(best), best.sqrt())


def _window_sums(planes: Tensor) -> Tensor:
    """Sums over the pixels within `_BLUR` x `_BLUR` around each, nothing beyond the border. [..., H, W]"""
    for dim in (-1, -2):
        size = planes.shape[dim]
        sums = planes.clone()
        for shift in range(1, min(_BLUR // 2, size - 1) + 1):
            sums.narrow(dim, shift, size - shift).add_(planes.narrow(dim, 0, size - shift))
            sums.narrow(dim, 0, size - shift).add_(planes.narrow(dim, shift, size - shift))
        planes = sums
    return planes


def _psnr(error: Tensor, shown: Tensor) -> float:
    if not bool(shown.any()):
        return float("nan")
    return float(psnr(error[shown].square().mean()))
