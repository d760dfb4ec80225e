"""The ``reconfusion`` prior behind the interface of all priors that draw views."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genfusion_ns.geometry.clips import References, RenderedView
from genfusion_ns.priors.reconfusion.capabilities import CAPABILITIES
from genfusion_ns.priors.reconfusion.loading import load_prior
from genfusion_ns.priors.reconfusion.pipeline import ReconFusionPipeline


class ReconFusionPrior:
    """`ViewPrior` on a `ReconFusionPipeline`; see `genfusion_ns.priors.base`."""

    name = "reconfusion"
    capabilities = CAPABILITIES

    def __init__(
        self,
        pipeline: ReconFusionPipeline,
        device: torch.device | str = "cpu",
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        pure_noise: bool = True,
        resolution: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            pipeline: with weights, on any device.
            device: where the networks run; views are moved there and back.
            steps, guidance_scale, pure_noise: see `ReconFusionPipeline.__call__`.
            resolution: (width, height) of the views; by default that of the pipeline.

        Raises:
            ValueError: a resolution that the networks cannot halve.
        """
        self.resolution = resolution or pipeline.resolution
        multiple = pipeline.size_multiple
        if min(self.resolution) < multiple or any(side % multiple for side in self.resolution):
            raise ValueError(f"resolution is {self.resolution}; both sides must be multiples of {multiple} pixels")
        pipeline.resolution = self.resolution
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.device = pipeline, torch.device(device)
        self.num_references: int = pipeline.facts.num_references
        self.steps, self.guidance_scale, self.pure_noise = steps, guidance_scale, pure_noise
        for part in self._networks():
            part.eval().requires_grad_(False)
            if self.device.type == "cpu":
                part.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  half of the time

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        device: torch.device | str = "cpu",
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        pure_noise: bool = True,
        resolution: tuple[int, int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> ReconFusionPrior:
        """Load a folder written by ``gf-train-generator``; other arguments as in the constructor, errors as in
        `load_prior`.

        Args:
            dtype: of the weights; by default float16 on a GPU and float32 on the CPU.
        """
        usual = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        return cls(
            load_prior(Path(folder), usual if dtype is None else dtype),
            device,
            steps=steps,
            guidance_scale=guidance_scale,
            pure_noise=pure_noise,
            resolution=resolution,
        )

    @torch.no_grad()
    def sample(
        self, view: RenderedView, references: References, level: float, generator: torch.Generator
    ) -> Float[Tensor, "H W 3"]:
        """See `ViewPrior.sample`."""
        if view.size != self.resolution:
            raise ValueError(f"the view is {view.size} (width, height), the prior draws {self.resolution}")
        if len(references) == 0:
            raise ValueError("a view is drawn from photos, and there is none")
        if not 0 < level <= 1:
            raise ValueError(f"level is {level}; it must be above 0 and at most 1")
        for part in self._networks():
            part.to(self.device)
        drawn = self.pipeline(
            view, references, level, generator, self.steps, self.guidance_scale, pure_noise=self.pure_noise
        )
        return drawn.to(view.rgb)

    def release(self) -> None:
        """See `ViewPrior.release`."""
        for part in self._networks():
            part.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _networks(self) -> list[nn.Module]:
        return [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]
