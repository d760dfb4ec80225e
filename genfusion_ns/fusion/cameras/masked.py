"""Cameras of masked reconstruction: the train cameras themselves, with the whole frame instead of the seen part."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor

from genfusion_ns.fusion.cameras.clip_cameras import ClipSettings, PhotoCameras, SampledViews, cut_into_clips
from genfusion_ns.fusion.cameras.framing import frame_of
from genfusion_ns.fusion.cameras.sparse import ViewSampler
from genfusion_ns.geometry.cameras import resize_intrinsics
from genfusion_ns.geometry.capture_shape import pose_distances
from genfusion_ns.geometry.free_space import ClearTest
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.geometry.trajectories import interpolate_poses, visiting_order

_DETOUR = 1.5
"""Name order is kept while it is at most so many times longer than a short walk along all cameras."""


@dataclass
class MaskedSamplerConfig(ClipSettings, InstantiateConfig):
    """Whole frames at the train cameras, whose photos show only a part."""

    _target: type = field(default_factory=lambda: MaskedSampler)


class MaskedSampler(ViewSampler):
    """All train cameras in one walk; see `ViewSampler`.

    They stand where photos were taken, so nothing is in their way. Views fewer than a clip has frames are joined by
    frames in between, which stand at no photo.
    """

    shows_holes = True
    config: MaskedSamplerConfig

    def sample(
        self,
        cameras: PhotoCameras,
        round: int,
        generator: torch.Generator,
        is_clear: ClearTest | None = None,
    ) -> SampledViews:
        """See `ViewSampler.sample`; the path is the same in every round."""
        order, kind = _walk(cameras.c2w)
        gaps = max(len(order) - 1, 1)
        steps = max(1, -(-(self.clip_length - 1) // gaps))
        path = interpolate_poses(cameras.c2w[order], steps)
        photo_ids: list[int | None] = [None] * len(path)
        photo_ids[::steps] = order
        nearest = [order[(frame + steps // 2) // steps] for frame in range(len(path))]
        frame = frame_of(commonest_size(cameras.sizes), self.resolution, self.framing)
        Ks = torch.stack([resize_intrinsics(cameras.Ks[i], cameras.sizes[i], frame.whole) for i in nearest])
        log = {"kind": "train cameras", "round": round, "order": kind, "frames_between": steps - 1}
        return cut_into_clips(
            cameras,
            path,
            Ks,
            frame,
            clip_length=self.clip_length,
            settings=self.config,
            generator=generator,
            log=log,
            photo_ids=photo_ids,
        )


def _walk(c2w: Float[Tensor, "N 4 4"]) -> tuple[list[int], str]:
    """Name order, as published, unless the photos were not taken in it."""
    distances = pose_distances(c2w)

    def length(order: list[int]) -> float:
        return float(distances[order[:-1], order[1:]].sum())

    by_name, short = list(range(len(c2w))), visiting_order(c2w)
    return (by_name, "by name") if length(by_name) <= _DETOUR * length(short) else (short, "nearest next")
