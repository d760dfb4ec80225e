"""The ``dynamicrafter`` repairer: GenFusion's published generator behind the interface of all repairers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from genfusion_ns.geometry.cameras import Clip, References, RepairedClip, camera_centers, camera_forwards
from genfusion_ns.geometry.clip_pairs import resize_images, select_references
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.priors.dynamicrafter.architecture import weighted_parts
from genfusion_ns.priors.dynamicrafter.images import (
    fit_within,
    pad_to_multiple,
    resize_disparity,
    resize_rgb,
    there_and_back,
)
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.sampling import Sampling

_SOLID_ALPHA = 0.5  # rendered depth below this coverage is mostly background and is not trusted
_HALF_CONFIDENCE_SPREAD = 0.5  # standard deviation of latents, of about 1 over all images, at which confidence is 0.5


class DynamiCrafterRepairer:
    """`VideoRepairer` on a `DynamiCrafterPipeline`; see `genfusion_ns.priors.base`.

    Clips of other sizes are scaled to fit the resolution, with their aspect kept, and padded to what the network takes;
    GenFusion stretches them. Clips shorter than 16 frames go on backwards from their end, because the network was
    trained on 16 and its quality falls with fewer. One photo conditions a clip, the one nearest to it in position and
    direction, by the rule that GenFusion uses with sparse views.

    Confidence falls with the uncertainty of the sampled latents, see `Denoised.variance`: 1 where sampling was certain
    from the start, 0.5 where the standard deviation is half of that over all images, per patch of 8 x 8 pixels of the
    working size. The scale is not calibrated against errors.
    """

    name = "dynamicrafter"
    clip_length = 16

    def __init__(
        self,
        pipeline: DynamiCrafterPipeline,
        sampling: Sampling | None = None,
        device: torch.device | str = "cpu",
        resolution: tuple[int, int] = (960, 512),
        offload: bool = False,
    ) -> None:
        """
        Args:
            pipeline: with weights, on any device.
            sampling: steps and guidance; those of GenFusion where there are none.
            device: where the parts run; clips are moved there and back.
            resolution: (width, height) that working sizes stay within; the network was trained at 960 x 512.
            offload: keep on the device only the part that is running, for little GPU memory.

        Raises:
            ValueError: a resolution that is no multiple of what the network needs, or offload without an accelerator.
        """
        multiple = pipeline.size_multiple
        if min(resolution) < multiple or any(side % multiple for side in resolution):
            raise ValueError(f"resolution is {resolution}; both sides must be multiples of {multiple} pixels")
        self.device = torch.device(device)
        if offload and self.device.type == "cpu":
            raise ValueError("offload moves parts between the CPU and an accelerator, but the device is cpu")
        self.pipeline = pipeline
        self.sampling = sampling or Sampling()
        self.resolution = resolution
        self.offload = offload
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
        resolution: tuple[int, int] = (960, 512),
        offload: bool = False,
        dtype: torch.dtype | None = None,
    ) -> DynamiCrafterRepairer:
        """Load a folder written by ``gf-convert-generator``; other arguments as in the constructor.

        Args:
            dtype: of the weights; by default float16 on a GPU and float32 on the CPU.

        Raises:
            FileNotFoundError: the folder is missing or is not a pipeline.
            ValueError: the pipeline is of another kind, or its files are incomplete.
        """
        index = Path(folder) / "model_index.json"
        if not index.is_file():
            raise FileNotFoundError(f"{folder} has no model_index.json; gf-convert-generator writes such a folder")
        found = json.loads(index.read_text()).get("_class_name")
        if found != DynamiCrafterPipeline.__name__:
            raise ValueError(f"{index} describes a {found}, not a {DynamiCrafterPipeline.__name__}")
        if dtype is None:
            dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        try:
            pipeline = DynamiCrafterPipeline.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{folder} is incomplete or damaged; convert it again: {error}") from error
        return cls(pipeline, sampling, device, resolution, offload)

    @torch.no_grad()
    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        """Repair one clip of any size; see `VideoRepairer.repair`.

        Clips of more than 16 frames are taken as they are, at a cost in memory and quality.

        Raises:
            ValueError: no frame or no photo.
        """
        if len(clip) == 0 or len(references) == 0:
            raise ValueError(f"a repair needs frames and photos, found {len(clip)} frames and {len(references)} photos")
        if not self.offload:
            self._move(self.device)
        working = fit_within(clip.size, self.resolution)
        video, (top, left) = pad_to_multiple(self._network_video(clip, working), self.pipeline.size_multiple)
        photo = select_references(references, [nearest_reference(clip, references)]).rgb
        out = self.pipeline(video[..., :3], video[..., 3:], photo, self.sampling, generator)
        images = torch.cat([out.rgb, out.disparity, _confidence(out.variance, video.shape[1:3])], dim=-1)
        images = images[: len(clip), top : top + working[1], left : left + working[0]]
        if working != clip.size:
            images = resize_images(images, clip.size).clamp(0, 1)
        images = images.to(clip.rgb.device)
        return RepairedClip(rgb=images[..., :3], disparity=images[..., 3:4], confidence=images[..., 4:5])

    def _network_video(self, clip: Clip, size: tuple[int, int]) -> Float[Tensor, "T h w 4"]:
        """Colours and disparity in 0..1 at the working size, of at least `clip_length` frames."""
        code = encode_disparity(clip.depth, clip.alpha > _SOLID_ALPHA)
        frames = there_and_back(len(clip), self.clip_length)
        rgb = clip.rgb[frames].clamp(0, 1).permute(3, 0, 1, 2)[None]
        disparity = code.disparity[frames].permute(3, 0, 1, 2)[None]
        video = torch.cat([resize_rgb(rgb, size), resize_disparity(disparity, size)], dim=1)
        return video[0].permute(1, 2, 3, 0)

    def release(self) -> None:
        """Move the parts to the CPU until the next call."""
        if not self.offload:
            self._move(torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _move(self, device: torch.device) -> None:
        for part in weighted_parts(self.pipeline).values():
            # Not the method of the pipeline, which warns about half precision on the CPU.
            nn.Module.to(part, device)


def nearest_reference(clip: Clip, references: References) -> int:
    """Index of the photo nearest to a clip: distance to its mean position plus half of one minus the cosine between the
    viewing directions, as GenFusion chooses with sparse views. Distances are in scene units.
    """
    centers, forwards = camera_centers(clip.viewmats), camera_forwards(clip.viewmats)
    viewmats = references.viewmats.to(clip.viewmats)
    distance = (camera_centers(viewmats) - centers.mean(0)).norm(dim=-1)
    forward = functional.normalize(forwards.mean(0), dim=0)
    return int((distance + 0.5 * (1 - camera_forwards(viewmats) @ forward)).argmin())


def _confidence(variance: Float[Tensor, "1 1 T h w"], size: torch.Size) -> Float[Tensor, "T H W 1"]:
    """Logistic in the logarithm of the variance, between the latents' positions linear."""
    confidence = 1 / (1 + variance[0, 0] / _HALF_CONFIDENCE_SPREAD**2)
    return functional.interpolate(confidence[:, None], tuple(size), mode="bilinear").permute(0, 2, 3, 1)
