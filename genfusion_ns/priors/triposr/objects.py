"""From one picture to everything that is made of it: planes, mesh, views, points; each stage with its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genfusion_ns.priors.triposr.field import CHUNK, TriplaneField
from genfusion_ns.priors.triposr.marching import RayImages, render_views
from genfusion_ns.priors.triposr.mesh import Mesh, SurfacePoints, extract_mesh, surface_points
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.priors.triposr.occupancy import Occupancy
from genfusion_ns.priors.triposr.pictures import as_tensor
from genfusion_ns.priors.triposr.texture import TexturedMesh, bake_texture
from genfusion_ns.seeds import seeded_generator

Precision = Literal["auto", "fp32", "fp16", "bf16"]
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class StageTimes:
    """How long each stage took."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, in their order."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens within is a stage, or more of one."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def line(self) -> str:
        """All of them on one line.

        >>> StageTimes({"network": 1.234, "mesh": 0.5}).line()
        'network 1.2 s, mesh 0.5 s, 1.7 s in all'
        """
        parts = [f"{name} {value:.1f} s" for name, value in self.seconds.items()]
        return ", ".join([*parts, f"{sum(self.seconds.values()):.1f} s in all"])


class ObjectMaker:
    """A network on its device, that makes objects of pictures."""

    def __init__(self, network: TripoSRNetwork, device: torch.device | str, precision: Precision = "auto") -> None:
        """
        Args:
            network: moved to the device.
            device: of everything that is computed.
            precision: of the network; auto is fp16 on a GPU and fp32 elsewhere.

        Raises:
            ValueError: fp16 without a GPU.
        """
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        if precision == "fp16" and not on_gpu:
            raise ValueError(f"--precision fp16 needs a GPU, --device is {self.device}; give bf16 or fp32")
        dtype = _TYPES["fp16" if on_gpu else "fp32"] if precision == "auto" else _TYPES[precision]
        torch.nn.Module.to(network, self.device, dtype)  # not diffusers' own, which warns without reason
        self.network = network.eval()
        self.dtype = dtype

    @torch.no_grad()
    def make(
        self,
        picture: UInt8[np.ndarray, "H W 3"],
        *,
        skip: bool = True,
        chunk: int = CHUNK,
        times: StageTimes | None = None,
    ) -> MadeObject:
        """The object of a picture.

        Args:
            picture: the object on grey; see `pictures`.
            skip: ask nothing of places that are empty.
            chunk: see `TriplaneField.query`.
            times: gathers the time of each stage.
        """
        times = times or StageTimes()
        with times.stage("network"):
            image = self.network.condition(as_tensor(picture).to(self.device)).to(self.dtype)
            code = self.network(image)[0]
            _wait_for(self.device)
        radiance = self.network.field(code)
        occupancy = None
        if skip:
            with times.stage("occupancy"):
                occupancy = Occupancy.of(radiance, chunk=chunk)
                _wait_for(self.device)
        return MadeObject(radiance, occupancy, self.network.config["samples"], chunk, times)


@dataclass(frozen=True)
class MadeObject:
    """The radiance field of one object, from which all else is made."""

    radiance: TriplaneField
    """Of the object."""
    occupancy: Occupancy | None
    """Where it is not empty."""
    samples: int
    """Steps of a ray."""
    chunk: int
    """See `TriplaneField.query`."""
    times: StageTimes
    """What has been spent on it."""

    def mesh(self, resolution: int, threshold: float) -> Mesh:
        """See `extract_mesh`."""
        with self.times.stage("mesh"):
            return extract_mesh(self.radiance, resolution, threshold, self.occupancy, self.chunk)

    def textured(self, mesh: Mesh, size: int) -> TexturedMesh:
        """See `bake_texture`."""
        with self.times.stage("texture"):
            return bake_texture(mesh, self.radiance, size, self.chunk)

    @torch.no_grad()
    def views(self, c2w: Float[Tensor, "V 4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]) -> RayImages:
        """See `render_views`; on the CPU."""
        with self.times.stage("views"):
            found = render_views(self.radiance, c2w, K, size, self.samples, self.occupancy, self.chunk)
            return RayImages(found.rgb.cpu(), found.alpha.cpu(), found.depth.cpu())

    def points(self, mesh: Mesh, count: int, seed: int) -> SurfacePoints:
        """See `surface_points`."""
        with self.times.stage("points"):
            return surface_points(mesh, self.radiance, count, seeded_generator(seed), self.chunk)


def _wait_for(device: torch.device) -> None:
    """A GPU returns before it is done, which would put its time on the next stage."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
