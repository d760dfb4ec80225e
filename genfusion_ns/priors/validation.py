"""How much a network improves held-out clips, and a picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from genfusion_ns.geometry.cameras import RepairedClip
from genfusion_ns.geometry.clip_pairs import ClipPair, resize_references, select_references
from genfusion_ns.priors.compact import CompactRepairer
from genfusion_ns.priors.compact_unet import CompactUNet
from genfusion_ns.priors.conditioning import condition_on, target_of

_PHOTOS = 3
_ROWS = 6
_SAME_CAMERA = 1e-4  # largest difference of matrix entries between equal cameras


@dataclass(frozen=True)
class ValidationReport:
    """Means over the held-out clips, colours over their frames that no stored photo was taken at."""

    psnr_artifact: float
    """Of the input, in dB."""
    psnr_repaired: float
    """Of the repaired clip, in dB."""
    psnr_trusted: float
    """Of the half of the repaired pixels with the highest confidence, in dB."""
    psnr_doubted: float
    """Of the other half, in dB."""
    disparity_error_artifact: float
    """Mean absolute disparity error of the input, of the 0..1 range of each clip."""
    disparity_error_repaired: float
    """The same of the repaired clip."""

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"PSNR {self.psnr_artifact:.2f} -> {self.psnr_repaired:.2f} dB "
            f"(trusted half {self.psnr_trusted:.2f}, other half {self.psnr_doubted:.2f}), disparity error "
            f"{self.disparity_error_artifact:.4f} -> {self.disparity_error_repaired:.4f}"
        )


def validate(
    network: CompactUNet, held_out: Sequence[ClipPair], picture: Path | None, seed: int, steps: int = 4
) -> ValidationReport:
    """Repair the held-out clips as a run would do it and compare with the clean clips.

    Args:
        network: left in evaluation mode.
        held_out: at least one whole clip with its photos, of which the first three are used.
        picture: receives columns artifact, repaired, clean, confidence, first photo; None for no picture.
        seed: of the noise.
        steps: of the flow.
    """
    if not held_out:
        raise ValueError("validation needs at least one held-out clip")
    repairer = CompactRepairer(network, steps=steps, device=next(network.parameters()).device)
    rows, numbers = [], []
    for index, pair in enumerate(held_out):
        chosen = select_references(pair.references, list(range(min(_PHOTOS, len(pair.references)))))
        repaired = repairer.repair(pair.artifact, chosen, torch.Generator().manual_seed(seed + index))
        numbers.append(_judge(pair, repaired))
        if index < _ROWS:
            rows.append(_row(pair, repaired))
    if picture is not None:
        width = min(row.shape[1] for row in rows)
        sheet = torch.cat([row[:, :width] for row in rows]).clamp(0, 1)
        Image.fromarray((sheet * 255).round().to(torch.uint8).cpu().numpy()).save(picture)
    return ValidationReport(*torch.tensor(numbers, dtype=torch.float64).mean(dim=0).tolist())


def psnr(error: Float[Tensor, "*pixels 3"]) -> float:
    """Peak signal-to-noise ratio of colour errors on the 0..1 range, in dB."""
    return -10 * torch.log10(error.square().mean().clamp(min=1e-10)).item()


def novel_frames(pair: ClipPair) -> Bool[Tensor, " T"]:
    """Frames seen by no stored photo: a photo warped into its own camera would be the answer. All if none is novel."""
    difference = pair.artifact.viewmats[:, None] - pair.references.viewmats[None]
    novel = ~(difference.abs().amax(dim=(2, 3)) < _SAME_CAMERA).any(dim=1)
    return novel if bool(novel.any()) else torch.ones_like(novel)


def _judge(pair: ClipPair, repaired: RepairedClip) -> tuple[float, ...]:
    novel = novel_frames(pair)
    before, after = (pair.artifact.rgb - pair.clean.rgb)[novel], (repaired.rgb - pair.clean.rgb)[novel]
    confidence = repaired.confidence[novel].flatten()
    order = confidence.argsort(descending=True)
    errors = after.reshape(-1, 3)[order]
    half = len(errors) // 2
    return psnr(before), psnr(after), psnr(errors[:half]), psnr(errors[half:]), *_disparity_errors(pair, repaired)


def _disparity_errors(pair: ClipPair, repaired: RepairedClip) -> tuple[float, float]:
    condition = condition_on(pair.artifact, pair.references)
    target = target_of(pair.clean, condition.code)
    truth = (target.clean[0, 3:4] / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)
    known = target.depth_known[0].permute(1, 2, 3, 0)
    before = condition.artifact[0, 3:4].permute(1, 2, 3, 0) / 2 + 0.5
    count = known.sum().clamp(min=1)
    errors = [((x - truth).abs() * known).sum() / count for x in (before, repaired.disparity)]
    return errors[0].item(), errors[1].item()


def _row(pair: ClipPair, repaired: RepairedClip) -> Float[Tensor, "H width 3"]:
    middle = len(pair.artifact) // 2
    photo = resize_references(pair.references, pair.artifact.size).rgb[0]
    trust = repaired.confidence[middle].expand(-1, -1, 3)
    return torch.cat([pair.artifact.rgb[middle], repaired.rgb[middle], pair.clean.rgb[middle], trust, photo], dim=1)
