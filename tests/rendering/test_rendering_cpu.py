"""The compiled CPU backend and the reference against an independent oracle, each other, and themselves."""

from __future__ import annotations

import re
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from rendering_scenes import IMAGES, Scene, backpropagate, cotangents, random_scene, relative_error
from shared_files import recorded
from torch import Tensor

from genfusion_ns.rendering.backends import cpu as cpu_backend
from genfusion_ns.rendering.backends import cpu_kernels
from genfusion_ns.rendering.surfels import SurfelRender, Surfels, rasterize_surfels

PER_CAMERA = ("viewmats", "Ks", "background")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    cpu_backend.set_num_threads(1)
    yield
    cpu_backend.set_num_threads(None)


def render(scene: Scene, backend: str, **options: object) -> SurfelRender:
    return rasterize_surfels(
        *(scene.surfels, scene.viewmats, scene.Ks, scene.width, scene.height),
        background=scene.background,
        backend=backend,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


def oracle_scene(data: dict[str, np.ndarray], dtype: torch.dtype) -> Scene:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(data[f"in_{name}"]).to(dtype)

    surfels = Surfels(*(tensor(name) for name in ("means", "quats", "scales", "opacities", "colors")))
    size = int(data["in_W"]), int(data["in_H"])
    return Scene(surfels, tensor("viewmat")[None], tensor("K")[None], *size, tensor("background"))


@pytest.mark.parametrize("mode", ["intersection", "centre"])
@pytest.mark.parametrize(
    ("backend", "dtype", "images", "gradients"),
    [
        ("reference", torch.float64, 1e-12, 1e-7),
        ("reference", torch.float32, 1e-4, 1e-4),
        ("cpu", torch.float32, 3e-5, 1e-5),
    ],
)
def test_oracle(mode: str, backend: str, dtype: torch.dtype, images: float, gradients: float) -> None:
    data = dict(np.load(recorded("raster/oracle_small.npz")))
    scene = oracle_scene(data, dtype).requiring_grad()
    result = render(scene, backend, depth_at=mode)
    outputs = {name: getattr(result, name)[0] for name in IMAGES if name != "depth"}
    outputs["depth_accumulated"] = (result.depth * result.alpha.clamp_min(1e-10))[0]
    for name, image in outputs.items():
        error = (image.detach().double() - torch.from_numpy(data[f"{mode}_{name}"])).abs()
        allowed = error > images
        assert allowed.sum() <= (4 if name == "median_depth" and dtype == torch.float32 else 0), name
    expected_error = (result.depth[0].detach().double() - torch.from_numpy(data[f"{mode}_depth_expected"])).abs()
    assert expected_error.max() < max(images, 1e-13) * 3
    assert int((result.info["radii"] > 0).sum()) == int(data[f"{mode}_visible"])
    sum(
        (image * torch.from_numpy(data[f"cotangent_{name}"]).to(dtype)).sum() for name, image in outputs.items()
    ).backward()
    for name, tensor in scene.parameters().items():
        known = {"features_dc": "colors", "viewmats": "viewmat"}.get(name, name)
        if known != "background":
            expected = torch.from_numpy(data[f"{mode}_grad_{known}"])
            assert relative_error(tensor.grad.reshape(expected.shape), expected) < gradients, name


def compare(scene: Scene, seed: int = 7, tolerance: float = 3e-5, **options: object) -> None:
    """CPU kernels in float32 against the reference in float64: images, then gradients of all of them at once."""
    ours, expected = scene.to(torch.float32).requiring_grad(), scene.to(torch.float64).requiring_grad()
    result, truth = render(ours, "cpu", **options), render(expected, "reference", **options)
    flips = 0
    for name in IMAGES:
        error = (getattr(result, name).double() - getattr(truth, name)).abs()
        flips += int((error.amax(-1) > tolerance * (1 + getattr(truth, name).abs().amax(-1))).sum())
    assert flips == 0, f"{flips} pixels differ"
    assert torch.equal(result.info["radii"], truth.info["radii"])
    backpropagate(result, cotangents(result, seed))
    backpropagate(truth, cotangents(truth, seed))
    for name, tensor in expected.parameters().items():
        assert relative_error(ours.parameters()[name].grad, tensor.grad) < 1e-4, name
    pair = (result.info["gradient_2dgs"].grad, truth.info["gradient_2dgs"].grad)
    assert relative_error(*pair) < 1e-4


@pytest.mark.parametrize("sh_degree", [None, 0, 1, 2, 3])
def test_agrees_with_reference(sh_degree: int | None) -> None:
    compare(random_scene(11, sh_degree=sh_degree), sh_degree=sh_degree)


def test_lower_degree_than_the_features_hold() -> None:
    compare(random_scene(12, sh_degree=3), sh_degree=1)


def test_agrees_with_reference_for_two_cameras() -> None:
    compare(random_scene(13, cameras=2, sh_degree=1), sh_degree=1)


def test_agrees_with_reference_in_centre_mode() -> None:
    compare(random_scene(14), depth_at="centre")


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 5), (3, 33)])
def test_agrees_with_reference_for_any_size(size: tuple[int, int]) -> None:
    compare(random_scene(15, count=60, size=size))


