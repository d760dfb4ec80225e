"""GenFusion's form of depth distortion, against closed forms and against its definition."""

from dataclasses import replace

import pytest
import torch
from rendering_scenes import random_scene
from torch import Tensor

from genfusion_ns.rendering.backends import reference
from genfusion_ns.rendering.contract import RasterSettings, SurfelRender, Surfels
from genfusion_ns.rendering.distortion import published_distortion
from genfusion_ns.rendering.surfels import rasterize_surfels

NEAR, FAR = 0.2, 100.0


def mapped(z: Tensor) -> Tensor:
    """Depth as the rasterisers of 2DGS and GenFusion compare it."""
    return FAR / (FAR - NEAR) * (1 - NEAR / z)


def facing(depths: list[float], opacity: float, dtype: torch.dtype = torch.float64) -> Surfels:
    """Wide surfels on the optical axis, one behind the other, that face the camera."""
    count = len(depths)
    means = torch.tensor([[0.0, 0.0, z] for z in depths], dtype=dtype)
    quats = torch.tensor([1.0, 0, 0, 0], dtype=dtype).expand(count, 4)
    opacities = torch.full((count,), opacity, dtype=dtype)
    return Surfels(means, quats, torch.full((count, 2), 50.0, dtype=dtype), opacities, torch.zeros_like(means))


def distortion_of(
    surfels: Surfels, size: tuple[int, int], K: Tensor, viewmat: Tensor | None = None, unit: float = 1.0, **options: str
) -> tuple[Tensor, SurfelRender]:
    viewmat = torch.eye(4).to(K) if viewmat is None else viewmat
    settings = RasterSettings(*size, None, 0.2, 1e10, options.get("depth_at", "intersection"))  # type: ignore[arg-type]

    def draw(drawn: Surfels) -> SurfelRender:
        return rasterize_surfels(drawn, viewmat[None], K[None], *size, **options)  # type: ignore[arg-type]

    return published_distortion(surfels, viewmat, K, settings, unit, draw), draw(surfels)


def intrinsics(size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([[20.0, 0, size[0] / 2], [0, 20.0, size[1] / 2], [0, 0, 1]], dtype=dtype)


@pytest.mark.parametrize("unit", [1.0, 2.5])
def test_two_surfels_in_closed_form(unit: float) -> None:
    depths = [2.0 * unit, 2.1 * unit]
    found, render = distortion_of(facing(depths, 0.5), (5, 5), intrinsics((5, 5)), unit=unit)
    m = mapped(torch.tensor([2.0, 2.1], dtype=torch.float64))
    assert found[2, 2].item() == pytest.approx(float(0.5 * 0.25 * (m[1] - m[0]) ** 2), rel=1e-4)
    assert found[2, 2].item() == pytest.approx(2.84e-6, rel=0.01)
    ours = render.distortion[0, 2, 2].item() / unit
    assert ours == pytest.approx(2 * 0.5 * 0.25 * 0.1, rel=1e-4)
    assert 5000 < ours / found[2, 2].item() < 15000, "of what docs and help say"


def test_one_surface_has_none_however_it_leans() -> None:
    """Two surfels side by side in one slanted plane are met at one depth, though their centres lie at two."""
    angle = torch.tensor(0.6, dtype=torch.float64)
    tangent = torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()])
    surfels = facing([2.0, 2.0], 0.5)
    means = torch.stack([surfels.means[0] - 0.3 * tangent, surfels.means[0] + 0.3 * tangent])
    quat = torch.tensor([float((angle / 2).cos()), 0.0, -float((angle / 2).sin()), 0.0], dtype=torch.float64)
    plane = replace(surfels, means=means, quats=quat.expand(2, 4), scales=torch.full_like(surfels.scales, 1.0))
    found, render = distortion_of(plane, (9, 7), intrinsics((9, 7)))
    at_centres, _ = distortion_of(plane, (9, 7), intrinsics((9, 7)), depth_at="centre")
    assert render.alpha.min() > 0.3
    assert found.abs().max() < 1e-12 < 1e-5 < at_centres.min()


def test_it_is_the_sum_over_pairs_of_intersections() -> None:
    scene = random_scene(3, count=60, size=(16, 16)).to(torch.float64)  # one tile: all surfels are drawn
    # Surfels that are larger than a pixel and not edge-on are met on their planes everywhere, not on low-pass discs.
    quats = torch.cat([torch.ones(60, 1).double(), 0.1 * scene.surfels.quats[:, 1:]], dim=-1)
    surfels = replace(scene.surfels, quats=quats, scales=scene.surfels.scales.clamp_min(0.3))
    settings = RasterSettings(16, 16, None, 0.2, 1e10, "intersection")
    found, _ = distortion_of(surfels, (16, 16), scene.Ks[0], scene.viewmats[0], backend="reference")
    expected = _pairwise(surfels, scene.viewmats[0], scene.Ks[0], settings)
    assert expected.mean() > 1e-4
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-9)  # the rasteriser ends rays early


def _pairwise(surfels: Surfels, viewmat: Tensor, K: Tensor, settings: RasterSettings) -> Tensor:
    """The definition, pair by pair, with the weights and intersections of the reference rasteriser."""
    shift = surfels.means.new_zeros(len(surfels), 2)
    projection, _ = reference._project(surfels, viewmat, K, shift, settings)
    rows, columns = torch.arange(settings.height) + 0.5, torch.arange(settings.width) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y], -1).reshape(-1, 2).to(K)
    exponent, z, valid = reference._evaluate(pixels, projection.homographies, projection.centers2d, settings)
    alpha = (projection.opacities * torch.exp(-exponent)).clamp_max(reference.MAX_ALPHA)
    alpha = torch.where(valid & (alpha >= reference.MIN_ALPHA), alpha, 0.0)
    before = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha).cumprod(-1)[:, :-1]], -1)
    w, m = alpha * before, torch.where(alpha > 0, mapped(z), 0.0)
    pairs = w[:, :, None] * w[:, None] * (m[:, :, None] - m[:, None]) ** 2
    return pairs.sum((1, 2)).reshape(settings.height, settings.width, 1) / 2


def test_compiled_kernels_agree_with_the_reference_and_gradients_pull_surfels_together() -> None:
    K = intrinsics((5, 5), torch.float32)
    surfels = facing([2.0, 2.4], 0.5, torch.float32)
    means = surfels.means.requires_grad_()
    found, _ = distortion_of(surfels, (5, 5), K, backend="cpu")
    slow, _ = distortion_of(surfels, (5, 5), K, backend="reference")
    torch.testing.assert_close(found, slow, rtol=1e-3, atol=1e-8)
    found[2, 2].sum().backward()
    assert means.grad is not None
    z = means.detach()[:, 2].double().requires_grad_()
    (0.125 * (mapped(z[1]) - mapped(z[0])) ** 2).backward()
    torch.testing.assert_close(means.grad[:, 2].double(), z.grad, rtol=2e-3, atol=1e-6)
