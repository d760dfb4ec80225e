"""Surfels seen through the pixel: recorded values, closed forms, and the light that they cover at any resolution."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rendering_scenes import IMAGES, Scene, backpropagate, cotangents, random_scene, relative_error
from shared_files import recorded
from torch import Tensor

from genfusion_ns.rendering.filters import filtered_surfels, smoothed_surfels, smoothing_variance
from genfusion_ns.rendering.homographies import rotation_matrices
from genfusion_ns.rendering.surfels import SurfelRender, Surfels, rasterize_surfels

BACKENDS = {"reference": torch.float64, "cpu": torch.float32}
PIXEL = 1 / 12
each_backend = pytest.mark.parametrize("backend", list(BACKENDS))


def render(scene: Scene, backend: str, **options: object) -> SurfelRender:
    scene = scene.to(BACKENDS[backend])
    return rasterize_surfels(
        *(scene.surfels, scene.viewmats, scene.Ks, scene.width, scene.height),
        background=scene.background,
        backend=backend,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


def quaternions(rotations: Tensor) -> Tensor:
    """Of rotations whose angle is not half a turn. [N, 4]"""
    w = 0.5 * (1 + rotations.diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt()
    r = rotations
    xyz = torch.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], -1)
    return torch.cat([w[:, None], xyz / (4 * w[:, None])], -1)


def splats(means: Tensor, quats: Tensor, scales: Tensor) -> Surfels:
    return Surfels(means, quats, scales, torch.ones_like(means[:, 0]), torch.ones_like(means))


def camera(level: int, width: int = 64, focal: float = 80.0) -> tuple[Tensor, int]:
    """Intrinsics and width of a square image at 1 / 2^level of its resolution."""
    side, f = width >> level, focal / 2**level
    return torch.tensor([[f, 0, side / 2], [0, f, side / 2], [0, 0, 1]], dtype=torch.float64), side


def coverages(surfels: Surfels, level: int, backend: str, **options: object) -> Tensor:
    """Alpha of each surfel alone. [N, H, W]"""
    K, side = camera(level)
    eye = torch.eye(4, dtype=torch.float64)
    images = []
    for n in range(len(surfels)):
        alone = Surfels(*(getattr(surfels, name)[n : n + 1] for name in NAMES))
        scene = Scene(alone, eye[None], K[None], side, side, torch.zeros(3, dtype=torch.float64))
        images.append(render(scene, backend, **options).alpha[0, ..., 0].double())
    return torch.stack(images)


NAMES = ("means", "quats", "scales", "opacities", "features_dc")


@pytest.fixture(scope="module")
def recordings() -> dict[str, Tensor]:
    data = np.load(recorded("siblings/surfel_antialias.npz"))
    return {name: torch.from_numpy(data[name]).double() for name in data if data[name].ndim}


@each_backend
@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize(("name", "variance"), [("alpha_mip", PIXEL), ("alpha_point", 0.0)])
def test_recorded_footprints(
    recordings: dict[str, Tensor], backend: str, level: int, name: str, variance: float
) -> None:
    surfels = splats(recordings["means_cam"], quaternions(recordings["R_cam"]), recordings["scales"])
    expected = recordings[f"{name}_l{level}"].clamp_max(0.999)
    alpha = coverages(surfels, level, backend, pixel_variance=variance)
    # what is recorded has no cuts: neither that at 1/255 nor the tiles of three standard deviations
    drawn = alpha > 0
    torch.testing.assert_close(alpha[drawn], expected[drawn], atol=1e-5, rtol=0)
    assert expected[~drawn].max() < 0.012
    assert drawn.any() or level == 3


@pytest.mark.parametrize("level", range(4))
def test_recorded_filter_per_surfel(recordings: dict[str, Tensor], level: int) -> None:
    surfels = splats(recordings["means_cam"], quaternions(recordings["R_cam"]), recordings["scales"])
    filtered = filtered_surfels(surfels, torch.eye(4).double(), camera(level)[0], PIXEL)
    axes = rotation_matrices(filtered.quats)[..., :2] * filtered.scales[:, None]
    expected = recordings[f"splat_cov_opacity_l{level}"]
    torch.testing.assert_close((axes @ axes.mT).flatten(1), expected[:, :9], atol=1e-9, rtol=0)
    torch.testing.assert_close(filtered.opacities, expected[:, 9], atol=1e-9, rtol=0)


def test_recorded_smoothing(recordings: dict[str, Tensor]) -> None:
    means, (K, side) = recordings["means_cam"], camera(0)
    variance = smoothing_variance(means, torch.eye(4).double()[None], K[None], [(side, side)], 0.2)
    torch.testing.assert_close(variance.sqrt(), recordings["smooth_sigma"].reshape(-1), atol=1e-9, rtol=0)
    surfels = smoothed_surfels(splats(means, quaternions(recordings["R_cam"]), recordings["scales"]), variance)
    torch.testing.assert_close(surfels.scales, recordings["smooth_scales"], atol=1e-9, rtol=0)
    torch.testing.assert_close(surfels.opacities, recordings["smooth_opacity_factor"], atol=1e-9, rtol=0)


def random_splats(count: int, seed: int, least: float = 0.005, most: float = 0.08) -> Surfels:
    """Of any orientation, and of sizes between these; 0.04 are a pixel of the full resolution."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    depth = 2 + 3 * uniform(count)
    places = 0.5 * (uniform(count, 2) - 0.5) * depth[:, None]
    scales = least * (most / least) ** uniform(count, 2)
    quats = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return splats(torch.cat([places, depth[:, None]], -1), quats, scales)


