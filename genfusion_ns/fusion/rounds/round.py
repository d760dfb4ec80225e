"""One round: render clips along sampled cameras, have them repaired, judge them against the photos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from genfusion_ns.fusion.agreement import Agreement, photo_agreement
from genfusion_ns.fusion.cameras.clip_cameras import SampledViews
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.rounds.generated_views import GeneratedView, views_of_clip
from genfusion_ns.fusion.rounds.record import RoundRecord
from genfusion_ns.fusion.rounds.settings import RoundSettings
from genfusion_ns.fusion.rounds.shreds import over_shreds
from genfusion_ns.fusion.seeding import SeedingConfig, scene_bounds, seed_surfels
from genfusion_ns.geometry.cameras import c2w_to_viewmat, camera_centers
from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, References, RepairedClip
from genfusion_ns.geometry.free_space import SeenSurfaces, seen_empty, seen_in_clip
from genfusion_ns.geometry.images import enlarge_mask, side_by_side, to_bytes
from genfusion_ns.models.sharpness import gradient_energy_ratio, sharpness_ratio
from genfusion_ns.models.surfel_model import GenFusionModel
from genfusion_ns.priors.base import VideoRepairer, repair_next

_EVERY = 4
"""Pixels of a clip along the square that is asked for at once whether any photo shows it: there may be hundreds of
photos."""


@dataclass(frozen=True)
class RepairedWindow:
    """One window of a round's path."""

    clip: Clip
    """As the scene renders it."""
    repaired: RepairedClip
    """With the confidence that supervision uses: the repairer's own, lowered by `photo_agreement`, further where no
    reference photo shows the pixel, and 0 where photos themselves supervise it. Photos that stand in a frame are in the
    place of what the repairer made, and so is what they show where it is continued (`over_shreds`)."""
    references: References
    agreement: Agreement
    rejected: str | None
    """Why it must not be used, or None."""

    def preview(self) -> UInt8[Tensor, "T H W 3"]:
        """Frames as rendered (left) and as repaired (right), in 0..255, on the CPU."""
        return to_bytes(side_by_side(self.clip.rgb, self.repaired.rgb))


@dataclass(frozen=True)
class Round:
    """All windows of one round, not yet stored."""

    index: int
    step: int
    """Training step about to begin."""
    seed: int
    sampled: SampledViews
    windows: list[RepairedWindow]

    def views(self) -> list[GeneratedView]:
        """The frames of all windows that were not rejected, each frame of the path once."""
        views: list[GeneratedView] = []
        for number, (window, place) in enumerate(zip(self.windows, self.sampled.windows, strict=True)):
            if window.rejected is None:
                frames = range(place.new_from, place.new_from + len(place.new_frames(len(self.sampled.c2w))))
                clip = window.clip
                views += views_of_clip(window.repaired, clip.viewmats, clip.Ks, self.index, number, frames=frames)
        return views

    def record(self, repairer: str, names: tuple[str, ...], details: dict[str, Any]) -> RoundRecord:
        """What happened, for the run folder; `names` are those of the train views."""
        sampled = self.sampled
        return RoundRecord(
            round=self.index,
            step=self.step,
            seed=self.seed,
            repairer=repairer,
            c2w=sampled.c2w,
            Ks=sampled.K,
            windows=list(sampled.windows),
            reference_ids=[list(ids) for ids in sampled.reference_ids],
            reference_names=[[names[i] for i in ids] for ids in sampled.reference_ids],
            scores=[
                {
                    "artifact_psnr": window.agreement.artifact_psnr,
                    "repaired_psnr": window.agreement.repaired_psnr,
                    "seen": window.agreement.shown_share,
                    "confidence": float(window.repaired.confidence.mean()),
                    "coverage": float(window.clip.alpha.mean()),
                    "sharpness": float(sharpness_ratio(window.repaired.rgb, window.clip.rgb).mean()),
                    "gradient_energy": float(gradient_energy_ratio(window.repaired.rgb, window.clip.rgb).mean()),
                }
                for window in self.windows
            ],
            rejected=[window.rejected for window in self.windows],
            details={**details, **sampled.log},
        )


