"""What every backend promises: closed forms, invariances, and clear errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from rendering_scenes import IMAGES, Scene, backpropagate, cotangents, random_scene, rotation
from torch import Tensor

from genfusion_ns.rendering.spherical_harmonics import sh_basis
from genfusion_ns.rendering.surfels import SurfelRender, Surfels, choose_backend, rasterize_surfels

BACKENDS = {"reference": torch.float64, "cpu": torch.float32}
TOLERANCE = {"reference": 1e-9, "cpu": 2e-5}
pytestmark = pytest.mark.parametrize("backend", list(BACKENDS))
with_and_without_filter = pytest.mark.parametrize("pixel", [None, 1 / 12], ids=["disc", "filter"])


def render(scene: Scene, backend: str, **options: object) -> SurfelRender:
    scene = scene.to(BACKENDS[backend])
    return rasterize_surfels(
        *(scene.surfels, scene.viewmats, scene.Ks, scene.width, scene.height),
        background=scene.background,
        backend=backend,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


def one_surfel(turn: Tensor, mean: tuple[float, float, float], scales: tuple[float, float], opacity: float) -> Scene:
    """A single surfel in front of a camera with 100 pixels focal length, with the rotation `turn`."""
    w = 0.5 * math.sqrt(1 + float(turn.trace()))
    xyz = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / (4 * w)
    surfels = Surfels(
        means=torch.tensor([mean], dtype=torch.float64),
        quats=2.5 * torch.cat([torch.tensor([w], dtype=torch.float64), xyz])[None],
        scales=torch.tensor([scales], dtype=torch.float64),
        opacities=torch.tensor([opacity], dtype=torch.float64),
        features_dc=torch.tensor([[0.9, 0.5, 0.1]], dtype=torch.float64),
    )
    K = torch.tensor([[100.0, 0, 24], [0, 100, 16], [0, 0, 1]], dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    return Scene(surfels, eye[None], K[None], 48, 32, torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64))


def rays(scene: Scene) -> Tensor:
    """Ray directions with z = 1. [H, W, 3]"""
    rows, columns = torch.arange(scene.height).double() + 0.5, torch.arange(scene.width).double() + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([(x - 24) / 100, (y - 16) / 100, torch.ones_like(x)], -1)


def on_plane(ray: Tensor, turn: Tensor, center: Tensor, scales: tuple[float, float]) -> Tensor:
    """Where rays meet the plane of a surfel, in its standard deviations. [..., 2]"""
    depth = (turn[:, 2] @ center) / (ray @ turn[:, 2])
    return (ray * depth[..., None] - center) @ turn[:, :2] / torch.tensor(scales, dtype=torch.float64)


def falloff(ray: Tensor, turn: Tensor, center: Tensor, scales: tuple[float, float], pixel: float | None) -> Tensor:
    """Of a surfel seen along rays of a camera with 100 pixels focal length, derivatives by central differences."""
    offset = on_plane(ray, turn, center, scales)
    if pixel is None:
        return torch.exp(-0.5 * (offset**2).sum(-1))
    steps = 1e-6 * torch.eye(3, dtype=torch.float64)[:2]
    columns = [
        (on_plane(ray + step, turn, center, scales) - on_plane(ray - step, turn, center, scales)) / (2e-6 * 100)
        for step in steps
    ]
    jacobian = torch.stack(columns, -1)
    spread = torch.eye(2, dtype=torch.float64) + pixel * jacobian @ jacobian.mT
    exponent = (offset * torch.linalg.solve(spread, offset)).sum(-1)
    return torch.exp(-0.5 * exponent) / torch.linalg.det(spread).sqrt()


@with_and_without_filter
@pytest.mark.parametrize("angle", [0.0, 0.6, -1.1])
def test_single_surfel_in_closed_form(backend: str, angle: float, pixel: float | None) -> None:
    turn, mean, scales, opacity = rotation((1.0, 0.4, 0.2), angle), (0.03, -0.02, 2.0), (0.08, 0.06), 0.7
    scene = one_surfel(turn, mean, scales, opacity)
    result = render(scene, backend, pixel_variance=pixel)
    ray, center = rays(scene), torch.tensor(mean, dtype=torch.float64)
    normal = turn[:, 2] * (-1 if turn[:, 2] @ center > 0 else 1)
    depth = (normal @ center) / (ray @ normal)
    alpha = opacity * falloff(ray, turn, center, scales, pixel)
    seen = alpha > 1 / 255 + 1e-4
    assert seen.sum() > 60
    tolerance = TOLERANCE[backend]
    # far from the centre the 3-sigma square and the low-pass disc play no part here, but the 1/255 cut does
    torch.testing.assert_close(result.alpha[0, ..., 0][seen].double(), alpha[seen], atol=tolerance, rtol=0)
    torch.testing.assert_close(result.depth[0, ..., 0][seen].double(), depth[seen], atol=0, rtol=tolerance)
    torch.testing.assert_close(result.normals[0][seen].double(), alpha[seen, None] * normal, atol=tolerance, rtol=0)
    expected = alpha[..., None] * scene.surfels.features_dc + (1 - alpha[..., None]) * scene.background
    torch.testing.assert_close(result.rgb[0][seen].double(), expected[seen], atol=tolerance, rtol=0)
    half = seen & (alpha > 0)
    torch.testing.assert_close(result.median_depth[0, ..., 0][half].double(), depth[half], atol=0, rtol=tolerance)
    assert result.distortion.abs().max() == 0
    if angle == 0.0:
        assert result.depth[0][seen].std() < 1e-5
    else:
        assert result.depth[0][seen].std() > 1e-3


def test_tiny_surfel_is_the_low_pass_disc(backend: str) -> None:
    turn = rotation((1.0, 0.4, 0.2), 0.8)
    scene = one_surfel(turn, (0.1, 0.06, 2.0), (1e-5, 1e-5), 0.9)
    result = render(scene, backend)
    ray = rays(scene)
    pixel = 100 * ray[..., :2] + torch.tensor([24.0, 16.0]).double()
    center = torch.tensor([24 + 100 * 0.05, 16 + 100 * 0.03]).double()
    alpha = 0.9 * torch.exp(-((pixel - center) ** 2).sum(-1))
    # the 3-sigma square of so small a surfel is one pixel, hence one 16x16 tile
    seen = (alpha > 1 / 255 + 1e-4) & (pixel[..., 0] > 16) & (pixel[..., 0] < 32) & (pixel[..., 1] > 16)
    assert seen.sum() >= 8
    torch.testing.assert_close(result.alpha[0, ..., 0][seen].double(), alpha[seen], atol=2e-5, rtol=0)
    torch.testing.assert_close(
        result.depth[0][seen].double(), torch.full_like(alpha[seen], 2)[:, None], atol=0, rtol=2e-5
    )


@with_and_without_filter
def test_two_layers_blend_front_to_back(backend: str, pixel: float | None) -> None:
    near = one_surfel(torch.eye(3).double(), (0.0, 0.0, 2.0), (5.0, 5.0), 0.6)
    far = one_surfel(torch.eye(3).double(), (0.0, 0.0, 3.0), (9.0, 9.0), 0.5)
    both = {
        name: torch.cat([getattr(far.surfels, name), getattr(near.surfels, name)])
        for name in ("means", "quats", "scales", "opacities", "features_dc")
    }
    result = render(replace(near, surfels=Surfels(**both)), backend, pixel_variance=pixel)
    middle = (0, 16, 24, 0)
    w0, w1 = 0.6, 0.4 * 0.5
    assert float(result.alpha[middle]) == pytest.approx(w0 + w1, abs=1e-5)
    assert float(result.depth[middle]) == pytest.approx((w0 * 2 + w1 * 3) / (w0 + w1), abs=1e-5)
    assert float(result.median_depth[middle]) == pytest.approx(2.0, abs=1e-6)
    assert float(result.distortion[middle]) == pytest.approx(2 * w1 * w0 * (3 - 2), abs=1e-5)


@with_and_without_filter
def test_order_of_surfels_does_not_matter(backend: str, pixel: float | None) -> None:
    scene = random_scene(1)
    shuffle = torch.randperm(len(scene.surfels), generator=torch.Generator().manual_seed(2))
    names = ("means", "quats", "scales", "opacities", "features_dc")
    shuffled = Surfels(**{name: getattr(scene.surfels, name)[shuffle] for name in names})
    first, second = (
        render(scene, backend, pixel_variance=pixel),
        render(replace(scene, surfels=shuffled), backend, pixel_variance=pixel),
    )
    for name in IMAGES:
        torch.testing.assert_close(getattr(first, name), getattr(second, name), atol=0, rtol=0)
    assert torch.equal(first.info["radii"][:, shuffle], second.info["radii"])


@with_and_without_filter
def test_moving_the_world_moves_only_the_normals(backend: str, pixel: float | None) -> None:
    scene = random_scene(3, sh_degree=0).to(torch.float64)
    turn, shift = rotation((0.2, -1.0, 0.5), 0.7), torch.tensor([0.4, -1.2, 0.8], dtype=torch.float64)
    w, x, y, z = scene.surfels.quats.unbind(-1)
    half = 0.35
    axis = torch.tensor([0.2, -1.0, 0.5], dtype=torch.float64)
    a, (b, c, d) = math.cos(half), (math.sin(half) * axis / axis.norm()).tolist()
    product = (a * w - b * x - c * y - d * z, a * x + b * w + c * z - d * y)
    product += (a * y - b * z + c * w + d * x, a * z + b * y - c * x + d * w)
    moved = replace(scene.surfels, means=scene.surfels.means @ turn.T + shift, quats=torch.stack(product, -1))
    inverse = torch.eye(4, dtype=torch.float64)
    inverse[:3, :3], inverse[:3, 3] = turn.T, -turn.T @ shift
    before = render(scene, backend, sh_degree=0, pixel_variance=pixel)
    after = render(
        replace(scene, surfels=moved, viewmats=scene.viewmats @ inverse), backend, sh_degree=0, pixel_variance=pixel
    )
    for name in IMAGES:
        expected = getattr(before, name).double()
        if name == "normals":
            expected = expected @ turn.T
        difference = (getattr(after, name).double() - expected).abs()
        # rounding may flip single pairs across a cut-off, never many
        assert difference.quantile(0.995) < 20 * TOLERANCE[backend], name


@with_and_without_filter
def test_nearer_intersections_than_near_are_skipped(backend: str, pixel: float | None) -> None:
    # a floor seen along its plane: it meets the rays below the horizon only, at depths down to the camera
    scene = one_surfel(rotation((1.0, 0.0, 0.0), math.pi / 2 - 0.05), (0.0, 0.04, 0.5), (0.05, 0.3), 0.9)
    depth = render(scene, backend, pixel_variance=pixel).depth
    assert depth[depth > 0].min() >= 0.2 - 1e-6
    centre = render(scene, backend, depth_at="centre", pixel_variance=pixel).depth
    assert torch.allclose(centre[centre > 0], torch.tensor(0.5, dtype=centre.dtype))
    closer = render(scene, backend, near=0.4, pixel_variance=pixel).depth
    assert closer[closer > 0].min() >= 0.4 - 1e-6
    assert render(scene, backend, near=0.6, pixel_variance=pixel).alpha.max() == 0
    assert render(scene, backend, far=0.4, pixel_variance=pixel).alpha.max() == 0


@with_and_without_filter
@pytest.mark.parametrize("count", [0, 5])
def test_nothing_to_see_is_background_with_zero_gradients(backend: str, pixel: float | None, count: int) -> None:
    scene = random_scene(4, count=count, size=(20, 9)).to(BACKENDS[backend])
    behind = replace(scene.surfels, means=scene.surfels.means - torch.tensor([0.0, 0.0, 50.0]).to(scene.background))
    scene = replace(scene, surfels=behind).requiring_grad()
    result = rasterize_surfels(
        *(scene.surfels, scene.viewmats, scene.Ks, 20, 9),
        background=scene.background,
        pixel_variance=pixel,
        backend=backend,  # type: ignore[arg-type]
    )
    assert torch.equal(result.rgb, scene.background[:, None, None].expand_as(result.rgb))
    for name in IMAGES[1:]:
        assert getattr(result, name).abs().sum() == 0
    assert (result.info["radii"] == 0).all()
    assert result.info["radii"].shape == (1, count)
    backpropagate(result, upstream := cotangents(result))
    torch.testing.assert_close(scene.background.grad, upstream["rgb"].sum((1, 2)))
    assert result.info["gradient_2dgs"].grad.abs().sum() == 0
    for name, tensor in scene.parameters().items():
        if name != "background":
            assert tensor.grad is None or tensor.grad.abs().sum() == 0


@with_and_without_filter
def test_gradient_2dgs_is_the_raster_gradient_of_the_centre(backend: str, pixel: float | None) -> None:
    # moving the centre by d pixels moves M02 by d M22; away from the low-pass disc nothing else depends on it
    scene = one_surfel(torch.eye(3).double(), (0.03, -0.02, 2.0), (0.3, 0.2), 0.7).to(BACKENDS[backend])
    scene = scene.requiring_grad()
    result = rasterize_surfels(
        *(scene.surfels, scene.viewmats, scene.Ks, 48, 32),
        pixel_variance=pixel,
        backend=backend,  # type: ignore[arg-type]
    )
    weight = torch.linspace(-1, 2, 48).to(scene.background) * torch.linspace(1, 3, 32).to(scene.background)[:, None]
    (result.alpha[0, ..., 0] * weight).sum().backward()
    gradient = result.info["gradient_2dgs"].grad[0, 0]
    alpha, ray = result.alpha[0, ..., 0].detach(), rays(scene)
    for axis, scale in ((0, 0.3), (1, 0.2)):
        # d alpha / d centre = alpha (p - c) / sigma^2 in pixels; times M22 once for the chain rule, once by definition
        distance = 100 * (ray[..., axis] - scene.surfels.means[0, axis].item() / 2.0)
        expected = (alpha * weight * distance).sum() / ((50 * scale) ** 2 + (pixel or 0.0))
        assert float(gradient[axis]) == pytest.approx(float(expected), rel=1e-3)
    assert set(result.info) == {"gradient_2dgs", "radii", "width", "height", "n_cameras", "gaussian_ids"}
    assert result.info["radii"].dtype == torch.int32


@with_and_without_filter
def test_third_scale_is_ignored(backend: str, pixel: float | None) -> None:
    scene = random_scene(5, count=40).to(BACKENDS[backend])
    third = torch.cat([scene.surfels.scales, torch.full_like(scene.surfels.scales[:, :1], torch.nan)], 1)
    third.requires_grad_()
    plain = render(scene, backend, pixel_variance=pixel)
    result = rasterize_surfels(
        *(replace(scene.surfels, scales=third), scene.viewmats, scene.Ks, scene.width, scene.height),
        background=scene.background,
        pixel_variance=pixel,
        backend=backend,  # type: ignore[arg-type]
    )
    assert torch.equal(plain.rgb, result.rgb)
    result.rgb.sum().backward()
    assert third.grad[:, 2].abs().sum() == 0
    assert third.grad[:, :2].abs().sum() > 0


@with_and_without_filter
def test_without_gradients_nothing_is_kept(backend: str, pixel: float | None) -> None:
    scene = random_scene(5, count=40).to(BACKENDS[backend]).requiring_grad()
    with torch.no_grad():
        result = rasterize_surfels(
            *(scene.surfels, scene.viewmats, scene.Ks, scene.width, scene.height),
            pixel_variance=pixel,
            backend=backend,  # type: ignore[arg-type]
        )
    assert result.rgb.grad_fn is None
    assert not result.info["gradient_2dgs"].requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "0 x 38"),
        ({"near": -1.0}, "near=-1.0"),
        ({"depth_at": "median"}, "depth_at='median'"),
        ({"sh_degree": 4}, "sh_degree=4"),
        ({"sh_degree": 1}, "sh_degree=1 needs 3 coefficients"),
        ({"background": torch.zeros(4)}, r"background has shape \[4\]"),
        ({"viewmats": torch.zeros(1, 3, 4)}, r"viewmats has shape \[1, 3, 4\]"),
        ({"Ks": torch.eye(3)[None].half()}, "Ks is torch.float16"),
        ({"quats": torch.zeros(3, 4)}, r"surfels.quats has shape \[3, 4\]"),
        ({"scales": torch.zeros(150, 4)}, r"\[150, 2\] or \[150, 3\]"),
        ({"features_rest": torch.zeros(150, 3, 3)}, "sh_degree is None"),
    ],
)
def test_errors_name_what_is_wrong(backend: str, change: dict[str, object], message: str) -> None:
    scene = random_scene(6).to(BACKENDS[backend])
    dtype = BACKENDS[backend]
    change = {
        name: value.to(dtype) if isinstance(value, Tensor) and value.dtype == torch.float32 else value
        for name, value in change.items()
    }
    options: dict[str, object] = {"viewmats": scene.viewmats, "Ks": scene.Ks, "width": 45, "height": 38}
    fields = {name: change.pop(name) for name in list(change) if hasattr(scene.surfels, name)}
    options["surfels"] = replace(scene.surfels, **fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        rasterize_surfels(**{**options, **change}, backend=backend)  # type: ignore[arg-type]


def test_backend_is_chosen_by_tensor(backend: str) -> None:
    scene = random_scene(6)
    assert choose_backend(scene.surfels.means.to(BACKENDS[backend])) == backend
    with pytest.raises(ValueError, match="backend='metal' is unknown"):
        render(scene, backend="cpu", sh_degree=None) and rasterize_surfels(
            scene.surfels,
            scene.viewmats,
            scene.Ks,
            4,
            4,
            backend="metal",  # type: ignore[arg-type]
        )


def test_spherical_harmonics_are_orthonormal(backend: str) -> None:
    # quadrature on the sphere: Gauss-Legendre in z, uniform in azimuth, exact for the products of two bands
    nodes, weights = (torch.from_numpy(v) for v in __import__("numpy").polynomial.legendre.leggauss(8))
    azimuth = torch.arange(16) * (2 * math.pi / 16)
    ring = (1 - nodes**2).sqrt()[:, None]
    points = torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), nodes[:, None].expand(8, 16)], -1).to(
        BACKENDS[backend]
    )
    basis = sh_basis(points, 3).reshape(-1, 16)
    area = (weights[:, None] * (2 * math.pi / 16)).expand(8, 16).reshape(-1).to(basis)
    torch.testing.assert_close((basis * area[:, None]).T @ basis, torch.eye(16).to(basis), atol=1e-5, rtol=0)
