"""What a scene starts from: points, and what is known of the surface at each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.models.splatfacto import random_quat_tensor
from torch import Tensor

from genfusion_ns.models import insertion

_LEAST_SPACING, _ALONE = 1e-5, 0.1
"""Size of surfels that start in one place, and of one that starts alone, in scene lengths."""
_ON_SURFACE, _UNSURE = 0.5, 0.1
"""Opacity of surfels where every point is known to be on a surface, with its normal, and of all others."""


@dataclass(frozen=True)
class StartingPoints:
    """Points in groups of their own density: sparse points, those on surfaces between them, those of a backdrop."""

    means: Float[Tensor, "M 3"]
    """Scene units."""
    colours: Float[Tensor, "M 3"]
    """0..1."""
    normals: Float[Tensor, "M 3"] | None = None
    """Of the surface at each point, 0 where it is not known."""
    radius: Float[Tensor, " M"] | None = None
    """Size of the surfel, scene units; 0: the distance to its neighbours."""
    group: Float[Tensor, " M"] | None = None
    """Neighbours are points of the same group: a backdrop is far away and coarse, and must neither set nor be held to
    the sizes of what is near."""
    on_surface: bool = False
    """Every point is known to be on a surface."""

    @classmethod
    def of(cls, seed_points: tuple[Tensor, Tensor], metadata: Mapping[str, Any]) -> StartingPoints:
        """Those of a capture.

        Args:
            seed_points: positions, scene units, and colours 0..255, of the sparse points, then those on surfaces, then
                those of the backdrop. [M, 3]
            metadata: of the train dataset: ``points3D_normals`` of the sparse points if all of them have one,
                ``surface_points`` (normals and radius of those on surfaces), ``num_backdrop_points``.
        """
        means, colours = seed_points[0].float(), seed_points[1].float() / 255
        normals, radius, group = torch.zeros_like(means), means.new_zeros(len(means)), means.new_zeros(len(means))
        between = metadata.get("surface_points")
        backdrop = metadata.get("num_backdrop_points", 0)
        near = len(means) - backdrop
        sparse = near - (0 if between is None else len(between[0]))
        if between is not None:
            normals[sparse:near], radius[sparse:near] = between
        group[near:] = 1.0
        known: Tensor | None = metadata.get("points3D_normals")
        if known is not None and len(known) == sparse:
            normals[:sparse] = known
        return cls(means, colours, normals, radius, group, known is not None and len(known) == len(means))

    def chosen(self, which: Tensor) -> StartingPoints:
        """Some of them, by index; larger where their size is known, so that they cover the same area. [K]"""
        known = {n: v for n in ("normals", "radius", "group") if (v := getattr(self, n)) is not None}
        taken = {name: value[which] for name, value in known.items()}
        if "radius" in taken:
            taken["radius"] = taken["radius"] * math.sqrt(len(self.means) / max(len(which), 1))
        return replace(self, means=self.means[which], colours=self.colours[which], **taken)

    def parameter_values(self, sh_degree: int, scene_length: float) -> dict[str, Tensor]:
        """Parameters of a round surfel at each point; see `insertion.parameter_values`."""
        quats = random_quat_tensor(len(self.means))
        if self.normals is not None:
            known = self.normals.square().sum(dim=-1, keepdim=True) > 0
            quats = torch.where(known, insertion.facing_quats(self.normals), quats)
        return insertion.parameter_values(
            self.means,
            self.colours,
            self._sizes(scene_length),
            quats,
            opacity=_ON_SURFACE if self.on_surface else _UNSURE,
            sh_degree=sh_degree,
            scene_length=scene_length,
        )

    def _sizes(self, scene_length: float) -> Float[Tensor, " M"]:
        sizes = torch.zeros(len(self.means)) if self.radius is None else self.radius.clone()
        group = torch.zeros(len(self.means)) if self.group is None else self.group
        for members in (group == label for label in group.unique()):
            asked = members & (sizes == 0)
            if bool(asked.any()):
                sizes[asked] = spacing(self.means[asked], scene_length)
        return sizes


def spacing(points: Float[Tensor, "N 3"], scene_length: float) -> Float[Tensor, " N"]:
    """Root mean square distance to the three nearest neighbours, scene units; outliers are capped."""
    from scipy.spatial import KDTree

    neighbours, least = min(4, len(points)), _LEAST_SPACING * scene_length
    distances = KDTree(points.numpy()).query(points.numpy(), k=neighbours)[0].reshape(len(points), neighbours)[:, 1:]
    if neighbours == 1:
        return torch.full((len(points),), _ALONE * scene_length)
    rms = np.sqrt(np.square(distances).mean(axis=-1))
    rms = np.clip(rms, least, max(np.quantile(rms, 0.98), least))
    return torch.from_numpy(rms.astype(np.float32))
