"""One round: what of a repaired window is supervised, and where surfels are put."""

from types import SimpleNamespace

import pytest
import torch
from room_clips import HALF, repair, room_clip

from genfusion_ns.fusion.cameras.clip_cameras import SampledViews
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.rounds.round import RepairedWindow, repair_window, seed_windows
from genfusion_ns.fusion.seeding import SeedingConfig
from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.geometry.clips import Clip, References
from genfusion_ns.geometry.free_space import SeenSurfaces
from genfusion_ns.geometry.windows import Window


def repaired_window(transparent: bool, sampled: dict | None = None, **config) -> tuple[RepairedWindow, Clip]:
    """The room with a hole in it, repaired rightly, judged by a photo of its first frame; and the clip as rendered."""
    clip, depth = room_clip()
    repaired = repair(depth)
    references = References(repaired.rgb[:1], clip.viewmats[:1], clip.Ks[:1])
    photos = SimpleNamespace(
        transparent=transparent, references=lambda ids: references, as_given=lambda clip, shown: clip
    )
    scene = SimpleNamespace(device="cpu", render_clip=lambda viewmats, Ks, size: clip)
    repairer = SimpleNamespace(repair=lambda clip, references, generator: repaired)
    size = (depth.shape[2], depth.shape[1])
    path = SampledViews(
        viewmat_to_c2w(clip.viewmats), clip.Ks, size, [Window(0, 0, len(clip))], [[0]], {}, **(sampled or {})
    )
    generator = torch.Generator().manual_seed(0)
    return repair_window(scene, photos, repairer, path, 0, config=FusionConfig(**config), generator=generator), clip


def test_of_transparent_photos_only_what_the_render_covers_is_supervised():
    opaque, clip = repaired_window(False)
    through, _ = repaired_window(True)
    assert opaque.repaired.confidence.min() >= 0 and opaque.repaired.confidence.max() > 0.5
    assert torch.equal(through.repaired.confidence, opaque.repaired.confidence * clip.alpha)


def test_unseen_only_leaves_what_the_photos_do_not_show():
    everything, _ = repaired_window(False)
    unseen, _ = repaired_window(False, unseen_only=True)
    shown = everything.agreement.shown
    assert shown.any() and not shown.all()
    assert torch.equal(unseen.repaired.confidence, everything.repaired.confidence * ~shown)


def test_what_no_photo_shows_weighs_less_and_least_in_frames_of_which_they_show_little():
    everything, _ = repaired_window(False)
    shown = everything.agreement.shown
    before, after = everything.repaired.confidence, repaired_window(False, unshown_weight=0.25)[0].repaired.confidence
    torch.testing.assert_close(after, torch.where(shown, before, 0.25 * before))
    scaled = repaired_window(False, full_trust_shown=1.0)[0].repaired.confidence
    share = shown.float().mean(dim=(1, 2, 3), keepdim=True)
    assert share.min() < 0.9
    torch.testing.assert_close(scaled, torch.where(shown, before, share * before))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("blocks", -1, "at least 0"),
        ("least_shown", 1.5, "0..1"),
        ("full_trust_shown", -0.1, "0..1"),
        ("unshown_weight", float("nan"), "0..1"),
    ],
)
def test_weights_and_shares_out_of_range_are_named(name: str, value: float, allowed: str) -> None:
    flag = f"--pipeline.fusion.{name.replace('_', '-')} is {value}"
    with pytest.raises(ValueError, match=f"{flag}; .*{allowed}"):
        FusionConfig(**{name: value})


@pytest.mark.parametrize(("empty_before", "kept_empty"), [(1.0, False), (2.0, False), (1.0, True)])
def test_no_surfel_is_put_where_photos_look_through_or_the_scene_is_kept_empty(empty_before, kept_empty):
    clip, depth = room_clip()
    repaired = repair(depth)
    inserted = []

    class Scene:
        means = (2 * torch.rand(1000, 3, generator=torch.Generator().manual_seed(1)) - 1) * HALF

        def insert_surfels(self, new):
            inserted.append(len(new))
            return len(new)

        def is_kept_empty(self, points):
            return torch.full((len(points),), kept_empty)

        def render_clip(self, viewmats, Ks, size):
            return clip

    seen = SeenSurfaces(clip.viewmats, clip.Ks, empty_before * depth, torch.ones_like(depth))
    window = RepairedWindow(clip, repaired, None, None, None)
    log = seed_windows(Scene(), seen, [window], SeedingConfig(), torch.Generator().manual_seed(0))[0]
    assert (log["inserted"] > 0) == (empty_before == 1.0 and not kept_empty)
    assert sum(inserted) == log["inserted"]
