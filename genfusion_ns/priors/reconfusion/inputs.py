"""From a rendered view and posed photos to the tensors that the networks read.

Everything is relative to the camera of the view and divided by the mean distance of the photos from it, so that the
frame and the unit of a scene do not matter. Images are channels first, colours in 0..1; intrinsics are those of images
of width and height 1. A photo that is hidden from the networks is black (section 4 of the paper), which is the same as
setting its colours to zero here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import camera_centers, crop_intrinsics, full_precision, resize_intrinsics
from genfusion_ns.geometry.clips import SOLID_ALPHA, References, RenderedView, resize_references, select_references
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.geometry.warping import fill_colours, fill_depth, warp_references

GUIDE_CHANNELS = 15
"""Of `ViewInputs.guide`: render, coverage, two best photos with how good they are, blend of all, whether any counts."""
_NEAR, _FAR = 0.2, 10.0
"""Of the nearest camera's distance from the focus, and of the farthest one's; the range that rays are sampled in."""
_RIDGE = 0.05
"""Weight of the guess that the focus is two baselines ahead, for cameras whose axes are parallel."""
_HIDDEN = 0.25
"""Worth of a photo whose view of a point is blocked, beside one that sees it: depth may be wrong."""
_BLEND_POWER = 4


@dataclass(frozen=True)
class ViewInputs:
    """What is known of a view before it is drawn; with a batch axis in front after `stack_inputs`."""

    photos: Float[Tensor, "*B R 3 h w"]
    """Middles of the photos, as large as the view."""
    poses: Float[Tensor, "*B R 4 4"]
    """From the camera of the view to that of each photo, OpenCV axes."""
    photo_Ks: Float[Tensor, "*B R 3 3"]
    """Of the middles."""
    K: Float[Tensor, "*B 3 3"]
    """Of the view."""
    near: Float[Tensor, "*B"]
    """Least depth that anything is looked for at."""
    far: Float[Tensor, "*B"]
    """Largest one."""
    guide: Float[Tensor, "*B 15 H W"] | None = None
    """Render and photos as they appear in the view through its depth; see `view_guide`."""

    def __len__(self) -> int:
        """Size of the batch."""
        return len(self.near)

    def to(self, device: torch.device | str) -> ViewInputs:
        """The same inputs on `device`."""
        return _combined([self], lambda values: values[0].to(device))

    def shown(self, keep: Float[Tensor, " B"]) -> ViewInputs:
        """A batch with black photos where `keep` is 0."""
        photos = self.photos * keep.view(-1, 1, 1, 1, 1).to(self.photos)
        if self.guide is None:
            return replace(self, photos=photos)
        colours = torch.ones(len(keep), GUIDE_CHANNELS, device=self.guide.device)
        colours[:, _PHOTO_COLOURS] = keep.to(colours)[:, None]
        return replace(self, photos=photos, guide=self.guide * colours[..., None, None])

    def twice(self) -> ViewInputs:
        """The batch, and behind it the same batch with black photos."""
        hidden = self.shown(torch.zeros(len(self)))
        return _combined([self, hidden], torch.cat)


_PHOTO_COLOURS = [4, 5, 6, 8, 9, 10, 12, 13, 14]
"""Channels of the guide that are colours of photos."""


def stack_inputs(inputs: Sequence[ViewInputs]) -> ViewInputs:
    """A batch of inputs that agree in size and number of photos.

    Raises:
        ValueError: they do not.
    """
    shapes = {(tuple(one.photos.shape), one.guide is None) for one in inputs}
    if len(shapes) != 1:
        raise ValueError(f"views of one batch must agree in size and number of photos; found {sorted(shapes)}")
    return _combined(inputs, torch.stack)


def _combined(inputs: Sequence[ViewInputs], combine: Callable[[list[Tensor]], Tensor]) -> ViewInputs:
    """Each tensor made of those of several inputs."""
    found: dict[str, Any] = {}
    for field in fields(ViewInputs):
        values = [getattr(one, field.name) for one in inputs]
        found[field.name] = None if values[0] is None else combine(values)
    return ViewInputs(**found)


@full_precision()
def view_inputs(view: RenderedView, references: References, most: int, guided: bool) -> ViewInputs:
    """The inputs of one view.

    Args:
        view: of the size that is drawn.
        references: at least one photo of any size, on the device of the view.
        most: photos that are looked at, the first ones.
        guided: give the guide as well.
    """
    references = select_references(references, list(range(min(most, len(references)))))
    covering = _covering(references, view.size)
    middles = _middles(covering, view.size)
    rotations = references.viewmats[:, :3, :3] @ view.viewmat[:3, :3].T
    poses = torch.eye(4, device=view.K.device, dtype=view.K.dtype).repeat(len(references), 1, 1)
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = references.viewmats[:, :3, 3] - (rotations @ view.viewmat[:3, 3])
    unit = _unit(poses, view)
    poses[:, :3, 3] /= unit
    near, far = depth_range(poses)
    return ViewInputs(
        photos=middles.rgb.permute(0, 3, 1, 2),
        poses=poses,
        photo_Ks=resize_intrinsics(middles.Ks, view.size, (1, 1)),
        K=resize_intrinsics(view.K, view.size, (1, 1)),
        near=near,
        far=far,
        guide=view_guide(view, _matching(references, view)) if guided else None,
    )


def depth_range(poses: Float[Tensor, "R 4 4"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Depths between which the rays of a view are sampled, from where it and the photos look to.

    Args:
        poses: see `ViewInputs`.
    """
    own = torch.eye(4, device=poses.device, dtype=poses.dtype)[None]
    cameras = torch.cat([own, poses])
    centers, axes = camera_centers(cameras), cameras[:, 2, :3]
    identity = own[0, :3, :3]
    across = identity - axes[:, :, None] * axes[:, None, :]
    guess = 2 * centers[1:].norm(dim=-1).mean().clamp(min=0.5) * axes[0]
    left = across.mean(0) + _RIDGE * identity
    right = (across @ centers[..., None])[..., 0].mean(0) + _RIDGE * guess
    focus = torch.linalg.solve(left, right)
    distances = (centers - focus).norm(dim=-1).clamp(min=0.5)
    return _NEAR * distances.min(), _FAR * distances.max()


