"""The train photos as the loop needs them: at clip resolution, with cameras, as references and as judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.data.camera_conversion import cameras_to_viewmats
from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.fusion.view_samplers import ObservedViews
from genfusion_ns.geometry.cameras import References, c2w_to_viewmat, resize_intrinsics, viewmat_to_c2w
from genfusion_ns.geometry.free_space import ClearTest, clearance_test
from genfusion_ns.models.surfel_model import GenFusionModel

_JUDGES = 8
"""Photos that a round is judged by; more cost time and say the same."""


@dataclass(frozen=True)
class ObservedPhotos:
    """All train photos resampled to one size."""

    rgb: Float[Tensor, "N H W 3"]
    """Colours in 0..1, alpha composed over black."""
    c2w: Float[Tensor, "N 4 4"]
    """Camera-to-world, OpenGL axes."""
    Ks: Float[Tensor, "N 3 3"]
    """Intrinsics in pixels of this H x W raster."""

    @classmethod
    def of(
        cls,
        datamanager: GenFusionDataManager,
        size: tuple[int, int],
        device: torch.device | str,
        split: Literal["train", "test"] = "train",
    ) -> ObservedPhotos:
        """Photos of one split of a datamanager, at (width, height) `size`, on `device`."""
        # Reading the images first: undistortion may change the cameras.
        cached = datamanager.cached_train if split == "train" else datamanager.cached_eval
        images = [_composed(batch["image"]) for batch in cached]
        cameras = (datamanager.train_dataset if split == "train" else datamanager.eval_dataset).cameras
        viewmats, Ks = cameras_to_viewmats(cameras.to("cpu"))
        sizes = list(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True))
        rgb = torch.cat([_resized(image.to(device), size) for image in images])
        Ks = torch.stack([resize_intrinsics(K, original, size) for K, original in zip(Ks, sizes, strict=True)])
        return cls(rgb, viewmat_to_c2w(viewmats).to(device), Ks.to(device))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]

    def references(self, ids: Sequence[int]) -> References:
        """The photos with these positions in the train split."""
        chosen = list(ids)
        return References(self.rgb[chosen], c2w_to_viewmat(self.c2w[chosen]), self.Ks[chosen])

    def observed_views(self) -> ObservedViews:
        """Cameras of all photos, for the view samplers."""
        return ObservedViews(self.c2w.cpu(), self.Ks.cpu(), [self.size] * len(self.rgb))

    @torch.no_grad()
    def mean_psnr(self, model: GenFusionModel) -> float:
        """Mean PSNR in dB of the scene against photos spread over the split."""
        chosen = torch.linspace(0, len(self.rgb) - 1, min(_JUDGES, len(self.rgb))).round().long().unique().tolist()
        clip = model.render_clip(c2w_to_viewmat(self.c2w[chosen]), self.Ks[chosen], self.size)
        errors = (clip.rgb - self.rgb[chosen]).square().mean(dim=(1, 2, 3))
        return float((-10 * torch.log10(errors.clamp_min(1e-10))).mean())

    @torch.no_grad()
    def free_space(self, model: GenFusionModel) -> ClearTest:
        """A test whether cameras stand in space that the photos have seen to be empty, by the scene as it is now."""
        viewmats = c2w_to_viewmat(self.c2w)
        render = model.render(viewmats, self.Ks, *self.size)
        return clearance_test(viewmats.cpu(), self.Ks.cpu(), render.median_depth.cpu(), render.alpha.cpu())


def _composed(image: Tensor) -> Tensor:
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    return image[..., :3] * image[..., 3:] if image.shape[-1] == 4 else image


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    planes = F.interpolate(image.permute(2, 0, 1)[None], size=(size[1], size[0]), mode="area")
    return planes.permute(0, 2, 3, 1)
