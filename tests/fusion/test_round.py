"""One round: what of a repaired window is supervised, and where surfels are put."""

from types import SimpleNamespace

import pytest
import torch
from room_clips import HALF, HEIGHT, WIDTH, repair, room_clip

from genfusion_ns.fusion.cameras.clip_cameras import PhotoCameras, SampledViews
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.rounds.round import RepairedWindow, repair_window, seed_windows
from genfusion_ns.fusion.seeding import SeedingConfig
from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip
from genfusion_ns.geometry.free_space import SeenSurfaces
from genfusion_ns.geometry.windows import Window

AROUND = torch.tensor([0.2, 0.4, 0.6])
"""What is behind everything."""


def repaired_window(
    transparent: bool,
    sampled: dict | None = None,
    plain: bool = False,
    seen: SeenSurfaces | None = None,
    masked: torch.Tensor | None = None,
    **config,
) -> tuple[RepairedWindow, Clip]:
    """The room with a hole in it, repaired rightly, judged by a photo of its first frame; and the clip as rendered.

    Of the two photos, the first and the last frame, the last is no reference.
    """
    clip, depth = room_clip()
    repaired = repair(depth)
    ends = [0, -1]
    c2w, Ks = viewmat_to_c2w(clip.viewmats[ends]), clip.Ks[ends]
    photos = PosedPhotos(
        repaired.rgb[ends], masked, c2w, Ks, PhotoCameras(c2w, Ks, [(WIDTH, HEIGHT)] * 2), transparent=transparent
    )
    scene = SimpleNamespace(
        device="cpu",
        render_clip=lambda viewmats, Ks, size: clip,
        has_surroundings=not plain,
        around=lambda viewmat, K, width, height: AROUND.expand(height, width, 3),
    )
    repairer = SimpleNamespace(repair=lambda clip, references, generator: repaired)
    size = (depth.shape[2], depth.shape[1])
    path = SampledViews(
        viewmat_to_c2w(clip.viewmats), clip.Ks, size, [Window(0, 0, len(clip))], [[0]], {}, **(sampled or {})
    )
    generator = torch.Generator().manual_seed(0)
    settings = FusionConfig(**config)
    seen = None if seen is None else photos.unmasked(seen)
    window = repair_window(scene, photos, repairer, path, 0, config=settings, generator=generator, seen=seen)
    return window, clip


def test_of_transparent_photos_only_what_the_render_covers_is_supervised():
    opaque, clip = repaired_window(False)
    through, _ = repaired_window(True)
    assert opaque.repaired.confidence.min() >= 0 and opaque.repaired.confidence.max() > 0.5
    assert torch.equal(through.repaired.confidence, opaque.repaired.confidence * clip.alpha)


def seen_by_both() -> SeenSurfaces:
    """What the first and the last frame see of the room as it is rendered."""
    clip, _ = room_clip()
    ends = [0, -1]
    return SeenSurfaces(clip.viewmats[ends], clip.Ks[ends], clip.depth[ends], clip.alpha[ends])


def test_only_what_no_photo_shows_is_supervised_reference_or_not():
    everything, clip = repaired_window(False)
    unseen, _ = repaired_window(False, seen=seen_by_both(), unseen_only=True)
    shown = everything.agreement.shown
    left = unseen.repaired.confidence
    assert shown.any() and not shown.all()
    assert torch.equal(left, torch.where(left > 0, everything.repaired.confidence, 0.0))
    assert not (left[shown] > 0).any()
    solid = clip.alpha > SOLID_ALPHA
    in_last = solid[-1] & ~shown[-1]
    assert in_last.sum() > 20, "the last frame shows nothing that the first does not"
    assert (left[-1][in_last] > 0).float().mean() < 0.3, "only squares at an edge may be taken wrongly"
    assert torch.equal(left[~solid], everything.repaired.confidence[~solid]), "holes are what is to be filled"


def test_what_a_mask_hides_is_shown_by_no_photo():
    hidden = torch.ones(2, HEIGHT, WIDTH, 1, dtype=torch.bool)
    hidden[1] = False
    masked, _ = repaired_window(False, seen=seen_by_both(), unseen_only=True, masked=hidden)
    everything, _ = repaired_window(False, masked=hidden)
    shown = everything.agreement.shown[-1]
    assert (masked.repaired.confidence[-1][~shown] > 0).any()
    assert (
        repaired_window(False, seen=seen_by_both(), unseen_only=True)[0].repaired.confidence[-1][~shown] > 0
    ).sum() < (masked.repaired.confidence[-1][~shown] > 0).sum()


def test_what_no_photo_shows_weighs_less_and_least_in_frames_of_which_they_show_little():
    everything, _ = repaired_window(False)
    shown = everything.agreement.shown
    before, after = everything.repaired.confidence, repaired_window(False, unshown_weight=0.25)[0].repaired.confidence
    torch.testing.assert_close(after, torch.where(shown, before, 0.25 * before))
    scaled = repaired_window(False, full_trust_shown=1.0)[0].repaired.confidence
    share = shown.float().mean(dim=(1, 2, 3), keepdim=True)
    assert share.min() < 0.9
    torch.testing.assert_close(scaled, torch.where(shown, before, share * before))


def test_what_photos_show_goes_on_over_what_none_shows():
    plain, clip = repaired_window(False)
    continued, _ = repaired_window(False, seen=seen_by_both(), continued_weight=0.4)
    confidence, shown = continued.repaired.confidence, plain.agreement.shown
    changed = (continued.repaired.rgb != plain.repaired.rgb).any(dim=-1, keepdim=True)
    solid = clip.alpha > SOLID_ALPHA
    assert changed.any() and not changed[~solid].any() and not changed[shown].any()
    assert confidence[changed].max() > 0.3 and confidence[changed].max() <= 0.4
    assert torch.equal(confidence[~changed], plain.repaired.confidence[~changed])
    assert changed[-1].sum() < 0.1 * solid[-1].sum(), "the last frame is no reference, and a photo all the same"
    wall, found = clip.rgb[0, 0, 0], continued.repaired.rgb[changed[..., 0]]
    share = ((found - AROUND) / (wall - AROUND)).mean(dim=-1)
    assert share.min() > -1e-4 and share.max() < 1 + 1e-2, "between the wall and what is behind everything"
    assert share.max() > 0.8, "the wall goes on"
    torch.testing.assert_close(confidence[changed], 0.4 * share, atol=1e-3, rtol=0)


def test_where_photos_show_nothing_nothing_goes_on():
    nothing = seen_by_both()
    nothing = SeenSurfaces(nothing.viewmats, nothing.Ks, nothing.depths, torch.zeros_like(nothing.alphas))
    plain, _ = repaired_window(False)
    continued, _ = repaired_window(False, seen=nothing, continued_weight=0.4)
    assert torch.equal(continued.repaired.rgb, plain.repaired.rgb)
    assert torch.equal(continued.repaired.confidence, plain.repaired.confidence)


def test_nothing_goes_on_where_photos_tell_what_empty_space_looks_like():
    plain, _ = repaired_window(False)
    continued, _ = repaired_window(False, plain=True, seen=seen_by_both(), continued_weight=0.4)
    assert torch.equal(continued.repaired.rgb, plain.repaired.rgb)
    assert torch.equal(continued.repaired.confidence, plain.repaired.confidence)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("blocks", -1, "0 or more"),
        ("least_shown", 1.5, "0..1"),
        ("full_trust_shown", -0.1, "0..1"),
        ("unshown_weight", float("nan"), "0..1"),
        ("continued_weight", 2.0, "0..1"),
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
