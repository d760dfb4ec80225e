"""Which of nerfstudio's dataparsers reads a capture, judged by its files."""

from __future__ import annotations

from pathlib import Path

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from genfusion_ns.data.captures.checks.colmap import COLMAP_FOLDERS, usual_colmap_folder
from genfusion_ns.data.captures.image_files import CaptureError


def dataparser_of(folder: Path, downscale_factor: int | None = None) -> DataParserConfig:
    """Dataparser for the capture in `folder`.

    The first that fits: transforms.json (nerfstudio, also gf-sample-scene), transforms_train.json (Blender), a COLMAP
    model in the first of colmap/sparse/0, sparse/0 and sparse that has one, beside a folder images.

    Args:
        folder: of the capture.
        downscale_factor: read images_<factor>; None lets the dataparser choose. Blender captures have no such folders.

    Raises:
        CaptureError: no such folder, none of these files, or a factor for a Blender capture.
    """
    if not folder.is_dir():
        raise CaptureError(f"{folder} {'is a file, not a folder' if folder.exists() else 'does not exist'}")
    if (folder / "transforms.json").is_file():
        return NerfstudioDataParserConfig(data=folder, load_3D_points=False, downscale_factor=downscale_factor)
    if (folder / "transforms_train.json").is_file():
        if downscale_factor not in (None, 1):
            raise CaptureError(
                f"{folder} is a Blender capture, which has no downscaled images; leave --downscale-factor out for it"
            )
        return BlenderDataParserConfig(data=folder, alpha_color=None)  # keeps the alpha channel
    if (model := usual_colmap_folder(folder)) is not None:
        return ColmapDataParserConfig(
            data=folder, colmap_path=model, load_3D_points=False, downscale_factor=downscale_factor
        )
    raise CaptureError(
        f"{folder} is no capture: it has no transforms.json (nerfstudio), no transforms_train.json (Blender) and no "
        f"COLMAP model (images.bin or images.txt) in {', '.join(map(str, COLMAP_FOLDERS))}"
    )
