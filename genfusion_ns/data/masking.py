"""Which pixels of each train photo a run may see: whole photos, crop windows, or mask images.

Crop windows make a photo a smaller one with a shifted principal point, so nothing downstream knows of them. Masks keep
the photo's size; what they hide counts in no loss. Held-out photos are never cut nor masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes
from genfusion_ns.data.captures.capture import Capture
from genfusion_ns.data.captures.dataset import CaptureDataset
from genfusion_ns.data.captures.image_sizes import match_image_sizes
from genfusion_ns.data.captures.mask_files import masks_beside, read_alpha, read_mask, require_alpha
from genfusion_ns.data.crop_windows import (
    PUBLISHED_AREA,
    PUBLISHED_SPEED,
    CropWindow,
    load_crop_windows,
    walk_crop_windows,
)
from genfusion_ns.data.seen_parts import SeenParts
from genfusion_ns.stored_config import StoredConfig

_OPAQUE = 127


@dataclass
class MaskingConfig(StoredConfig):
    """What a run may see of each train photo. Evaluation is always on whole held-out photos."""

    source: Literal["none", "windows", "masks", "alpha"] = "none"
    """none: whole photos, but for masks that the capture itself declares; windows: a crop window per photo (of what
    declared masks show); masks: the mask images of the capture, or those in a folder masks beside the data (white is
    seen), for seed points too; alpha: the alpha channel of the photos (opaque is seen)."""
    file: Path | None = None
    """Windows from a file instead of the walk: .npy with 2 columns (x, y) or 4 (x, y, width, height) in pixels, one row
    per registered view in name order, or the protocol.json of an earlier run. Give the published file to compare with
    published figures: the walk follows it for 33 views only."""
    area: float = PUBLISHED_AREA
    """Windows: share of the photo that is seen, in (0, 1]."""
    speed: float = PUBLISHED_SPEED
    """Windows: distance moved from one view to the next along each axis, as a share of the photo's longer side."""
    seed: int = 0
    """Windows: decides the directions of the walk."""


