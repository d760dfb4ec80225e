"""An artifact clip with its clean counterpart, and the image operations that keep pixels and cameras consistent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.geometry.cameras import Clip, References, crop_intrinsics, resize_intrinsics


@dataclass(frozen=True)
class ClipPair:
    """One training example of a repairer."""

    artifact: Clip
    """The clip as the weak reconstruction renders it."""
    clean: Clip
    """The same cameras as they should look; its alpha is 1 where its depth can be trusted."""
    references: References
    """Photos near the clip, in its scene frame."""

    def to(self, device: torch.device | str) -> ClipPair:
        """The same pair on `device`."""
        return ClipPair(self.artifact.to(device), self.clean.to(device), self.references.to(device))


def crop_clip(clip: Clip, x: int, y: int, width: int, height: int) -> Clip:
    """The window of a clip whose top-left pixel is (x, y); every frame is cut alike."""
    rows, columns = slice(y, y + height), slice(x, x + width)
    return Clip(
        rgb=clip.rgb[:, rows, columns],
        depth=clip.depth[:, rows, columns],
        alpha=clip.alpha[:, rows, columns],
        viewmats=clip.viewmats,
        Ks=crop_intrinsics(clip.Ks, x, y),
    )


def select_frames(clip: Clip, frames: slice | list[int] | Tensor) -> Clip:
    """The given frames of a clip, in the given order."""
    return Clip(clip.rgb[frames], clip.depth[frames], clip.alpha[frames], clip.viewmats[frames], clip.Ks[frames])


def select_references(references: References, chosen: list[int] | Tensor) -> References:
    """The given photos, in the given order."""
    return References(references.rgb[chosen], references.viewmats[chosen], references.Ks[chosen])


def mirror_clip(clip: Clip) -> Clip:
    """The clip of the scene reflected at the world plane x = 0: images left-right reversed, rotations still proper.

    Clip and references stay one scene only if both are mirrored.
    """
    viewmats, Ks = _mirror_cameras(clip.viewmats, clip.Ks, clip.size[0])
    return Clip(clip.rgb.flip(2), clip.depth.flip(2), clip.alpha.flip(2), viewmats, Ks)


def mirror_references(references: References) -> References:
    """The photos of the scene reflected at the world plane x = 0; see `mirror_clip`."""
    viewmats, Ks = _mirror_cameras(references.viewmats, references.Ks, references.rgb.shape[2])
    return References(references.rgb.flip(2), viewmats, Ks)


def _mirror_cameras(viewmats: Tensor, Ks: Tensor, width: int) -> tuple[Tensor, Tensor]:
    reflection = torch.diag(viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    mirrored = Ks.clone()
    mirrored[..., 0, 2] = width - Ks[..., 0, 2]
    return reflection @ viewmats @ reflection, mirrored


def resize_clip(clip: Clip, size: tuple[int, int]) -> Clip:
    """The clip resampled to (width, height): colour and alpha bilinear and antialiased, depth by nearest pixel."""
    if clip.size == size:
        return clip
    return replace(
        clip,
        rgb=resize_images(clip.rgb, size),
        depth=resize_images(clip.depth, size, nearest=True),
        alpha=resize_images(clip.alpha, size),
        Ks=resize_intrinsics(clip.Ks, clip.size, size),
    )


def resize_references(references: References, size: tuple[int, int]) -> References:
    """The photos resampled to (width, height), with their intrinsics."""
    old = (references.rgb.shape[2], references.rgb.shape[1])
    if old == size:
        return references
    return replace(references, rgb=resize_images(references.rgb, size), Ks=resize_intrinsics(references.Ks, old, size))


def resize_images(
    images: Float[Tensor, "T H W C"], size: tuple[int, int], nearest: bool = False
) -> Float[Tensor, "T h w C"]:
    """Images resampled to (width, height), bilinear with antialiasing or by nearest pixel."""
    planes = images.permute(0, 3, 1, 2)
    shape = (size[1], size[0])
    if nearest:
        resized = functional.interpolate(planes, size=shape, mode="nearest-exact")
    else:
        resized = functional.interpolate(planes, size=shape, mode="bilinear", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1)
