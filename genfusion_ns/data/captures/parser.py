"""A dataparser that reads all registered views of a capture, of all the kinds that nerfstudio's usual ones read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import MAX_AUTO_RESOLUTION, ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.utils.colors import get_color
from nerfstudio.utils.io import write_to_json
from torch import Tensor

from genfusion_ns.data.captures.checks.files import CameraFiles, KnownConfig, checked_factor, read_camera_files
from genfusion_ns.data.captures.file_lookup import FileLookup
from genfusion_ns.data.captures.image_sizes import SHRINK
from genfusion_ns.messages import say

_AS_WRITTEN: dict[str, Any] = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}


class CaptureParser(DataParser):
    """All registered views in one go, whatever the split that is asked for.

    The camera files are read and completed by `read_camera_files`; what they say goes through nerfstudio's own parser
    of transforms.json, which normalises the poses. The frame is therefore that of the dataparser that the user named.
    """

    config: KnownConfig
    downscale_factor: int | None = None
    """Overrides the config; nerfstudio sets it to 1 where no image is opened."""

    def __init__(self, config: KnownConfig) -> None:
        super().__init__(config)
        self.declared: dict[str, list[Path]] = {}
        """Images of each split that the capture declares, known once it has been read."""
        self.full_size: list[Path] = []
        """The image at full size of each view."""

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        given = checked_factor(getattr(self.config, "downscale_factor", None))
        files = read_camera_files(self.config)
        self.declared = files.declared
        outputs = _parsed(files.content, _nerfstudio_config(self.config))
        _turn_mirrored(outputs.cameras.camera_to_worlds)
        models = {Path(frame["file_path"]): frame["camera_model"] for frame in files.content["frames"]}
        types = [CAMERA_MODEL_TO_TYPE[models[file]].value for file in outputs.image_filenames]
        outputs.cameras.camera_type = torch.tensor(types)[:, None]
        if isinstance(self.config, BlenderDataParserConfig) and self.config.alpha_color is not None:
            outputs = replace(outputs, alpha_color=get_color(self.config.alpha_color))
        self.full_size = outputs.image_filenames
        factor = self.downscale_factor or given or self._automatic_factor(outputs, files.images)
        return outputs if factor == 1 else self._downscaled(outputs, files, factor)

    def _downscaled(self, outputs: DataparserOutputs, files: CameraFiles, factor: int) -> DataparserOutputs:
        """The views at a downscale factor, with images from the folder for it or to be shrunk as they are loaded."""
        rounding = getattr(self.config, "downscale_rounding_mode", "floor")
        folder = files.images.with_name(f"{files.images.name}_{factor}")
        if not folder.is_dir():
            say(f"{folder} does not exist: images are shrunk by {factor} as they are loaded.")
            _divide(outputs.cameras, factor, "floor")
            return replace(outputs, metadata={**outputs.metadata, SHRINK: factor})
        _divide(outputs.cameras, factor, rounding)
        masks, depths = outputs.mask_filenames, outputs.metadata.get("depth_filenames")
        return replace(
            outputs,
            image_filenames=_files_in(folder, files.images, outputs.image_filenames),
            mask_filenames=None if masks is None else _smaller_where_there(masks, factor),
            metadata={
                **outputs.metadata,
                "depth_filenames": None if depths is None else _smaller_where_there(depths, factor),
            },
        )

    def _automatic_factor(self, outputs: DataparserOutputs, images: Path) -> int:
        """The downscale factor that leaves at most 1600 pixels, as nerfstudio's dataparsers choose it."""
        if not isinstance(self.config, (NerfstudioDataParserConfig, ColmapDataParserConfig)):
            return 1
        largest = int(max(outputs.cameras.width[0], outputs.cameras.height[0]))
        factor = 1
        while largest / factor > MAX_AUTO_RESOLUTION and (
            isinstance(self.config, ColmapDataParserConfig) or images.with_name(f"{images.name}_{2 * factor}").is_dir()
        ):
            factor *= 2
        say(f"Auto image downscale factor of {factor}")
        return factor


def _nerfstudio_config(config: KnownConfig) -> NerfstudioDataParserConfig:
    """Settings with which nerfstudio's parser of transforms.json puts poses where the named dataparser would."""
    everything: dict[str, Any] = {"eval_mode": "fraction", "train_split_fraction": 1.0, "downscale_factor": 1}
    if isinstance(config, NerfstudioDataParserConfig):
        return replace(config, **everything, load_3D_points=False, _target=Nerfstudio)
    if isinstance(config, InstantNGPDataParserConfig):
        return NerfstudioDataParserConfig(scale_factor=config.scene_scale, **_AS_WRITTEN, **everything)
    if isinstance(config, BlenderDataParserConfig):
        return NerfstudioDataParserConfig(scale_factor=config.scale_factor, **_AS_WRITTEN, **everything)
    same = ("scale_factor", "scene_scale", "orientation_method", "center_method", "auto_scale_poses")
    return NerfstudioDataParserConfig(
        **{name: getattr(config, name) for name in same},
        depth_unit_scale_factor=config.depth_unit_scale_factor,
        **everything,
    )


def _parsed(content: dict[str, Any], config: NerfstudioDataParserConfig) -> DataparserOutputs:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "transforms.json"
        write_to_json(path, content)
        return replace(config, data=path).setup().get_dataparser_outputs("train")


def _turn_mirrored(poses: Float[Tensor, "V 3 4"]) -> None:
    """Undo a slip of nerfstudio 1.1.5's orientation by pca, in place.

    Where the scene would be upside down it means to turn the y and z axes of the world, as in its transform, but
    turns all axes of the second and third pose instead.
    """
    mirrored = torch.linalg.det(poses[:, :, :3]) < 0
    if mirrored.any():
        poses[mirrored] *= -1
        poses[:, 1:] *= -1


def _divide(cameras: Cameras, factor: int, rounding: str) -> None:
    """Cameras of images that are smaller by a whole factor, in place; exact, where 1/3 in single precision is not."""
    width, height = cameras.width.clone(), cameras.height.clone()
    cameras.rescale_output_resolution(1 / factor)
    for name, side in (("width", width), ("height", height)):
        rounded = {"floor": side // factor, "ceil": -(-side // factor), "round": torch.round(side / factor)}[rounding]
        setattr(cameras, name, rounded.to(side.dtype))


def _files_in(folder: Path, images: Path, files: list[Path]) -> list[Path]:
    """The same images in another folder, see `_found_in`; where one is missing, the path that it should have."""
    lookup = FileLookup(folder)
    return [_found_in(lookup, images, file) or folder / file.name for file in files]


def _found_in(lookup: FileLookup, top: Path, file: Path) -> Path | None:
    """A file of the tree `top` in another folder: in the same tree (COLMAP), or beside all others (ns-process-data)."""
    names = [file.relative_to(top).as_posix()] if file.is_relative_to(top) else []
    return next((path for name in [*names, file.name] if os.path.isfile(path := lookup.find(name))), None)


def _smaller_where_there(files: list[Path], factor: int) -> list[Path]:
    """Files from the folder beside theirs with the factor in its name; each at full size where it is not there."""
    top = Path(os.path.commonpath([file.parent for file in files]))
    lookup = FileLookup(top.with_name(f"{top.name}_{factor}"))
    return [_found_in(lookup, top, file) or file for file in files]
