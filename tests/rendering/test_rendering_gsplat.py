"""The gsplat backend: its depth algebra anywhere, and gsplat itself against the reference on a CUDA device."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from rendering_scenes import IMAGES, Scene, backpropagate, cotangents, random_scene, relative_error, rotation
from torch import Tensor

from genfusion_ns.rendering.backends import gsplat as gsplat_backend
from genfusion_ns.rendering.filters import filtered_surfels
from genfusion_ns.rendering.surfels import RasterSettings, Surfels, rasterize_surfels

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat's kernels need a CUDA device")


def settings(scene: Scene, **changes: object) -> RasterSettings:
    return replace(RasterSettings(scene.width, scene.height, None, 0.2, 1e10, "intersection"), **changes)


def blend(scene: Scene, features: Tensor) -> tuple[Tensor, Tensor]:
    """What gsplat does with feature channels (centre depth, nothing skipped), three at a time by the reference."""
    parts = []
    for first in range(0, features.shape[1], 3):
        part = torch.nn.functional.pad(features[:, first : first + 3], (0, max(0, first + 3 - features.shape[1])))
        surfels = replace(scene.surfels, features_dc=part)
        result = rasterize_surfels(
            *(surfels, scene.viewmats, scene.Ks, scene.width, scene.height), backend="reference", depth_at="centre"
        )
        parts.append(result.rgb[0])
    return torch.cat(parts, -1)[..., : features.shape[1]], result.alpha[0]


def depth_by_channels(scene: Scene, **changes: object) -> tuple[Tensor, Tensor]:
    options = settings(scene, **changes)
    rgb = scene.surfels.features_dc
    channels = gsplat_backend.pack_channels(scene.surfels, rgb, scene.viewmats[0], scene.Ks[0], options)
    assert channels.shape == (len(scene.surfels), gsplat_backend.CHANNELS)
    assert torch.equal(channels[:, :3], rgb)
    blended, alpha = blend(scene, channels)
    return gsplat_backend.expected_depth(blended, alpha, options), alpha


def reference_depth(scene: Scene, depth_at: str = "intersection") -> Tensor:
    return rasterize_surfels(
        *(scene.surfels, scene.viewmats, scene.Ks, scene.width, scene.height),
        backend="reference",
        depth_at=depth_at,  # type: ignore[arg-type]
    ).depth[0]


def discs(tilts: list[float], depths: list[float], opacity: float = 0.5) -> Scene:
    """Large surfels on the optical axis, tilted about x."""
    count = len(tilts)
    scene = random_scene(0, count=count).to(torch.float64)
    half = torch.tensor(tilts, dtype=torch.float64) / 2
    zero = torch.zeros(count, dtype=torch.float64)
    surfels = Surfels(
        means=torch.stack([zero, zero, torch.tensor(depths, dtype=torch.float64)], -1),
        quats=torch.stack([half.cos(), half.sin(), zero, zero], -1),
        scales=torch.full((count, 2), 0.6, dtype=torch.float64),
        opacities=torch.full((count,), opacity, dtype=torch.float64),
        features_dc=torch.rand(count, 3, generator=torch.Generator().manual_seed(1)).double(),
    )
    viewmats = torch.eye(4, dtype=torch.float64)[None]
    return replace(scene, surfels=surfels, viewmats=viewmats)


@pytest.mark.parametrize("turn", [0.0, 0.25])
def test_one_surfel_has_its_exact_depth(turn: float) -> None:
    scene = discs([0.7], [2.0])
    scene.viewmats[0, :3, :3] = rotation((0.3, 1.0, -0.5), turn)
    depth, alpha = depth_by_channels(scene)
    seen = alpha > 0.02
    assert depth[seen].std() > 0.05
    torch.testing.assert_close(depth[seen], reference_depth(scene)[seen], atol=0, rtol=1e-9)


def test_facing_layers_have_their_exact_mean_depth() -> None:
    scene = discs([0.0, 0.0, 0.0], [1.5, 2.5, 6.0])
    depth, alpha = depth_by_channels(scene)
    seen = alpha > 0.02
    torch.testing.assert_close(depth[seen], reference_depth(scene)[seen], atol=0, rtol=1e-9)


def test_centre_mode_is_exact() -> None:
    scene = random_scene(31).to(torch.float64)
    depth, _ = depth_by_channels(scene, depth_at="centre")
    torch.testing.assert_close(depth, reference_depth(scene, "centre"), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("seed", [32, 33])
def test_depth_is_closer_than_centre_depth(seed: int) -> None:
    scene = random_scene(seed, count=400).to(torch.float64)
    surfels = replace(scene.surfels, means=scene.surfels.means + torch.tensor([0, 0, 2.0]).double())
    scene = replace(scene, surfels=surfels)
    depth, alpha = depth_by_channels(scene)
    truth, centre = reference_depth(scene), reference_depth(scene, "centre")
    seen = alpha > 0.5
    error, centre_error = (depth - truth).abs()[seen], (centre - truth).abs()[seen]
    assert error.median() < 0.5 * centre_error.median()
    assert error.mean() < 0.6 * centre_error.mean()


def test_edge_on_and_hidden_surfels_get_finite_channels_and_gradients() -> None:
    scene = discs([torch.pi / 2, torch.pi / 2 - 1e-3, 0.3], [2.0, 2.0, -1.0]).requiring_grad()
    channels = gsplat_backend.pack_channels(
        scene.surfels, scene.surfels.features_dc, scene.viewmats[0], scene.Ks[0], settings(scene)
    )
    assert torch.isfinite(channels).all()
    # within a pixel of the low-pass disc, depth stays near that of the centre
    pixel = torch.tensor([scene.Ks[0, 0, 2] - scene.width / 2, scene.Ks[0, 1, 2] - scene.height / 2 + 1])
    tilted = channels[1, 3] + channels[1, 4:6] @ pixel.double()
    assert 0.5 < float(tilted / channels[1, 7]) < 1.5
    channels.sum().backward()
    for name in ("means", "quats", "scales"):
        assert torch.isfinite(scene.parameters()[name].grad).all(), name


@pytest.mark.parametrize("variance", [1 / 12, 0.5, 0.7])
def test_what_gsplat_is_given_is_never_thinner_than_its_disc(variance: float) -> None:
    # gsplat blends as the reference does without a filter, disc and all: that must not matter to enlarged surfels
    scene = random_scene(35, count=80).to(torch.float64)
    place = (scene.viewmats[0], scene.Ks[0])
    given = gsplat_backend.seen_through_pixels(scene.surfels, *place, settings(scene, pixel_variance=variance))
    expected = filtered_surfels(scene.surfels, *place, max(variance, 0.5))
    for name in ("quats", "scales", "opacities"):
        torch.testing.assert_close(getattr(given, name), getattr(expected, name))
    assert gsplat_backend.seen_through_pixels(scene.surfels, *place, settings(scene)) is scene.surfels
    inside = (scene.surfels.means @ scene.viewmats[0, :3, :3].T)[:, 2] > 1.0
    kept = Surfels(
        *(value[inside] for value in (given.means, given.quats, given.scales, given.opacities)),
        given.features_dc[inside],
    )
    images = [
        rasterize_surfels(
            kept, scene.viewmats, scene.Ks, scene.width, scene.height, pixel_variance=filter_, backend="reference"
        ).alpha
        for filter_ in (None, 0.0)
    ]
    difference = (images[0] - images[1]).abs()
    assert float(difference.quantile(0.99)) < 0.02 and float(difference.median()) < 1e-3


def test_cpu_tensors_are_refused_with_a_way_out() -> None:
    scene = random_scene(34, count=3)
    with pytest.raises(ValueError, match=r"got torch\.float32 on cpu: use"):
        rasterize_surfels(scene.surfels, scene.viewmats, scene.Ks, 8, 8, backend="gsplat")


def test_a_scene_without_surfels_never_reaches_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", None)  # importing it raises
    scene = random_scene(34, count=0, cameras=2, sh_degree=1).requiring_grad()
    result = gsplat_backend.render_checked(
        *(scene.surfels, scene.viewmats, scene.Ks, scene.background), settings(scene, sh_degree=1)
    )
    assert torch.equal(result.rgb, scene.background[:, None, None].expand(2, scene.height, scene.width, 3))
    assert not any(getattr(result, name).any() for name in IMAGES[1:])
    assert result.info["radii"].shape == (2, 0) and result.info["radii"].dtype == torch.int32
    upstream = cotangents(result)
    backpropagate(result, upstream)
    torch.testing.assert_close(scene.background.grad, upstream["rgb"].sum((1, 2)))
    for name in ("means", "quats", "scales", "opacities", "features_dc"):
        assert scene.parameters()[name].grad.shape == scene.parameters()[name].shape, name


def cuda_pair(scene: Scene, **options: object) -> tuple[object, object, Scene, Scene]:
    ours, truth = scene.to(torch.float32, "cuda").requiring_grad(), scene.to(torch.float64).requiring_grad()
    ours.viewmats.requires_grad_(False)
    results = []
    for each, backend in ((ours, "gsplat"), (truth, "reference")):
        results.append(
            rasterize_surfels(
                *(each.surfels, each.viewmats, each.Ks, each.width, each.height),
                background=each.background,
                backend=backend,  # type: ignore[arg-type]
                **options,  # type: ignore[arg-type]
            )
        )
    return (*results, ours, truth)


@needs_cuda
@pytest.mark.parametrize("sh_degree", [None, 3])
@pytest.mark.parametrize("cameras", [1, 2])
def test_gsplat_agrees_with_reference(sh_degree: int | None, cameras: int) -> None:
    """Rims: gsplat 1.5 draws up to 3.33 sigma, alpha differs by up to 0.011 there; elsewhere float32 accuracy."""
    scene = random_scene(35, sh_degree=sh_degree, cameras=cameras)
    result, truth, ours, expected = cuda_pair(scene, sh_degree=sh_degree, depth_at="centre")
    for name, tolerance in (("rgb", 0.02), ("alpha", 0.02), ("normals", 0.02)):
        error = (getattr(result, name).cpu().double() - getattr(truth, name)).abs()
        assert error.max() < tolerance, name
        assert error.quantile(0.5) < 1e-5, name
    seen = truth.alpha > 0.5
    relative = ((result.depth.cpu().double() - truth.depth).abs() / truth.depth.clamp_min(0.2))[seen]
    assert relative.quantile(0.5) < 1e-5
    assert relative.max() < 0.05
    weight = torch.randn(truth.rgb.shape, generator=torch.Generator().manual_seed(1)).double()
    (result.rgb * weight.to(result.rgb)).sum().backward()
    (truth.rgb * weight).sum().backward()
    for name in ("means", "quats", "scales", "opacities", "features_dc", "background"):
        assert relative_error(ours.parameters()[name].grad, expected.parameters()[name].grad) < 0.05, name
    assert relative_error(result.info["gradient_2dgs"].grad, truth.info["gradient_2dgs"].grad) < 0.05
    assert ((result.info["radii"].cpu() > 0) == (truth.info["radii"] > 0)).double().mean() > 0.97


@needs_cuda
def test_gsplat_depth_is_close_to_the_intersection() -> None:
    scene = random_scene(36, count=400)
    surfels = replace(scene.surfels, means=scene.surfels.means + torch.tensor([0, 0, 2.0]))
    result, truth, _, _ = cuda_pair(replace(scene, surfels=surfels))
    seen = truth.alpha > 0.5
    relative = ((result.depth.cpu().double() - truth.depth).abs() / truth.depth.clamp_min(0.2))[seen]
    assert relative.quantile(0.5) < 5e-3
