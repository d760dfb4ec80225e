"""Which places a camera may take, judged by what the observed views have seen: no camera inside walls or objects.

Evidence comes from depth rendered at the observed cameras. A place is *seen empty* by a view if it projects into the
image before the surface there. Everything is pure torch and works in the frame of the poses given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.geometry.cameras import camera_centers, distances_between, viewmat_to_c2w
from genfusion_ns.geometry.capture_shape import capture_shape, neighbour_spacing
from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip
from genfusion_ns.geometry.depth import depth_to_points

ClearTest = Callable[[Float[Tensor, "M 4 4"]], Bool[Tensor, " M"]]
"""Says for each pose (c2w, OpenGL) whether a camera may stand there."""

_MARGIN, _EMPTY_MARGIN = 0.05, 0.1
"""Distance to keep before a surface, as a share of its depth: of a camera, and of empty space."""
_RADIUS_SHARE = 0.2
_SURFACE_POINTS = 20_000
"""Points that stand for all surfaces that are seen."""
_AT_ONCE = 20_000
"""Points that are held in memory together with what all cameras say of them."""
_STRAYS = 1e-3
"""Share of the photographed surface that may lie nearer to a camera than its clearing allows: floaters, not things."""
_NEIGHBOURS = 3
"""Observed cameras this near in rank to each other are taken to be joined by a walk."""


@dataclass(frozen=True)
class SeenSurfaces:
    """What N observed views see of the scene; a small raster (128 pixels wide) suffices."""

    viewmats: Float[Tensor, "N 4 4"]
    """World-to-camera, OpenCV axes."""
    Ks: Float[Tensor, "N 3 3"]
    """Intrinsics in pixels of the depth maps."""
    depths: Float[Tensor, "N H W 1"]
    """Rendered z depth, scene units."""
    alphas: Float[Tensor, "N H W 1"]
    """Rendered coverage, 0..1; below `SOLID_ALPHA` a pixel is no evidence."""

    @cached_property
    def surface(self) -> Float[Tensor, "N H W"]:
        """Depth of the pixels that are evidence, 0 elsewhere."""
        return torch.where(self.alphas > SOLID_ALPHA, self.depths, 0.0)[..., 0]

    @cached_property
    def nearest(self) -> Float[Tensor, "N H W"]:
        """Smallest `surface` in the 3 x 3 pixels around each, 0 where one of them is no evidence."""
        return -F.max_pool2d(-self.surface[:, None], 3, stride=1, padding=1)[:, 0]

    @cached_property
    def centers(self) -> Float[Tensor, "N 3"]:
        """Places of the cameras."""
        return camera_centers(self.viewmats)

    @cached_property
    def walks(self) -> tuple[Float[Tensor, "L 3"], Float[Tensor, "L 3"]]:
        """Beginnings and extents of the lines between neighbouring cameras."""
        distances = distances_between(self.centers, self.centers).fill_diagonal_(torch.inf)
        neighbours = distances.topk(min(_NEIGHBOURS, len(distances) - 1), largest=False).indices
        # A camera is also its own neighbour: a line of no length, so that a single camera needs no case of its own.
        ends = torch.cat([torch.arange(len(distances), device=distances.device)[:, None], neighbours], dim=1)
        first = self.centers[:, None].expand(*ends.shape, 3).reshape(-1, 3)
        return first, self.centers[ends.flatten()] - first

    def cpu(self) -> SeenSurfaces:
        """The same on the CPU."""
        return SeenSurfaces(self.viewmats.cpu(), self.Ks.cpu(), self.depths.cpu(), self.alphas.cpu())


@dataclass(frozen=True)
class Clearings:
    """Balls around cameras in which there is nothing: nobody puts a camera into things."""

    centers: Float[Tensor, "N 3"]
    radii: Float[Tensor, " N"]
    """Scene units; 0 where nothing is known."""

    def hold(self, points: Float[Tensor, "M 3"]) -> Bool[Tensor, " M"]:
        """Which points lie in one of the balls. [M]"""
        centers, radii = self.centers.to(points), self.radii.to(points)
        parts = points.split(_AT_ONCE)
        return torch.cat([(distances_between(part, centers) < radii).any(1) for part in parts])


def clearings(surfaces: SeenSurfaces, share: float) -> Clearings:
    """The surroundings of the observed cameras that may be taken to be empty.

    Args:
        surfaces: of all observed views.
        share: radius of each ball, in units of the distance from its camera to the nearest surface that any view sees.
    """
    points = depth_to_points(surfaces.depths, surfaces.Ks, surfaces.viewmats)[surfaces.alphas[..., 0] > SOLID_ALPHA]
    centers = surfaces.centers
    if len(points) == 0:
        return Clearings(centers, centers.new_zeros(len(centers)))
    points = points[:: max(1, -(-len(points) // _SURFACE_POINTS))]
    nearest = distances_between(centers, points).kthvalue(1 + int(_STRAYS * len(points)), dim=1).values
    return Clearings(centers, share * nearest)


def free_space_test(
    points: Float[Tensor, "M 3"],
    surfaces: SeenSurfaces,
    radius: float,
    focus: Float[Tensor, "3"] | None = None,
) -> Bool[Tensor, " M"]:
    """Whether a camera may stand at each point.

    The positions of observed cameras always count as clear, points on a visible surface otherwise never. Of the rest,
    without `focus` a point needs evidence for it: some view has seen it empty, or it lies within `radius` of a camera
    or of the line between two neighbouring cameras and no view sees anything before it. What stands there unseen by
    all cannot be known. With `focus`, for captures that surround it, evidence against a point is needed: some view
    sees background, i.e. a surface beyond the focus, before it; what the subject itself hides stays allowed.

    Args:
        points: world points. [M, 3]
        surfaces: what the observed views see.
        radius: scene units.
        focus: the point that the cameras surround. [3]

    Returns:
        [M]
    """
    viewmats = surfaces.viewmats
    sight = _look(points, surfaces)
    on_surface = sight.on_surface.any(0)
    centers = surfaces.centers
    at_camera = distances_between(points, centers).amin(1) <= 1e-3 * radius
    behind = sight.known & (sight.z >= (1 - _MARGIN) * sight.depth)
    if focus is None:
        empty = sight.known & (sight.z <= (1 - _MARGIN) * sight.nearest)
        clear = empty.any(0) | (_near_a_walk(points, surfaces, radius) & ~behind.any(0))
    else:
        focus_z = viewmats[:, 2, :3] @ focus + viewmats[:, 2, 3]
        clear = ~(behind & (sight.depth > focus_z[:, None])).any(0)
    return at_camera | (clear & ~on_surface)


def seen_empty(points: Float[Tensor, "M 3"], surfaces: SeenSurfaces) -> Bool[Tensor, " M"]:
    """Which points lie well before a surface that some view sees: nothing can be there. Arguments as above. [M]"""
    sight = _look(points, surfaces)
    return (sight.known & (sight.z <= (1 - _EMPTY_MARGIN) * sight.nearest)).any(0)


def on_seen_surface(points: Float[Tensor, "M 3"], surfaces: SeenSurfaces) -> Bool[Tensor, " M"]:
    """Which points lie on a surface that some view sees. Arguments as above. [M]"""
    return torch.cat([_look(part, surfaces).on_surface.any(0) for part in points.split(_AT_ONCE)])


def seen_in_clip(
    clip: Clip, surfaces: SeenSurfaces, every: int, covered: float = SOLID_ALPHA
) -> Bool[Tensor, "T h w 1"]:
    """Whether the surface that a clip shows is one that some view sees, in every few pixels along both axes.

    Args:
        clip: of the scene that the surfaces are of.
        surfaces: what the views see.
        every: pixels from one that is looked at to the next.
        covered: coverage above which a pixel shows a surface.
    """
    at = slice(every // 2, None, every)
    places = depth_to_points(clip.depth, clip.Ks, clip.viewmats)[:, at, at]
    seen = on_seen_surface(places.reshape(-1, 3), surfaces).view(*places.shape[:-1], 1)
    return seen & (clip.alpha[:, at, at] > covered)


def clearance_test(surfaces: SeenSurfaces) -> ClearTest:
    """A test of poses against what all observed views see, strict or lenient by the shape of the capture."""
    c2w = viewmat_to_c2w(surfaces.viewmats)
    shape = capture_shape(c2w)
    focus = shape.focus if shape.surrounds_focus else None
    radius = _RADIUS_SHARE * neighbour_spacing(c2w)

    def is_clear(poses: Tensor) -> Tensor:
        points = poses[:, :3, 3].to(surfaces.viewmats)
        return free_space_test(points, surfaces, radius, focus).to(poses.device)

    return is_clear


@dataclass(frozen=True)
class _Sight:
    """What N views see in the direction of M points."""

    known: Tensor
    """The point is before the camera, inside the image, on a covered pixel. [N, M]"""
    z: Tensor
    """Depth of the point. [N, M]"""
    depth: Tensor
    """Depth of the surface at the point's pixel. [N, M]"""
    nearest: Tensor
    """Smallest depth in the 3 x 3 pixels around it, 0 where one of them is not covered. [N, M]"""

    @property
    def on_surface(self) -> Tensor:
        """The point lies about where the surface is. [N, M]"""
        return self.known & ((self.z - self.depth).abs() <= _MARGIN * self.depth)


