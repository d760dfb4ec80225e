"""Agreement of repaired clips with photos, on a textured plane whose warp is known exactly."""

import dataclasses

import pytest
import torch

from genfusion_ns.fusion.agreement import _nearest_photo_errors, photo_agreement
from genfusion_ns.geometry.clips import Clip, References, RepairedClip


def plane_scene(frames: int = 3, size: tuple[int, int] = (48, 32)) -> tuple[Clip, References]:
    """Cameras that shift sideways in front of a plane at depth 2 with a smooth texture, and one photo of it."""
    width, height = size
    K = torch.tensor([[40.0, 0, width / 2], [0, 40.0, height / 2], [0, 0, 1]])
    shifts = torch.linspace(-0.2, 0.2, frames)
    viewmats = torch.eye(4).repeat(frames, 1, 1)
    viewmats[:, 0, 3] = -shifts
    xs = (torch.arange(width) + 0.5 - width / 2) / 40 * 2
    ys = (torch.arange(height) + 0.5 - height / 2) / 40 * 2

    def texture(shift):
        x, y = torch.meshgrid(xs + shift, ys, indexing="xy")
        return 0.5 + 0.4 * torch.stack([torch.sin(3 * x), torch.cos(2 * y), torch.sin(x + y)], dim=-1)

    rgb = torch.stack([texture(float(shift)) for shift in shifts])
    ones = torch.ones(frames, height, width, 1)
    clip = Clip(rgb, 2 * ones, ones, viewmats, K.repeat(frames, 1, 1))
    photo = References(texture(0.0)[None], torch.eye(4)[None], K[None])
    return clip, photo


def repaired_as(clip: Clip, rgb: torch.Tensor) -> RepairedClip:
    return RepairedClip(rgb, torch.zeros_like(clip.depth), torch.ones_like(clip.depth))


def test_the_true_frames_are_trusted_and_accepted():
    clip, photo = plane_scene()
    agreement = photo_agreement(clip, repaired_as(clip, clip.rgb), photo)
    assert agreement.shown_share > 0.8
    assert agreement.repaired_psnr > 35
    assert agreement.confidence.min() > 0.9
    assert agreement.verdict(0.5) is None


def test_a_contradicting_repair_is_distrusted_where_it_contradicts_and_rejected():
    clip, photo = plane_scene()
    wrong = clip.rgb.clone()
    wrong[:, :, :24] = 1 - wrong[:, :, :24]
    agreement = photo_agreement(clip, repaired_as(clip, wrong), photo)
    assert agreement.confidence[:, :, 6:18].mean() < 0.4
    assert agreement.confidence[:, :, 30:42].min() > 0.9
    assert "contradicts" in str(agreement.verdict(0.5))


def test_a_repair_that_removes_an_artifact_is_accepted():
    clip, photo = plane_scene()
    spoiled = dataclasses.replace(clip, rgb=clip.rgb * 0.5)
    agreement = photo_agreement(spoiled, repaired_as(spoiled, clip.rgb), photo)
    assert agreement.repaired_psnr > agreement.artifact_psnr + 10
    assert agreement.verdict(0.0) is None


def test_pixels_that_no_photo_sees_keep_the_confidence_of_the_repairer():
    clip, photo = plane_scene()
    away = torch.eye(4)[None].clone()
    away[0, 2, 3] = -10  # the plane lies behind this photo's camera
    blind = References(photo.rgb, away, photo.Ks)
    agreement = photo_agreement(clip, repaired_as(clip, 1 - clip.rgb), blind)
    assert agreement.shown_share == 0
    assert agreement.verdict(0.0) is None
    assert agreement.artifact_psnr != agreement.artifact_psnr
    assert agreement.confidence.min() == pytest.approx(1.0)


def test_errors_are_means_over_the_visible_pixels_of_a_window():
    """Against the definition, pixel by pixel: two clips, two frames, three photos, odd visible parts and borders."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(2, 2, 9, 7, 3, generator=generator)
    photos = torch.rand(3, 2, 9, 7, 3, generator=generator)
    visible = torch.rand(3, 2, 9, 7, 1, generator=generator) < 0.6
    visible[:, :, 0, :2] = False
    expected = torch.zeros(2, 2, 9, 7, 1)
    for c, t, y, x in torch.cartesian_prod(*(torch.arange(n) for n in (2, 2, 9, 7))).tolist():
        window = slice(max(0, y - 2), y + 3), slice(max(0, x - 2), x + 3)
        found = [
            (clips[c, t][window] - photos[r, t][window])[visible[r, t][window][..., 0]].mean(0).square().mean().sqrt()
            for r in range(3)
            if visible[r, t, y, x]
        ]
        expected[c, t, y, x] = min(found, default=torch.tensor(0.0))
    torch.testing.assert_close(_nearest_photo_errors(clips, photos, visible), expected, atol=1e-6, rtol=1e-5)


def test_where_photos_show_a_pixel_the_repair_must_be_nearer_to_them_than_the_render():
    clip, photo = plane_scene()
    spoiled = clip.rgb.clone()
    spoiled[:, :, :24] *= 0.5
    rendered = dataclasses.replace(clip, rgb=spoiled)
    unchanged = photo_agreement(rendered, repaired_as(rendered, spoiled), photo, better_only=True)
    assert unchanged.confidence[unchanged.shown].max() == 0
    mended = photo_agreement(rendered, repaired_as(rendered, clip.rgb), photo, better_only=True)
    inside = mended.shown[:, :, 4:20]
    assert mended.confidence[:, :, 4:20][inside].min() > 0.7
    # The right half was right before, and a repair that blurs it or leaves it adds nothing.
    assert mended.confidence[:, :, 28:44].max() < 0.1
    assert torch.equal(mended.confidence[~mended.shown], torch.ones_like(mended.confidence[~mended.shown]))


def test_a_clip_of_which_photos_show_too_little_is_rejected_with_the_shares():
    clip, photo = plane_scene()
    away = torch.eye(4)[None].clone()
    away[0, 0, 3] = 2.0  # the photo shows the edge of the plane alone
    agreement = photo_agreement(clip, repaired_as(clip, clip.rgb), References(photo.rgb, away, photo.Ks))
    assert 0 < agreement.shown_share < 0.2
    verdict = str(agreement.verdict(0.5, least_shown=0.2))
    assert "no photo speaks for it" in verdict and f"{agreement.shown_share:.0%}" in verdict and "20%" in verdict
    assert agreement.verdict(0.5, least_shown=0.0) is None