def test_agrees_with_reference_for_opaque_and_invisible_surfels() -> None:
    scene = random_scene(16)
    opacities = scene.surfels.opacities.clone()
    opacities[:50], opacities[50:60] = 1.0, 0.003
    compare(replace(scene, surfels=replace(scene.surfels, opacities=opacities)))


def test_noncontiguous_inputs() -> None:
    scene = random_scene(17, count=60)
    strided = replace(
        scene.surfels,
        means=torch.cat([scene.surfels.means] * 2, 1)[:, :3],
        features_dc=scene.surfels.features_dc.T.contiguous().T,
    )
    plain, result = render(scene, "cpu"), render(replace(scene, surfels=strided), "cpu")
    assert torch.equal(plain.rgb, result.rgb)


def test_reference_gradients_by_finite_differences() -> None:
    scene = random_scene(18, count=5, size=(6, 5), sh_degree=2).to(torch.float64)
    # large surfels that cover the image: no pair is near a cut-off
    surfels = replace(scene.surfels, scales=scene.surfels.scales + 1.0, opacities=0.2 + 0.3 * scene.surfels.opacities)
    means = torch.cat([0.3 * surfels.means[:, :2], 1.5 + torch.arange(5.0).double()[:, None]], 1)
    scene = replace(scene, surfels=replace(surfels, means=means)).requiring_grad()
    names, tensors = zip(*scene.parameters().items(), strict=True)

    def images(*values: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(names, values, strict=True))
        outer = {name: named.pop(name) for name in ("viewmats", "background")}
        result = render(replace(scene, surfels=Surfels(**named), **outer), "reference", sh_degree=2)
        return tuple(getattr(result, name) for name in IMAGES)

    torch.autograd.gradcheck(images, tensors, fast_mode=True, atol=1e-5)


def test_cpu_gradients_by_finite_differences() -> None:
    scene = random_scene(19, count=6, size=(24, 20))
    surfels = replace(scene.surfels, scales=scene.surfels.scales + 0.6, opacities=0.3 + 0.4 * scene.surfels.opacities)
    means = torch.cat([0.3 * surfels.means[:, :2], 1.5 + 0.5 * torch.arange(6.0)[:, None]], 1)
    scene = replace(scene, surfels=replace(surfels, means=means)).requiring_grad()
    upstream = cotangents(result := render(scene, "cpu"))
    # the median is a step function of the geometry, and its gradient that of the step it stands on
    upstream["median_depth"].zero_()
    backpropagate(result, upstream)

    def loss(step: dict[str, Tensor]) -> float:
        tensors = {name: tensor.detach() + step[name] for name, tensor in scene.parameters().items()}
        outer = {name: tensors.pop(name) for name in ("viewmats", "background")}
        moved = render(replace(scene, surfels=Surfels(**tensors), **outer), "cpu")
        return float(sum((getattr(moved, name).double() * upstream[name].double()).sum() for name in upstream))

    generator = torch.Generator().manual_seed(3)
    parameters = scene.parameters()
    for name in parameters:
        step = {key: torch.zeros_like(tensor) for key, tensor in parameters.items()}
        direction = torch.randn(parameters[name].shape, generator=generator)
        if name == "viewmats":
            direction[:, 3] = 0
            direction[:, :3, :3] = 0
        direction /= direction.norm()
        step[name] = 2e-3 * direction
        ahead, behind = loss(step), loss({key: -value for key, value in step.items()})
        slope = float((parameters[name].grad * direction).sum())
        assert (ahead - behind) / 4e-3 == pytest.approx(slope, rel=2e-2, abs=2e-2), name


def forward_and_gradients(scene: Scene) -> list[Tensor]:
    scene = scene.to(torch.float32).requiring_grad()
    result = render(scene, "cpu", sh_degree=1)
    backpropagate(result, cotangents(result))
    tensors = [getattr(result, name).detach() for name in IMAGES]
    tensors += [tensor.grad for tensor in scene.parameters().values()]
    return [*tensors, result.info["gradient_2dgs"].grad]


