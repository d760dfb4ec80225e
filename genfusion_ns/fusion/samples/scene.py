"""What samples supervise: anything that renders a view, with gradient and without."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.geometry.clips import RenderedView
from genfusion_ns.geometry.free_space import SeenSurfaces
from genfusion_ns.models.surfel_model import GenFusionModel


class SampledScene(Protocol):
    """A scene in training, whatever it is made of."""

    @property
    def device(self) -> torch.device: ...

    def look(self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]) -> RenderedView:
        """One view of (width, height) `size` as the scene is now, over black; without gradient."""
        ...

    def show(
        self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
    ) -> Float[Tensor, "H W 3"]:
        """Colours of the same view for a loss of this step: their gradient reaches the parameters of the scene."""
        ...

    def surfaces(self, photos: PosedPhotos) -> SeenSurfaces:
        """What the photos see, by the scene as it is now; without gradient."""
        ...


class SurfelScene:
    """Surfels: one render fits into memory with its gradient."""

    def __init__(self, model: GenFusionModel, *, densify: bool, transparent: bool) -> None:
        """
        Args:
            model: the surfels.
            densify: sampled views count where surfels are grown.
            transparent: the photos have alpha, and what is empty is black in samples.
        """
        self._model, self._densify, self._transparent = model, densify, transparent

    @property
    def device(self) -> torch.device:
        """Of the surfels."""
        return self._model.device

    def look(self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]) -> RenderedView:
        """See `SampledScene.look`."""
        clip = self._model.render_clip(viewmat[None], K[None], size)
        return RenderedView(clip.rgb[0], clip.depth[0], clip.alpha[0], clip.viewmats[0], clip.Ks[0])

    def show(
        self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
    ) -> Float[Tensor, "H W 3"]:
        """See `SampledScene.show`; holes show the background of a training step, so that samples fill them."""
        model = self._model
        background = torch.zeros(3, device=model.device) if self._transparent else model.training_background()
        render = model.render(viewmat[None], K[None], *size, background=background)
        if self._densify:
            model.observe_render(render, generated=True)
        return render.rgb[0]

    def surfaces(self, photos: PosedPhotos) -> SeenSurfaces:
        """See `SampledScene.surfaces`."""
        return photos.surfaces(self._model)
