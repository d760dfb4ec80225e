"""The clean side of training clips: cameras along the photos of a capture or beside them, and what they should show."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes
from genfusion_ns.fusion.agreement import photo_agreement
from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras, choose_references
from genfusion_ns.fusion.cameras.framing import clip_size
from genfusion_ns.fusion.cameras.sparse import SparseSampler, SparseSamplerConfig
from genfusion_ns.fusion.clip_making.recipe import ClipRecipe
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.geometry.cameras import c2w_to_viewmat
from genfusion_ns.geometry.clips import Clip, References, RepairedClip
from genfusion_ns.geometry.free_space import clearance_test
from genfusion_ns.geometry.images import commonest_size
from genfusion_ns.geometry.trajectories import visiting_order
from genfusion_ns.geometry.windows import Window, clip_windows
from genfusion_ns.models.surfel_model import GenFusionModel

_TRUSTED_ALPHA = 0.9
"""Coverage of the dense scene above which its depth, and its colour beside the photos, are taken for true."""
_WITNESSES = 8
"""Photos that may confirm a render beside them: the nearest."""
_AGREEING = 0.4
"""Confidence above which a photo confirms a pixel: about 1/e, see `photo_agreement`."""
_WALL_PHOTOS = 48
"""Photos that tell where walls are; more cost time and say the same."""


@dataclass(frozen=True)
class CleanPath:
    """Cameras with their clean side, cut into windows."""

    name: str
    windows: list[Window]
    clean: list[Clip]
    """One clip per window; its alpha is 1 where it can be trusted."""
    frames: list[tuple[str, ...]]
    """Photo of each frame of each window; empty where the frames have none."""
    length: int
    """Frames of the path."""


@dataclass(frozen=True)
class AllPhotos:
    """Every registered photo at clip size."""

    photos: PosedPhotos
    names: list[str]

    @classmethod
    def of(cls, pipeline: GenFusionPipeline, resolution: tuple[int, int]) -> AllPhotos:
        """Train and test photos of a pipeline, at about as many pixels as `resolution` (width, height) has."""
        datamanager, device = pipeline.datamanager, pipeline.scene.device
        size = clip_size(commonest_size(camera_sizes(datamanager.whole_train_cameras)), resolution)
        parts = [PosedPhotos.of(datamanager, size, device, split) for split in ("train", "test")]
        rgb, c2w, Ks = (torch.cat([getattr(part, name) for part in parts]) for name in ("rgb", "c2w", "Ks"))
        sizes = [size for part in parts for size in part.whole.sizes]
        whole = PhotoCameras(c2w.cpu(), torch.cat([part.whole.Ks for part in parts]), sizes)
        seen = [part.seen for part in parts if part.seen is not None]
        merged = PosedPhotos(rgb, torch.cat(seen) if len(seen) == len(parts) else None, c2w, Ks, whole)
        return cls(merged, [*datamanager.train_names, *datamanager.test_names])


def photo_path(dense: GenFusionModel, everything: AllPhotos, recipe: ClipRecipe) -> CleanPath:
    """A short walk along all photos: their colours, with the depth of the dense scene.

    What masks of the capture hide is rendered and not trusted.
    """
    photos = everything.photos
    order = visiting_order(photos.c2w.cpu())
    windows = clip_windows(len(order), recipe.clip_length, recipe.max_windows)
    clips, frames = [], []
    for window in windows:
        ids = [order[i] for i in window.frames(len(order))]
        rendered = dense.render_clip(c2w_to_viewmat(photos.c2w[ids]), photos.Ks[ids], photos.size)
        rgb, trusted = photos.rgb[ids], _trusted(rendered)
        if photos.seen is not None:
            rgb, trusted = torch.where(photos.seen[ids], rgb, rendered.rgb), trusted * photos.seen[ids]
        clips.append(replace(rendered, rgb=rgb, alpha=trusted))
        frames.append(tuple(everything.names[i] for i in ids))
    return CleanPath("capture", windows, clips, frames, len(order))


def perturbed_path(
    dense: GenFusionModel, everything: AllPhotos, recipe: ClipRecipe, number: int, generator: torch.Generator
) -> CleanPath:
    """A path of the kind that rounds take along a capture, kept in free space: renders of the dense scene.

    Pixels are trusted where photos confirm them. Windows with a frame of which they confirm little are left out: what
    the dense scene invents is no example.
    """
    photos = everything.photos
    config = SparseSamplerConfig(
        kind="follow",
        num_frames=recipe.clip_length * min(-(-len(photos.rgb) // recipe.clip_length), recipe.max_windows),
        position_jitter=recipe.position_jitter,
        turn_jitter=recipe.turn_jitter,
    )
    sampler = SparseSampler(config, recipe.clip_length, recipe.resolution)
    sampled = sampler.sample(photos.whole, 0, generator, clearance_test(_few(photos).surfaces(dense).cpu()))
    print(f"Perturbed path {number}: {sampled.log}")
    windows, clips = [], []
    for window in sampled.windows:
        frames = window.frames(len(sampled.c2w))
        rendered = dense.render_clip(c2w_to_viewmat(sampled.c2w[frames]), sampled.K[frames], photos.size)
        covered = _trusted(rendered)
        nearest = choose_references(photos.c2w.cpu(), sampled.c2w[frames], _WITNESSES)
        confirmed = covered * _confirmed(rendered, photos.references(nearest))
        worst = (confirmed.mean(dim=(1, 2, 3)) / covered.mean(dim=(1, 2, 3)).clamp_min(1e-6)).min()
        print(f"Perturbed path {number}, window at {window.start}: photos confirm {worst:.0%} of the worst frame")
        if worst >= recipe.min_confirmed:
            windows.append(window)
            clips.append(replace(rendered, alpha=confirmed))
    return CleanPath(f"perturbed{number}", windows, clips, [()] * len(clips), len(sampled.c2w))


def _confirmed(rendered: Clip, photos: References) -> Float[Tensor, "T H W 1"]:
    """1 where a photo sees the same surface in about the same colour."""
    ones = torch.ones_like(rendered.alpha)
    agreement = photo_agreement(rendered, RepairedClip(rendered.rgb, ones, ones), photos)
    return (agreement.shown & (agreement.confidence > _AGREEING)).to(rendered.alpha)


def _few(photos: PosedPhotos) -> PosedPhotos:
    """Photos spread over the capture."""
    count = len(photos.rgb)
    ids = torch.linspace(0, count - 1, min(count, _WALL_PHOTOS)).round().long()
    return replace(photos, rgb=photos.rgb[ids], c2w=photos.c2w[ids], Ks=photos.Ks[ids])


def _trusted(rendered: Clip) -> Float[Tensor, "T H W 1"]:
    return (rendered.alpha > _TRUSTED_ALPHA).float()
