"""Settings of objects from images; the command line shows them, so nothing here imports a network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from genfusion_ns.ranges import require_ranges


@dataclass
class Image3dSettings:
    """How objects are made of images, and what is written of them."""

    model: str = "auto"
    """Network: auto (stabilityai/TripoSR where it has been fetched before, else small; downloads nothing), small (comes
    with the package, and knows simple solids alone), a name on the Hugging Face hub, fetched once
    (stabilityai/TripoSR, 1.7 GB), a folder with its config.yaml and model.ckpt, or one that gf-train-generator
    wrote."""
    remove_background: bool = False
    """Cut the object out of images without alpha, by rembg (pip install 'genfusion-ns[image3d]')."""
    as_is: bool = False
    """Take images without alpha as they are: the object on mid grey, as a whole, well framed."""
    foreground_ratio: float = 0.85
    """Share of the image's side that the object fills, above 0, at most 1; as in the network's training."""
    mc_resolution: int | None = None
    """Points of the grid of marching cubes along a side; by default 256 on a GPU and 128 elsewhere."""
    threshold: float | None = None
    """Density of the surface; by default what the network says, 25 with the published one."""
    num_views: int | None = None
    """Views around the object in all; by default 30 on a GPU and 8 elsewhere."""
    elevations: tuple[float, ...] = (0.0, 20.0)
    """Heights of the rings of views, in degrees."""
    view_size: int | None = None
    """Pixels along a view; by default 256 on a GPU and 128 elsewhere."""
    format: Literal["obj", "glb", "ply"] = "glb"
    """File of the mesh; a glb has y up, the others z up."""
    bake_texture: bool = False
    """Give the mesh a texture instead of colours of vertices."""
    texture_size: int = 1024
    """Texels along the texture."""
    num_points: int = 50_000
    """Points on the surface for the start of a scene."""
    photo_pose: Literal["none", "search"] = "none"
    """search: look for the height of the image's camera, and let the image itself be a photo of the capture where the
    object looks like it from there; none: views of the network alone."""
    skip_empty: bool = True
    """Ask the network nothing of places that are empty; the same pictures in a fraction of the time."""
    chunk_size: int = 8192
    """Points that the network is asked for at once; fewer take less memory."""
    device: str | None = None
    """Device of the network, such as cpu or cuda:1; by default a GPU where there is one."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Of the network: auto is fp16 on a GPU and fp32 elsewhere."""
    seed: int = 0
    """Seed of the points on the surface."""

    def check(self) -> None:
        """Refuse what no image could be made with.

        Raises:
            ValueError: with the flag, the value and what is allowed.
        """
        if not 0 < self.foreground_ratio <= 1:
            raise ValueError(f"--foreground-ratio is {self.foreground_ratio}; allowed are values above 0, at most 1")
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise ValueError(f"--threshold is {self.threshold}; a positive density is needed, 25 is usual")
        ranges = {
            "mc_resolution": (8, 1024),
            "view_size": (16, 4096),
            "num_views": (3, 10_000),
            "texture_size": (16, 8192),
            "num_points": (100, 10_000_000),
            "chunk_size": (1, 10**9),
        }
        require_ranges(self, ranges)
        if self.bake_texture and self.format == "ply":
            raise ValueError("--bake-texture needs --format obj or glb; a ply has colours of vertices only")
        if self.remove_background and self.as_is:
            raise ValueError("--remove-background and --as-is exclude each other; leave one of them out")

    def on(self, gpu: bool) -> Image3dSettings:
        """The same with the sizes that suit a device in place of those that are left out."""
        usual = {"mc_resolution": (128, 256), "num_views": (8, 30), "view_size": (128, 256)}
        return replace(self, **{name: sizes[gpu] for name, sizes in usual.items() if getattr(self, name) is None})
