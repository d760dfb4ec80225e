"""transforms.json of a multi-scale data set, for everything that reads captures of nerfstudio."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from genfusion_ns.data.multiscale.metadata import StoredImage


def write_transforms(splits: Mapping[str, Sequence[StoredImage]], folder: Path) -> None:
    """Write each stored image with its own intrinsics, and the splits by name."""
    content = {
        "camera_model": "PINHOLE",
        "frames": [_frame(image) for images in splits.values() for image in images],
        **{f"{split}_filenames": [image.file_path for image in images] for split, images in splits.items() if images},
    }
    (folder / "transforms.json").write_text(json.dumps(content), encoding="utf-8")


def _frame(image: StoredImage) -> dict[str, object]:
    fx, fy, cx, cy = image.intrinsics
    return {
        "file_path": image.file_path,
        "transform_matrix": [list(row) for row in image.cam2world],
        "w": image.size[0],
        "h": image.size[1],
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
    }