def in_a_finer_image(surfels: Surfels, finer: int) -> Tensor:
    """Light of each surfel in pixels of the full resolution: the mean over points of the footprint itself."""
    K, side = camera(0)
    K = K.clone()
    K[:2] *= finer
    K[:2, 2] = side * finer / 2
    eye, sums = torch.eye(4, dtype=torch.float64), []
    for n in range(len(surfels)):
        alone = Surfels(*(getattr(surfels, name)[n : n + 1] for name in NAMES))
        scene = Scene(alone, eye[None], K[None], side * finer, side * finer, torch.zeros(3, dtype=torch.float64))
        sums.append(render(scene, "cpu", pixel_variance=0.0).alpha.sum().double() / finer**2)
    return torch.stack(sums)


def test_the_light_of_a_surfel_is_the_same_at_any_resolution() -> None:
    backend = "cpu"  # hundreds of renders, which would take the reference long
    surfels = random_splats(160, 5, 0.02, 0.2)
    truth = in_a_finer_image(surfels, 8)
    # at an eighth all the light lies within some 64 pixels of these, and 1/255 of a pixel's is cut
    shown = truth > 5
    assert shown.sum() > 100
    for level in range(4):
        light = coverages(surfels, level, backend, pixel_variance=PIXEL).sum((1, 2)) * 4**level
        assert 0.9 < float((light / truth)[shown].median()) < 1.1, level
    # what the filter is for: the disc of 2DGS, a pixel wide at any resolution, covers more and more
    disc = coverages(surfels, 3, backend).sum((1, 2)) * 4**3
    assert float((disc / truth)[shown].median()) > 3


