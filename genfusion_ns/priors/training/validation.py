"""How much a generator improves held-out clips, and a picture of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from genfusion_ns.geometry.clips import ClipPair, RepairedClip, select_references, typical_depth
from genfusion_ns.geometry.images import psnr, resize_images
from genfusion_ns.priors.compact.conditioning import condition_on, target_of
from genfusion_ns.priors.compact.repairer import CompactRepairer
from genfusion_ns.priors.compact.unet import CompactUNet
from genfusion_ns.seeds import seeded_generator

_PHOTOS = 3
_ROWS = 6
_SAME_CAMERA = 1e-4  # largest difference between equal cameras: of rotations, and of places as a share of the depth


@dataclass(frozen=True)
class HeldOutFrames:
    """One clip, without cameras, for validation."""

    artifact: Float[Tensor, "T H W 4"]
    """Colours, and disparity over the range of the clip, in 0..1."""
    clean: Float[Tensor, "T H W 4"]
    """The same of the clean clip."""
    known: Bool[Tensor, "T H W 1"]
    """Where the clean disparity counts."""
    photo: Float[Tensor, "h w 3"]
    """Conditions the repair."""
    novel: Bool[Tensor, " T"]
    """Frames that are not the photo; at least one."""


@dataclass(frozen=True)
class Comparison:
    """One held-out clip before and after its repair, all on one device."""

    artifact: Float[Tensor, "T H W 4"]
    """Colours and disparity that were repaired, in 0..1."""
    clean: Float[Tensor, "T H W 4"]
    """What they should have become."""
    repaired: RepairedClip
    """What they became."""
    known: Bool[Tensor, "T H W 1"]
    """Where the clean disparity counts."""
    colour_known: Bool[Tensor, "T H W 1"]
    """Where the clean colours count, as in training; see `Target`."""
    novel: Bool[Tensor, " T"]
    """Frames that no conditioning photo shows; at least one."""
    photo: Float[Tensor, "h w 3"]
    """A photo that conditioned the repair, for the picture."""


class Report(Protocol):
    """What a validation found."""

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        ...

    def summary(self) -> str:
        """One line for a log."""
        ...


@dataclass(frozen=True)
class ValidationReport:
    """Means over the held-out clips.

    Colours are compared where the clean ones count, in frames that no conditioning photo was taken at; a clip without
    any such pixel is left out of their means.
    """

    psnr_artifact: float
    """Of the input, in dB."""
    psnr_repaired: float
    """Of the repaired clip, in dB."""
    ssim_artifact: float
    """Structural similarity of the input, at most 1."""
    ssim_repaired: float
    """The same of the repaired clip."""
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
            f"(trusted half {self.psnr_trusted:.2f}, other half {self.psnr_doubted:.2f}), SSIM "
            f"{self.ssim_artifact:.4f} -> {self.ssim_repaired:.4f}, disparity error "
            f"{self.disparity_error_artifact:.4f} -> {self.disparity_error_repaired:.4f}"
        )


@dataclass(frozen=True)
class Judgement:
    """One validation."""

    report: Report
    """Numbers."""
    sheet: Float[Tensor, "height width 3"]
    """Of clips the middle frame of each: artifact, repaired, clean, confidence, photo; colours in 0..1."""


def judge(comparisons: Iterable[Comparison]) -> Judgement:
    """Compare repaired clips with clean ones.

    Raises:
        ValueError: there is none.
    """
    rows, numbers = [], []
    for comparison in comparisons:
        numbers.append(_numbers(comparison))
        if len(rows) < _ROWS:
            rows.append(_row(comparison))
    if not rows:
        raise ValueError("validation needs at least one held-out clip")
    width = min(row.shape[1] for row in rows)
    sheet = torch.cat([row[:, :width] for row in rows]).clamp(0, 1)
    return Judgement(ValidationReport(*torch.tensor(numbers, dtype=torch.float64).nanmean(dim=0).tolist()), sheet)


def validate(network: CompactUNet, held_out: Sequence[ClipPair], seed: int, steps: int = 1) -> Judgement:
    """Repair the held-out clips with a compact network as a run would do it.

    Args:
        network: left in evaluation mode.
        held_out: at least one whole clip with its photos, of which the first three are used.
        seed: of the noise.
        steps: of the flow.
    """
    repairer = CompactRepairer(network, steps=steps, device=next(network.parameters()).device)

    def repaired() -> Iterator[Comparison]:
        for index, pair in enumerate(held_out):
            chosen = select_references(pair.references, list(range(min(_PHOTOS, len(pair.references)))))
            clip = repairer.repair(pair.artifact, chosen, seeded_generator(seed + index))
            yield _compare(pair, clip)

    return judge(repaired())


def _decibels(error: Float[Tensor, "*pixels 3"]) -> float:
    return psnr(error.square().mean()).item()  # NaN without any


def ssim(
    images: Float[Tensor, "T H W 3"], truth: Float[Tensor, "T H W 3"], counted: Bool[Tensor, "T H W 1"] | None = None
) -> float:
    """Mean structural similarity of frames on the 0..1 range (Wang et al. 2004, windows of 11 pixels).

    Args:
        images: colours in 0..1.
        truth: what they should be.
        counted: pixels that the mean runs over, all by default; the others are black in both. NaN if there is none.
    """
    counted = torch.ones_like(truth[..., :1], dtype=torch.bool) if counted is None else counted
    shown, right = ((x * counted).permute(0, 3, 1, 2) for x in (images, truth))
    similarity = structural_similarity_index_measure(shown, right, data_range=1.0, return_full_image=True)[1]
    return similarity.mean(dim=1)[counted[..., 0]].mean().item()


def novel_frames(pair: ClipPair) -> Bool[Tensor, " T"]:
    """Frames seen by no stored photo: a photo warped into its own camera would be the answer. All if none is novel."""
    difference = (pair.artifact.viewmats[:, None] - pair.references.viewmats[None]).abs()
    places = difference[..., :3, 3].amax(dim=-1) / (typical_depth(pair.clean) or 1.0)
    same = (difference[..., :3, :3].amax(dim=(2, 3)) < _SAME_CAMERA) & (places < _SAME_CAMERA)
    novel = ~same.any(dim=1)
    return novel if bool(novel.any()) else torch.ones_like(novel)


def _compare(pair: ClipPair, repaired: RepairedClip) -> Comparison:
    condition = condition_on(pair.artifact, pair.references)
    target = target_of(pair.clean, condition.code, pair.rendered)
    planes = (target.clean[:, 3:4], target.depth_known, target.colour_known)
    truth, known, colour_known = (x[0].permute(1, 2, 3, 0) for x in planes)
    before = condition.artifact[0, 3:4].permute(1, 2, 3, 0)
    return Comparison(
        artifact=torch.cat([pair.artifact.rgb, before / 2 + 0.5], dim=-1),
        clean=torch.cat([pair.clean.rgb, (truth / 2 + 0.5).clamp(0, 1)], dim=-1),
        repaired=repaired,
        known=known,
        colour_known=colour_known,
        novel=novel_frames(pair),
        photo=pair.references.rgb[0],
    )


def _numbers(comparison: Comparison) -> tuple[float, ...]:
    novel, repaired = comparison.novel, comparison.repaired
    counted = comparison.colour_known[novel]
    pixels = counted[..., 0]
    clean = comparison.clean[novel, ..., :3]
    before, after = comparison.artifact[novel, ..., :3], repaired.rgb[novel]
    order = repaired.confidence[novel][pixels].flatten().argsort(descending=True)
    errors = (after - clean)[pixels][order]
    half = len(errors) // 2
    count = comparison.known.sum().clamp(min=1)
    disparities = (comparison.artifact[..., 3:], repaired.disparity)
    wrong = [((x - comparison.clean[..., 3:]).abs() * comparison.known).sum() / count for x in disparities]
    return (
        _decibels((before - clean)[pixels]),
        _decibels(errors),
        ssim(before, clean, counted),
        ssim(after, clean, counted),
        _decibels(errors[:half]),
        _decibels(errors[half:]),
        wrong[0].item(),
        wrong[1].item(),
    )


def _row(comparison: Comparison) -> Float[Tensor, "H width 3"]:
    middle = len(comparison.artifact) // 2
    height, width = comparison.artifact.shape[1:3]
    photo = resize_images(comparison.photo[None], (width, height))[0]
    repaired = comparison.repaired
    trust = repaired.confidence[middle].expand(-1, -1, 3)
    colours = (comparison.artifact[middle, ..., :3], repaired.rgb[middle], comparison.clean[middle, ..., :3])
    return torch.cat([*colours, trust, photo], dim=1).cpu()
