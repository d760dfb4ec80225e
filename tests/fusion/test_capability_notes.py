"""What a repairer's capabilities mean for a run is said when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tiny_run import make_trainer

from genfusion_ns.fusion.cameras.masked import MaskedSamplerConfig
from genfusion_ns.fusion.capability_notes import capability_notes
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.seeding import SeedingConfig
from genfusion_ns.methods import genfusion, genfusion_completion, genfusion_masked
from genfusion_ns.priors.base import Capabilities
from genfusion_ns.priors.config import FoundRepairer

SEEDED = FusionConfig(seeding=SeedingConfig(enabled=True))


@dataclass(frozen=True)
class Found(FoundRepairer):
    """Of a kind that there is not, with these capabilities."""

    can: Capabilities = field(default_factory=Capabilities)

    @property
    def capabilities(self) -> Capabilities:
        return self.can


def notes(config: FusionConfig, **can: bool) -> str:
    return " ".join(capability_notes(config, Found("toy", Path(), can=Capabilities(**can))))


def kind(name: str) -> FoundRepairer:
    return FoundRepairer(name, Path())


def test_a_repairer_that_can_all_needs_no_words() -> None:
    every = {"repairs": True, "fills_holes": True, "makes_depth": True, "makes_confidence": True}
    for config in (FusionConfig(depth_weight=0.1), SEEDED, FusionConfig(sampler=MaskedSamplerConfig())):
        assert notes(config, **every) == ""
    for method in (genfusion, genfusion_masked, genfusion_completion):
        assert capability_notes(method.config.pipeline.fusion, kind("dynamicrafter")) == []
    assert capability_notes(genfusion.config.pipeline.fusion, kind("compact")) == []


@pytest.mark.parametrize(("weight", "instead"), [(None, "goes on over what stands there"), (0.0, "left as it is")])
def test_what_no_photo_shows_is_not_left_to_compact_in_masked_runs(weight: float | None, instead: str) -> None:
    said = capability_notes(replace(genfusion_masked.config.pipeline.fusion, continued_weight=weight), kind("compact"))
    assert any("can but guess what no photo shows" in note and instead in note for note in said)


def test_without_repair_there_are_no_rounds() -> None:
    assert notes(FusionConfig()).endswith("fitted to the photos alone.")
    for method in (genfusion_masked, genfusion_completion):
        (said,) = capability_notes(method.config.pipeline.fusion, kind("none"))
        assert "No rounds take place" in said and "stays empty" in said


@pytest.mark.parametrize(
    ("config", "lacks", "said"),
    [
        (
            FusionConfig(depth_weight=0.25),
            "makes_depth",
            "no depth of its own: --pipeline.fusion.depth-weight 0.25",
        ),
        (SEEDED, "makes_depth", "new surfels take the depth that it continues"),
        (SEEDED, "fills_holes", "leaves empty pixels as they are"),
        (FusionConfig(sampler=MaskedSamplerConfig()), "fills_holes", "leaves empty pixels as they are"),
        (FusionConfig(), "makes_confidence", "gives no confidence of its own"),
    ],
)
def test_what_it_lacks_is_said_where_it_matters(config: FusionConfig, lacks: str, said: str) -> None:
    every = {"repairs": True, "fills_holes": True, "makes_depth": True, "makes_confidence": True}
    assert said in notes(config, **(every | {lacks: False}))


def test_a_run_says_it_when_it_starts(capture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(capture_folder, tmp_path, "none", steps=5)
    assert "No rounds take place" in capsys.readouterr().out
