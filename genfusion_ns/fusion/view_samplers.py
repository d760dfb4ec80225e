"""Where a round looks: the cameras of its clips and the photos that condition them, nothing else.

A sampler sees poses only. What it may not know by itself, namely where walls are, comes in as a test of poses.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor

from genfusion_ns.geometry.cameras import resize_intrinsics
from genfusion_ns.geometry.capture import CaptureShape, capture_shape, pose_distances
from genfusion_ns.geometry.free_space import ClearTest, move_jumps, pull_to_clear
from genfusion_ns.geometry.trajectories import ellipse_path, follow_path, spline_path
from genfusion_ns.geometry.windows import Window, clip_windows

_JUMP = 3.0
"""A step this many times longer than any of the unobstructed path is a jump."""


@dataclass(frozen=True)
class ObservedViews:
    """Cameras of the N training views; where a run may see only a part of a photo, these are those of the whole one."""

    c2w: Float[Tensor, "N 4 4"]
    """Camera-to-world, OpenGL axes."""
    Ks: Float[Tensor, "N 3 3"]
    """Intrinsics in pixels of each view's own size."""
    sizes: list[tuple[int, int]]
    """(width, height) of each view in pixels."""


@dataclass(frozen=True)
class SampledViews:
    """A camera path of M frames, cut into windows, with the views that condition each window."""

    c2w: Float[Tensor, "M 4 4"]
    """Camera-to-world, OpenGL axes."""
    K: Float[Tensor, "M 3 3"]
    """Intrinsics in pixels of `size`."""
    size: tuple[int, int]
    """(width, height) at which to render the clip."""
    windows: list[Window]
    """Frames of each repair call."""
    reference_ids: list[list[int]]
    """For each window, indices into the observed views, most similar first."""
    log: dict[str, Any]
    """How the path came about, ready for JSON."""
    photo_ids: list[int | None] | None = None
    """For each frame the observed view whose camera it shares but for K; None in paths that share none."""


class ViewSampler(Protocol):
    """Chooses the cameras of a round."""

    def sample(
        self,
        observed: ObservedViews,
        round: int,
        generator: torch.Generator,
        is_clear: ClearTest | None = None,
    ) -> SampledViews:
        """Cameras and references of one round.

        Args:
            observed: training views, at least one.
            round: 0-based count of rounds.
            generator: source of all randomness, on the CPU.
            is_clear: which poses stand in free space; without it every pose is taken as clear.
        """
        ...


@dataclass
class SparseSamplerConfig(InstantiateConfig):
    """Views between and around a few observed ones."""

    _target: type = field(default_factory=lambda: SparseSampler)
    kind: Literal["auto", "ellipse", "follow"] = "auto"
    """Path: a loop around the subject (ellipse), along the observed cameras (follow), or whichever fits them (auto)."""
    num_frames: int = 48
    """Frames per round; a multiple of the repairer's clip length wastes none."""
    num_references: int = 3
    """Photos that condition each window at most."""
    ellipse_scale: float = 1.0
    """Ellipse: factor on the half-axes of the loop through the observed cameras."""
    height_variation: float = 1.5
    """Ellipse: sway of the height in round 0; 1 covers the 10th to 90th percentile of the observed heights."""
    height_variation_step: float = 0.2
    """Ellipse: how much the sway shrinks per round, down to 0.5."""
    tilt_step: float = 2.0
    """Ellipse: degrees by which the cameras look above or below the subject, per round; 0 in round 0."""
    max_tilt: float = 10.0
    """Ellipse: largest tilt in degrees."""
    position_jitter: float = 0.2
    """Follow: largest departure from the observed cameras, as a share of the distance between neighbours."""
    turn_jitter: float = 5.0
    """Follow: largest turn away from the observed directions in degrees."""


