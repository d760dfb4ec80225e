"""What samples supervise: anything that renders a view, with gradient and without."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.geometry.clips import RenderedView
from genfusion_ns.geometry.free_space import SeenSurfaces
from genfusion_ns.geometry.images import square_means
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


_FINEST = 4
"""Sides of the squares of pixels at most that one pixel is the mean of; each doubling takes four times as long."""


class SurfelScene:
    """Surfels: one render fits into memory with its gradient.

    Surfels are fitted to pixels of photos, and far larger ones would each show what lies behind their middle alone. So
    small views are rendered in pixels about as small as those of the photos, and shown as means of squares of them.
    """

    def __init__(self, model: GenFusionModel, *, densify: bool, transparent: bool, focal: float) -> None:
        """
        Args:
            model: the surfels.
            densify: sampled views count where surfels are grown.
            transparent: the photos have alpha, and what is empty is black in samples.
            focal: focal length of the photos, in their pixels.
        """
        self._model, self._densify, self._transparent, self._focal = model, densify, transparent, focal

    def _finer(self, K: Float[Tensor, "3 3"], size: tuple[int, int]) -> tuple[int, Tensor, tuple[int, int]]:
        """Side of the squares that make a pixel; intrinsics [1, 3, 3] and size of the finer raster."""
        side = min(_FINEST, max(1, round(self._focal / float(K[0, 0]))))
        finer = K.clone()
        finer[:2] *= side
        return side, finer[None], (size[0] * side, size[1] * side)

    @property
    def device(self) -> torch.device:
        """Of the surfels."""
        return self._model.device

    def look(self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]) -> RenderedView:
        """See `SampledScene.look`."""
        side, finer, finer_size = self._finer(K, size)
        clip = self._model.render_clip(viewmat[None], finer, finer_size)
        rgb, alpha, depth = (square_means(x[0], side) for x in (clip.rgb, clip.alpha, clip.alpha * clip.depth))
        return RenderedView(rgb, depth / alpha.clamp_min(1e-6), alpha, clip.viewmats[0], K.to(self.device))

    def show(
        self, viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
    ) -> Float[Tensor, "H W 3"]:
        """See `SampledScene.show`; holes show the background of a training step, so that samples fill them."""
        model = self._model
        background = torch.zeros(3, device=model.device) if self._transparent else model.training_background()
        side, finer, finer_size = self._finer(K, size)
        render = model.render_shown(viewmat, finer[0], *finer_size, background=background)
        if self._densify:
            model.observe_render(render, generated=True)
        return square_means(render.rgb[0], side)

    def surfaces(self, photos: PosedPhotos) -> SeenSurfaces:
        """See `SampledScene.surfaces`."""
        return photos.surfaces(self._model)
