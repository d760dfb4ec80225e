"""Schedule and sampler against closed forms."""

import math

import pytest
import torch

from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler, apply_guidance, spaced_timesteps


def test_last_training_step_is_pure_noise_only_with_the_rescale():
    assert DynamiCrafterScheduler().alphas_cumprod[-1] == 0
    plain = DynamiCrafterScheduler(rescale_betas_zero_snr=False).alphas_cumprod
    betas = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(plain, torch.cumprod(1 - betas, 0))
    assert plain[-1] > 1e-4


@pytest.mark.parametrize(
    ("timestep", "expected"), [(0, 0.99914998), (100, 0.8867613), (500, 0.2410188), (961, 3.355936e-4)]
)
def test_published_levels(timestep, expected):
    assert float(DynamiCrafterScheduler().alphas_cumprod[timestep]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spacing", ["uniform", "uniform_trailing"])
def test_a_perfect_network_leads_to_the_clean_latents(spacing):
    scheduler = DynamiCrafterScheduler()
    scheduler.set_timesteps(10, spacing=spacing)
    steps = scheduler.timesteps
    clean, noise = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    first = steps[:1].expand(2)
    sample = scheduler.add_noise(scheduler.rescale(clean, first), noise, first)
    for timestep in steps:
        times = timestep.expand(2)
        scaled = scheduler.rescale(clean, times)
        velocity = scheduler.get_velocity(scaled, noise, times)
        out = scheduler.step(velocity, timestep, sample)
        torch.testing.assert_close(scheduler.unscale(out.pred_original_sample, int(timestep)), clean)
        sample = out.prev_sample
    level = scheduler.alphas_cumprod[0].float()
    expected = level.sqrt() * clean * scheduler.scales[steps[-1]].float() + (1 - level).sqrt() * noise
    torch.testing.assert_close(sample, expected)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_noise_keeps_the_level(eta):
    """A network that knows the signal leaves noise of the variance that the schedule has there."""
    scheduler = DynamiCrafterScheduler(base_scale=1.0)
    scheduler.set_timesteps(10)
    current, following = scheduler.timesteps[3:5]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 100_000, generator=generator)
    sample = scheduler.add_noise(torch.zeros(1, 100_000), noise, current[None])
    velocity = scheduler.get_velocity(torch.zeros(1, 100_000), noise, current[None])
    out = scheduler.step(velocity, current, sample, eta=eta, generator=generator).prev_sample
    assert float(out.var()) == pytest.approx(float(1 - scheduler.alphas_cumprod[following]), rel=0.02)


def test_no_number_of_steps_gives_nan():
    scheduler = DynamiCrafterScheduler()
    for steps in range(1, 61):
        scheduler.set_timesteps(steps, spacing="uniform_trailing")
        for timestep in scheduler.timesteps:
            out = scheduler.step(torch.ones(1, 2), timestep, torch.ones(1, 2), 1.0, noise=torch.ones(1, 2))
            assert out.prev_sample.isfinite().all()


def test_timesteps_of_a_run():
    assert spaced_timesteps(25, "uniform") == list(range(1, 962, 40))
    assert spaced_timesteps(25, "uniform_trailing") == list(range(39, 1000, 40))
    assert spaced_timesteps(1, "uniform_trailing") == [999]
    with pytest.raises(ValueError, match="past 999"):
        spaced_timesteps(3, "uniform")
    with pytest.raises(ValueError, match=r"in 1\.\.1000"):
        spaced_timesteps(0, "uniform")
    with pytest.raises(ValueError, match="'quad'"):
        spaced_timesteps(5, "quad")


def test_time_steps_must_be_set():
    scheduler = DynamiCrafterScheduler()
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="time step 7 is not one of those set"):
        scheduler.step(torch.zeros(1, 2), 7, torch.zeros(1, 2))


def test_guidance_rescale_restores_the_spread_of_each_clip():
    conditional, unconditional = torch.randn(2, 4, 3, 5, 5) * 2, torch.randn(2, 4, 3, 5, 5)
    guided = apply_guidance(conditional, unconditional, 3.2, 1.0)
    axes = (1, 2, 3, 4)
    torch.testing.assert_close(guided.std(axes), conditional.std(axes))
    plain = unconditional + 3.2 * (conditional - unconditional)
    ratio = guided / plain
    torch.testing.assert_close(ratio.flatten(1).std(1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(apply_guidance(conditional, unconditional, 3.2, 0.0), plain)
    torch.testing.assert_close(apply_guidance(conditional, unconditional, 3.2, 0.7), 0.7 * guided + 0.3 * plain)


def test_guidance_of_a_network_that_predicts_nothing():
    nothing = torch.zeros(1, 4, 2, 2)
    assert not apply_guidance(nothing, nothing, 3.2, 0.7).any()


def test_scheduler_is_saved_and_loaded(tmp_path):
    DynamiCrafterScheduler(base_scale=0.3).save_pretrained(tmp_path)
    loaded = DynamiCrafterScheduler.from_pretrained(tmp_path)
    assert loaded.scales[-1] == pytest.approx(0.3)
