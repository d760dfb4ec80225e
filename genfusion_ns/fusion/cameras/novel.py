"""Cameras of single novel views, in free space, drawn ahead for many of them.

Where a camera may stand follows from renders of all photos' cameras, which are made once for each batch of cameras and
not for each of them. The batch is part of the state: a resumed run has the same cameras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras
from genfusion_ns.fusion.cameras.framing import ClipFrame
from genfusion_ns.geometry.cameras import crop_intrinsics, resize_intrinsics
from genfusion_ns.geometry.clear_paths import pull_to_clear
from genfusion_ns.geometry.free_space import ClearTest
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.geometry.novel_views import NovelViews, ViewPath
from genfusion_ns.ranges import require_ranges
from genfusion_ns.seeds import generator_of
from genfusion_ns.stored_config import StoredConfig

_AHEAD = 50
"""Cameras of a batch."""
_ATTEMPTS = 20
"""Draws of a camera before one that is not clear is moved to where it is."""


@dataclass
class NovelViewSettings(StoredConfig):
    """Where novel views lie; see `genfusion_ns.geometry.novel_views`."""

    path: ViewPath = "auto"
    """Path near which novel views lie: around the point that all photos look at (ellipse), the same from one side of it
    (forward), along the photos (spline), or what suits the capture (auto)."""
    smoothing: float = 0.03
    """Of the spline: squared distance, summed over the photos, that it may keep from them; 0 passes through each. The
    largest coordinate of a camera is 1."""
    height_variation: float = 1.0
    """Heights of the ellipse: 0 stays at the mean height of the photos, 1 covers their 10th to 90th percentile."""
    position_jitter: float = 0.1
    """Largest departure from the path along each axis, as a share of the mean distance of the photos from what they
    look at."""
    up_jitter: float = 0.05
    """Standard deviation of the components of the up axis."""
    lookat_jitter: float = 0.1
    """Largest departure of the point looked at along each axis, in the same unit as position-jitter."""

    def check(self, flag: str) -> None:
        """Refuse settings out of range.

        Args:
            flag: where these settings are on the command line.

        Raises:
            ValueError: with the flag.
        """
        most = {"smoothing": 100, "height_variation": 10, "position_jitter": 10, "up_jitter": 1, "lookat_jitter": 10}
        require_ranges(self, {name: (0, high) for name, high in most.items()}, f"{flag}.")


class NovelCameras:
    """The cameras of the novel views of one run, in their order."""

    def __init__(self, photos: PhotoCameras, settings: NovelViewSettings, seed: int) -> None:
        """
        Raises:
            ValueError: the photos are fewer than two, or all from one place, or lie otherwise than the settings say.
        """
        self.views = NovelViews.of(photos.c2w, settings.path, settings.smoothing)
        self._photos, self._settings, self._seed = photos, settings, seed
        self._ahead: Float[Tensor, "M 4 4"] = torch.zeros(0, 4, 4, dtype=torch.float64)
        self._batches = 0

    def next(self, clear_test: Callable[[], ClearTest]) -> Float[Tensor, "4 4"]:
        """The next camera (c2w, OpenGL axes, float64).

        Args:
            clear_test: makes the test of where cameras may stand; called once in a while.
        """
        if len(self._ahead) == 0:
            self._ahead = self._batch(clear_test())
            self._batches += 1
        pose, self._ahead = self._ahead[0], self._ahead[1:]
        return pose

    def _batch(self, is_clear: ClearTest) -> Tensor:
        settings, generator = self._settings, generator_of(self._seed, "novel views", self._batches)

        def draw(count: int) -> Tensor:
            poses = [
                self.views.draw(
                    generator,
                    position_jitter=settings.position_jitter,
                    up_jitter=settings.up_jitter,
                    lookat_jitter=settings.lookat_jitter,
                    height_variation=settings.height_variation,
                )
                for _ in range(count)
            ]
            return torch.stack(poses)

        poses = draw(_AHEAD)
        for _ in range(_ATTEMPTS):
            blocked = (~is_clear(poses)).nonzero()[:, 0]
            if len(blocked) == 0:
                return poses
            poses[blocked] = draw(len(blocked))
        blocked = (~is_clear(poses)).nonzero()[:, 0].tolist()
        observed = self._photos.c2w.to(poses)
        for index in blocked:
            poses[index] = pull_to_clear(poses[index : index + 1], observed, is_clear).c2w[0]
        return poses

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"ahead": self._ahead.clone(), "batches": self._batches}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._ahead, self._batches = state["ahead"].cpu().reshape(-1, 4, 4), int(state["batches"])


def covering_frame(photo_size: tuple[int, int], size: tuple[int, int]) -> ClipFrame:
    """Views of `size` in the middle of photos that are scaled until they cover it; both (width, height).

    >>> covering_frame((200, 100), (64, 64))
    ClipFrame(size=(64, 64), whole=(128, 64), padded=False)
    """
    scale = max(size[0] / photo_size[0], size[1] / photo_size[1])
    whole = tuple(max(side, round(photo * scale)) for photo, side in zip(photo_size, size, strict=True))
    return ClipFrame(size, (whole[0], whole[1]))


def view_intrinsics(
    photos: PhotoCameras, size: tuple[int, int]
) -> tuple[ClipFrame, Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    """Intrinsics of novel views: those of the photos on average, over the photos of the commonest size.

    Args:
        photos: of the capture.
        size: (width, height) of the views in pixels.

    Returns:
        The frame, K of a view, and K of its whole frame.
    """
    common = commonest_size(photos.sizes)
    chosen = photos.Ks[[index for index, found in enumerate(photos.sizes) if found == common]]
    frame = covering_frame(common, size)
    whole = resize_intrinsics(chosen.mean(dim=0), common, frame.whole)
    return frame, crop_intrinsics(whole, *frame.middle()), whole
