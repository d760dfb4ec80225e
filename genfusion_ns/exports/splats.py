"""Splats as files have them: N volumetric Gaussians with logarithms of sizes and logits of opacities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from genfusion_ns.exports.errors import refuse_empty
from genfusion_ns.exports.frames import Similarity
from genfusion_ns.exports.harmonics import rotated_bands

LEAST_LOGIT = float(np.log(1 / 254))
"""Of an opacity of 1/255, below which rasterisers skip a splat."""


@dataclass(frozen=True)
class Splats:
    """A scene of N splats; flat ones have a tiny third size."""

    means: Float[np.ndarray, "N 3"]
    """Centres."""
    quats: Float[np.ndarray, "N 4"]
    """Rotations splat -> world as (w, x, y, z), of length 1."""
    log_scales: Float[np.ndarray, "N 3"]
    """Natural logarithms of the standard deviations."""
    logits: Float[np.ndarray, " N"]
    """log(o / (1 - o)) of the opacities."""
    dc: Float[np.ndarray, "N 3"]
    """Coefficients of the constant band; colour = 1/2 + 0.2821 dc."""
    rest: Float[np.ndarray, "N bands 3"]
    """Coefficients of the degrees above 0: 0, 3, 8 or 15 bands."""

    def __len__(self) -> int:
        return len(self.means)

    def only(self, kept: Bool[np.ndarray, " N"]) -> Splats:
        """Some of them."""
        return Splats(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))

    def up_to_degree(self, degree: int) -> Splats:
        """The same splats without the harmonics above a degree."""
        return replace(self, rest=self.rest[:, : (degree + 1) ** 2 - 1])

    def rotations(self) -> Float[np.ndarray, "N 3 3"]:
        """Rotation matrices; their columns are the axes of the splats."""
        return Rotation.from_quat(np.roll(self.quats, -1, axis=1)).as_matrix()

    def normals(self, eyes: Float[np.ndarray, "C 3"] | None = None) -> Float[np.ndarray, "N 3"]:
        """Unit third axes, turned towards the nearest of the places that the splats were seen from."""
        normals = self.rotations()[:, :, 2]
        if eyes is not None and len(eyes):
            towards = eyes[KDTree(eyes).query(self.means)[1]] - self.means
            normals = np.where((normals * towards).sum(1, keepdims=True) < 0, -normals, normals)
        return normals.astype(np.float32)

    def moved(self, to: Similarity) -> Splats:
        """The same scene in another frame, with its colours turned along."""
        turned = Rotation.from_matrix(to.rotation) * Rotation.from_quat(np.roll(self.quats, -1, axis=1))
        return replace(
            self,
            means=to.points(self.means),
            quats=np.roll(turned.as_quat(), 1, axis=1).astype(np.float32),
            log_scales=(self.log_scales + np.log(to.scale)).astype(np.float32),
            rest=rotated_bands(self.rest, to.rotation),
        )


def usable(splats: Splats, inside: Bool[np.ndarray, " N"] | None = None) -> tuple[Splats, dict[str, int]]:
    """Splats that can be drawn, and how many were left out for which reason.

    Args:
        splats: all.
        inside: those within the crop box.

    Raises:
        EmptyExportError: none is left.
    """
    finite = np.ones(len(splats), dtype=bool)
    for name in splats.__dataclass_fields__:
        finite &= np.isfinite(getattr(splats, name).reshape(len(splats), -1)).all(1)
    seen = splats.logits >= LEAST_LOGIT
    kept, removed = np.ones(len(splats), dtype=bool), {}
    reasons = {"not finite": finite, "with an opacity under 1/255": seen}
    if inside is not None:
        reasons["outside of the crop box"] = inside
    for reason, good in reasons.items():
        removed[reason] = int((kept & ~good).sum())
        kept &= good
    refuse_empty("surfels", len(splats), removed)
    return splats.only(kept), removed
