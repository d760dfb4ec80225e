"""Views of one object without a background, and samples that a network learns from: one view in, rays of others out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

DISTANCE, FOV_Y = 1.9, 40.0
"""Of the cameras that a TripoSR knows: from the middle of the object, and vertical, in degrees."""
FOREGROUND = 0.85
"""Share of an image along which its object reaches."""


@dataclass(frozen=True)
class ObjectViews:
    """Views around an object in the middle of the world, z up."""

    rgba: UInt8[Tensor, "V H W 4"]
    """Straight colours and alpha."""
    c2w: Float[Tensor, "V 4 4"]
    """Poses, OpenGL axes."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels, shared."""

    def __len__(self) -> int:
        return len(self.rgba)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgba.shape[2], self.rgba.shape[1]

    def seen_from(self, view: int) -> ObjectViews:
        """The same with the world turned about its z axis so that a view stands at azimuth 0, on the side of +x."""
        x, y = self.c2w[view, :2, 3]
        length = torch.hypot(x, y)
        if float(length) < 1e-6:  # from straight above there is no azimuth
            return self
        c, s = x / length, y / length
        turn = torch.eye(4, dtype=self.c2w.dtype)
        turn[:2, :2] = torch.stack([torch.stack([c, s]), torch.stack([-s, c])])
        return replace(self, c2w=turn @ self.c2w)

    def framed_by(self, view: int, ratio: float = FOREGROUND) -> ObjectViews:
        """As `seen_from`, and with the world moved and scaled so that the object fills the view as it fills a photo.

        What is cut out of the view, with the object in its middle and along a share `ratio` of its longer side, is
        then what a camera sees that stands on the ray towards the origin at `DISTANCE` with `FOV_Y`: where something
        appears in the image says where it is beside the axis. Perspective changes a little, as in any crop.

        Args:
            view: the one that is given to the network; one without an object leaves all as `seen_from` has it.
            ratio: 0..1.
        """
        turned = self.seen_from(view)
        rows, columns = (self.rgba[view, ..., 3] > 0).nonzero(as_tuple=True)
        if len(rows) == 0:
            return turned
        # From the first to the last pixel, without the last, as the object is cut out of photos.
        low = torch.stack([columns.min(), rows.min()]).to(self.K)
        high = torch.stack([columns.max(), rows.max()]).to(self.K)
        focal = self.K.diagonal()[:2]
        side = float((high - low).max().clamp(min=1)) / ratio
        pose = turned.c2w[view]
        away = float(pose[:3, 3].norm())
        beside = ((low + high) / 2 - self.K[:2, 2]) / focal * away
        shift = pose[:3, 0] * beside[0] - pose[:3, 1] * beside[1]
        wide = 2 * math.tan(math.radians(FOV_Y) / 2) * DISTANCE
        scale = wide / (side / float(focal[1]) * away)
        c2w = turned.c2w.clone()
        c2w[:, :3, 3] = scale * (c2w[:, :3, 3] - shift)
        return replace(turned, c2w=c2w)

    def elevations(self) -> Float[Tensor, " V"]:
        """Heights of the cameras above the plane through the middle, in degrees."""
        places = self.c2w[:, :3, 3]
        return torch.rad2deg(torch.atan2(places[:, 2], places[:, :2].norm(dim=-1)))


@dataclass(frozen=True)
class ObjectSample:
    """One view of an object, and windows of others, in the frame in which the first stands at azimuth 0."""

    view: UInt8[Tensor, "H W 4"]
    """What the network gets, straight colours and alpha."""
    origins: Float[Tensor, "N c c 3"]
    """Of the rays of N windows."""
    directions: Float[Tensor, "N c c 3"]
    """Of length 1."""
    rgba: Float[Tensor, "N c c 4"]
    """What the rays see: straight colours and alpha, 0..1."""

    def mirrored(self) -> ObjectSample:
        """The sample of the object that is seen in a mirror: left and right change places."""
        swap = self.origins.new_tensor([1.0, -1.0, 1.0])
        return replace(self, view=self.view.flip(1), origins=self.origins * swap, directions=self.directions * swap)


@dataclass(frozen=True)
class JudgedObject:
    """What a network is judged by: the view that it gets, and others, in the frame that the first is to have."""

    given: UInt8[Tensor, "H W 4"]
    """Straight colours and alpha."""
    others: ObjectViews