@each_backend
def test_facing_the_camera_the_filter_adds_to_the_variances(backend: str) -> None:
    # pixels of a surfel that faces the camera: sigma 100 * scale / depth, and its light is spread, not more
    surfels = splats(torch.tensor([[0.011, -0.007, 2.0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.02, 0.05]]))
    K = torch.tensor([[100.0, 0, 24], [0, 100, 16], [0, 0, 1]], dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    scene = Scene(surfels, eye[None], K[None], 48, 32, torch.zeros(3)).to(torch.float64)
    alpha = render(scene, backend, pixel_variance=0.3).alpha[0, ..., 0].double()
    x, y = torch.arange(48).double() + 0.5 - 24.55, torch.arange(32).double()[:, None] + 0.5 - 15.65
    vx, vy = 1.0 + 0.3, 6.25 + 0.3
    expected = math.sqrt(1.0 * 6.25 / (vx * vy)) * torch.exp(-0.5 * (x**2 / vx + y**2 / vy))
    drawn = alpha > 0
    assert drawn.sum() > 60
    torch.testing.assert_close(alpha[drawn], expected[drawn], atol=2e-5, rtol=0)


def test_without_variance_surfels_above_a_pixel_are_plain_ones_bit_for_bit() -> None:
    # where the ellipse always wins over the disc: large surfels, of which the image shows the middle
    scene = random_scene(21, count=40, size=(24, 20)).to(torch.float64)
    forward = scene.viewmats.new_tensor([0, 0, 3.0])
    surfels = replace(scene.surfels, scales=10 + scene.surfels.scales, means=scene.surfels.means + forward)
    facing = torch.tensor([1.0, 0.05, -0.03, 0.2], dtype=torch.float64).expand(40, 4)
    scene = replace(scene, surfels=replace(surfels, quats=facing))
    plain, filtered = render(scene, "reference"), render(scene, "reference", pixel_variance=0.0)
    for name in IMAGES:
        assert torch.equal(getattr(plain, name), getattr(filtered, name)), name
    # the kernels compute the same in another order
    compiled = render(scene, "cpu", pixel_variance=0.0)
    for name in IMAGES:
        torch.testing.assert_close(getattr(compiled, name), getattr(render(scene, "cpu"), name), atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("depth_at", ["intersection", "centre"])
@pytest.mark.parametrize("variance", [0.0, PIXEL, 0.5])
def test_kernels_agree_with_the_reference(variance: float, depth_at: str) -> None:
    for seed in (11, 12):
        scene = random_scene(seed, cameras=seed - 10, sh_degree=1)
        ours, expected = scene.to(torch.float32).requiring_grad(), scene.to(torch.float64).requiring_grad()
        results = []
        for each, backend in ((ours, "cpu"), (expected, "reference")):
            result = rasterize_surfels(
                *(each.surfels, each.viewmats, each.Ks, each.width, each.height),
                background=each.background,
                sh_degree=1,
                depth_at=depth_at,  # type: ignore[arg-type]
                pixel_variance=variance,
                backend=backend,  # type: ignore[arg-type]
            )
            backpropagate(result, cotangents(result))
            results.append(result)
        for name in IMAGES:
            value, truth = (getattr(result, name).detach().double() for result in results)
            torch.testing.assert_close(value, truth, atol=3e-5, rtol=3e-5)
        assert torch.equal(results[0].info["radii"], results[1].info["radii"])
        for name, tensor in expected.parameters().items():
            assert relative_error(ours.parameters()[name].grad, tensor.grad) < 2e-4, name
        pair = [result.info["gradient_2dgs"].grad for result in results]
        assert relative_error(*pair) < 2e-4


def test_gradients_are_those_of_finite_differences() -> None:
    scene = random_scene(31, count=12, size=(18, 14)).to(torch.float64).requiring_grad()

    def loss() -> Tensor:
        result = rasterize_surfels(
            *(scene.surfels, scene.viewmats, scene.Ks, scene.width, scene.height),
            background=scene.background,
            pixel_variance=PIXEL,
            backend="reference",
        )
        upstream = cotangents(result)
        return sum((getattr(result, name) * upstream[name]).sum() for name in ("rgb", "alpha", "normals"))

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for name in ("means", "quats", "scales", "opacities"):
        tensor = scene.parameters()[name]
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(direction, alpha=sign * step)
                values.append(float(loss()))
                tensor.sub_(direction, alpha=sign * step)
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float((tensor.grad * direction).sum()), rel=2e-3), name


@each_backend
def test_a_variance_below_zero_is_refused(backend: str) -> None:
    for value in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"pixel_variance=.*; use 0 or more"):
            render(random_scene(6), backend, pixel_variance=value)


