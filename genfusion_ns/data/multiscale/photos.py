"""Captures of any kind, read as this package reads them, for multi-scale data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset

from genfusion_ns.data.captures.formats import dataparser_of
from genfusion_ns.data.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.data.multiscale.depth_range import depth_range
from genfusion_ns.data.multiscale.metadata import StoredImage
from genfusion_ns.data.multiscale.pyramid import area_levels
from genfusion_ns.data.points.ply_writer import write_points
from genfusion_ns.messages import say


class PhotoSource:
    """Undistorted photos and cameras of a capture, normalised as its dataparser does it."""

    def __init__(self, folder: Path, downscale: int = 1) -> None:
        """
        Args:
            folder: of the capture.
            downscale: read the photos at this fraction of their size.

        Raises:
            CaptureError: the capture cannot be used.
        """
        config = GenFusionDataManagerConfig(
            dataparser=dataparser_of(folder, downscale), surface_points=False, backdrop_points=False
        )
        self._data = GenFusionDataManager(config, device="cpu", test_mode="val")
        self._range = depth_range(self._data.train_dataset.cameras, self._data.seeds.xyz)
        if self._data.capture.outputs.mask_filenames is not None:
            say(f"{folder} has masks, which multi-scale data sets have no place for; they are left out.", "yellow")

    @property
    def splits(self) -> tuple[str, ...]:
        """Train and held-out views."""
        return "train", "test"

    def __len__(self) -> int:
        return len(self._data.train_dataset) + len(self._data.eval_dataset)

    def images(self, split: str, levels: int) -> Iterator[tuple[StoredImage, list[UInt8[np.ndarray, "h w C"]]]]:
        """Each photo of a split with its levels, in the order of their names."""
        dataset: InputDataset = self._data.train_dataset if split == "train" else self._data.eval_dataset
        for view in range(len(dataset)):
            pixels = dataset.get_data(view, "uint8")["image"].numpy()
            height, width = pixels.shape[:2]
            if min(height, width) < 2 ** (levels - 1):
                raise ValueError(
                    f"{dataset.image_filenames[view]} has {width} x {height} pixels, which cannot be halved "
                    f"{levels - 1} times; give a smaller --n-down"
                )
            camera = dataset.cameras[view]
            pose = [*camera.camera_to_worlds.double().tolist(), [0.0, 0.0, 0.0, 1.0]]
            fx, fy, cx, cy = (float(getattr(camera, name)) for name in ("fx", "fy", "cx", "cy"))
            rows = tuple(tuple(row) for row in pose)
            stored = StoredImage("", rows, (width, height), (fx, fy, cx, cy), *self._range, 0)
            yield stored, area_levels(pixels, levels)

    def write_points(self, folder: Path) -> None:
        """The points that train views see, as sparse_pc.ply."""
        if self._data.seeds.kind != "random":
            write_points(folder / "sparse_pc.ply", self._data.seeds.xyz.numpy(), self._data.seeds.rgb.numpy())
