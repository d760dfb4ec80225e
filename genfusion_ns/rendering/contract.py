"""The types of the surfel rasteriser's contract: what goes in and what comes out of every backend.

See `genfusion_ns.rendering.surfels` for the conventions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

Backend = Literal["auto", "gsplat", "cpu", "reference"]
DepthAt = Literal["intersection", "centre"]

MIN_COVERAGE = 1e-10
"""Expected depth divides by no less than this."""
PIXEL_VARIANCE = 1 / 12
"""Variance of a square pixel, pixels squared."""
MAX_SH_DEGREE = 3
"""Highest spherical-harmonics degree of the colours."""


@dataclass(frozen=True)
class Surfels:
    """N surfels of one scene."""

    means: Float[Tensor, "N 3"]
    """Centres in world coordinates, scene units."""
    quats: Float[Tensor, "N 4"]
    """Rotations surfel -> world as (w, x, y, z), of any norm but zero."""
    scales: Float[Tensor, "N axes"]
    """Positive standard deviations along the two tangents, scene units; a third column is ignored."""
    opacities: Float[Tensor, " N"]
    """Opacities in 0..1."""
    features_dc: Float[Tensor, "N 3"]
    """Degree-0 spherical-harmonics coefficients, or plain rgb where rendering is asked for without a degree."""
    features_rest: Float[Tensor, "N bands 3"] | None = None
    """Coefficients of the degrees above 0, (degree + 1)^2 - 1 of them or more."""

    def __len__(self) -> int:
        return self.means.shape[0]


@dataclass(frozen=True)
class SurfelRender:
    """Images of C cameras, all of one size."""

    rgb: Float[Tensor, "C H W 3"]
    """Blended colour with the background behind it, not clamped."""
    alpha: Float[Tensor, "C H W 1"]
    """Accumulated opacity in 0..1."""
    depth: Float[Tensor, "C H W 1"]
    """Expected depth, sum(w z) / max(alpha, 1e-10), scene units; 0 where nothing is hit."""
    median_depth: Float[Tensor, "C H W 1"]
    """Depth of the last surfel hit while the transmittance is above one half, 0 where nothing is hit."""
    normals: Float[Tensor, "C H W 3"]
    """Blended world-frame normals facing the camera, sum(w n): as long as alpha allows, not normalised."""
    distortion: Float[Tensor, "C H W 1"]
    """2 sum_i w_i sum_{j<i} w_j (z_i - z_j) over surfels in depth order, scene units (2DGS equation 13, L1 form)."""
    info: dict[str, Any]
    """What gsplat's densification strategies read: ``gradient_2dgs`` [C,N,2] (its ``.grad`` is filled by backward),
    ``radii`` [C,N] int32 in pixels (0 where culled), ``width``, ``height``, ``n_cameras``, ``gaussian_ids`` (None)."""


@dataclass(frozen=True)
class RasterSettings:
    """Everything about a rendering that is not a tensor."""

    width: int
    height: int
    sh_degree: int | None
    near: float
    far: float
    depth_at: DepthAt
    pixel_variance: float | None = None
    """Variance of the filter in the plane of each surfel, pixels squared; None: the low-pass disc of 2DGS instead."""


def strategy_info(
    gradient_2dgs: Float[Tensor, "C N 2"], radii: Int[Tensor, "C N"], settings: RasterSettings
) -> dict[str, Any]:
    """The ``info`` of a render, under the names that gsplat's strategies look up."""
    return {
        "gradient_2dgs": gradient_2dgs,
        "radii": radii,
        "width": settings.width,
        "height": settings.height,
        "n_cameras": radii.shape[0],
        "gaussian_ids": None,
    }
