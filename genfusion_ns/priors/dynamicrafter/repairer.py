"""The ``dynamicrafter`` repairer: GenFusion's published generator behind the interface of all repairers."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from genfusion_ns.geometry.cameras import camera_centers, camera_forwards
from genfusion_ns.geometry.clips import Clip, References, RepairedClip, typical_depth
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.priors.dynamicrafter.architecture import weighted_parts
from genfusion_ns.priors.dynamicrafter.best_of import disagreement
from genfusion_ns.priors.dynamicrafter.capabilities import CAPABILITIES
from genfusion_ns.priors.dynamicrafter.clip_inputs import ClipInputs, clip_inputs, seen_part
from genfusion_ns.priors.dynamicrafter.images import fit_within
from genfusion_ns.priors.dynamicrafter.loading import load_pipeline
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.sampling import Sampling

_HALF_CONFIDENCE_SPREAD = 0.5  # standard deviation of latents, of about 1 over all images, at which confidence is 0.5


class DynamiCrafterRepairer:
    """`ContinuingRepairer` on a `DynamiCrafterPipeline`; see `genfusion_ns.priors.base`.

    Clips of other sizes are scaled to fit the resolution, with their aspect kept, and padded to what the network takes;
    GenFusion stretches them. Clips shorter than 16 frames go on backwards from their end, because the network was
    trained on 16 and its quality falls with fewer. One photo conditions a clip, the one nearest to it in position and
    direction, by the rule that GenFusion uses with sparse views; of a masked photo, the rectangle that holds what is
    seen.

    Confidence falls with the uncertainty of the sampled latents, see `Denoised.variance`: 1 where sampling was certain
    from the start, 0.5 where the standard deviation is half of that over all images, per patch of 8 x 8 pixels of the
    working size. The scale is not calibrated against errors.
    """

    name = "dynamicrafter"
    capabilities = CAPABILITIES
    clip_length = 16

    def __init__(
        self,
        pipeline: DynamiCrafterPipeline,
        sampling: Sampling | None = None,
        device: torch.device | str = "cpu",
        *,
        resolution: tuple[int, int] | None = None,
        offload: bool = False,
        samples: int = 1,
    ) -> None:
        """
        Args:
            pipeline: with weights, on any device.
            sampling: steps and guidance; those of GenFusion where there are none.
            device: where the parts run; clips are moved there and back.
            resolution: (width, height) that working sizes stay within, upright clips with the two exchanged; by default
                that of the pipeline.
            offload: keep on the device only the part that is running, for little GPU memory.
            samples: how many repairs of a clip are drawn; the one that contradicts the photos least is kept, see
                `best_of.disagreement`.

        Raises:
            ValueError: a resolution that is no multiple of what the network needs, no sample, or offload without an
                accelerator.
        """
        self.resolution = resolution or pipeline.resolution
        multiple = pipeline.size_multiple
        if min(self.resolution) < multiple or any(side % multiple for side in self.resolution):
            raise ValueError(f"resolution is {self.resolution}; both sides must be multiples of {multiple} pixels")
        if samples < 1:
            raise ValueError(f"samples is {samples}; at least 1 is needed")
        self.device = torch.device(device)
        if offload and self.device.type == "cpu":
            raise ValueError("offload moves parts between the CPU and an accelerator, but the device is cpu")
        self.pipeline = pipeline
        self.sampling = sampling or Sampling()
        self.offload = offload
        self.samples = samples
        self._memory_told = False
        pipeline.set_progress_bar_config(disable=True)
        for part in weighted_parts(pipeline).values():
            part.eval()
        if offload:
            pipeline.enable_model_cpu_offload(device=self.device)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        sampling: Sampling | None = None,
        device: torch.device | str = "cpu",
        *,
        resolution: tuple[int, int] | None = None,
        offload: bool = False,
        samples: int = 1,
        dtype: torch.dtype | None = None,
    ) -> DynamiCrafterRepairer:
        """Load a folder written by ``gf-convert-generator``; other arguments as in the constructor.

        Args:
            dtype: of the weights; by default float16 on a GPU and float32 on the CPU.

        Raises:
            FileNotFoundError: the folder is missing or is not a pipeline.
            ValueError: the pipeline is of another kind, or its files are incomplete.
        """
        if dtype is None:
            dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        pipeline = load_pipeline(Path(folder), dtype)
        return cls(pipeline, sampling, device, resolution=resolution, offload=offload, samples=samples)

    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        """Repair one clip of any size; see `VideoRepairer.repair`.

        Clips of more than 16 frames are taken as they are, at a cost in memory and quality.

        Raises:
            ValueError: no frame or no photo.
            RuntimeError: the networks gave values that are not finite.
        """
        return self._best(clip, references, generator, None)

    def repair_after(
        self, known: RepairedClip, clip: Clip, references: References, generator: torch.Generator
    ) -> RepairedClip:
        """Repair one clip whose first frames are known; see `ContinuingRepairer.repair_after`.

        The latents of these frames replace the sampled ones at every step. Errors as in `repair`.
        """
        count, size = len(known), (known.rgb.shape[2], known.rgb.shape[1])
        if not 0 < count < len(clip) or size != clip.size:
            raise ValueError(
                f"{count} known frames of {size[0]} x {size[1]} do not begin a clip of {len(clip)} frames of "
                f"{clip.size[0]} x {clip.size[1]} (width x height)"
            )
        known = known.to(clip.rgb.device)
        repaired = self._best(clip, references, generator, known)
        return RepairedClip(
            rgb=torch.cat([known.rgb, repaired.rgb[count:]]),
            disparity=repaired.disparity,
            confidence=torch.cat([known.confidence, repaired.confidence[count:]]),
        )

    @torch.no_grad()
    def _best(
        self, clip: Clip, references: References, generator: torch.Generator, known: RepairedClip | None
    ) -> RepairedClip:
        """The draw that contradicts photos and covered renders least."""
        if len(clip) == 0 or len(references) == 0:
            raise ValueError(f"a repair needs frames and photos, found {len(clip)} frames and {len(references)} photos")
        if not self.offload:
            self._move(self.device)
        working = fit_within(clip.size, self.resolution)
        inputs = clip_inputs(clip, known, working, self.clip_length, self.pipeline.size_multiple)
        photo = seen_part(references, nearest_reference(clip, references))
        if self.samples == 1:
            best = self._draw(inputs, clip, photo, generator)
        else:
            draws = (self._draw(inputs, clip, photo, generator) for _ in range(self.samples))
            best = min(draws, key=lambda draw: disagreement(draw.rgb, clip, references))
        self._tell_memory()
        return best

    def _draw(
        self, inputs: ClipInputs, clip: Clip, photo: Float[Tensor, "1 h w 3"], generator: torch.Generator
    ) -> RepairedClip:
        video = inputs.video
        out = self.pipeline(
            video[..., :3], video[..., 3:], photo, self.sampling, generator, alpha=inputs.alpha, known=inputs.known
        )
        images = torch.cat([out.rgb, out.disparity, confidence_of(out.variance, video.shape[1:3])], dim=-1)
        (top, left), (width, height) = inputs.corner, inputs.size
        images = images[: len(clip), top : top + height, left : left + width]
        if inputs.size != clip.size:
            images = resize_images(images, clip.size).clamp(0, 1)
        images = images.to(clip.rgb.device)
        return RepairedClip(rgb=images[..., :3], disparity=images[..., 3:4], confidence=images[..., 4:5])

    def _tell_memory(self) -> None:
        """Once, because the figure is what people need to choose a resolution or a smaller GPU by."""
        if self._memory_told or self.device.type != "cuda":
            return
        self._memory_told = True
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30
        print(f"Repairer {self.name}: peak GPU memory so far {peak:.1f} GiB, the scene included")

    def release(self) -> None:
        """Move the parts to the CPU until the next call, unless half of the GPU's memory is free beside them."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            if not is_short(*torch.cuda.mem_get_info(self.device)):
                return
        if not self.offload:
            self._move(torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _move(self, device: torch.device) -> None:
        for part in weighted_parts(self.pipeline).values():
            # Not the method of the pipeline, which warns about half precision on the CPU.
            nn.Module.to(part, device)


def is_short(free: int, total: int) -> bool:
    """Whether a GPU with this much free memory, in bytes, has too little left for a scene to grow beside a repairer."""
    return free < total / 2


def nearest_reference(clip: Clip, references: References) -> int:
    """Index of the photo nearest to a clip: distance to its mean position plus half of one minus the cosine between the
    viewing directions, as GenFusion chooses with sparse views.

    The unit of distance is the depth of what the clip shows, or else the mean distance of the photos, so that the
    choice is the same in any unit. GenFusion takes the unit of its scenes, where the farthest camera is about 1 away.
    """
    centers, forwards = camera_centers(clip.viewmats), camera_forwards(clip.viewmats)
    viewmats = references.viewmats.to(clip.viewmats)
    distance = (camera_centers(viewmats) - centers.mean(0)).norm(dim=-1)
    unit = typical_depth(clip) or float(distance.mean()) or 1.0
    forward = functional.normalize(forwards.mean(0), dim=0)
    return int((distance / unit + 0.5 * (1 - camera_forwards(viewmats) @ forward)).argmin())


def confidence_of(variance: Float[Tensor, "1 1 T h w"], size: torch.Size) -> Float[Tensor, "T H W 1"]:
    """Confidence per pixel for `Denoised.variance`, which see; `size` is (H, W) in pixels.

    It is logistic in the logarithm of the variance, and linear between the latents' positions.
    """
    confidence = 1 / (1 + variance[0, 0] / _HALF_CONFIDENCE_SPREAD**2)
    return functional.interpolate(confidence[:, None], tuple(size), mode="bilinear").permute(0, 2, 3, 1)
