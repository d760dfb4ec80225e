"""Training of a TripoSR: the `Objective` that the loop trains.

Squared error, LPIPS and the cross entropy of opacity and alpha, on windows of views of the object (Tochilkin et al.
2024, section 2.3). All of the network is trained, or low-rank changes of its backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from genfusion_ns.geometry.images import psnr, resize_images
from genfusion_ns.geometry.object_views import FOREGROUND, JudgedObject, ObjectSample
from genfusion_ns.perceptual import HOW_TO_GET, weights_file
from genfusion_ns.priors.training.aligned_start import align
from genfusion_ns.priors.training.image_losses import PerceptualLoss
from genfusion_ns.priors.training.loop import build_accelerator, fit
from genfusion_ns.priors.training.lora import add_lora, merge_lora, save_lora
from genfusion_ns.priors.training.settings import TripoSROptimisation, TripoSRSizes
from genfusion_ns.priors.training.validation import Judgement, Report
from genfusion_ns.priors.triposr.marching import RayImages, render_rays, render_views
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.priors.triposr.occupancy import Occupancy
from genfusion_ns.priors.triposr.pictures import PictureError, as_tensor, cut_out, over_grey
from genfusion_ns.priors.weight_files import forget_origin

_CHUNK = 2**18
_LEAST_PATCH = 32
"""Pixels along a window from which on LPIPS sees anything."""
_ROWS = 8


@dataclass(frozen=True)
class ObjectReport:
    """Means over views of held-out objects that the network was not given."""

    psnr: float
    """In dB."""
    psnr_mean_image: float
    """Of the mean of all views that were trained on, in dB: what knows nothing of the object."""
    mask_overlap: float
    """Of the outlines, intersection over union, 0..1."""
    mask_overlap_mean_image: float
    """Of the outline of that mean, where more than half of the views are opaque."""

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"other views of held-out objects: PSNR {self.psnr:.2f} dB (mean image {self.psnr_mean_image:.2f}), "
            f"outlines {self.mask_overlap:.3f} ({self.mask_overlap_mean_image:.3f})"
        )


class TripoSRTask(nn.Module):
    """Network and rays as one module, which is what accelerate shares among processes."""

    def __init__(self, network: nn.Module) -> None:
        """Args: a `TripoSRNetwork`, whose backbone may be wrapped by peft."""
        super().__init__()
        self.network: Any = network

    def forward(
        self, images: Float[Tensor, "B 3 s s"], origins: Float[Tensor, "B R 3"], directions: Float[Tensor, "B R 3"]
    ) -> tuple[Float[Tensor, "B R 3"], Float[Tensor, "B R 1"]]:
        """Colours over white and opacity of rays of each object."""
        parts: list[RayImages] = []
        for code, start, along in zip(self.network(images), origins, directions, strict=True):
            field = self.network.field(code)
            parts.append(render_rays(field, start, along, self.network.config["samples"], chunk=_CHUNK))
        return torch.stack([part.rgb for part in parts]), torch.stack([part.alpha for part in parts])


class TripoSRObjective:
    """`Objective` of a `TripoSRNetwork` on batches of `ObjectSample`."""

    def __init__(
        self,
        network: TripoSRNetwork,
        held_out: Sequence[JudgedObject],
        mean_view: Float[Tensor, "H W 4"],
        config: TripoSROptimisation,
    ) -> None:
        """
        Args:
            network: to be trained.
            held_out: objects that are never trained on.
            mean_view: of all that are trained on: colours over white, and opacity.
            config: see `TripoSROptimisation`.

        Raises:
            ImportError: LoRA without peft.
        """
        self.sizes = {name: value for name, value in network.config.items() if not name.startswith("_")}
        self.held_out, self.mean_view, self.config = held_out, mean_view, config
        # Published networks have it, nothing uses it.
        pooler: Any = network.image_tokenizer.model.pooler
        pooler.requires_grad_(False)
        network.backbone.checkpointing = config.gradient_checkpointing
        if config.lora.rank:
            network.requires_grad_(False)
            network.backbone = add_lora(network.backbone, config.lora)
        self.network = TripoSRTask(network)
        self.perceptual: PerceptualLoss | None = None
        if config.perceptual_weight and weights_file("alex") is None:
            print(f"note: the training does without LPIPS; {HOW_TO_GET}")
        elif config.perceptual_weight:
            self.perceptual = PerceptualLoss()

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """See `Objective.place`."""
        if self.perceptual is not None:
            self.perceptual = self.perceptual.to(device)

    def loss(self, network: nn.Module, batch: list[ObjectSample], numbers: range) -> Float[Tensor, ""]:
        """See `Objective.loss`; nothing is random here."""
        device = next(network.parameters()).device
        size = self.sizes["image_size"]
        images = torch.cat([condition(sample.view.numpy(), size) for sample in batch]).to(device)
        rays = [
            torch.stack([getattr(sample, name) for sample in batch]).to(device) for name in ("origins", "directions")
        ]
        shape = rays[0].shape  # [B, N, c, c, 3]
        rgb, alpha = network(images, *(value.flatten(1, 3) for value in rays))
        rgba = torch.stack([sample.rgba for sample in batch]).to(device)
        known = rgba[..., 3:].flatten(0, 1)
        truth = rgba[..., :3].flatten(0, 1) * known + 1 - known
        image, opacity = rgb.view(-1, *shape[2:4], 3).float(), alpha.view(-1, *shape[2:4], 1).float()
        total = functional.mse_loss(image, truth)
        if self.config.mask_weight:
            entropy = functional.binary_cross_entropy(opacity.clamp(1e-5, 1 - 1e-5), known)
            total = total + self.config.mask_weight * entropy
        if self.perceptual is not None and shape[2] >= _LEAST_PATCH:
            pair = (value.permute(0, 3, 1, 2) * 2 - 1 for value in (image, truth))
            total = total + self.config.perceptual_weight * self.perceptual(*pair)
        return total

    def write(self, weights: dict[str, Tensor], folder: Path) -> None:
        """Write the folder that ``gf-image3d --model`` takes, in half precision; with LoRA also the changes alone."""
        self._loaded(weights).half().save_pretrained(folder, safe_serialization=True)
        forget_origin(folder / "config.json")
        if self.config.lora.rank:
            save_lora(
                add_lora(self._empty().backbone, self.config.lora), _part(weights, "backbone."), folder / "adapter"
            )

    @torch.no_grad()
    def validate(self, weights: dict[str, Tensor]) -> Judgement:
        """Make held-out objects of one view each, and compare others."""
        network = self._loaded(weights)
        nn.Module.to(network, next(iter(weights.values())).device)
        scores, rows = [], []
        for judged in self.held_out:
            numbers, row = self._compare(network, judged)
            scores.append(numbers)
            rows.append(row)
        means = torch.tensor(scores, dtype=torch.float64).mean(0).tolist()
        return Judgement(ObjectReport(*means), torch.cat(rows[:_ROWS]))

    def _compare(self, network: TripoSRNetwork, judged: JudgedObject) -> tuple[tuple[float, ...], Tensor]:
        """The numbers of an `ObjectReport`, and a row of pictures."""
        device, views = next(network.parameters()).device, judged.others
        picture = condition(judged.given.numpy(), self.sizes["image_size"]).to(device)
        field = network.field(network(picture)[0])
        found = render_views(field, views.c2w, views.K, views.size, self.sizes["samples"], Occupancy.of(field))
        rgba = views.rgba.float() / 255
        truth, solid = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:], rgba[..., 3:] > 0.5
        shown, opaque = found.rgb.cpu(), found.alpha.cpu() > 0.5
        mean = resize_images(self.mean_view[None], views.size)
        numbers = (
            _decibels(shown - truth),
            _decibels(mean[..., :3] - truth),
            _overlap(solid, opaque),
            _overlap(solid, (mean[..., 3:] > 0.5).expand_as(solid)),
        )
        given = resize_images(picture.permute(0, 2, 3, 1).cpu(), views.size)
        pairs = [side for pair in zip(truth, shown, strict=True) for side in pair]
        return numbers, torch.cat([given[0], *pairs], dim=1)

    def _empty(self) -> TripoSRNetwork:
        with torch.device("meta"):
            return TripoSRNetwork(**self.sizes)

    def _loaded(self, weights: Mapping[str, Tensor]) -> TripoSRNetwork:
        """The plain network with copies of the weights, on the CPU."""
        network = self._empty()
        own = _part(weights, "")
        if self.config.lora.rank:
            backbone = _part(weights, "backbone.")
            merged = merge_lora(add_lora(self._empty().backbone, self.config.lora), backbone)
            own = {name: value for name, value in own.items() if not name.startswith("backbone.")}
            own |= {f"backbone.{name}": value for name, value in merged.state_dict().items()}
        network.load_state_dict(own, assign=True)
        return network.eval()


def condition(rgba: np.ndarray, size: int) -> Float[Tensor, "1 3 s s"]:
    """A view as the network takes images; one without an object is grey.

    Args:
        rgba: straight colours and alpha, bytes. [H, W, 4]
        size: pixels along the network's image.
    """
    try:
        picture = over_grey(cut_out(Image.fromarray(rgba), FOREGROUND, "a view"))
    except PictureError:
        picture = np.full((size, size, 3), 127, np.uint8)
    planes = as_tensor(picture).permute(0, 3, 1, 2)
    return functional.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=True)


def train(
    batches: Dataset[list[ObjectSample]],
    held_out: Sequence[JudgedObject],
    mean_view: Float[Tensor, "H W 4"],
    output: Path,
    config: TripoSROptimisation,
    resume: bool = True,
    initial: TripoSRNetwork | None = None,
    accelerator: Accelerator | None = None,
) -> Report | None:
    """Train a network; errors as in `fit` and `TripoSRObjective`.

    Args:
        batches: item i is the i-th batch of the training, over all processes.
        held_out: objects that are never trained on.
        mean_view: see `TripoSRObjective`.
        output: receives what `fit` writes.
        config: see `TripoSROptimisation`.
        resume: go on from the checkpoint in `output` where there is one.
        initial: network to start from, whose size then counts; a fresh one of the configured size when None.
        accelerator: see `build_accelerator`.

    Returns:
        The last validation; None in other processes than the main one.
    """
    accelerator = accelerator or build_accelerator(config)
    set_seed(config.seed)
    network = initial or fresh_network(config.network)
    objective = TripoSRObjective(network, held_out, mean_view, config)
    return fit(objective, batches, output, config, resume, accelerator)


def fresh_network(sizes: TripoSRSizes) -> TripoSRNetwork:
    """A network to be trained from nothing, whose attention is aligned with the image; see `align`."""
    network = TripoSRNetwork(**asdict(sizes))
    align(network)
    return network


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Copies, on the CPU, of the weights of one part of the network."""
    start = f"network.{prefix}"
    chosen = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    return {name: value.detach().to("cpu", copy=True) for name, value in chosen.items()}


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def _decibels(error: Tensor) -> float:
    return float(psnr(error.square().mean()))