def test_same_bits_for_any_number_of_threads() -> None:
    scene = random_scene(20, count=3000, size=(130, 90), sh_degree=1)
    results = []
    for threads in (1, 2, 3):
        cpu_backend.set_num_threads(threads)
        assert cpu_backend.num_threads() == threads
        results.append(forward_and_gradients(scene))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_same_bits_when_two_python_threads_render() -> None:
    scenes = [random_scene(seed, count=2000, size=(100, 70), sh_degree=1) for seed in (21, 22)]
    alone = [forward_and_gradients(scene) for scene in scenes]
    cpu_backend.set_num_threads(2)
    together: dict[int, list[list[Tensor]]] = {0: [], 1: []}

    def work(which: int) -> None:
        for _ in range(3):
            together[which].append(forward_and_gradients(scenes[which]))

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in (0, 1):
        assert len(together[which]) == 3
        for result in together[which]:
            assert all(torch.equal(a, b) for a, b in zip(alone[which], result, strict=True))


def test_threads_must_be_positive() -> None:
    with pytest.raises(ValueError, match="threads=0"):
        cpu_backend.set_num_threads(0)


def test_frozen_parameters_get_no_gradient() -> None:
    scene = random_scene(23, count=60, sh_degree=1)
    for name in ("opacities", "features_rest"):
        scene.parameters()[name].requires_grad_()
    render(scene, "cpu", sh_degree=1).rgb.sum().backward()
    graded = {name for name, tensor in scene.parameters().items() if tensor.grad is not None}
    assert graded == {"opacities", "features_rest"}


def test_float64_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="use backend='auto' or 'reference'"):
        render(random_scene(24, count=4).to(torch.float64), "cpu")


@pytest.mark.parametrize("name", ["_shade", "_shade_backward"])
def test_lane_loops_are_vector_code(name: str) -> None:
    """One loop that the compiler leaves scalar costs a factor of four, and no other test would notice."""
    kernel = getattr(cpu_kernels, name)
    fresh = numba.njit(error_model="numpy", fastmath=kernel.targetoptions["fastmath"])(kernel.py_func)
    scalar, integer = numba.float32, numba.int64
    fresh.compile((scalar[::1], integer, scalar[:, ::1], integer, *[scalar] * 4))
    (code,) = fresh.inspect_llvm().values()
    operation = r"= (?:tail call|fmul|fadd|fsub|fdiv|call)[a-z ]* {} "
    vectors = len(re.findall(operation.format(r"<\d+ x float>"), code))
    scalars = len(re.findall(operation.format("float"), code))
    assert vectors > 50
    assert scalars < vectors / 2


def traced_peak(cameras: int, gradients: bool) -> int:
    """Bytes of working memory at the peak of a render, its images apart."""
    scene = random_scene(25, count=2000, size=(64, 48), cameras=1)
    many = {name: getattr(scene, name).expand(cameras, *getattr(scene, name).shape[1:]) for name in ("viewmats", "Ks")}
    scene = replace(scene, **many, background=scene.background.expand(cameras, 3))
    if gradients:
        scene.surfels.means.requires_grad_()
    tracemalloc.start()
    result = render(scene, "cpu")
    if gradients:
        result.rgb.sum().backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("gradients", [False, True])
def test_working_memory_does_not_grow_with_the_cameras(gradients: bool) -> None:
    traced_peak(1, gradients)
    # what is asked for beyond the images, per camera and surfel: gradient_2dgs, and its gradient
    asked = 11 * 2000 * 2 * 4 * (2 if gradients else 1)
    assert traced_peak(12, gradients) < 1.2 * traced_peak(1, gradients) + asked


def test_several_cameras_have_the_gradients_of_each() -> None:
    scene = random_scene(26, count=300, cameras=3, sh_degree=1)

    def gradients(which: slice) -> dict[str, Tensor]:
        part = replace(scene, **{name: getattr(scene, name)[which] for name in PER_CAMERA})
        part = part.to(torch.float32).requiring_grad()
        result = render(part, "cpu", sh_degree=1)
        one = render(replace(part, **{name: getattr(part, name)[:1] for name in PER_CAMERA}), "cpu", sh_degree=1)
        weights = cotangents(one)  # the same for every camera
        torch.autograd.backward([(getattr(result, name) * weights[name]).sum() for name in IMAGES])
        named = {name: tensor.grad for name, tensor in part.parameters().items()}
        return {**named, "gradient_2dgs": result.info["gradient_2dgs"].grad}

    together, alone = gradients(slice(0, 3)), [gradients(slice(k, k + 1)) for k in range(3)]
    for name, value in together.items():
        parts = [one[name] for one in alone]
        expected = torch.cat(parts) if len(value) == 3 else parts[0] + parts[1] + parts[2]
        assert torch.equal(value, expected) or relative_error(value, expected) < 1e-6, name
