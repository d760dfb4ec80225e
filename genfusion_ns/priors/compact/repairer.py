"""The ``compact`` repairer: a video diffusion model small enough for a CPU, whose weights come with the package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from genfusion_ns.geometry.clips import Clip, References, RepairedClip, resize_clip, resize_references, select_frames
from genfusion_ns.geometry.images import resize_images
from genfusion_ns.priors.compact.capabilities import CAPABILITIES
from genfusion_ns.priors.compact.conditioning import Condition, condition_on
from genfusion_ns.priors.compact.flow import euler_step, start_point
from genfusion_ns.priors.compact.unet import CompactUNet
from genfusion_ns.priors.weight_files import WEIGHTS_FILE as WEIGHTS_FILE
from genfusion_ns.priors.weight_files import load_weights, read_config

_MIN_FRAMES = 4  # temporal convolutions reach two frames to either side
_HALF_CONFIDENCE_ERROR = 0.2  # expected rms colour error, of the -1..1 range, at which confidence is 0.5


@dataclass(frozen=True)
class FlowResult:
    """End of the flow of one batch."""

    clean: Float[Tensor, "B 4 T H W"]
    """rgb and disparity, nominally in -1..1."""
    log_variance: Float[Tensor, "B 1 T H W"]
    """Logarithm of the squared rgb error expected from the start point."""


class CompactRepairer:
    """`VideoRepairer` on a `CompactUNet`; see `genfusion_ns.priors.base`."""

    name = "compact"
    capabilities = CAPABILITIES
    clip_length = 16

    def __init__(
        self,
        network: CompactUNet,
        steps: int = 1,
        device: torch.device | str = "cpu",
        resolution: tuple[int, int] = (256, 144),
        dtype: torch.dtype | None = torch.float32,
    ) -> None:
        """
        Args:
            network: trained network; set to evaluation mode here.
            steps: Euler steps of the flow, at least 1. One step gives the mean of what may be right, which measures
                best; more steps are sharper and farther off. Networks that select need one and take no more.
            device: where the network runs; clips are moved there and back.
            resolution: (width, height) whose area clips are repaired at; larger ones are shrunk to that area, with
                their aspect kept, and restored afterwards.
            dtype: arithmetic of the network (autocast); None: `usual_dtype` of the device.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}; the flow needs at least 1")
        if min(resolution) < network.pixel_multiple:
            raise ValueError(f"resolution is {resolution}; each side must be at least {network.pixel_multiple} pixels")
        self.network = network.eval()
        self.steps = steps
        self.device = torch.device(device)
        self.resolution = resolution
        self.dtype = usual_dtype(self.device) if dtype is None else dtype

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        steps: int = 1,
        device: torch.device | str = "cpu",
        resolution: tuple[int, int] = (256, 144),
        dtype: torch.dtype | None = torch.float32,
    ) -> CompactRepairer:
        """Load a folder with ``config.json`` and weights, as ``gf-train-generator`` writes it.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: the files do not belong to a compact network.
        """
        return cls(load_network(Path(folder)), steps=steps, device=device, resolution=resolution, dtype=dtype)

    @torch.no_grad()
    def repair(self, clip: Clip, references: References, generator: torch.Generator) -> RepairedClip:
        """Repair one clip of any length and size; see `VideoRepairer.repair`.

        Raises:
            ValueError: no frame, no photo, or shapes that disagree.
        """
        _check(clip, references)
        home, frames, size = clip.rgb.device, len(clip), clip.size
        nn.Module.to(self.network, self.device)
        working = _fit(size, self.resolution)
        small = resize_clip(clip.to(self.device), working)
        photos = references.to(self.device)
        photos = resize_references(photos, _fit((photos.rgb.shape[2], photos.rgb.shape[1]), self.resolution))
        condition, padding = _pad(condition_on(_extend(small), photos), self.network.pixel_multiple)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            result = run_flow(self.network, condition, self.steps, generator)
        height, width = working[1], working[0]
        clean = result.clean[0, :, :frames, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
        spread = result.log_variance[0, :, :frames, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
        # Logistic in the log of the error: 1 where no error is expected, 0.5 at the reference error, 0 far beyond.
        confidence = torch.sigmoid(2 * torch.tensor(_HALF_CONFIDENCE_ERROR).log() - spread)
        images = torch.cat([clean.clamp(-1, 1) / 2 + 0.5, confidence]).permute(1, 2, 3, 0)
        if working != size:
            images = resize_images(images, size).clamp(0, 1)
        images = images.to(home)
        return RepairedClip(rgb=images[..., :3], disparity=images[..., 3:4], confidence=images[..., 4:5])

    def release(self) -> None:
        """Move the network to the CPU until the next call."""
        nn.Module.to(self.network, "cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def usual_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes with it, float32 elsewhere, where it would be slower."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if device.type == "cpu" and has_bfloat16() else torch.float32


def run_flow(network: CompactUNet, condition: Condition, steps: int, generator: torch.Generator) -> FlowResult:
    """Integrate the flow from the start point to a clean estimate, with equal Euler steps.

    Args:
        network: on the device of the condition.
        condition: of a batch whose H and W the network accepts.
        steps: Euler steps, at least 1; a selection needs one and takes no more.
        generator: on the CPU, so that results do not depend on the device.
    """
    artifact = condition.artifact[:, :4]
    noise = torch.randn(artifact.shape, generator=generator).to(artifact)
    sigmas = network.config["sigma_min"], network.config["sigma_max"]
    state = start_point(artifact, condition.alpha, noise, *sigmas)
    log_variance = torch.zeros_like(condition.alpha)
    steps = steps if network.follows_path else 1
    for index in range(steps):
        time, following = 1 - index / steps, 1 - (index + 1) / steps
        times = artifact.new_full((len(artifact),), time)
        prediction = network(state, condition.artifact, condition.warped, condition.photos, times)
        # Later states contain the estimate itself, so only the first step judges it without bias.
        log_variance = prediction.log_variance if index == 0 else log_variance
        state = euler_step(state, prediction.clean, time, following)
    return FlowResult(clean=state, log_variance=log_variance)


def load_network(folder: Path) -> CompactUNet:
    """The network of a folder, in float32 on the CPU; errors as in `CompactRepairer.from_folder`."""
    config, path = read_config(folder), folder / "config.json"
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        with torch.device("meta"):  # sizes are compared with the file before any memory is taken
            network = CompactUNet(**arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path} describes a network that cannot be built: {error}") from error
    load_weights(network, folder)
    return network.eval()


def _check(clip: Clip, references: References) -> None:
    if len(clip) == 0:
        raise ValueError("the clip has no frames")
    if len(references) == 0:
        raise ValueError("there are no reference photos; a repair needs at least one")
    frames, height, width = clip.rgb.shape[:3]
    expected = {
        "rgb": (frames, height, width, 3),
        "depth": (frames, height, width, 1),
        "alpha": (frames, height, width, 1),
        "viewmats": (frames, 4, 4),
        "Ks": (frames, 3, 3),
    }
    for name, shape in expected.items():
        found = tuple(getattr(clip, name).shape)
        if found != shape:
            raise ValueError(f"clip.{name} has shape {found}, but its rgb asks for {shape}")
    count = len(references)
    if tuple(references.viewmats.shape) != (count, 4, 4) or tuple(references.Ks.shape) != (count, 3, 3):
        raise ValueError(
            f"{count} reference photos need viewmats ({count}, 4, 4) and Ks ({count}, 3, 3), found "
            f"{tuple(references.viewmats.shape)} and {tuple(references.Ks.shape)}"
        )


def _fit(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """`size` shrunk, never enlarged, to the area of `limit`, with its aspect kept."""
    scale = min(1.0, math.sqrt(limit[0] * limit[1] / (size[0] * size[1])))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _extend(clip: Clip) -> Clip:
    """The clip with its last frame repeated up to the least number of frames."""
    frames = list(range(len(clip))) + [len(clip) - 1] * (_MIN_FRAMES - len(clip))
    return clip if len(frames) == len(clip) else select_frames(clip, frames)


def _pad(condition: Condition, multiple: int) -> tuple[Condition, tuple[int, int]]:
    """The condition with replicated borders up to the multiple, and the (top, left) border that was added."""
    height, width = condition.artifact.shape[-2:]
    extra = (-height % multiple, -width % multiple)
    top, left = extra[0] // 2, extra[1] // 2
    border = (left, extra[1] - left, top, extra[0] - top, 0, 0)
    artifact = functional.pad(condition.artifact, border, mode="replicate")
    warped = functional.pad(condition.warped[0], border, mode="replicate")[None]
    return Condition(artifact, warped, condition.photos, condition.code), (top, left)
