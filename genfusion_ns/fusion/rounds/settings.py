"""Settings of rounds: when they take place, where their cameras go, how their views are used."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from nerfstudio.configs.base_config import InstantiateConfig

from genfusion_ns.fusion.cameras.framing import Framing
from genfusion_ns.fusion.cameras.sparse import SparseSamplerConfig
from genfusion_ns.fusion.contract import SupervisionConfig
from genfusion_ns.fusion.schedule import FusionSchedule
from genfusion_ns.fusion.seeding import SeedingConfig
from genfusion_ns.priors.base import Capabilities
from genfusion_ns.ranges import LEAST_0, require_ranges

_FULL_WEIGHT_PHOTOS = 3
_CONTINUED_WEIGHT = 0.1


@dataclass
class RoundSettings(SupervisionConfig):
    """When rounds take place, where their cameras go and how their views are used.

    Step counts above 1 are steps; from 0 to 1 they are shares of the run (--max-num-iterations).
    """

    former_names: ClassVar[dict[str, str]] = {"observed_margin": "withdraw_margin"}

    start: float = 1 / 7
    """Step of the first round."""
    every: float = 1 / 14
    """Steps between rounds."""
    until: float = 1.0
    """No round and no generated view from this step on."""
    weight: float = 0.5
    """Peak weight of the generated-view loss, reached midway between start and until."""
    full_weight_photos: int | None = None
    """Train photos up to which the weight counts in full; with more it falls with the square of their number, as what
    lies unseen between neighbours does. 0: always in full, for photos that show only a part. By default 3, and 0 for
    repairers that get every pixel right (dynamicrafter)."""
    final_weight: float = 1.0
    """Weight at the end of the run, as a share of the peak; 0 leaves the end to the photos alone, as GenFusion does."""
    depth_weight: float | None = None
    """Weight of the disparity term within the generated-view loss. By default 1 for repairers that make depth, as
    dynamicrafter does, and 0 for others, as compact."""
    ssim_weight: float = 0.2
    """Share of the structural term in the colour loss of generated views, 0..1."""
    blocks: int = 1
    """Side in pixels of the blocks of a clip over which generated and rendered colours are averaged before they are
    compared: detail comes from the photos, layout from the repairer. 1 compares pixel by pixel, as GenFusion does; 0
    stands for the finest blocks that the repairer gets right (compact: 4, dynamicrafter: 1)."""
    unseen_only: bool = False
    """Supervise only pixels whose surface no photo shows; for captures of many photos."""
    keep_rounds: int = 1
    """Views of this many newest rounds are supervised."""
    use_confidence: bool = True
    """Weigh each pixel by the confidence that the repairer and the photos give it; False: all pixels alike."""
    framing: Literal["auto", "fit", "crop", "pixels", "pad"] = "fit"
    """How clips fill the size of the repairer. fit: in the shape of the photos, with as many pixels; crop: the frame of
    a photo is scaled until it covers the size, and each clip shows another part of it; pixels: the same at the pixels
    of the photos, as GenFusion; pad: the whole frame within the size, which shows what lies around it too, and only
    the frame supervises. auto: crop for repairers that were trained at one size (dynamicrafter), else fit."""
    linked: bool = True
    """A clip goes on from the last frames of the one before where the repairer can do that; False: each by itself, as
    GenFusion."""
    keep_photos: bool = True
    """Frames at the place of a photo have its pixels, which the repairer gets and which it cannot change; False: they
    are rendered and repaired like all others, as GenFusion."""
    better_only: bool = False
    """Trust pixels that photos show only as far as the repair is nearer to the photos there than the render."""
    regularize: bool = False
    """The distortion and normal terms of the model, with their own weights, on generated views as well."""
    densify: bool = True
    """Generated views count where surfels are grown; False: the photos alone decide."""
    clearing: float = 0.0
    """Radius around each train camera in which rounds let nothing grow, in units of the distance to the nearest thing
    that any photo shows; 0: nothing is kept clear."""
    least_shown: float = 0.0
    """A clip of which its reference photos show less than this share (0..1) is rejected: nothing can tell whether it
    is true. 0 where clips have to show what no photo does."""
    full_trust_shown: float = 0.0
    """Share of a frame (0..1) that its reference photos must show for the rest of it to count in full; with less it
    counts in proportion. 0: always in full."""
    unshown_weight: float | None = 1.0
    """Weight of pixels that no reference photo shows, beside those that one shows, 0..1. None: 1 for repairers that
    draw things there (dynamicrafter) and where surfels are seeded, 0 for those that put a mere colour there
    (compact)."""
    continued_weight: float | None = 0.0
    """Shreds at the edges of pictures, and whatever stands where no photo shows anything, learn the colours of what is
    shown beside them, with this weight, 0..1. Not with alpha, a plain backdrop or a chosen background-color, where
    empty space is known. None: 0.1 for repairers that put a mere colour there (compact), 0 for those that draw things
    (dynamicrafter) and where surfels are seeded."""
    generated_photos: float = 0.1
    """Weight at the end of the run, 0..1, of train views that the capture says no camera took, as those of gf-image3d;
    it falls from 1 in a line. Photos always count in full."""
    reject_margin: float = 0.5
    """A repaired clip that agrees with the photos by this many dB less than its render is rejected."""
    withdraw_margin: float = 0.5
    """A round after which the photos are reproduced by this many dB worse than before is withdrawn."""
    seed: int = 0
    """Seed of everything random in the rounds."""
    save_videos: bool = True
    """Write the clips of each round as mp4 files beside the contact sheet."""
    sampler: InstantiateConfig = field(default_factory=SparseSamplerConfig)
    """Camera paths of the rounds."""
    seeding: SeedingConfig = field(default_factory=lambda: SeedingConfig(enabled=False))
    """New surfels where renders are empty."""

    def __post_init__(self) -> None:
        shares = ("clearing", "least_shown", "full_trust_shown", "unshown_weight", "continued_weight")
        ranges = {
            **dict.fromkeys((*shares, "generated_photos", "ssim_weight", "final_weight"), (0, 1)),
            **dict.fromkeys(("weight", "depth_weight", "full_weight_photos", "blocks"), LEAST_0),
        }
        require_ranges(self, ranges, "--pipeline.fusion.")

    def suited_to(self, can: Capabilities) -> RoundSettings:
        """The same with what is left to the repairer decided by what it can."""
        framing: Framing = self.framing if self.framing != "auto" else "crop" if can.one_size else "fit"
        depth_weight, photos = self.depth_weight, self.full_weight_photos
        if depth_weight is None:
            depth_weight = 1.0 if can.makes_depth else 0.0
        if photos is None:
            photos = 0 if can.repairs and can.detail == 1 else _FULL_WEIGHT_PHOTOS
        blocks = self.blocks or can.detail
        unshown, continued, draws = self.unshown_weight, self.continued_weight, can.detail == 1 or self.seeding.enabled
        if unshown is None:
            unshown = 1.0 if draws else 0.0
        if continued is None:
            continued = 0.0 if draws else _CONTINUED_WEIGHT
        return replace(
            self,
            framing=framing,
            depth_weight=depth_weight,
            full_weight_photos=photos,
            blocks=blocks,
            unshown_weight=unshown,
            continued_weight=continued,
        )

    def into_the_unseen(self) -> RoundSettings:
        """The same for clips that are asked to show what no photo does: that none speaks for them is no fault."""
        return replace(self, least_shown=0.0, full_trust_shown=0.0, unshown_weight=1.0, continued_weight=0.0)

    def peak_weight(self, photos: int) -> float:
        """Peak weight of the generated-view loss in a run on so many train photos."""
        full = _FULL_WEIGHT_PHOTOS if self.full_weight_photos is None else self.full_weight_photos
        return self.weight if full <= 0 or photos <= full else self.weight * (full / photos) ** 2

    def schedule(self, total_steps: int, photos: int) -> FusionSchedule:
        """The schedule in a run of so many steps on so many train photos.

        Raises:
            ValueError: see `FusionSchedule.resolve`.
        """
        return FusionSchedule.resolve(
            self.start,
            self.every,
            self.until,
            self.peak_weight(photos),
            total_steps=total_steps,
            final_share=self.final_weight,
        )
