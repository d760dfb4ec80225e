"""Losses against independent implementations and in closed form."""

import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from genfusion_ns.models.losses import (
    block_means,
    charbonnier_loss,
    disparity_loss,
    normal_consistency_loss,
    photometric_loss,
    ssim_map,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(40, 52, 3, generator=generator), torch.rand(40, 52, 3, generator=generator)


def test_ssim_equals_torchmetrics_inside_the_border(pair):
    image, target = pair
    _, reference = structural_similarity_index_measure(
        image.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None], data_range=1.0, return_full_image=True
    )
    reference = reference[0].permute(1, 2, 0)
    # torchmetrics pads by reflection, the loss by zeros: they agree where the window stays inside.
    torch.testing.assert_close(ssim_map(image, target)[6:-6, 6:-6], reference[6:-6, 6:-6], atol=2e-5, rtol=0)


def test_ssim_of_equal_images_is_one(pair):
    torch.testing.assert_close(ssim_map(pair[0], pair[0]), torch.ones_like(pair[0]), atol=1e-5, rtol=0)


def test_photometric_loss_is_zero_only_for_the_target_and_falls_along_its_gradient(pair):
    image, target = pair
    assert photometric_loss(target, target, 0.2) < 1e-6
    image = image.clone().requires_grad_()
    loss = photometric_loss(image, target, 0.2)
    loss.backward()
    assert photometric_loss(image.detach() - 50 * image.grad, target, 0.2) < loss


def test_weight_zero_silences_pixels_and_weight_one_changes_nothing(pair):
    image, target = pair
    ones = torch.ones(*image.shape[:2], 1)
    torch.testing.assert_close(photometric_loss(image, target, 0.2, ones), photometric_loss(image, target, 0.2))
    assert photometric_loss(image, target, 0.5, 0 * ones) == 0


def test_disparity_loss_ignores_scale_shift_and_invalid_pixels():
    generator = torch.Generator().manual_seed(1)
    depth = 1 + torch.rand(24, 30, 1, generator=generator, dtype=torch.float64)
    valid = torch.rand(24, 30, 1, generator=generator) > 0.2
    target = 0.37 / depth + 0.11
    spoiled = torch.where(valid, depth, torch.zeros_like(depth))
    assert disparity_loss(spoiled, target, valid) < 1e-9
    assert disparity_loss(depth.flip(0), target, valid) > 1e-3


@pytest.mark.parametrize("unit", [1e-7, 1e-4, 1e4, 1e7])
def test_disparity_loss_and_its_relative_gradient_are_the_same_in_any_unit(unit):
    generator = torch.Generator().manual_seed(4)
    depth = 1 + 0.1 * torch.rand(24, 30, 1, generator=generator)
    target = 0.5 / depth + 0.1 * torch.rand(24, 30, 1, generator=generator)
    valid = torch.rand(24, 30, 1, generator=generator) > 0.2
    results = []
    for length in (1.0, unit):
        scaled = (length * depth).requires_grad_()
        loss = disparity_loss(scaled, target, valid)
        (gradient,) = torch.autograd.grad(loss, scaled)
        results.append((loss.detach(), length * gradient))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-3, atol=0)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-2, atol=1e-3 * float(results[0][1].abs().max()))


def test_one_uncovered_pixel_does_not_cancel_the_depth_gradient():
    # Upstream passes no validity mask: a single pixel of depth 0 makes the fitted scale vanish.
    generator = torch.Generator().manual_seed(2)
    depth = (1 + torch.rand(24, 30, 1, generator=generator)).requires_grad_()
    target = 0.5 / depth.detach() + 0.2 * torch.rand(24, 30, 1, generator=generator)
    valid = torch.ones(24, 30, 1, dtype=torch.bool)
    valid[3, 4] = False
    holed = depth * valid
    (gradient,) = torch.autograd.grad(disparity_loss(holed, target, valid), depth)
    (reference,) = torch.autograd.grad(disparity_loss(depth, target, valid), depth)
    assert gradient.abs().sum() > 1e-3
    assert 0.9 < gradient.abs().sum() / reference.abs().sum() < 1.1
    assert gradient[3, 4] == 0


def test_disparity_loss_without_valid_pixels_is_a_differentiable_zero():
    depth = torch.ones(8, 8, 1, requires_grad=True)
    loss = disparity_loss(depth, torch.rand(8, 8, 1), torch.zeros(8, 8, 1, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and depth.grad is not None and depth.grad.abs().max() == 0


def test_normal_consistency_is_zero_for_equal_and_two_for_opposite_normals():
    normals = torch.nn.functional.normalize(torch.randn(6, 7, 3, generator=torch.Generator().manual_seed(3)), dim=-1)
    alpha = torch.ones(6, 7, 1)
    assert normal_consistency_loss(normals, normals, alpha).abs() < 1e-6
    assert normal_consistency_loss(normals, -normals, alpha) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("size", [(40, 52), (5, 7), (1, 1), (33, 17)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
def test_compiled_loss_equals_plain_torch_in_value_and_gradient(size, weighted, ssim_weight):
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(*size, 3, generator=generator, dtype=torch.float64)
    target = torch.rand(*size, 3, generator=generator, dtype=torch.float64)
    weight = torch.rand(*size, 1, generator=generator, dtype=torch.float64) if weighted else None
    results = []
    for dtype in (torch.float32, torch.float64):  # float32 on the CPU is compiled, float64 is plain torch
        leaf = image.to(dtype).requires_grad_()
        loss = photometric_loss(leaf, target.to(dtype), ssim_weight, None if weight is None else weight.to(dtype))
        (gradient,) = torch.autograd.grad(3 * loss, leaf)
        results.append((loss.detach().double(), gradient.double()))
    (value, gradient), (expected_value, expected_gradient) = results
    torch.testing.assert_close(value, expected_value, atol=2e-6, rtol=1e-5)
    assert (gradient - expected_gradient).norm() <= 2e-4 * expected_gradient.norm()


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (3, 2)])
def test_block_means_count_each_pixel_by_its_weight(size):
    generator = torch.Generator().manual_seed(0)
    image, other = torch.rand(2, *size, 3, generator=generator)
    weight = torch.rand(*size, 1, generator=generator)
    weight[:4, :4] = 0.0
    (mean, _), trust = block_means([image, other], weight, 4)
    for row in range(-(-size[0] // 4)):
        for column in range(-(-size[1] // 4)):
            block = (slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            total = weight[block].sum()
            expected = (weight[block] * image[block]).sum((0, 1)) / total if total > 0 else torch.zeros(3)
            torch.testing.assert_close(mean[row, column], expected)
            torch.testing.assert_close(trust[row, column, 0], weight[block].mean())


def test_the_charbonnier_loss_is_quadratic_near_zero_and_absolute_beyond():
    target = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0))
    for shift, expected in ((0.0, 1e-3), (1e-3, math.sqrt(2) * 1e-3), (0.5, math.hypot(0.5, 1e-3))):
        assert charbonnier_loss(target + shift, target).item() == pytest.approx(expected, rel=1e-3)
    weight = torch.zeros(6, 5, 1)
    weight[2] = 1
    assert charbonnier_loss(target + 0.5, target, weight).item() == pytest.approx(0.5 / 6, rel=1e-3)
