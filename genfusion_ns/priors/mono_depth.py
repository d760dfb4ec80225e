"""Depth of single photos, up to scale and shift: from a repairer as GenFusion does it, and how to bring it to a scene.

GenFusion supervises sparse runs with depth that its own video generator makes of the photos, given neutral depth. It
stretches fewer than 16 photos to 16 frames and then reads frame j for photo j; here each photo gets its own frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genfusion_ns.geometry.depth import align_scale_shift
from genfusion_ns.geometry.windows import clip_windows
from genfusion_ns.priors.base import VideoRepairer
from genfusion_ns.priors.without_cameras import clip_without_cameras, photos_without_cameras

_FARTHEST = 0.1
"""Least aligned disparity, as a share of the least one of the scene: beyond ten times its depth a fit says nothing."""
_LEAST_PIXELS = 16
"""Pixels without which an image is not aligned; two numbers are fitted to them."""


@dataclass(frozen=True)
class MonoDisparity:
    """What an estimator says of N images."""

    disparity: Float[Tensor, "N H W 1"]
    """Relative disparity, larger is nearer; each image is known up to a scale and a shift of its own."""
    confidence: Float[Tensor, "N H W 1"]
    """Trust per pixel in 0..1; 0 where the estimator gives nothing."""


@runtime_checkable
class MonoDepth(Protocol):
    """Estimates disparity from colours alone."""

    name: str
    """Shown in logs."""

    def estimate(self, images: Float[Tensor, "N H W 3"], generator: torch.Generator) -> MonoDisparity:
        """Disparity of every image, in their order.

        Args:
            images: colours in 0..1, at least one image.
            generator: source of all randomness, on the CPU.

        Returns:
            Images of the same size, on the same device.

        Raises:
            ValueError: no image, or not three channels.
        """
        ...


class RepairerMonoDepth:
    """`MonoDepth` from the depth that a `VideoRepairer` makes of photos with neutral depth (see `without_cameras`).

    The repairer always gets exactly `clip_length` frames. Fewer photos than that are each shown for a run of frames, in
    order, and get the mean over their run; more are cut into windows. One photo of each clip, drawn by the generator,
    conditions it, as in GenFusion.

    This is for repairers that make depth (`Capabilities.makes_depth`), because they were trained on clips of unknown
    depth, as GenFusion's was. Others return a constant for neutral depth, which `align_to_scene` finds to agree with
    nothing.
    """

    def __init__(self, repairer: VideoRepairer, per_view: bool = False) -> None:
        """
        Args:
            repairer: any; what it says is worth something where it makes depth.
            per_view: a clip for each photo alone, `clip_length` times the work. For photos that are too far apart to
                pass for a video; GenFusion does this on mip-NeRF 360.
        """
        self.repairer = repairer
        self.per_view = per_view
        self.name = f"depth of {repairer.name}"

    def estimate(self, images: Float[Tensor, "N H W 3"], generator: torch.Generator) -> MonoDisparity:
        """See `MonoDepth.estimate`; confidence is that of the repairer."""
        check_images(images)
        disparities, confidences = [], []
        for shown, kept in self._clips(len(images)):
            picked = shown[int(torch.randint(len(shown), (1,), generator=generator))]
            references = photos_without_cameras(images[picked : picked + 1])
            repaired = self.repairer.repair(clip_without_cameras(images[shown]), references, generator)
            for view in kept:
                own = [frame for frame, source in enumerate(shown) if source == view]
                disparities.append(repaired.disparity[own].mean(0))
                confidences.append(repaired.confidence[own].mean(0))
        return MonoDisparity(torch.stack(disparities), torch.stack(confidences))

    def _clips(self, count: int) -> list[tuple[list[int], range]]:
        """For each clip the photo that each frame shows, and the photos whose result is read from it."""
        length = self.repairer.clip_length
        if self.per_view:
            return [([view] * length, range(view, view + 1)) for view in range(count)]
        if count < length:
            return [([frame * count // length for frame in range(length)], range(count))]
        return [(window.frames(count), window.new_frames(count)) for window in clip_windows(count, length)]


@dataclass(frozen=True)
class AlignedDepth:
    """Estimated depth in the units of a scene."""

    depth: Float[Tensor, "N H W 1"]
    """z depth in scene units; 0 where the estimate says nothing, or in images that do not agree with the scene."""
    scale: Float[Tensor, " N"]
    """1 / scene depth = scale * disparity + shift."""
    shift: Float[Tensor, " N"]
    inlier_share: Float[Tensor, " N"]
    """Share of the compared pixels that the fit explains, 0..1; 0 where fewer than 16 could be compared."""


def align_to_scene(
    disparity: Float[Tensor, "N H W 1"],
    rendered_depth: Float[Tensor, "N H W 1"],
    valid: Bool[Tensor, "N H W 1"],
    confidence: Float[Tensor, "N H W 1"] | None = None,
    *,
    least_confidence: float = 0.5,
    least_inliers: float = 0.5,
) -> AlignedDepth:
    """Bring relative disparity to a scene: one robust scale and shift per image, fitted to disparity.

    GenFusion fits depth by least squares instead (its section 5 on inserted points), which pixels near infinity decide.

    Args:
        disparity: of each image, up to scale and shift, larger is nearer.
        rendered_depth: z depth of the scene from the same cameras, scene units.
        valid: where the rendered depth is trusted, see `SOLID_ALPHA`; depth that is not finite and positive never is.
        confidence: of the disparity, 0..1; None: full.
        least_confidence: pixels of less are neither compared nor given depth.
        least_inliers: share of the compared pixels that a fit must explain. The robust fit needs a majority; pure noise
            gets up to 0.45.

    Returns:
        Depth everywhere but where confidence lacks, or disparity is not finite or below a tenth of the farthest that
        was compared. Images whose fit does not rise with disparity, explains too little, or rests on fewer than 16
        pixels, get depth 0.

    Raises:
        ValueError: shapes that differ.
    """
    shapes = {tuple(x.shape) for x in (disparity, rendered_depth, valid, confidence) if x is not None}
    if len(shapes) != 1:
        raise ValueError(f"disparity, rendered depth, mask and confidence must have one shape, found {sorted(shapes)}")
    usable = torch.isfinite(disparity)
    if confidence is not None:
        usable = usable & (confidence >= least_confidence)
    compared = usable & valid & torch.isfinite(rendered_depth) & (rendered_depth > 0)
    target = 1 / torch.where(compared, rendered_depth, 1.0)
    fit = align_scale_shift(disparity, target, compared)
    enough = compared.flatten(1).sum(1) >= _LEAST_PIXELS
    agrees = enough & (fit.scale > 0) & (fit.inlier_fraction >= least_inliers)
    farthest = torch.where(compared, target, torch.inf).flatten(1).amin(1)
    aligned = fit.apply(torch.where(usable, disparity, 0.0))
    known = usable & agrees.view(-1, 1, 1, 1) & (aligned > (_FARTHEST * farthest).view(-1, 1, 1, 1))
    depth = torch.where(known, 1 / torch.where(known, aligned, 1.0), 0.0)
    return AlignedDepth(depth, fit.scale, fit.shift, torch.where(enough, fit.inlier_fraction, 0.0))


def check_images(images: Float[Tensor, "N H W 3"]) -> None:
    """Refuse what no estimator can read.

    Raises:
        ValueError: no image, or not three channels.
    """
    if images.dim() != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}; at least one of [N, H, W, 3] is needed")
