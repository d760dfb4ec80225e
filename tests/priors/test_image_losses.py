"""Losses that see blur: their signs, their zeros, what they leave out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.perceptual import weights_file
from genfusion_ns.priors.compact.conditioning import stack_pairs
from genfusion_ns.priors.training import NetworkConfig, OptimisationConfig, build_network
from genfusion_ns.priors.training.compact import training_loss
from genfusion_ns.priors.training.image_losses import PerceptualLoss, detail_loss, gradient_loss, harm_loss

needs_weights = pytest.mark.skipif(weights_file("alex") is None, reason="the weights of LPIPS are not installed")


def picture(seed: int = 0, size: tuple[int, int] = (64, 96)) -> Tensor:
    """A photo-like image in -1..1: edges and texture. [1, 3, H, W]"""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 1.2 - 0.6
    fine = torch.rand(1, 3, *size, generator=generator) * 0.6 - 0.3
    return functional.interpolate(coarse, size=size, mode="nearest") + fine


def blurred(image: Tensor) -> Tensor:
    return functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)


def test_detail_counts_wherever_it_is() -> None:
    truth, weight = picture(), torch.ones(1, 1, 64, 96)
    assert detail_loss(truth, truth, weight) == 0
    assert detail_loss(truth + 0.1, truth, weight) < 1e-6, "brightness is no detail"
    moved = detail_loss(truth.roll(8, dims=3), truth, weight)
    assert detail_loss(blurred(truth), truth, weight) > 3 * moved
    twice = detail_loss(blurred(blurred(truth)), truth, weight)
    assert twice > detail_loss(blurred(truth), truth, weight), "more blur costs more"


def test_detail_is_compared_where_the_weight_is() -> None:
    truth, weight = picture(), torch.ones(1, 1, 64, 96)
    weight[..., 48:] = 0
    half = torch.cat([truth[..., :48], torch.zeros_like(truth[..., 48:])], dim=3)
    assert detail_loss(half, truth, weight) < 0.02, "but for the differences across the middle"
    assert detail_loss(half, truth, 1 - weight) > 0.5
    assert detail_loss(half, truth, 0 * weight) == 0


def test_harm_is_what_became_worse() -> None:
    truth = torch.zeros(1, 3, 4, 4)
    before = torch.full_like(truth, 0.2)
    assert harm_loss(torch.full_like(truth, 0.5), before, truth).mean() == pytest.approx(0.3)
    assert not harm_loss(torch.full_like(truth, 0.1), before, truth).any()
    assert not harm_loss(before, before, truth).any()


def test_gradients_of_an_error_are_seen_at_all_scales_and_constants_not_at_all() -> None:
    assert gradient_loss(torch.full((1, 3, 16, 16), 0.4)) < 1e-7
    wave = torch.sin(torch.arange(64) * 2 * torch.pi / 16).expand(1, 3, 64, 64)
    by_scale = [gradient_loss(functional.avg_pool2d(wave, 2**k)) for k in range(2)]
    assert by_scale[0] > 0 and by_scale[1] > 0
    assert gradient_loss(torch.zeros(1, 3, 1, 1)) == 0


@needs_weights
def test_lpips_prefers_detail_to_blur_and_has_gradients() -> None:
    loss, truth = PerceptualLoss(), picture()
    assert loss(truth, truth) < 1e-6
    soft = blurred(truth).requires_grad_()
    distance = loss(soft, truth)
    distance.backward()
    assert distance > loss(truth + 0.05 * picture(1), truth)
    assert soft.grad is not None and soft.grad.abs().sum() > 0
    assert bool(torch.isfinite(loss(truth[..., :20, :30], truth[..., :20, :30] * 0.5))), "small crops are enlarged"


@needs_weights
def test_each_term_changes_the_loss_of_a_batch() -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=4, size=(64, 48))
    condition, target = stack_pairs([pair])
    network = NetworkConfig(channels=(16, 16, 32), reference_channels=8)
    plain = OptimisationConfig(network=network, first_share=1.0)
    torch.manual_seed(0)
    model, perceptual = build_network(network), PerceptualLoss()

    def loss(config: OptimisationConfig) -> float:
        return training_loss(model, condition, target, config, torch.Generator().manual_seed(0), perceptual).item()

    for name in ("perceptual_weight", "detail_weight", "harm_weight"):
        assert loss(replace(plain, **{name: 1.0})) > loss(plain) + 1e-4, name


@needs_weights
def test_colours_that_do_not_count_are_not_held_against_the_repair() -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=4, size=(64, 48))
    hidden = replace(pair, clean=replace(pair.clean, alpha=torch.zeros_like(pair.clean.alpha)), rendered=True)
    network = NetworkConfig(channels=(16, 16, 32), reference_channels=8)
    none = dict.fromkeys(("logarithm_weight", "absolute_weight", "gradient_weight", "likelihood_weight"), 0.0)
    config = OptimisationConfig(
        network=network, perceptual_weight=1.0, detail_weight=1.0, harm_weight=1.0, disparity_weight=0.0, **none
    )
    losses = [
        training_loss(
            build_network(network), *stack_pairs([p]), config, torch.Generator().manual_seed(0), PerceptualLoss()
        ).item()
        for p in (hidden, pair)
    ]
    assert losses[0] == pytest.approx(0.0, abs=1e-5)
    assert losses[1] > 0.1
