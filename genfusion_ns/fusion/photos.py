"""The train photos as the loop needs them: at clip resolution, with cameras, as references and as judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.data.camera_conversion import camera_sizes, cameras_to_viewmats
from genfusion_ns.data.datamanager import GenFusionDataManager
from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras
from genfusion_ns.geometry.cameras import c2w_to_viewmat, resize_intrinsics, viewmat_to_c2w
from genfusion_ns.geometry.clips import Clip, References, before_backdrop
from genfusion_ns.geometry.free_space import SeenSurfaces
from genfusion_ns.geometry.images import WHOLLY_SEEN, psnr, sample_pixels
from genfusion_ns.models.surfel_model import GenFusionModel

_JUDGES = 8
"""Photos that a round is judged by; more cost time and say the same."""
_SURFACE_SIDE = 128
"""Longer side in pixels of the depth maps that tell where a camera may stand."""


@dataclass(frozen=True)
class ShownPhotos:
    """What photos show in frames that share their place and direction."""

    rgb: Float[Tensor, "T H W 3"]
    seen: Bool[Tensor, "T H W 1"]

    def over(self, images: Float[Tensor, "T H W 3"]) -> Float[Tensor, "T H W 3"]:
        """The photos where they show something, `images` elsewhere."""
        return torch.where(self.seen, self.rgb, images)


@dataclass(frozen=True)
class PosedPhotos:
    """The seen parts of all train photos, resampled to one size."""

    rgb: Float[Tensor, "N H W 3"]
    """Colours in 0..1; alpha is composed over black, and so is what a mask hides."""
    seen: Bool[Tensor, "N H W 1"] | None
    """What masks leave visible; None: everything."""
    c2w: Float[Tensor, "N 4 4"]
    """Camera-to-world, OpenGL axes."""
    Ks: Float[Tensor, "N 3 3"]
    """Intrinsics in pixels of this H x W raster."""
    whole: PhotoCameras
    """Cameras of the whole photos, at their own resolution."""
    transparent: bool = False
    """The photos have alpha: empty space is black in them, content that a repairer must keep and not a hole."""

    @classmethod
    def of(
        cls,
        datamanager: GenFusionDataManager,
        size: tuple[int, int],
        device: torch.device | str,
        split: Literal["train", "test"] = "train",
    ) -> PosedPhotos:
        """Photos of one split of a datamanager, at (width, height) `size`, on `device`."""
        # Reading the images first: undistortion and crop windows change the cameras.
        cached = datamanager.cached_train if split == "train" else datamanager.cached_eval
        cameras = (datamanager.train_dataset if split == "train" else datamanager.eval_dataset).cameras
        whole = datamanager.whole_train_cameras if split == "train" else cameras
        viewmats, Ks = cameras_to_viewmats(cameras.to("cpu"))
        sizes = camera_sizes(cameras)
        c2w = viewmat_to_c2w(viewmats)
        rgb = torch.cat([_resized(_composed(batch["image"]).to(device), size) for batch in cached])
        seen = None
        if all("mask" in batch for batch in cached):
            seen = torch.cat([_resized(batch["mask"].float().to(device), size) for batch in cached]) > WHOLLY_SEEN
            rgb = rgb * seen
        return cls(
            rgb=rgb,
            seen=seen,
            c2w=c2w.to(device),
            Ks=torch.stack([resize_intrinsics(K, old, size) for K, old in zip(Ks, sizes, strict=True)]).to(device),
            whole=PhotoCameras(c2w, cameras_to_viewmats(whole.to("cpu"))[1], camera_sizes(whole)),
            transparent=datamanager.transparent,
        )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]

    def as_given(self, clip: Clip, shown: ShownPhotos | None = None) -> Clip:
        """A rendered clip as a repairer gets it.

        Where photos have alpha, its empty space is a black backdrop. What photos show in its frames (`shown_from`)
        goes before what was rendered.
        """
        given = before_backdrop(clip) if self.transparent else clip
        if shown is None:
            return given
        return replace(given, rgb=shown.over(given.rgb), alpha=torch.maximum(given.alpha, shown.seen.to(given.alpha)))

    def references(self, ids: Sequence[int]) -> References:
        """The photos with these positions in the train split."""
        chosen = list(ids)
        seen = None if self.seen is None else self.seen[chosen]
        return References(self.rgb[chosen], c2w_to_viewmat(self.c2w[chosen]), self.Ks[chosen], seen)

    def shown_from(self, ids: Sequence[int | None], Ks: Float[Tensor, "T 3 3"], size: tuple[int, int]) -> ShownPhotos:
        """The photos as frames of the same place and direction, but with other intrinsics, show them.

        Args:
            ids: photo of each frame; None for frames that stand elsewhere.
            Ks: intrinsics of the frames in pixels of `size`.
            size: (width, height) of the frames.
        """
        frames = [self._shown_in(i, K, size) for i, K in zip(ids, Ks, strict=True)]
        return ShownPhotos(torch.stack([rgb for rgb, _ in frames]), torch.stack([seen for _, seen in frames]))

    def _shown_in(self, photo: int | None, K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if photo is None:
            return self.rgb.new_zeros(size[1], size[0], 3), self.rgb.new_zeros(size[1], size[0], 1).bool()
        rows, columns = (torch.arange(n, device=K.device, dtype=K.dtype) + 0.5 for n in (size[1], size[0]))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ (self.Ks[photo] @ torch.linalg.inv(K)).T
        pixels = pixels[None, ..., :2]
        inside = ((pixels >= 0) & (pixels <= pixels.new_tensor(self.size))).all(-1, keepdim=True)
        if self.seen is not None:
            inside = inside & (sample_pixels(self.seen[photo].to(K.dtype), pixels) > WHOLLY_SEEN)
        return sample_pixels(self.rgb[photo], pixels)[0], inside[0]

    @torch.no_grad()
    def mean_psnr(self, model: GenFusionModel) -> float:
        """Mean PSNR in dB of the scene against the seen pixels of photos spread over the split."""
        chosen = torch.linspace(0, len(self.rgb) - 1, min(_JUDGES, len(self.rgb))).round().long().unique().tolist()
        clip = model.render_clip(c2w_to_viewmat(self.c2w[chosen]), self.Ks[chosen], self.size)
        squares = (clip.rgb - self.rgb[chosen]).square()
        if self.seen is None:
            errors = squares.mean(dim=(1, 2, 3))
        else:
            weight = self.seen[chosen].to(squares)
            errors = (squares * weight).sum(dim=(1, 2, 3)) / (3 * weight.sum(dim=(1, 2, 3))).clamp_min(1)
        return float(psnr(errors).mean())

    def small_cameras(self) -> tuple[Float[Tensor, "N 4 4"], Float[Tensor, "N 3 3"], tuple[int, int]]:
        """World-to-camera matrices, intrinsics, and (width, height) of small depth maps of all photos."""
        width, height = self.size
        shrunk = min(1.0, _SURFACE_SIDE / max(width, height))
        size = (max(1, round(width * shrunk)), max(1, round(height * shrunk)))
        Ks = torch.stack([resize_intrinsics(K, self.size, size) for K in self.Ks])
        return c2w_to_viewmat(self.c2w), Ks, size

    @torch.no_grad()
    def surfaces(self, model: GenFusionModel) -> SeenSurfaces:
        """What the photos see, by the scene as it is now; rendered one by one, small."""
        viewmats, Ks, size = self.small_cameras()
        depths, alphas = [], []
        for viewmat, K in zip(viewmats, Ks, strict=True):
            render = model.render(viewmat[None], K[None], *size)
            depths.append(render.median_depth)
            alphas.append(render.alpha)
        return SeenSurfaces(viewmats, Ks, torch.cat(depths), torch.cat(alphas))

    def unmasked(self, surfaces: SeenSurfaces) -> SeenSurfaces:
        """What the photos see (`surfaces`) without what masks hide of them."""
        if self.seen is None:
            return surfaces
        size = surfaces.alphas.shape[2], surfaces.alphas.shape[1]
        visible = torch.cat([_resized(seen.float(), size) for seen in self.seen]) > WHOLLY_SEEN
        return replace(surfaces, alphas=surfaces.alphas * visible)


def _composed(image: Tensor) -> Tensor:
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    return image[..., :3] * image[..., 3:] if image.shape[-1] == 4 else image


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    planes = F.interpolate(image.permute(2, 0, 1)[None], size=(size[1], size[0]), mode="area")
    return planes.permute(0, 2, 3, 1)
