"""Views of one object without a background, and samples that a network learns from: one view in, rays of others out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


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
