"""The similarity transform between two sets of poses of the same cameras.

Sparse points come in the world of the file they are stored in, cameras in the frame that a dataparser normalised them
to. Fitting the one to the other by the poses themselves, paired by image name, holds for every parser and every
preprocessing, and shows when the two do not belong together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MAX_RESIDUAL = 0.02
"""Largest camera displacement after alignment, as a fraction of the extent of the cameras."""


class AlignmentError(ValueError):
    """Two sets of poses that no similarity transform maps onto each other."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def apply(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Transformed points. [N, 3]"""
        return self.scale * points @ self.rotation.T + self.translation


def fit_similarity(source: Float[np.ndarray, "V 3 4"], target: Float[np.ndarray, "V 3 4"]) -> Similarity:
    """The similarity that takes camera-to-world poses `source` to `target`, both with the same camera axes.

    The rotation is the chordal mean over the cameras (Hartley et al. 2013), scale and translation follow from the
    centres (Umeyama 1991); unlike a fit of the centres alone this is well posed for cameras on a line.

    Raises:
        AlignmentError: fewer than two distinct camera centres, or a camera is displaced by more than `MAX_RESIDUAL`.
    """
    u, _, vt = np.linalg.svd(np.einsum("vij,vkj->ik", target[:, :, :3], source[:, :, :3]))
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    source_mean, target_mean = source[:, :, 3].mean(0), target[:, :, 3].mean(0)
    source_offset, target_offset = source[:, :, 3] - source_mean, target[:, :, 3] - target_mean
    extent = float(np.sqrt((target_offset**2).sum(1).max()))
    spread = float((source_offset**2).sum())
    if spread == 0.0 or extent == 0.0:
        raise AlignmentError(f"all {len(source)} shared cameras are in one place, which leaves the scale unknown")
    scale = float((target_offset * (source_offset @ rotation.T)).sum() / spread)
    fit = Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)
    residual = float(np.linalg.norm(fit.apply(source[:, :, 3]) - target[:, :, 3], axis=1).max()) / extent
    if scale <= 0.0 or residual > MAX_RESIDUAL:
        raise AlignmentError(
            f"its cameras differ from the capture's by up to {100 * residual:.1f} % of their extent "
            f"({100 * MAX_RESIDUAL:.0f} % allowed)"
        )
    return fit
