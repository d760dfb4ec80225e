"""The clip, the unit that travels between renderer and repairer, and what keeps its pixels and cameras one.

Conventions are those of `genfusion_ns.geometry.cameras`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.geometry.cameras import crop_intrinsics, resize_intrinsics
from genfusion_ns.geometry.images import WHOLLY_SEEN, resize_images

_RIGID_TOLERANCE = 1e-3
SOLID_ALPHA = 0.5
"""Coverage above which a pixel shows a surface, whose rendered depth is trusted; below, mostly what lies behind."""


@dataclass(frozen=True)
class Clip:
    """T consecutive rendered views of one scene: colour, depth, coverage and cameras.

    A clip rendered from the reconstruction is an *artifact clip*; its rgb and depth are wrong where the scene is weak.
    """

    rgb: Float[Tensor, "T H W 3"]
    """Colours in 0..1."""
    depth: Float[Tensor, "T H W 1"]
    """Expected z depth in scene units; meaningless where alpha is 0."""
    alpha: Float[Tensor, "T H W 1"]
    """Accumulated opacity in 0..1."""
    viewmats: Float[Tensor, "T 4 4"]
    """World-to-camera, OpenCV axes."""
    Ks: Float[Tensor, "T 3 3"]
    """Intrinsics in pixels of this H x W raster."""
    normals: Float[Tensor, "T H W 3"] | None = None
    """Unit normals of the rendered surfaces in world coordinates, 0 where nothing was rendered; None: not asked for."""

    def __len__(self) -> int:
        return self.rgb.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]

    def to(self, device: torch.device | str) -> Clip:
        """The same clip on `device`."""
        normals = None if self.normals is None else self.normals.to(device)
        return Clip(
            self.rgb.to(device),
            self.depth.to(device),
            self.alpha.to(device),
            self.viewmats.to(device),
            self.Ks.to(device),
            normals,
        )


@dataclass(frozen=True)
class RenderedView:
    """One rendered view of a scene, as a `Clip` has T of them: colour, depth, coverage and camera."""

    rgb: Float[Tensor, "H W 3"]
    """Colours in 0..1."""
    depth: Float[Tensor, "H W 1"]
    """Expected z depth in scene units; 0 where it is unknown, meaningless where alpha is 0."""
    alpha: Float[Tensor, "H W 1"]
    """Accumulated opacity in 0..1."""
    viewmat: Float[Tensor, "4 4"]
    """World-to-camera, OpenCV axes."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels of this H x W raster."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]

    def to(self, device: torch.device | str) -> RenderedView:
        """The same view on `device`."""
        return RenderedView(*(getattr(self, name).to(device) for name in ("rgb", "depth", "alpha", "viewmat", "K")))


@dataclass(frozen=True)
class References:
    """R real photos that condition a repair, with their cameras, all resampled to one size."""

    rgb: Float[Tensor, "R H W 3"]
    """Colours in 0..1."""
    viewmats: Float[Tensor, "R 4 4"]
    """World-to-camera, OpenCV axes, in the frame of the clip."""
    Ks: Float[Tensor, "R 3 3"]
    """Intrinsics in pixels of this H x W raster."""
    seen: Bool[Tensor, "R H W 1"] | None = None
    """Pixels that are part of the photo; the colours of others mean nothing. None: all."""

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def to(self, device: torch.device | str) -> References:
        """The same references on `device`."""
        seen = None if self.seen is None else self.seen.to(device)
        return References(self.rgb.to(device), self.viewmats.to(device), self.Ks.to(device), seen)


@dataclass(frozen=True)
class RepairedClip:
    """What a repairer makes of an artifact clip, frame by frame and pixel by pixel."""

    rgb: Float[Tensor, "T H W 3"]
    """Colours in 0..1."""
    disparity: Float[Tensor, "T H W 1"]
    """Relative disparity in 0..1, known up to one scale and shift per clip; larger is nearer."""
    confidence: Float[Tensor, "T H W 1"]
    """The repairer's own trust in each pixel, 0..1."""

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def to(self, device: torch.device | str) -> RepairedClip:
        """The same clip on `device`."""
        return RepairedClip(*(getattr(self, name).to(device) for name in ("rgb", "disparity", "confidence")))


@dataclass(frozen=True)
class ClipPair:
    """One training example of a repairer."""

    artifact: Clip
    """The clip as the weak reconstruction renders it."""
    clean: Clip
    """The same cameras as they should look; its alpha is 1 where its depth can be trusted."""
    references: References
    """Photos near the clip, in its scene frame."""
    rendered: bool = False
    """The clean clip is a render as well: its colours, too, count only where its alpha is 1."""

    def to(self, device: torch.device | str) -> ClipPair:
        """The same pair on `device`."""
        return replace(
            self,
            artifact=self.artifact.to(device),
            clean=self.clean.to(device),
            references=self.references.to(device),
        )


def typical_depth(clip: Clip) -> float:
    """Median depth of what a clip covers, in scene units: lengths divided by it mean the same in any unit.

    0 where it covers nothing.
    """
    covered = clip.depth[(clip.alpha > SOLID_ALPHA) & (clip.depth > 0)]
    return float(covered.median()) if covered.numel() else 0.0


