"""What must be right about a capture on disk before one of nerfstudio's dataparsers may read it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import MAX_AUTO_RESOLUTION, ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from genfusion_ns.data.colmap_checks import check_colmap
from genfusion_ns.data.image_files import CaptureError, ImageHeader, raise_for, read_header
from genfusion_ns.data.transforms_checks import check_blender, check_transforms
from genfusion_ns.data.view_checks import IMAGE_WAY_OUT

_COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0", "sparse")


def check_capture_files(config: DataParserConfig, check_images: bool = True) -> None:
    """Check the capture that a dataparser config names, as far as its camera files.

    Captures for the nerfstudio, COLMAP and Blender dataparsers are checked; others answer for themselves.

    Args:
        config: of the dataparser, as it will be set up.
        check_images: also what the dataparser learns from image files: downscaled folders and the first image.

    Raises:
        CaptureError: with the file, the value found, what is allowed and the way out.
    """
    if isinstance(config, NerfstudioDataParserConfig):
        _require_data(config.data, takes_json=True)
        _check_nerfstudio(config, check_images)
    elif isinstance(config, ColmapDataParserConfig):
        _require_data(config.data)
        _check_colmap(config, check_images)
    elif isinstance(config, BlenderDataParserConfig):
        _require_data(config.data)
        _check_blender(config)


def _require_data(data: Path, takes_json: bool = False) -> None:
    if not data.exists():
        raise CaptureError(f"--data {data} does not exist. Name the folder of a capture.")
    if data.is_file() and not (takes_json and data.suffix == ".json"):
        raise CaptureError(
            f"--data {data} is a file; name the folder of a capture{', or its .json file' if takes_json else ''}."
        )
    if data.is_dir() and next(data.iterdir(), None) is None:
        raise CaptureError(f"--data {data} is an empty folder. Name the folder of a capture.")


def _check_nerfstudio(config: NerfstudioDataParserConfig, check_images: bool) -> None:
    path = config.data if config.data.suffix == ".json" else config.data / "transforms.json"
    if not path.exists():
        raise _nothing_for(config.data, "transforms.json", "nerfstudio")
    frames = check_transforms(path)["frames"]
    names = [frame["file_path"] for frame in frames]
    _check_named_split(config, names)
    factor = _checked_factor(config.downscale_factor)
    if not check_images:
        return
    if factor is None:
        _read_first(path.parent / names[0])
    elif factor > 1:
        _require_downscaled(path.parent / f"images_{factor}", factor, "images")


def _check_colmap(config: ColmapDataParserConfig, check_images: bool) -> None:
    model = config.data / config.colmap_path
    if not model.exists():
        raise _nothing_for(config.data, f"COLMAP model in {config.colmap_path}", "colmap")
    names = check_colmap(model, config.data)
    _check_named_split(config, names)
    factor = _checked_factor(config.downscale_factor)
    if not check_images:
        return
    images = config.data / config.images_path
    if factor is None:
        width, height = _read_first(images / names[0]).size
        factor = 1
        while max(width, height) / factor > MAX_AUTO_RESOLUTION:
            factor *= 2
    # With somebody to answer, nerfstudio offers to make the folder.
    if factor > 1 and not sys.stdin.isatty():
        _require_downscaled(images.with_name(f"{images.name}_{factor}"), factor, images.name)


def _check_blender(config: BlenderDataParserConfig) -> None:
    path = config.data / "transforms_train.json"
    if not path.exists():
        raise _nothing_for(config.data, path.name, "blender")
    images = check_blender(config.data)
    if not images[0].exists() and images[0].with_suffix("").exists():
        raise CaptureError(
            f"{path}: file_path has an extension ({images[0].stem}); Blender captures name their images without .png. "
            "Remove it, or rename the file to transforms.json and use the nerfstudio-data dataparser."
        )
    _read_first(images[0])


def _nothing_for(data: Path, wanted: str, kind: str) -> CaptureError:
    """The error for a folder without camera files of one kind, which says what other kinds it has."""
    others = {
        "nerfstudio": (data / "transforms.json").exists(),
        "blender": (data / "transforms_train.json").exists(),
        "colmap": any((data / folder / "cameras.bin").exists() for folder in _COLMAP_FOLDERS)
        or any((data / folder / "cameras.txt").exists() for folder in _COLMAP_FOLDERS),
    }
    found = [f"{other}-data" if other != "colmap" else other for other, there in others.items() if there]
    advice = (
        f"It can be read with another dataparser: append {' or '.join(found)} to the command."
        if found
        else "Register the images first, for instance with ns-process-data images, or correct --data."
    )
    return CaptureError(f"--data {data} has no {wanted}, which the {kind} dataparser needs. {advice}")


def _read_first(file: Path) -> ImageHeader:
    """Header of the image that decides on sizes or on the downscale factor, which a dataparser opens before others."""
    try:
        return read_header(file)
    except CaptureError as error:
        raise CaptureError(f"The first image cannot be read: {error}. {IMAGE_WAY_OUT}") from error


def _checked_factor(factor: object) -> int | None:
    if factor is None or (isinstance(factor, int) and 1 <= factor <= 64):
        return factor
    raise CaptureError(
        f"--downscale-factor is {factor}; allowed are 1..64, or none to choose by the size of the images."
    )


def _require_downscaled(folder: Path, factor: int, stem: str) -> None:
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob(f"{stem}_*") if path.is_dir())
        raise CaptureError(
            f"{folder} does not exist, which downscale factor {factor} needs (folders there: "
            f"{', '.join(there) or 'none'}). Use --downscale-factor 1 for the full size, or make the folder."
        )


def _check_named_split(config: NerfstudioDataParserConfig | ColmapDataParserConfig, names: Sequence[str]) -> None:
    if config.eval_mode == "filename":
        raise_for(
            [name for name in names if "train" not in Path(name).name and "eval" not in Path(name).name],
            f"{config.data}: --eval-mode filename needs images with train or eval in their names",
            "Rename them, or leave --eval-mode as it is.",
        )