@torch.no_grad()
def repair_window(
    model: GenFusionModel,
    photos: PosedPhotos,
    repairer: VideoRepairer,
    sampled: SampledViews,
    number: int,
    *,
    config: RoundSettings,
    generator: torch.Generator,
    before: RepairedWindow | None = None,
    seen: SeenSurfaces | None = None,
) -> RepairedWindow:
    """Render and repair window `number` of `sampled`, and judge it.

    Where a frame stands at a train view, that view's photo goes before everything else: its pixels replace the rendered
    ones for the repairer and the repaired ones in the result, where their confidence is 0 because the photo itself
    supervises them.

    Args:
        model: the scene as it is now.
        photos: the train photos.
        repairer: of any resolution.
        sampled: the round's cameras.
        number: which window.
        config: decides what is rejected and what of the rest is supervised.
        generator: of the round.
        before: the window before it on the path, whose last frames a repairer that can go on from them keeps.
        seen: what all photos show of the scene (`PosedPhotos.unmasked`); needed where only what none of them shows is
            to be supervised, and where what they show is continued.
    """
    window = sampled.windows[number]
    frames = window.frames(len(sampled.c2w))
    clip = model.render_clip(c2w_to_viewmat(sampled.c2w[frames]), sampled.intrinsics(number), sampled.size)
    references = photos.references(sampled.reference_ids[number])
    shown = None
    if sampled.photo_ids is not None and config.keep_photos:
        shown = photos.shown_from([sampled.photo_ids[f] for f in frames], clip.Ks, sampled.size)
    given = photos.as_given(clip, shown)
    follows = config.linked and sampled.goes_on(number)
    last = before.repaired if follows and before is not None and before.rejected is None else None
    repaired = repair_next(repairer, last, window.new_from, clip=given, references=references, generator=generator)
    repaired = repaired.to(model.device)
    agreement = photo_agreement(clip, repaired, references, better_only=config.better_only)
    repaired = _supervising(model, clip, repaired, agreement, seen, config)
    confidence = repaired.confidence
    if (part := sampled.supervised(number)) is not None:
        inside = torch.zeros_like(confidence)
        inside[:, part[0], part[1]] = 1.0
        confidence = confidence * inside
    if photos.transparent:  # the backdrop is no surface that a view may ask for
        confidence = confidence * clip.alpha
    trusted = replace(repaired, confidence=confidence)
    if shown is not None:
        trusted = replace(trusted, rgb=shown.over(repaired.rgb), confidence=confidence * ~shown.seen)
    return RepairedWindow(
        clip, trusted, references, agreement, agreement.verdict(config.reject_margin, config.least_shown)
    )


def _supervising(
    model: GenFusionModel,
    clip: Clip,
    repaired: RepairedClip,
    agreement: Agreement,
    seen: SeenSurfaces | None,
    config: RoundSettings,
) -> RepairedClip:
    """A repaired clip with the confidence that photos leave it, and what they show continued over what none shows."""
    confidence = torch.ones_like(agreement.confidence)
    if config.use_confidence:
        confidence = agreement.confidence * _trust_beside_photos(agreement.shown, config)
    if seen is not None and config.unseen_only:
        shown = enlarge_mask(seen_in_clip(clip, seen, _EVERY), clip.size) & (clip.alpha > SOLID_ALPHA)
        confidence = confidence * ~(agreement.shown | shown)
    if seen is not None and config.continued_weight and model.has_surroundings:
        continued = over_shreds(model, clip, seen)
        places = (continued.trust > 0) & ~agreement.shown
        repaired = replace(repaired, rgb=torch.where(places, continued.rgb, repaired.rgb))
        confidence = torch.where(places, config.continued_weight * continued.trust, confidence)
    return replace(repaired, confidence=confidence)


def _trust_beside_photos(shown: Bool[Tensor, "T H W 1"], settings: RoundSettings) -> Float[Tensor, "T H W 1"]:
    """1 where reference photos show the pixel; elsewhere what the settings give, less where they show little else."""
    share = shown.float().mean(dim=(1, 2, 3), keepdim=True)
    trust = (share / settings.full_trust_shown).clamp(max=1.0) if settings.full_trust_shown > 0 else 1.0
    weight = 1.0 if settings.unshown_weight is None else settings.unshown_weight
    return torch.where(shown, 1.0, weight * trust)


@torch.no_grad()
def seed_windows(
    model: GenFusionModel,
    surfaces: SeenSurfaces,
    windows: list[RepairedWindow],
    config: SeedingConfig,
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    """Insert surfels where windows that were not rejected show something that the scene lacks.

    None are put where the photos look through empty space, nor where the scene is kept empty.

    Args:
        model: the scene that the windows were rendered from.
        surfaces: what the train photos see of it; their cameras bound the scene.
        windows: of one round.
        config: see `seed_surfels`.
        generator: of the round.

    Returns:
        What came of each window, ready for JSON.
    """
    logs: list[dict[str, Any]] = []
    for window in windows:
        if window.rejected is not None:
            continue
        clip = window.clip
        if any(log["inserted"] for log in logs):  # what an earlier window has seeded is not empty any more
            clip = model.render_clip(clip.viewmats, clip.Ks, clip.size)
        centres = camera_centers(torch.cat([surfaces.viewmats, clip.viewmats]))
        seeds = seed_surfels(clip, window.repaired, scene_bounds(centres, model.means), config, generator)
        inserted = 0
        if seeds.surfels is not None:
            means = seeds.surfels.means
            possible = seeds.surfels.chosen(~(seen_empty(means, surfaces) | model.is_kept_empty(means)))
            inserted = model.insert_surfels(possible) if len(possible) else 0
        logs.append({**seeds.log, "inserted": inserted, "reason": seeds.reason})
    return logs