def _look(points: Tensor, surfaces: SeenSurfaces) -> _Sight:
    viewmats, Ks, surface = surfaces.viewmats, surfaces.Ks, surfaces.surface
    height, width = surface.shape[1:]
    camera = points @ viewmats[:, :3, :3].transpose(-1, -2) + viewmats[:, None, :3, 3]
    z = camera[..., 2]
    pixel = (camera @ Ks.transpose(-1, -2))[..., :2] / z.clamp(min=1e-12)[..., None]
    inside = (z > 0) & (pixel >= 0).all(-1) & (pixel[..., 0] < width) & (pixel[..., 1] < height)
    column = pixel[..., 0].clamp(0, width - 1).long()
    row = pixel[..., 1].clamp(0, height - 1).long()
    view = torch.arange(len(viewmats), device=points.device)[:, None]
    covered = surfaces.alphas[view, row, column, 0] > SOLID_ALPHA
    return _Sight(inside & covered, z, surface[view, row, column], surfaces.nearest[view, row, column])


def _near_a_walk(points: Tensor, surfaces: SeenSurfaces, radius: float) -> Tensor:
    """Points within `radius` of a camera or of a line between neighbouring cameras. [M]"""
    first, line = surfaces.walks
    along = ((points[:, None] - first) * line).sum(-1) / line.square().sum(-1).clamp(min=1e-20)
    foot = first + along.clamp(0, 1)[..., None] * line
    return ((points[:, None] - foot).norm(dim=-1) <= radius).any(1)
