"""Sharpness ratios: closed forms of waves, and what blur, contrast and noise do to them."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genfusion_ns.models.metrics import ImageMetrics
from genfusion_ns.models.sharpness import gradient_energy_ratio, sharpness_ratio

BOTH = (sharpness_ratio, gradient_energy_ratio)


@pytest.fixture
def photo() -> Tensor:
    """Texture of several sizes. [60, 80, 3], in 0.2..0.8"""
    generator = torch.Generator().manual_seed(1)
    layers = [torch.rand(1, 3, 60 // n, 80 // n, generator=generator) for n in (2, 4, 10)]
    image = sum(F.interpolate(layer, (60, 80), mode="bilinear") for layer in layers) / 3
    return (0.2 + 0.6 * image)[0].permute(1, 2, 0)


def wave(frequency: float, amplitude: float = 0.3, size: int = 64) -> Tensor:
    """Stripes of so many radians per pixel, whole periods in the width."""
    row = 0.5 + amplitude * torch.sin(frequency * torch.arange(size, dtype=torch.float64))
    return row.expand(size, size)[..., None].expand(size, size, 3)


def blurred(image: Tensor, times: int) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])).div(16).expand(3, 1, 3, 3)
    x = image.permute(2, 0, 1)[None]
    for _ in range(times):
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    return x[0].permute(1, 2, 0)


@pytest.mark.parametrize("ratio", BOTH)
def test_an_image_is_as_sharp_as_itself_and_a_plain_one_as_a_plain_one(ratio, photo: Tensor):
    assert float(ratio(photo, photo)) == 1
    assert float(ratio(torch.full_like(photo, 0.2), torch.full_like(photo, 0.9))) == pytest.approx(1)
    assert float(ratio(torch.full_like(photo, 0.5), photo)) < 0.01


@pytest.mark.parametrize("ratio", BOTH)
def test_blur_lowers_it_more_and_more_and_noise_raises_it(ratio, photo: Tensor):
    values = [float(ratio(blurred(photo, times), photo)) for times in range(5)]
    assert values == sorted(values, reverse=True)
    assert values[4] < 0.5 < values[0] == 1
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    noisy = [float(ratio(photo + sigma * noise, photo)) for sigma in (0, 0.01, 0.03, 0.1)]
    assert noisy == sorted(noisy) and noisy[3] > 2


def test_a_wave_counts_by_amplitude_and_frequency():
    """A sine of w radians per pixel has the Laplacian -4 sin^2(w/2) times itself, and differences of 2 sin(w/2)."""
    slow, fast = 2 * math.pi * 2 / 64, 2 * math.pi * 8 / 64
    assert float(sharpness_ratio(wave(slow, 0.1), wave(slow, 0.3))) == pytest.approx(1 / 3, rel=0.1)
    weight = math.sin(fast / 2) / math.sin(slow / 2)
    assert float(sharpness_ratio(wave(fast), wave(slow))) == pytest.approx(weight**2, rel=0.05)
    assert float(gradient_energy_ratio(wave(fast), wave(slow))) == pytest.approx(weight**2, rel=0.05)
    assert float(gradient_energy_ratio(wave(slow, 0.1), wave(slow, 0.3))) == pytest.approx(1 / 9, rel=0.01)


def test_gradient_energy_is_that_of_the_weighted_spectrum():
    """Parseval on periodic images: one more row and column make all differences those of the periodic image."""
    generator = torch.Generator().manual_seed(5)
    images = [torch.rand(16, 24, generator=generator, dtype=torch.float64) for _ in range(2)]
    weights = sum(
        4 * torch.sin(math.pi * torch.fft.fftfreq(n, dtype=torch.float64)).square().reshape(shape)
        for n, shape in ((16, (-1, 1)), (24, (1, -1)))
    )
    energies = [float((torch.fft.fft2(image).abs().square() * weights).sum()) for image in images]
    closed = [F.pad(image[None, None], (0, 1, 0, 1), mode="circular")[0, 0] for image in images]
    grey = [image[..., None].expand(*image.shape, 3) for image in closed]
    # The doubled row and column count twice among the differences along themselves, hence the tolerance.
    assert float(gradient_energy_ratio(grey[0], grey[1])) == pytest.approx(energies[0] / energies[1], rel=0.02)


@pytest.mark.parametrize("ratio", BOTH)
def test_turning_mirroring_and_brightness_change_nothing_and_clips_are_frame_by_frame(ratio, photo: Tensor):
    soft = blurred(photo, 2)
    value = ratio(soft, photo)
    torch.testing.assert_close(ratio(soft.rot90() + 0.1, photo.rot90()), value)
    torch.testing.assert_close(ratio(soft.flip(1), photo), value)
    frames = ratio(torch.stack([soft, photo]), torch.stack([photo, photo]))
    torch.testing.assert_close(frames, torch.stack([value, torch.ones(())]))


def test_evaluation_reports_both(photo: Tensor):
    metrics = ImageMetrics("alex")(blurred(photo, 3), photo)
    assert metrics["sharpness"] == pytest.approx(float(sharpness_ratio(blurred(photo, 3), photo)))
    assert metrics["gradient_energy"] == pytest.approx(float(gradient_energy_ratio(blurred(photo, 3), photo)))
    assert metrics["sharpness"] < 1
