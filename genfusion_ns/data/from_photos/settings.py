"""Settings of captures from photos and videos; the command line shows them, so nothing here imports a library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genfusion_ns.ranges import require_ranges

Matching = Literal["auto", "exhaustive", "sequential", "retrieval"]


@dataclass
class CaptureFromPhotosSettings:
    """How frames are chosen, cameras found and files written."""

    frames: int = 120
    """Most frames of each video; fewer are taken where the camera hardly moves."""
    masks: Path | None = None
    """Masks, white is seen: a folder with one for each photo, named like it, or one image for all, such as of a tripod.
    What they hide gives no features and is left out of training. Alpha channels of photos do the former."""
    focal_length: float | None = None
    """Focal length of the lens as that of a camera for 35 mm film, where photos do not say it: 24 to 28 is the main
    camera of a phone, 50 a normal lens, 85 and more a long one."""
    lens: Literal["perspective", "fisheye"] = "perspective"
    """Kind of lens."""
    one_camera: bool = False
    """All photos of one size were taken with one camera, at one zoom, even where they come from several inputs."""
    matching: Matching = "auto"
    """Pairs that are compared. exhaustive: all; sequential: neighbours in order, and those that look alike; retrieval:
    those that look alike; auto: exhaustive up to 80 photos, beyond them sequential for videos, retrieval for photos."""
    features: int = 4096
    """Most features of a photo; fewer are faster, more find plain surfaces."""
    feature_size: int = 1600
    """Longest side, in pixels, at which photos are searched for features; the capture keeps their full size."""
    undistort: bool = False
    """Write photos without lens distortion, for other programs; ours read them as they are."""
    seed: int = 0
    """Of everything random in the reconstruction."""

    def check(self) -> None:
        """Refuse what no capture could be made with.

        Raises:
            ValueError: with the flag, the value and what is allowed.
        """
        ranges = {
            "frames": (3, 5000),
            "focal_length": (5, 2000),
            "features": (200, 50_000),
            "feature_size": (200, 10_000),
            "seed": (0, 2**31 - 1),
        }
        require_ranges(self, ranges)
        if self.lens == "fisheye" and self.focal_length is not None:
            raise ValueError(
                "--focal-length does not go with --lens fisheye, whose focal length is found anyway; leave it out"
            )
        if self.lens == "fisheye" and self.undistort:
            raise ValueError(
                "--undistort does not go with --lens fisheye: a flat image cannot hold its angle of view; leave one out"
            )
        if self.masks is not None and not self.masks.exists():
            raise ValueError(f"--masks {self.masks} does not exist; give a folder of masks, or one mask for all photos")
