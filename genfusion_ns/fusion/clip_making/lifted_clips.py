"""Clips of weak scenes that are made of a capture's depth maps instead of being fitted; see `lifting`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genfusion_ns.data.camera_conversion import camera_sizes, cameras_to_viewmats
from genfusion_ns.data.captures.capture import Capture
from genfusion_ns.data.captures.image_files import load_pixels
from genfusion_ns.data.clips.pairs import Provenance
from genfusion_ns.fusion.cameras.clip_cameras import choose_references
from genfusion_ns.fusion.cameras.framing import clip_size
from genfusion_ns.fusion.clip_making.lifting import Flaws, lift, render_lifted
from genfusion_ns.fusion.clip_making.recipe import ClipRecipe
from genfusion_ns.fusion.clip_making.writers import MadeClip
from genfusion_ns.geometry.cameras import resize_intrinsics, viewmat_to_c2w
from genfusion_ns.geometry.clips import Clip, ClipPair, References, select_frames, typical_depth
from genfusion_ns.geometry.images import commonest_size, psnr, resize_images
from genfusion_ns.geometry.trajectories import visiting_order
from genfusion_ns.geometry.windows import clip_windows


def photos_with_depth(capture: Capture, resolution: tuple[int, int]) -> Clip:
    """All photos of a capture at clip size with the depth of its depth maps; alpha is 0 where a map has none.

    Args:
        capture: all registered views.
        resolution: (width, height) that clips have about as many pixels as.

    Raises:
        ValueError: the capture has no depth maps, or lenses that distort.
    """
    outputs = capture.outputs
    files = outputs.metadata.get("depth_filenames")
    if not files:
        raise ValueError("--lifted needs a depth map for each photo: depth_file_path in transforms.json")
    lens = outputs.cameras.distortion_params
    if lens is not None and bool((lens != 0).any()):
        raise ValueError("--lifted needs photos without lens distortion; undistort them, or leave --lifted out")
    unit = outputs.metadata.get("depth_unit_scale_factor", 1e-3) * outputs.dataparser_scale
    size = clip_size(commonest_size(camera_sizes(outputs.cameras)), resolution)
    rgbs, depths, Ks = [], [], []
    viewmats, intrinsics = cameras_to_viewmats(outputs.cameras)
    for photo, depth_map, K in zip(outputs.image_filenames, files, intrinsics, strict=True):
        pixels = torch.from_numpy(load_pixels(Path(photo)))[..., :3].float() / 255
        depth = torch.from_numpy(np.asarray(Image.open(depth_map)).astype(np.float32))[None, ..., None] * unit
        rgbs.append(resize_images(pixels[None], size))
        depths.append(resize_images(depth, size, nearest=True))
        Ks.append(resize_intrinsics(K, (pixels.shape[1], pixels.shape[0]), size))
    depth = torch.cat(depths)
    return Clip(torch.cat(rgbs).clamp(0, 1), depth, (depth > 0).float(), viewmats, torch.stack(Ks))


def lifted_clips(
    photos: Clip,
    names: Sequence[str],
    ids: Sequence[int],
    recipe: ClipRecipe,
    capture: str,
    seed: int,
    generator: torch.Generator,
) -> Iterator[MadeClip]:
    """Clips along all photos, of a scene that is lifted from some of them.

    Args:
        photos: all, with depth.
        names: of them.
        ids: the photos that the scene is made of.
        recipe: windows and references.
        capture, seed: for the record.
        generator: of the flaws.
    """
    order = visiting_order(viewmat_to_c2w(photos.viewmats).cpu())
    sources, typical = select_frames(photos, list(ids)), typical_depth(photos)
    surfels = lift(sources, Flaws.draw(generator), generator)
    train_names = tuple(names[i] for i in ids)
    for window in clip_windows(len(order), recipe.clip_length, recipe.max_windows):
        frames = [order[i] for i in window.frames(len(order))]
        clean = select_frames(photos, frames)
        artifact = render_lifted(surfels, clean, typical)
        chosen = choose_references(
            viewmat_to_c2w(sources.viewmats), viewmat_to_c2w(clean.viewmats), recipe.num_references
        )
        provenance = Provenance(
            capture=capture,
            split=f"{len(ids)} photos lifted by their depth",
            seed=seed,
            train_views=train_names,
            frames=tuple(names[i] for i in frames),
            references=tuple(train_names[i] for i in chosen),
            psnr=clip_psnr(artifact, clean),
        )
        references = References(sources.rgb[chosen], sources.viewmats[chosen], sources.Ks[chosen])
        yield MadeClip(window, ClipPair(artifact, clean, references), provenance)


def clip_psnr(artifact: Clip, clean: Clip) -> float:
    """Of the colours of a whole clip, in dB."""
    return round(float(psnr((artifact.rgb - clean.rgb).square().mean())), 3)