def view_guide(view: RenderedView, references: References) -> Float[Tensor, "15 H W"]:
    """Render and photos as they appear in the view, through the depth of the render.

    The channels: colours of the render, smoothly continued into its holes, and its coverage; colours and worth of the
    best photo of each pixel, then of the second best; colours of all photos weighted by their worth. The worth of a
    photo is the cosine between its direction to the surface and the view's, less where something stands between; 0
    where it does not show the surface. The order of the photos does not matter.
    """
    solid = view.alpha > SOLID_ALPHA
    depth = fill_depth(view.depth[None], view.alpha[None], threshold=SOLID_ALPHA)
    alpha = view.alpha.clamp(0, 1)
    rgb = fill_colours(view.rgb.clamp(0, 1)[None], alpha[None])[0].clamp(0, 1)
    warped = warp_references(depth, view.viewmat[None], view.K[None], references, solid=solid[None])
    seen = _HIDDEN + (1 - _HIDDEN) * warped.visible
    worth = (warped.alignment.clamp(min=0) * warped.valid * seen)[:, 0]
    colours = warped.rgb[:, 0].clamp(0, 1) * (worth > 0)
    weights = worth**_BLEND_POWER
    blend = (weights * colours).sum(0) / weights.sum(0).clamp(min=1e-6)
    order = worth.argsort(dim=0, descending=True, stable=True)
    planes = [rgb, alpha]
    for rank in range(2):
        if rank < len(references):
            best = order[rank : rank + 1]
            planes += [colours.gather(0, best.expand(-1, -1, -1, 3))[0], worth.gather(0, best)[0]]
        else:
            planes += [torch.zeros_like(rgb), torch.zeros_like(alpha)]
    return torch.cat([*planes, blend], dim=-1).permute(2, 0, 1)


def _unit(poses: Tensor, view: RenderedView) -> Tensor:
    """Mean distance of the photos from the view, in scene units; where all are at one place what the view shows."""
    length = camera_centers(poses).norm(dim=-1).mean()
    if float(length) > 1e-6 * max(1.0, float(view.viewmat[:3, 3].abs().max())):
        return length
    known = view.depth[(view.alpha > SOLID_ALPHA) & (view.depth > 0)]
    return known.median() if known.numel() else torch.ones_like(length)


def _covering(references: References, size: tuple[int, int]) -> References:
    """The photos at the size at which they just cover `size`; what is hidden of them is black."""
    width, height = references.rgb.shape[2], references.rgb.shape[1]
    scale = max(size[0] / width, size[1] / height)
    shrunk = (max(size[0], math.ceil(width * scale - 1e-6)), max(size[1], math.ceil(height * scale - 1e-6)))
    return _blacked(resize_references(references, shrunk))


def _matching(references: References, view: RenderedView) -> References:
    """The photos at the size at which their pixels are as wide as those of the view, but never enlarged."""
    scale = float((view.K[0, 0] / references.Ks[:, 0, 0]).max().clamp(max=1.0))
    width, height = (max(1, round(side * scale)) for side in (references.rgb.shape[2], references.rgb.shape[1]))
    return _blacked(resize_references(references, (width, height)))


def _blacked(references: References) -> References:
    return references if references.seen is None else replace(references, rgb=references.rgb * references.seen)


def _middles(references: References, size: tuple[int, int]) -> References:
    left, top = (references.rgb.shape[2] - size[0]) // 2, (references.rgb.shape[1] - size[1]) // 2
    rgb = references.rgb[:, top : top + size[1], left : left + size[0]]
    return References(rgb, references.viewmats, crop_intrinsics(references.Ks, left, top))


def shrink_images(images: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Images at (width, height), antialiased."""
    return resize_images(images.permute(0, 2, 3, 1), size).permute(0, 3, 1, 2)