class SparseSampler:
    """An ellipse where the cameras surround their subject, else a path along the cameras; see `ViewSampler`."""

    def __init__(self, config: SparseSamplerConfig, clip_length: int, resolution: tuple[int, int]) -> None:
        """`clip_length` and `resolution` (width, height) are those of the repairer."""
        for name in ("num_frames", "num_references"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")
        self.config = config
        self.clip_length = clip_length
        self.resolution = resolution

    def sample(
        self,
        observed: ObservedViews,
        round: int,
        generator: torch.Generator,
        is_clear: ClearTest | None = None,
    ) -> SampledViews:
        """See `ViewSampler.sample`."""
        shape = capture_shape(observed.c2w)
        kind = self.config.kind
        if kind == "auto":
            kind = "ellipse" if shape.surrounds_focus else "follow"
        path, log = (self._ellipse if kind == "ellipse" else self._follow)(observed.c2w, round, generator)
        log = {"kind": kind, "round": round, **_shape_log(shape), **log}
        windows = clip_windows(len(path), self.clip_length)
        if is_clear is not None:
            path, cleared = _keep_clear(path, observed.c2w, windows, is_clear)
            log |= cleared
        size, K = clip_intrinsics(observed, self.resolution)
        return SampledViews(
            c2w=path,
            K=K.expand(len(path), 3, 3).clone(),
            size=size,
            windows=windows,
            reference_ids=[
                choose_references(observed.c2w, path[w.start : w.start + w.length], self.config.num_references)
                for w in windows
            ],
            log=log,
        )

    def _ellipse(self, c2w: Tensor, round: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        config = self.config
        phase, side = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        variation = max(0.5, config.height_variation - config.height_variation_step * round)
        tilt = math.copysign(min(config.max_tilt, config.tilt_step * round), side - 0.5)
        path = ellipse_path(c2w, config.num_frames, variation, phase, config.ellipse_scale, math.radians(tilt))
        return path, {"phase": phase, "height_variation": variation, "tilt_degrees": tilt}

    def _follow(self, c2w: Tensor, round: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        config = self.config
        path = follow_path(c2w, config.num_frames, generator, config.position_jitter, math.radians(config.turn_jitter))
        return path, {"position_jitter": config.position_jitter, "turn_jitter_degrees": config.turn_jitter}


def _keep_clear(
    path: Tensor, observed: Tensor, windows: list[Window], is_clear: ClearTest
) -> tuple[Tensor, dict[str, Any]]:
    """The path in free space, with what could not be joined smoothly cut between windows, and what it took."""
    limit = _JUMP * float(_steps(path).max()) if len(path) > 1 else math.inf
    pulled = pull_to_clear(path, observed, is_clear)
    borders = [window.start + window.new_from for window in windows]
    kept = move_jumps(pulled.c2w, borders, limit, is_clear)
    return kept, {
        "pulled_frames": int((pulled.pull > 0).sum()),
        "largest_pull": float(pulled.pull.max()),
        "jumps": int((_steps(kept) > limit).sum()),
    }


def _steps(c2w: Tensor) -> Tensor:
    return c2w[:, :3, 3].diff(dim=0).norm(dim=-1)


def views_towards(
    observed: ObservedViews,
    c2w: Float[Tensor, "rows 4"],
    fov_y: float,
    clip_length: int,
    resolution: tuple[int, int],
    num_references: int = 3,
) -> SampledViews:
    """One window from the nearest observed view to a camera.

    Args:
        observed: training views, at least one.
        c2w: the camera, OpenGL axes; 3 or 4 rows.
        fov_y: its vertical angle of view, radians.
        clip_length: frames of the window.
        resolution: (width, height) of the repairer; the clip has the shape of the photos.
        num_references: photos that condition the window at most.

    Raises:
        ValueError: a pose that is not rigid or not finite, or an angle out of range.
    """
    target = torch.eye(4, dtype=observed.c2w.dtype)
    target[:3] = c2w[:3].to(target)
    turned = target[:3, :3].T @ target[:3, :3]
    if not bool(torch.isfinite(target).all()) or float((turned - torch.eye(3)).abs().max()) > 1e-3:
        raise ValueError(f"the camera pose to complete from is not a rigid, finite one: {c2w.tolist()}")
    if not 0 < fov_y < math.pi:
        raise ValueError(f"the vertical angle of view is {math.degrees(fov_y)} degrees; it must lie between 0 and 180")
    nearest = int(pose_distances(observed.c2w, target[None])[:, 0].argmin())
    path = spline_path(torch.stack([observed.c2w[nearest], target]), clip_length)
    size, K = clip_intrinsics(observed, resolution)
    asked = K.clone()
    asked[0, 0] = asked[1, 1] = size[1] / 2 / math.tan(fov_y / 2)
    asked[0, 2], asked[1, 2] = size[0] / 2, size[1] / 2
    share = torch.linspace(0, 1, clip_length, dtype=K.dtype)[:, None, None]
    references = choose_references(observed.c2w, path, num_references)
    log = {"kind": "towards a camera", "from_view": nearest, "fov_y_degrees": math.degrees(fov_y)}
    return SampledViews(path, K + share * (asked - K), size, clip_windows(clip_length, clip_length), [references], log)


def choose_references(observed: Float[Tensor, "N 4 4"], frames: Float[Tensor, "T 4 4"], count: int) -> list[int]:
    """The views that condition a window: the nearest to its mean pose first, then those that cover its frames best.

    The first choice is the official rule with positions in units of the capture (`pose_distances`). Each further view
    is the one that brings the frames, on average, closest to a chosen view.

    Args:
        observed: poses of the training views. [N, 4, 4]
        frames: poses of the window. [T, 4, 4]
        count: how many; all views at most.

    Returns:
        Indices of `observed` without repeats.
    """
    mean = frames.mean(0, keepdim=True)
    mean[:, :3, 2] = torch.nn.functional.normalize(mean[:, :3, 2], dim=-1)
    chosen = [int(pose_distances(observed, mean)[:, 0].argmin())]
    distances = pose_distances(observed, frames)
    covered = distances[chosen[0]]
    while len(chosen) < min(count, len(observed)):
        gain = (covered - torch.minimum(distances, covered)).sum(1)
        gain[chosen] = -1.0
        # Where no view brings a frame closer any more, the nearest of the rest.
        pick = int(gain.argmax()) if gain.max() > 0 else _nearest_of_the_rest(distances, chosen)
        chosen.append(pick)
        covered = torch.minimum(covered, distances[pick])
    return chosen


def _nearest_of_the_rest(distances: Tensor, chosen: list[int]) -> int:
    total = distances.sum(1)
    total[chosen] = torch.inf
    return int(total.argmin())


def clip_size(observed: tuple[int, int], resolution: tuple[int, int], multiple: int = 8) -> tuple[int, int]:
    """Clip size with the shape of the photos and about as many pixels as the repairer was made for.

    Args:
        observed: (width, height) of the photos.
        resolution: (width, height) of the repairer.
        multiple: both sides are multiples of this.

    Returns:
        (width, height) in pixels.

    Raises:
        ValueError: a side below 1.
    """
    if min(*observed, *resolution, multiple) < 1:
        raise ValueError(
            f"photo size {observed}, repairer resolution {resolution} and multiple {multiple} must be >= 1"
        )
    aspect, area = observed[0] / observed[1], resolution[0] * resolution[1]
    ideal = math.sqrt(area * aspect)
    around = [max(1, math.floor(ideal / multiple) + step) * multiple for step in (-1, 0, 1, 2)]
    candidates = [(w, max(1, math.floor(w / aspect / multiple + 0.5)) * multiple) for w in around]
    return min(candidates, key=lambda s: 2 * abs(math.log(s[0] / s[1] / aspect)) + abs(math.log(s[0] * s[1] / area)))


def clip_intrinsics(
    observed: ObservedViews, resolution: tuple[int, int]
) -> tuple[tuple[int, int], Float[Tensor, "3 3"]]:
    """Size of the clip and the median intrinsics of the observed views at it, over the views of the commonest size.

    Args:
        observed: training views.
        resolution: (width, height) of the repairer.

    Returns:
        (width, height) and K in pixels of that size.
    """
    common = Counter(observed.sizes).most_common(1)[0][0]
    chosen = observed.Ks[[i for i, size in enumerate(observed.sizes) if size == common]]
    size = clip_size(common, resolution)
    return size, resize_intrinsics(chosen.median(dim=0).values, common, size)


def _shape_log(shape: CaptureShape) -> dict[str, Any]:
    return {
        "focus": shape.focus.tolist(),
        "up": None if shape.up is None else shape.up.tolist(),
        "largest_gap_degrees": math.degrees(shape.largest_gap),
        "focus_miss": shape.miss,
    }
