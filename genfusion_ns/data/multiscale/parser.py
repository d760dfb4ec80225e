"""nerfstudio's dataparser of multi-scale data sets.

nerfstudio finds dataparsers while it is still being imported, so nothing here may import its datamanagers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.colors import get_color

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.multiscale.metadata import FILE, StoredImage, read_metadata
from genfusion_ns.stored_config import StoredConfig

_HALF_BOX = 1.5
"""Of the scene box, scene units; Blender's objects lie in it."""


@dataclass
class MultiscaleBlenderDataParserConfig(StoredConfig, DataParserConfig):
    """A multi-scale data set as gf-make-multiscale and the published conversion write it."""

    _target: type = field(default_factory=lambda: MultiscaleBlender)
    data: Path = Path("multiscale/lego")
    """Folder of one object, with metadata.json."""
    scales: tuple[int, ...] = ()
    """Levels to use, 0 is the full size and each one halves it; all by default."""
    load_allres: bool = True
    """Train on all levels; False: on the largest of them alone, and test on all."""
    alpha_color: str | None = "white"
    """Colour behind transparent pixels; None keeps the alpha channel."""
    ply_path: Path | None = None
    """Point cloud to start surfels from, relative to the data and in their world; where there is none, sparse_pc.ply
    beside the data, else random points."""


class MultiscaleBlender(DataParser):
    """Images of several sizes, each with its own intrinsics.

    The cameras' metadata hold scale_label (level, 0 is the full size), lossmult, near and far, each [V, 1], which rays
    of nerfstudio then carry as well.
    """

    config: MultiscaleBlenderDataParserConfig
    downscale_factor: int | None = None
    """Set by nerfstudio where no image is opened; without effect."""

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        config = self.config
        splits = read_metadata(config.data)
        # Captures may have but one held-out split, and nerfstudio asks for the other while it trains.
        other = {"val": "test", "test": "val"}.get(split, split)
        images = self._chosen(splits[split] or splits[other], split)
        if not images:
            raise CaptureError(f"{config.data / FILE} has no images of {split}; make the data set again")
        colour = None if config.alpha_color in (None, "None") else get_color(config.alpha_color)
        half = _HALF_BOX
        return DataparserOutputs(
            image_filenames=[config.data / image.file_path for image in images],
            cameras=_cameras(images),
            alpha_color=colour,
            scene_box=SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3])),
        )

    def _chosen(self, images: list[StoredImage], split: str) -> list[StoredImage]:
        levels = sorted({image.level for image in images})
        wanted = sorted(set(self.config.scales)) or levels
        if not set(wanted) <= set(levels):
            raise CaptureError(
                f"--scales is {' '.join(map(str, self.config.scales))}; {self.config.data} has the levels "
                f"{' '.join(map(str, levels))}"
            )
        if split == "train" and not self.config.load_allres:
            wanted = wanted[:1]
        return [image for image in images if image.level in wanted]


def _cameras(images: list[StoredImage]) -> Cameras:
    fx, fy, cx, cy = torch.tensor([image.intrinsics for image in images], dtype=torch.float32)[..., None].unbind(1)
    width, height = torch.tensor([image.size for image in images])[..., None].unbind(1)
    return Cameras(
        camera_to_worlds=torch.tensor([image.cam2world for image in images], dtype=torch.float32)[:, :3],
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        width=width,
        height=height,
        camera_type=CameraType.PERSPECTIVE,
        metadata={
            "scale_label": torch.tensor([[image.level] for image in images]),
            "lossmult": torch.tensor([[image.loss_multiplier] for image in images]),
            "near": torch.tensor([[image.near] for image in images]),
            "far": torch.tensor([[image.far] for image in images]),
        },
    )
