"""`RayDataManager`: pixels of photos of any sizes, drawn evenly over all of them, as cones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from jaxtyping import Float, Int, UInt8
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from torch import Tensor
from tyro.conf import Suppress

from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.data.multiscale.depth_range import DepthRange, depth_range
from genfusion_ns.data.multiscale.metadata import BLENDER_DEPTHS
from genfusion_ns.data.multiscale.parser import MultiscaleBlenderDataParserConfig
from genfusion_ns.geometry.cone_rays import cone_rays
from genfusion_ns.geometry.images import WHOLLY_SEEN
from genfusion_ns.seeds import generator_of

USUAL_RAYS = 4096
"""Rays of a step in the paper."""
_PER_RAY = ("lossmult", "near", "far")
"""Metadata of cameras that rays carry."""


@dataclass
class RayDataManagerConfig(GenFusionDataManagerConfig):
    """Views and splits as for surfels; each step draws pixels of all photos."""

    _target: type = field(default_factory=lambda: RayDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=MultiscaleBlenderDataParserConfig)
    """What reads the capture."""
    train_num_rays_per_batch: int = 0
    """Rays per step; 0: 4096 with a GPU, fewer without."""
    rays_seed: int = 0
    """Seed of the pixels that each step draws."""

    surface_points: Suppress[bool] = False
    backdrop_points: Suppress[bool] = False
    train_cameras_sampling_strategy: Suppress[str] = "random"  # type: ignore[assignment]


class _Pixels(NamedTuple):
    """All pixels of the train photos, in a row."""

    colours: UInt8[Tensor, "P C"] | Float[Tensor, "P C"]
    starts: Int[Tensor, " V1"]
    """Number of the first pixel of each photo, and of all."""
    seen: Int[Tensor, " M"] | None
    """Numbers of the pixels that may be seen; None: all of them."""


class RayDataManager(GenFusionDataManager):
    """Photos as `GenFusionDataManager` reads them, given out as rays.

    What a step draws depends on the seed and its number alone, so that a resumed run draws what an unbroken one does.
    """

    config: RayDataManagerConfig

    def __init__(
        self,
        config: RayDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        self.train_dataset.metadata.update(self._measures())
        if test_mode == "val":
            self.train_dataset.metadata["transparent"] = self.transparent

    def _measures(self) -> dict[str, Any]:
        """What a model of rays asks about a capture: between which depths it lies, and where its cameras are."""
        cameras, parser = self.train_dataparser_outputs.cameras, self._named_parser
        given = cameras.metadata or {}
        if isinstance(parser, BlenderDataParserConfig):
            depths = DepthRange(*(depth * parser.scale_factor for depth in BLENDER_DEPTHS))
        elif "near" in given and "far" in given:
            depths = DepthRange(float(given["near"].min()), float(given["far"].max()))
        else:
            depths = depth_range(cameras, self.seeds.xyz)
        centres = cameras.camera_to_worlds[:, :, 3]
        spread = float((centres - centres.mean(0)).norm(dim=-1).max())
        return {
            "depth_range": depths,
            "scene_centre": centres.mean(0),
            "scene_radius": max(spread, self.extent.length),
            "alpha_color": self.capture.outputs.alpha_color,
        }

    def _select(self, ids: tuple[int, ...]) -> DataparserOutputs:
        return replace(super()._select(ids), alpha_color=None)  # colours are composed in full precision, by the model

    @cached_property
    def _pixels(self) -> _Pixels:
        photos = self.cached_train
        channels = max(photo["image"].shape[-1] for photo in photos)
        flat = [_with_alpha(photo["image"], channels).reshape(-1, channels) for photo in photos]
        starts = torch.tensor([0, *map(len, flat)]).cumsum(0)
        seen = None
        if any("mask" in photo for photo in photos):
            masks = [photo["mask"].float().reshape(-1) > WHOLLY_SEEN for photo in photos if "mask" in photo]
            seen = torch.cat(masks).nonzero()[:, 0].cpu()
        return _Pixels(torch.cat(flat), starts, seen)

    @cached_property
    def _train_intrinsics(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        _ = self.cached_train  # reading the photos is what crops the cameras
        cameras = self.train_dataset.cameras.to(self.device)
        intrinsics = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy], -1)
        metadata = {name: value for name, value in (cameras.metadata or {}).items() if name in _PER_RAY}
        return cameras.camera_to_worlds, intrinsics, metadata

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:  # type: ignore[override]
        """The rays of a step and their colours.

        Returns:
            Rays, whose metadata hold directions_norm, radii and what their cameras know of near and far, each [N, 1];
            ``image`` [N, 3 or 4] in 0..1, ``lossmult`` [N, 1] and ``indices`` [N, 3] of view, row, column.
        """
        pixels, count = self._pixels, self.get_train_rays_per_batch()
        generator = generator_of(self.config.rays_seed, "rays", step)
        among = int(pixels.starts[-1]) if pixels.seen is None else len(pixels.seen)
        number = torch.randint(among, (count,), generator=generator)
        if pixels.seen is not None:
            number = pixels.seen[number]
        view = torch.searchsorted(pixels.starts, number, right=True) - 1
        width = self.train_dataset.cameras.width[view, 0]
        within = number - pixels.starts[view]
        row, column = within // width, within % width
        rays, lossmult = self._rays(view.to(self.device), row.to(self.device), column.to(self.device))
        colours = pixels.colours[number.to(pixels.colours.device)].to(self.device)
        colours = colours.float() / 255 if colours.dtype == torch.uint8 else colours.float()
        return rays, {"image": colours, "lossmult": lossmult, "indices": torch.stack([view, row, column], -1)}

    def _rays(self, view: Tensor, row: Tensor, column: Tensor) -> tuple[RayBundle, Tensor]:
        c2w, intrinsics, metadata = self._train_intrinsics
        places = torch.stack([column, row], -1) + 0.5
        origins, directions, radii = cone_rays(c2w[view], intrinsics[view], places)
        length = directions.norm(dim=-1, keepdim=True)
        known = {name: value[view] for name, value in metadata.items()}
        lossmult = known.pop("lossmult", torch.ones_like(length))
        rays = RayBundle(
            origins=origins,
            directions=directions / length,
            pixel_area=(1 / intrinsics[view, :2].prod(-1, keepdim=True)) / length**3,
            camera_indices=view[:, None],
            metadata={"directions_norm": length, "radii": radii, **known},
        )
        return rays, lossmult

    def get_train_rays_per_batch(self) -> int:
        """Rays of a step."""
        return self.config.train_num_rays_per_batch or USUAL_RAYS

    @cached_property
    def train_pixel_sampler(self) -> NoReturn:  # type: ignore[override]
        """What `ns-export pointcloud` and `poisson` draw their rays from.

        Raises:
            ValueError: always; they ask for normals as well, which mip-NeRF has not.
        """
        raise ValueError(
            "ns-export makes points and meshes of models with normals, which mip-NeRF has not; ns-render dataset "
            "--rendered-output-names raw-depth gives its depth maps"
        )

    def sampler_state(self) -> dict[str, Any]:
        """Nothing has to be kept: steps draw by their number."""
        return {}

    def load_sampler_state(self, state: dict[str, Any]) -> None:
        """See `sampler_state`."""


def _with_alpha(image: Tensor, channels: int) -> Tensor:
    if image.shape[-1] == channels:
        return image
    opaque = 255 if image.dtype == torch.uint8 else 1
    return torch.cat([image, torch.full_like(image[..., :1], opaque)], -1)
