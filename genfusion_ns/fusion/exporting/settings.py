"""Options of `gf-export`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.exports.frames import FrameName
from genfusion_ns.ranges import require_ranges


@dataclass
class Crop:
    """A box, in the frame of the scene, as nerfstudio's viewer names it for ns-export."""

    obb_center: tuple[float, float, float] | None = None
    """Middle of the box, scene units; without a box everything is exported."""
    obb_rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Its rotation, Euler angles in radians."""
    obb_scale: tuple[float, float, float] | None = None
    """Its sides, scene units."""

    def check(self) -> None:
        """Refuse half a box.

        Raises:
            ValueError: what is missing.
        """
        if (self.obb_center is None) != (self.obb_scale is None):
            raise ValueError("a crop box needs --crop.obb-center and --crop.obb-scale; give both or none")
        if self.obb_scale is not None and not all(0 < side < math.inf for side in self.obb_scale):
            raise ValueError(f"--crop.obb-scale is {self.obb_scale}; the sides of a box are above 0")

    @property
    def active(self) -> bool:
        """There is a box."""
        return self.obb_center is not None

    def within(self, points: Float[Tensor, "*shape 3"]) -> Bool[Tensor, "*shape"]:
        """Which points lie in the box; all of them where there is none."""
        if self.obb_center is None or self.obb_scale is None:
            return torch.ones_like(points[..., 0], dtype=torch.bool)
        from nerfstudio.data.scene_box import OrientedBox  # takes a second to import, which --help should not

        box = OrientedBox.from_params(self.obb_center, self.obb_rotation, self.obb_scale)
        flat = points.reshape(-1, 3).float()
        return box.within(flat).reshape(points.shape[:-1])


@dataclass
class ExportSettings:
    """What all exports share."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """File to write; its ending chooses the format."""
    overwrite: bool = False
    """Replace the file where it exists."""
    frame: FrameName = "scene"
    """scene: nerfstudio's frame and unit, z up, as ns-export has it. capture: those of the capture's files. y-up,
    y-down: the scene turned; SuperSplat and PlayCanvas want y-down, three.js and Babylon y-up. glb files have y up by
    their format."""
    crop: Crop = field(default_factory=Crop)
    """Box to keep."""


@dataclass
class SplatSettings(ExportSettings):
    """The surfels themselves, as flat Gaussians: .ply, .compressed.ply, .splat, .spz, .sog or .glb."""

    spz_version: Literal[2, 3, 4] = 4
    """Of .spz files; viewers from before 2026 read 3 or 2 only."""
    sh_degree: Literal[0, 1, 2, 3] = 3
    """Degrees of spherical harmonics to keep, at most; with 0 colours do not depend on the direction, and files are
    smaller and, for .sog, written sooner."""


@dataclass
class ViewSettings(ExportSettings):
    """Which depth maps of the scene are looked at."""

    extra_views: int = 0
    """Views on a smooth path through the photos, beside the photos themselves; they close gaps between few photos."""
    generated_views: bool = False
    """Look from where accepted frames of the last round were generated as well."""
    downscale: int = 1
    """Depth maps are rendered at this part of the size of the photos."""
    reach: float = 4.0
    """Surfaces farther from a camera than this are left out, in scene lengths (the depth that photos show)."""
    agreement: float = 0.03
    """A pixel counts where its depth agrees to this share with another view, or where no other shows its place; 0: each
    pixel counts."""
    spread: float = 0.05
    """Pixels whose mean and median depth differ by more than this share show no one surface, and are left out; 0: no
    such test."""

    def check(self) -> None:
        """Refuse what no export can have.

        Raises:
            ValueError: a setting out of range.
        """
        ranges = {
            "extra_views": (0, 100_000),
            "downscale": (1, 64),
            "reach": (1e-3, 1e6),
            "agreement": (0, 1),
            "spread": (0, 10),
        }
        require_ranges(self, ranges)


@dataclass
class MeshSettings(ViewSettings):
    """A mesh with colours, from rendered depth: .ply, .obj or .glb."""

    voxel: float = 0.0
    """Distance of two samples of the field, scene units; 0: twice what a pixel covers at the depth that photos show."""
    truncation: float = 4.0
    """How far around a surface the field follows it, in voxels; more where views disagree, less for thin things."""
    max_memory: float = 0.0
    """Of the field, GB; 0: half of what is free."""
    least_part: float = 0.01
    """Parts with less than this share of the area of the largest are removed."""
    largest_parts: int = 0
    """Keep no more parts than this, the largest; 0: no limit."""
    max_faces: int = 0
    """Simplify to about this many triangles; 0: as they are."""

    def check(self) -> None:
        """See `ViewSettings.check`."""
        super().check()
        ranges = {
            "voxel": (0, 1e9),
            "truncation": (2, 1000),
            "max_memory": (0, 1e6),
            "least_part": (0, 1),
            "largest_parts": (0, 10**9),
            "max_faces": (0, 10**10),
        }
        require_ranges(self, ranges)


@dataclass
class PointSettings(ViewSettings):
    """Points with colours and normals: .ply."""

    source: Literal["depth", "surfels"] = "depth"
    """depth: pixels of rendered depth that agree between views. surfels: middles of the surfels, drawn by the area that
    they cover."""
    num_points: int = 1000000
    """How many points, at most."""
    seed: int = 0
    """Which pixels or surfels are drawn."""

    def check(self) -> None:
        """See `ViewSettings.check`."""
        super().check()
        require_ranges(self, {"num_points": (1, 10**9)})
