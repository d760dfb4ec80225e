"""What may be seen of the train views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from genfusion_ns.data.crop_windows import CropWindow


@dataclass(frozen=True)
class SeenParts:
    """What may be seen of each train view, in the pixels of its undistorted photo."""

    cameras: Cameras
    """Cameras of what is left: undistorted and, with windows, cropped. [V]"""
    windows: tuple[CropWindow, ...] | None
    mask_files: tuple[Path, ...] | None
    """Mask image of each view; for alpha the photos themselves."""
    masks: tuple[Bool[Tensor, "H W"], ...] | None
    """True where seen, undistorted."""