class MaskedDataset(CaptureDataset):
    """Photos with masks from files of their own or from their alpha channels, all read by `mask_files`."""

    mask_files: tuple[Path, ...] | None
    """One mask image per photo: those that the capture declares, unless others are set."""
    alpha_is_mask: bool = False
    """The alpha channel is no part of the photo; in train photos it is the mask."""
    lenses: Cameras | None = None
    """Cameras of the photos as they are on disk, once these are undistorted when they are read. [V]"""

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        """See `CaptureDataset`."""
        declared = dataparser_outputs.mask_filenames
        self.mask_files = None if declared is None else tuple(declared)
        # nerfstudio's loader of masks is not to be asked.
        super().__init__(replace(dataparser_outputs, mask_filenames=None), scale_factor)
        self.hidden_colour: tuple[float, float, float] | None = self.mask_color
        self.mask_color = None

    def undistort(self) -> None:
        """From now on photos and masks are undistorted when they are read, and the cameras are pinholes that fit them.

        Nothing that looks at the photos of a run, be it nerfstudio's own commands, finds another image than the one
        that trains; nerfstudio's cache, which would undistort, then finds nothing left to do.

        Raises:
            CaptureError: see `match_image_sizes`.
        """
        match_image_sizes(self)
        self.lenses = self.cameras
        self.cameras, _ = _undistorted(self.cameras)

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """One photo as nerfstudio has it, with ``mask`` [H, W, 1] (True where seen) when it has one."""
        data = super().get_data(image_idx, image_type)
        image = data["image"]
        if self.alpha_is_mask:
            image = image[..., :3]
        if self.mask_files is not None:
            data["mask"] = torch.from_numpy(self.read_mask(image_idx, (image.shape[1], image.shape[0])))[..., None]
            if self.hidden_colour is not None:
                image[..., :3][~data["mask"][..., 0]] = _as_type(self.hidden_colour, image.dtype)
        if self.lenses is not None and _lens(camera := self.lenses[image_idx].reshape(())) is not None:
            image = torch.from_numpy(_flatten(camera, image.numpy())[1])
            if "mask" in data:
                data["mask"] = torch.from_numpy(_flatten_mask(camera, data["mask"][..., 0].numpy())[1])[..., None]
        data["image"] = image
        return data

    def read_mask(self, image_idx: int, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
        """The mask of one photo, before it is undistorted, at (width, height) `size`; it must have one."""
        if self.mask_files is None:
            raise IndexError(f"{self.image_filenames[image_idx]} has no mask; ask for mask_files first.")
        return (read_alpha if self.alpha_is_mask else read_mask)(self.mask_files[image_idx], size)


def choose_seen_parts(
    config: MaskingConfig, capture: Capture, folder: Path, train_ids: Sequence[int], dataset: InputDataset
) -> SeenParts | None:
    """The seen part of every train view, or None for whole photos.

    Args:
        config: see its fields.
        capture: all registered views.
        folder: of the capture; ``masks/`` is looked for here.
        train_ids: ids of the train views.
        dataset: of all registered views; its cameras are fitted to the image files.

    Raises:
        CropWindowError: see `load_crop_windows` and `walk_crop_windows`.
        MaskError: missing, unreadable, wrongly sized or empty masks.
        ValueError: a file without windows to read from it.
    """
    if config.file is not None and config.source != "windows":
        raise ValueError(
            f"--pipeline.datamanager.masking.file {config.file} holds windows, but "
            f"--pipeline.datamanager.masking.source is {config.source}; set it to windows or leave the file out"
        )
    if config.source == "none":
        return None
    chosen = torch.tensor(list(train_ids), dtype=torch.long)
    if config.source == "windows":
        flat, _ = _undistorted(dataset.cameras)
        sizes = camera_sizes(flat)
        windows = (
            walk_crop_windows(sizes, config.area, config.speed, config.seed)
            if config.file is None
            else load_crop_windows(config.file, capture.names, sizes, config.area)
        )
        picked = tuple(windows[i] for i in train_ids)
        return SeenParts(cropped_cameras(flat[chosen], picked), picked, None, None)
    read = read_alpha if config.source == "alpha" else read_mask
    files = _alpha_files(capture, train_ids) if config.source == "alpha" else _mask_files(capture, folder, train_ids)
    cameras = dataset.cameras[chosen]
    flat, masks = _undistorted(cameras, [read(f, size) for f, size in zip(files, camera_sizes(cameras), strict=True)])
    return SeenParts(flat, None, files, tuple(torch.from_numpy(mask) for mask in masks))


def cropped_cameras(cameras: Cameras, windows: Sequence[CropWindow]) -> Cameras:
    """Cameras whose images are cut to windows of their pixels. [V]"""
    x, y, width, height = torch.tensor([[w.x, w.y, w.width, w.height] for w in windows]).T[..., None]
    cut = replace(cameras, cx=cameras.cx - x, cy=cameras.cy - y)
    cut.width, cut.height = width.clone(), height.clone()
    return cut


def crop_views(views: list[dict[str, Any]], windows: Sequence[CropWindow]) -> None:
    """Cut the image and the mask of every loaded view to its window, in place."""
    for view, w in zip(views, windows, strict=True):
        for name in ("image", "mask"):
            if name in view:
                view[name] = view[name][w.y : w.y + w.height, w.x : w.x + w.width].clone()


def _alpha_files(capture: Capture, train_ids: Sequence[int]) -> tuple[Path, ...]:
    files = tuple(capture.outputs.image_filenames[i] for i in train_ids)
    require_alpha(files)
    return files


def _mask_files(capture: Capture, folder: Path, train_ids: Sequence[int]) -> tuple[Path, ...]:
    declared = capture.outputs.mask_filenames
    if declared is not None:
        return tuple(declared[i] for i in train_ids)
    return masks_beside(folder, [capture.names[i] for i in train_ids])


def _as_type(colour: Sequence[float], dtype: torch.dtype) -> Tensor:
    """A colour in 0..1 as pixels of this type have it. [3]"""
    channels = torch.tensor(colour)
    return (255 * channels).round().to(dtype) if dtype == torch.uint8 else channels.to(dtype)


def _undistorted(
    cameras: Cameras, masks: Sequence[Bool[np.ndarray, "H W"]] | None = None
) -> tuple[Cameras, list[Bool[np.ndarray, "H W"]]]:
    """Pinholes (and masks) as nerfstudio makes them when it undistorts photos; equal cameras are worked out once."""
    flat = deepcopy(cameras)
    known: dict[tuple[float, ...], tuple[np.ndarray, tuple[int, int]]] = {}
    flat_masks: list[Bool[np.ndarray, "H W"]] = []
    for i, (width, height) in enumerate(camera_sizes(cameras)):
        camera = cameras[i].reshape(())
        mask = None if masks is None else masks[i]
        lens = _lens(camera)
        if lens is not None:
            K = camera.get_intrinsics_matrices()
            key = (*K.flatten().tolist(), *lens.tolist(), width, height, float(camera.camera_type))
            if mask is not None:
                K, mask = _flatten_mask(camera, mask)
                known[key] = K, (mask.shape[1], mask.shape[0])
            elif key not in known:
                K, blank = _flatten(camera, np.zeros((height, width), np.uint8))
                known[key] = K, (blank.shape[1], blank.shape[0])
            K, size = known[key]
            flat.fx[i], flat.fy[i], flat.cx[i], flat.cy[i] = (float(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
            flat.width[i], flat.height[i] = size
        if mask is not None:
            flat_masks.append(mask)
    flat.distortion_params = None
    flat.camera_type = torch.full_like(flat.camera_type, CameraType.PERSPECTIVE.value)
    return flat, flat_masks


def _lens(camera: Cameras) -> Float[np.ndarray, " D"] | None:
    """Coefficients of one camera as nerfstudio orders them; None where none of them bends a ray."""
    lens = camera.distortion_params
    return lens.numpy() if lens is not None and bool((lens != 0).any()) else None


def _flatten(camera: Cameras, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [3, 3] and pixels of a picture of a distorted camera after undistortion."""
    lens = _lens(camera)
    K, picture, _ = _undistort_image(camera, lens, {}, picture, camera.get_intrinsics_matrices().numpy())  # pyright: ignore
    return K, picture


def _flatten_mask(camera: Cameras, mask: Bool[np.ndarray, "H W"]) -> tuple[np.ndarray, Bool[np.ndarray, "H W"]]:
    K, picture = _flatten(camera, mask.astype(np.uint8) * 255)
    return K, picture > _OPAQUE