def camera_problem(pair: ClipPair) -> str | None:
    """The first camera of clips and photos that is not rigid or not finite, in words; None where there is none."""
    for name, views in (("frame", pair.artifact), ("clean frame", pair.clean), ("photo", pair.references)):
        wrong = (~_usable(views.viewmats, views.Ks)).nonzero()
        if len(wrong):
            return f"the camera of {name} {int(wrong[0])} is not rigid, or has numbers that are not finite"
    return None


def _usable(viewmats: Float[Tensor, "T 4 4"], Ks: Float[Tensor, "T 3 3"]) -> Bool[Tensor, " T"]:
    finite = torch.isfinite(viewmats).all(dim=(1, 2)) & torch.isfinite(Ks).all(dim=(1, 2))
    rotation = viewmats[:, :3, :3].double()
    identity = torch.eye(4, dtype=rotation.dtype, device=rotation.device)
    # Comparisons with NaN are false.
    rigid = ((rotation @ rotation.transpose(1, 2) - identity[:3, :3]).abs() < _RIGID_TOLERANCE).all(dim=(1, 2))
    rigid &= (torch.linalg.det(rotation.nan_to_num(0.0, 0.0, 0.0)) > 0) & (viewmats[:, 3] == identity[3]).all(dim=1)
    return finite & rigid & (Ks[:, 0, 0] > 0) & (Ks[:, 1, 1] > 0)


def crop_clip(clip: Clip, x: int, y: int, width: int, height: int) -> Clip:
    """The crop window of a clip whose top-left pixel is (x, y); every frame is cut alike."""
    rows, columns = slice(y, y + height), slice(x, x + width)
    return Clip(
        rgb=clip.rgb[:, rows, columns],
        depth=clip.depth[:, rows, columns],
        alpha=clip.alpha[:, rows, columns],
        viewmats=clip.viewmats,
        Ks=crop_intrinsics(clip.Ks, x, y),
        normals=None if clip.normals is None else clip.normals[:, rows, columns],
    )


def before_backdrop(clip: Clip) -> Clip:
    """A clip of an object before nothing, over black: the empty space is a backdrop then, which is content and no hole.

    Depth stays where the object covers more than half of a pixel.
    """
    return replace(clip, depth=clip.depth * (clip.alpha > SOLID_ALPHA), alpha=torch.ones_like(clip.alpha))


def select_frames(clip: Clip, frames: slice | list[int] | Tensor) -> Clip:
    """The given frames of a clip, in the given order."""
    normals = None if clip.normals is None else clip.normals[frames]
    rgb, depth, alpha = clip.rgb[frames], clip.depth[frames], clip.alpha[frames]
    return Clip(rgb, depth, alpha, clip.viewmats[frames], clip.Ks[frames], normals)


def select_pair_frames(pair: ClipPair, frames: slice | list[int] | Tensor) -> ClipPair:
    """The pair with the given frames of both clips, in the given order."""
    return replace(pair, artifact=select_frames(pair.artifact, frames), clean=select_frames(pair.clean, frames))


def select_references(references: References, chosen: list[int] | Tensor) -> References:
    """The given photos, in the given order."""
    seen = None if references.seen is None else references.seen[chosen]
    return References(references.rgb[chosen], references.viewmats[chosen], references.Ks[chosen], seen)


def mirror_clip(clip: Clip) -> Clip:
    """The clip of the scene reflected at the world plane x = 0: images left-right reversed, rotations still proper.

    Clip and references stay one scene only if both are mirrored.
    """
    viewmats, Ks = _mirror_cameras(clip.viewmats, clip.Ks, clip.size[0])
    normals = clip.normals
    if normals is not None:
        normals = normals.flip(2) * normals.new_tensor([-1.0, 1.0, 1.0])
    return Clip(clip.rgb.flip(2), clip.depth.flip(2), clip.alpha.flip(2), viewmats, Ks, normals)


def mirror_references(references: References) -> References:
    """The photos of the scene reflected at the world plane x = 0; see `mirror_clip`."""
    viewmats, Ks = _mirror_cameras(references.viewmats, references.Ks, references.rgb.shape[2])
    seen = None if references.seen is None else references.seen.flip(2)
    return References(references.rgb.flip(2), viewmats, Ks, seen)


def _mirror_cameras(viewmats: Tensor, Ks: Tensor, width: int) -> tuple[Tensor, Tensor]:
    reflection = torch.diag(viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    mirrored = Ks.clone()
    mirrored[..., 0, 2] = width - Ks[..., 0, 2]
    return reflection @ viewmats @ reflection, mirrored


def resize_clip(clip: Clip, size: tuple[int, int]) -> Clip:
    """The clip resampled to (width, height): colour and alpha bilinear and antialiased, others by nearest pixel."""
    if clip.size == size:
        return clip
    return replace(
        clip,
        rgb=resize_images(clip.rgb, size),
        depth=resize_images(clip.depth, size, nearest=True),
        alpha=resize_images(clip.alpha, size),
        Ks=resize_intrinsics(clip.Ks, clip.size, size),
        normals=None if clip.normals is None else resize_images(clip.normals, size, nearest=True),
    )


def resize_references(references: References, size: tuple[int, int]) -> References:
    """The photos resampled to (width, height), with their intrinsics."""
    old = (references.rgb.shape[2], references.rgb.shape[1])
    if old == size:
        return references
    seen = references.seen
    if seen is not None:
        seen = resize_images(seen.float(), size) > WHOLLY_SEEN  # colours of partly hidden pixels mean nothing
    return References(
        resize_images(references.rgb, size), references.viewmats, resize_intrinsics(references.Ks, old, size), seen
    )