@pytest.mark.parametrize("backend", ["cpu"])
def test_surfels_seen_from_the_side_have_finite_gradients(backend: str) -> None:
    scene = random_scene(41, count=60).to(BACKENDS[backend])
    # planes that hold the camera, to the last bit and nearly
    side = torch.tensor([[math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0]]).expand(60, 4).clone()
    side[30:] += 1e-6 * torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    means = scene.surfels.means.clone()
    means[:, 1] = 0.0
    surfels = replace(scene.surfels, quats=side, means=means.abs() + 0.0)
    scene = replace(scene, surfels=surfels, viewmats=torch.eye(4)[None]).requiring_grad()
    result = rasterize_surfels(
        *(scene.surfels, scene.viewmats, scene.Ks, scene.width, scene.height),
        pixel_variance=PIXEL,
        backend=backend,  # type: ignore[arg-type]
    )
    backpropagate(result, cotangents(result))
    for name in IMAGES:
        assert torch.isfinite(getattr(result, name)).all(), name
    for name, tensor in scene.parameters().items():
        assert tensor.grad is None or torch.isfinite(tensor.grad).all(), name


def test_the_filter_per_surfel_is_that_per_pixel_for_small_ones() -> None:
    surfels = random_splats(60, 7)
    surfels = replace(surfels, scales=surfels.scales * 0.7)
    filtered = filtered_surfels(surfels, torch.eye(4).double(), camera(0)[0], PIXEL)
    once = coverages(filtered, 0, "reference", pixel_variance=0.0)
    exact = coverages(surfels, 0, "reference", pixel_variance=PIXEL)
    both = (once > 0) & (exact > 0)
    assert both.sum() > 100
    assert float((once - exact)[both].abs().max()) < 0.05
    assert float((once - exact)[both].abs().median()) < 1e-3


def test_the_filter_per_surfel_has_the_derivative_that_it_should() -> None:
    generator = torch.Generator().manual_seed(3)
    surfels = random_splats(5, 9)
    # the last is a circle that faces the camera: it has no axes to turn
    quats, scales, means = surfels.quats.clone(), surfels.scales.clone(), surfels.means.clone()
    quats[4], scales[4], means[4, :2] = torch.tensor([1.0, 0, 0, 0]), 0.02, 0.0
    K = camera(0)[0]

    def footprint(means: Tensor, quats: Tensor, scales: Tensor) -> Tensor:
        filtered = filtered_surfels(splats(means, quats, scales), torch.eye(4).double(), K, 0.5)
        axes = rotation_matrices(filtered.quats)[..., :2] * filtered.scales[:, None]
        return torch.cat([1e3 * (axes @ axes.mT).flatten(1), filtered.opacities[:, None]], -1)

    inputs = [value[:4].clone().requires_grad_() for value in (means, quats, scales)]
    assert torch.autograd.gradcheck(footprint, inputs, eps=1e-7, atol=1e-4)
    circle = [value[4:].clone().requires_grad_() for value in (means, quats, scales)]
    out = footprint(*circle)
    (out * torch.randn(out.shape, generator=generator, dtype=torch.float64)).sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in circle)


def test_smoothing_takes_the_finest_photo_that_sees_a_surfel() -> None:
    eye = torch.eye(4).double()
    back = eye.clone()
    back[2, 3] = 2.0  # two units behind the first camera
    K = camera(0)[0]
    fine = K.clone()
    fine[:2] *= 4
    means = torch.tensor([[0.0, 0, 2], [1.5, 0, 2], [0, 0, 0.125], [0, 0, -9]], dtype=torch.float64)
    variance = smoothing_variance(means, torch.stack([eye, back]), torch.stack([K, fine]), [(64, 64), (256, 256)], 0.2)
    # the second camera is twice as far and has four times the focal length; the third point is too near for the first
    expected = torch.tensor([4 / 320, 4 / 320, 2.125 / 320, 4 / 320], dtype=torch.float64)
    torch.testing.assert_close(variance, 0.2 * expected**2, atol=0, rtol=1e-9)
    assert len(smoothing_variance(means[:0], eye[None], K[None], [(64, 64)], 0.2)) == 0
