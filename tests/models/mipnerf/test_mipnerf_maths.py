"""The formulas of mip-NeRF against recorded numbers of its authors' formulas, and in closed form."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared_files import recorded

from genfusion_ns.models.mipnerf import sampling
from genfusion_ns.models.mipnerf.encoding import expected_sine, integrated_encoding, plain_encoding
from genfusion_ns.models.mipnerf.field import MipNerfMLP
from genfusion_ns.models.mipnerf.sampling import Gaussians


@pytest.fixture(scope="module")
def ref() -> dict[str, torch.Tensor]:
    with np.load(recorded("siblings/mipnerf_reference.npz")) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def rays(ref: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return ref["origins"], ref["directions"], ref["radii"]


def close(value: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(value, expected.to(value.dtype), atol=atol, rtol=0)


def test_frustums(ref):
    t = sampling.fence_posts(ref["near"], ref["far"], 16)
    close(t, ref["t_vals"], 1e-6)
    means, diagonals = sampling.frustum_gaussians(t, *rays(ref))
    close(means, ref["means"], 2e-6)
    torch.testing.assert_close(diagonals, ref["covs_diag"], rtol=2e-5, atol=1e-9)
    _, matrices = sampling.frustum_gaussians(t, *rays(ref), diagonal=False)
    torch.testing.assert_close(matrices, ref["covs_full"], rtol=2e-5, atol=1e-8)


def test_frustums_even_in_disparity(ref):
    t = sampling.fence_posts(ref["near"], ref["far"], 16, disparity=True)
    close(t, ref["t_vals_lindisp"], 2e-6)
    means, diagonals = sampling.frustum_gaussians(t, *rays(ref))
    close(means, ref["means_lindisp"], 3e-6)
    torch.testing.assert_close(diagonals, ref["covs_diag_lindisp"], rtol=5e-5, atol=1e-9)


def test_cylinders(ref):
    means, diagonals = sampling.cylinder_gaussians(ref["t_vals"], *rays(ref))
    close(means, ref["means_cylinder"], 2e-6)
    torch.testing.assert_close(diagonals, ref["covs_diag_cylinder"], rtol=2e-5, atol=1e-9)


def test_moments_of_a_frustum_are_those_of_points_in_it():
    generator = torch.Generator().manual_seed(0)
    near, far, radius = 1.0, 2.5, 0.3
    z = near + (far - near) * torch.rand(2_000_000, generator=generator, dtype=torch.float64)
    inside = torch.rand(len(z), generator=generator, dtype=torch.float64) < (z / far) ** 2
    z = z[inside]
    angle = 2 * torch.pi * torch.rand(len(z), generator=generator, dtype=torch.float64)
    x = radius * z * torch.rand(len(z), generator=generator, dtype=torch.float64).sqrt() * torch.cos(angle)
    t = torch.tensor([[near, far]], dtype=torch.float64)
    zero, forward = torch.zeros(1, 3).double(), torch.tensor([[0.0, 0, 1]]).double()
    means, diagonals = sampling.frustum_gaussians(t, zero, forward, torch.tensor([[radius]]).double())
    assert float(means[0, 0, 2]) == pytest.approx(float(z.mean()), abs=2e-3)
    assert float(diagonals[0, 0, 2]) == pytest.approx(float(z.var()), rel=1e-2)
    assert float(diagonals[0, 0, 0]) == pytest.approx(float(x.var()), rel=1e-2)


def test_integrated_encoding(ref):
    gaussians = ref["means"], ref["covs_diag"]
    close(integrated_encoding(*gaussians), ref["ipe_0_16"], 2e-5)
    close(integrated_encoding(ref["means"], ref["covs_full"]), ref["ipe_full_0_16"], 2e-5)
    close(plain_encoding(ref["viewdirs"]), ref["viewdir_enc_0_4"], 2e-6)


def test_expected_sines(ref):
    mean, variance = expected_sine(ref["esin_x"], ref["esin_var"])
    close(mean, ref["esin_mean"], 2e-6)
    close(variance, ref["esin_out_var"], 2e-6)


def test_an_encoded_gaussian_is_the_mean_over_its_points():
    generator = torch.Generator().manual_seed(1)
    mean = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    deviation = torch.tensor([0.05, 0.2, 0.4], dtype=torch.float64)
    points = mean + deviation * torch.randn(400_000, 3, generator=generator, dtype=torch.float64)
    sampled = integrated_encoding(points, torch.zeros_like(points), (0, 5)).mean(0)
    close(integrated_encoding(mean, deviation**2, (0, 5)), sampled, 5e-3)


def test_compositing(ref):
    place = ref["t_vals"], ref["directions"]
    composed = sampling.compose(ref["rgb"], ref["density"], *place, torch.ones(3))
    close(composed.weights, ref["weights"], 2e-6)
    close(composed.accumulation[:, 0], ref["acc"], 2e-6)
    close(composed.depth[:, 0], ref["distance"], 1e-5)
    close(composed.rgb, ref["comp_rgb_white1"], 2e-6)
    close(sampling.compose(ref["rgb"], ref["density"], *place).rgb, ref["comp_rgb_white0"], 2e-6)


def test_resampling(ref):
    t = sampling.resampled(ref["t_vals"], ref["weights"])
    close(t, ref["resampled_t"], 1e-5)
    means, diagonals = sampling.frustum_gaussians(t, *rays(ref))
    close(means, ref["resampled_means"], 2e-5)
    torch.testing.assert_close(diagonals, ref["resampled_covs_diag"], rtol=1e-3, atol=1e-6)
    samples = sampling.inverse_cdf_samples(ref["pdf_bins"], ref["weights"] + 0.01, ref["pdf_samples"].shape[-1])
    close(samples, ref["pdf_samples"], 1e-5)


def test_drawn_samples_are_sorted_and_follow_the_weights():
    generator = torch.Generator().manual_seed(2)
    t = torch.linspace(2, 6, 9).expand(500, 9)
    weights = torch.tensor([0, 0, 1.0, 3, 0, 0, 0, 0]).expand(500, 8)
    drawn = sampling.inverse_cdf_samples(t, weights, 33, generator)
    assert bool((drawn.diff(dim=-1) >= 0).all())
    assert float(((drawn > 3.5) & (drawn < 4)).float().mean()) == pytest.approx(0.75, abs=0.03)
    posts = sampling.fence_posts(torch.full((500, 1), 2.0), torch.full((500, 1), 6.0), 8, generator=generator)
    assert bool((posts.diff(dim=-1) >= 0).all()) and float(posts.min()) >= 2 and float(posts.max()) <= 6


def test_no_gradient_goes_through_resampling():
    weights = torch.rand(4, 8, requires_grad=True)
    assert not sampling.resampled(torch.linspace(0, 1, 9).expand(4, 9), weights).requires_grad


def test_contraction_is_its_linearisation():
    generator = torch.Generator().manual_seed(3)
    centre, radius = torch.tensor([0.5, -1, 2.0]).double(), 1.5
    x = 4 * torch.randn(50, 1, 3, generator=generator, dtype=torch.float64)
    factor = 0.1 * torch.randn(50, 1, 3, 3, generator=generator, dtype=torch.float64)
    covariances = factor @ factor.transpose(-1, -2)

    def place(point: torch.Tensor) -> torch.Tensor:
        y = (point - centre) / radius
        length = y.norm()
        return y if length <= 1 else (2 - 1 / length) * y / length

    means, out = sampling.contracted(Gaussians(x, covariances), centre, radius)
    assert float(means.norm(dim=-1).max()) < 2
    assert 0 < int(((x - centre).norm(dim=-1) < radius).sum()) < 50
    for i in range(50):
        jacobian = torch.autograd.functional.jacobian(place, x[i, 0])
        close(means[i, 0], place(x[i, 0]), 1e-10)
        close(out[i, 0], jacobian @ covariances[i, 0] @ jacobian.T, 1e-10)


def small_network() -> tuple[MipNerfMLP, dict]:
    config = json.loads(recorded("siblings/mipnerf_small_config.json").read_text())
    network = MipNerfMLP(config["mlp_net_width"], config["mlp_net_depth"], config["mlp_net_width_condition"])
    state = load_file(recorded("siblings/mipnerf_small_weights.safetensors"))
    network.load_state_dict({name.removeprefix("mip_nerf.mlp."): value for name, value in state.items()})
    return network, config


def ask(network: MipNerfMLP, io: dict, level: str, t: torch.Tensor) -> sampling.Composed:
    gaussians = sampling.frustum_gaussians(t, *(io[f"{level}_{name}"] for name in ("origins", "directions", "radii")))
    raw = network(integrated_encoding(*gaussians), plain_encoding(io[f"{level}_viewdirs"]))
    white = torch.ones(3)
    return sampling.compose(*sampling.activated(*raw), t, io[f"{level}_directions"], white, normalised_depth=False)


@pytest.mark.parametrize("level", ["l0", "l3"])
def test_both_passes_are_those_of_the_port(level):
    network, config = small_network()
    io = load_file(recorded("siblings/mipnerf_small_io.safetensors"))
    t = sampling.fence_posts(io[f"{level}_near"], io[f"{level}_far"], config["num_samples"])
    for number in range(2):
        out, name = ask(network, io, level, t), f"{level}_level{number}_"
        close(t, io[f"{name}t"], 2e-5)
        close(out.rgb, io[f"{name}rgb"], 2e-5)
        close(out.accumulation[:, 0], io[f"{name}acc"], 2e-5)
        close(out.depth[:, 0], io[f"{name}distance"], 5e-5)
        close(out.weights, io[f"{name}weights"], 2e-5)
        t = sampling.resampled(t, out.weights)


def test_the_published_network_has_these_parameters():
    layout = json.loads(recorded("siblings/published_layout_mipnerf_pl.json").read_text())
    state = {
        f"mip_nerf.mlp.{name}": [list(value.shape), "float32"] for name, value in MipNerfMLP().state_dict().items()
    }
    assert state == layout
    assert sum(value.numel() for value in MipNerfMLP().parameters()) == 612_740
