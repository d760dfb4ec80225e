"""Disparity code, scale-shift alignment, back-projection and normals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genfusion_ns.geometry.depth import align_scale_shift, depth_to_normals, depth_to_points, encode_disparity

torch.set_num_threads(1)


def random_depth(seed: int, shape=(3, 9, 12, 1), low=0.5, high=20.0) -> torch.Tensor:
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low * (high / low) ** uniform


def random_camera(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = torch.randn(3, generator=generator, dtype=torch.float64)
    K = torch.tensor([[31.0, 0.0, 13.0], [0.0, 28.0, 9.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return K, viewmat


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.floats(1e-3, 1e3))
def test_decoding_inverts_encoding(seed, unit):
    depth = random_depth(seed) * unit
    code = encode_disparity(depth)
    assert code.disparity.min() == 0 and code.disparity.max() == 1
    torch.testing.assert_close(code.decode(code.disparity), depth, rtol=1e-9, atol=0)
    # The code does not know the unit of length.
    torch.testing.assert_close(code.disparity, encode_disparity(depth * 7).disparity, rtol=0, atol=1e-12)


def test_nearer_is_larger_and_invalid_is_zero():
    depth = random_depth(0)
    valid = torch.rand(depth.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    broken = torch.where(valid, depth, torch.tensor([math.nan], dtype=depth.dtype))
    broken[0, 0, 0], broken[0, 0, 1], broken[0, 0, 2] = 0.0, -1.0, math.inf
    usable = valid & torch.isfinite(broken) & (broken > 0)
    for code in (encode_disparity(broken, valid), encode_disparity(broken)):
        assert torch.equal(code.disparity[~usable], torch.zeros(int((~usable).sum()), dtype=depth.dtype))
        order = depth[usable].argsort()
        assert (code.disparity[usable][order].diff() <= 0).all()
        torch.testing.assert_close(code.minimum, 1 / depth[usable].max())
        torch.testing.assert_close(code.maximum, 1 / depth[usable].min())


def test_depths_too_small_to_be_inverted_are_unknown():
    depth = torch.tensor([1.0, 2.0, 2.8e-45])[:, None]
    code = encode_disparity(depth)
    assert code.disparity.flatten().tolist() == [1.0, 0.0, 0.0]
    assert code.decode(code.disparity).isfinite().all()


def test_constant_and_empty_clips():
    constant = torch.full((2, 4, 5, 1), 3.0)
    code = encode_disparity(constant)
    assert code.disparity.abs().max() == 0
    torch.testing.assert_close(code.decode(code.disparity), constant)
    empty = encode_disparity(constant, torch.zeros_like(constant, dtype=torch.bool))
    assert empty.disparity.abs().max() == 0
    assert empty.decode(torch.rand(2, 4, 5, 1)).abs().max() == 0


def test_a_floater_does_not_compress_a_robust_range():
    depth = random_depth(3, (4, 30, 40, 1), low=2.0, high=4.0)
    clean = encode_disparity(depth)
    with_floater = depth.clone()
    with_floater[0, 0, :5] = 0.2
    plain = encode_disparity(with_floater)
    robust = encode_disparity(with_floater, percentile=0.5)
    rest = with_floater > 1
    assert plain.disparity[rest].max() < 0.1
    assert (robust.disparity - clean.disparity)[rest].abs().max() < 0.03
    assert robust.disparity.max() == 1


@pytest.mark.parametrize(("percentile", "kept"), [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)])
def test_a_share_of_pixels_saturates_at_either_end(percentile, kept):
    disparity = torch.arange(1.0, 101.0)
    code = encode_disparity((1.0 / disparity).view(1, 10, 10, 1), percentile=percentile)
    assert float(code.minimum) == pytest.approx(kept)
    assert float(code.maximum) == pytest.approx(101.0 - kept)


@pytest.mark.parametrize("percentile", [-1.0, 50.0, 99.0])
def test_percentile_out_of_range(percentile):
    with pytest.raises(ValueError, match=str(percentile)):
        encode_disparity(torch.ones(1, 2, 2, 1), percentile=percentile)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**16), st.floats(0.05, 20.0), st.floats(-2.0, 2.0))
def test_exact_data_give_the_exact_map(seed, scale, shift):
    source = random_depth(seed, (2, 8, 9, 1))
    mask = torch.ones_like(source, dtype=torch.bool)
    for robust in (True, False):
        fit = align_scale_shift(source, scale * source + shift, mask, robust=robust)
        torch.testing.assert_close(fit.scale, torch.full_like(fit.scale, scale), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(fit.shift, torch.full_like(fit.shift, shift), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(fit.apply(source), scale * source + shift, rtol=1e-7, atol=1e-7)
        assert (fit.inlier_fraction == 1).all()


@pytest.mark.parametrize("outliers", [0.1, 0.3, 0.45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_robust_fit_recovers_the_truth_among_outliers(outliers, dtype):
    generator = torch.Generator().manual_seed(5)
    shape = (3, 60, 80, 1)
    source = torch.rand(shape, generator=generator, dtype=dtype)
    scale, shift = torch.tensor([0.5, 2.0, 0.1], dtype=dtype), torch.tensor([0.2, 0.0, 3.0], dtype=dtype)
    truth = scale.view(-1, 1, 1, 1) * source + shift.view(-1, 1, 1, 1)
    noise = 0.01 * scale.view(-1, 1, 1, 1) * torch.randn(shape, generator=generator, dtype=dtype)
    bad = torch.rand(shape, generator=generator) < outliers
    target = torch.where(bad, truth + 50 * torch.rand(shape, generator=generator, dtype=dtype), truth + noise)
    mask = torch.rand(shape, generator=generator) > 0.2
    target[~mask] = math.nan

    fit = align_scale_shift(source, target, mask)
    assert ((fit.apply(source) - truth).abs().amax((1, 2, 3)) < 0.005 * scale).all()
    plain = align_scale_shift(source, target, mask, robust=False)
    assert ((plain.apply(source) - truth).abs().amax((1, 2, 3)) > scale).all()
    kept = (mask & ~bad).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    # The tolerance is a share of the target's range, which the outliers widen, so some of them lie within it.
    assert (fit.inlier_fraction >= kept.to(dtype) - 1e-6).all()


def test_least_squares_agrees_with_lstsq_per_batch_entry():
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(4, 50, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(4, 50, generator=generator) > 0.4
    fit = align_scale_shift(source, target, mask, robust=False)
    for i in range(4):
        design = torch.stack([source[i][mask[i]], torch.ones(int(mask[i].sum()), dtype=torch.float64)], dim=1)
        expected = torch.linalg.lstsq(design, target[i][mask[i]][:, None]).solution[:, 0]
        torch.testing.assert_close(torch.stack([fit.scale[i], fit.shift[i]]), expected)


def test_degenerate_fits():
    source, target = torch.full((2, 30), 0.7), torch.rand(2, 30, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1] = False
    fit = align_scale_shift(source, target, mask, robust=False)
    torch.testing.assert_close(fit.scale, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(fit.shift, torch.stack([target[0].mean(), torch.zeros(())]))
    assert fit.inlier_fraction[1] == 0


def test_gradients_flow_through_the_fit():
    source = random_depth(1, (1, 40))
    target = (3 * source + 1).requires_grad_()
    fit = align_scale_shift(source, target, torch.ones(1, 40, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(fit.shift.sum(), target)
    # Adding c to every target adds c to the shift.
    torch.testing.assert_close(gradient.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_points_project_back_to_pixel_centres():
    depth = random_depth(2, (2, 7, 10, 1))
    cameras = [random_camera(seed) for seed in (3, 4)]
    K, viewmat = torch.stack([c[0] for c in cameras]), torch.stack([c[1] for c in cameras])
    points = depth_to_points(depth, K, viewmat)
    camera_points = points @ viewmat[:, None, :3, :3].transpose(-1, -2) + viewmat[:, None, None, :3, 3]
    pixels = camera_points @ K[:, None].transpose(-1, -2)
    torch.testing.assert_close(camera_points[..., 2:], depth)
    torch.testing.assert_close(pixels[0, 4, 6, :2] / pixels[0, 4, 6, 2], torch.tensor([6.5, 4.5], dtype=torch.float64))
    # One camera alone, without a batch dimension, gives the same points.
    torch.testing.assert_close(depth_to_points(depth[1], K[1], viewmat[1]), points[1])


@settings(deadline=None, max_examples=30)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.integers(0, 2**16))
def test_normals_of_a_tilted_plane(a, b, seed):
    # The plane z = 4 + a x + b y of the camera frame has depth 4 / (1 - a x/z - b y/z) and normal (a, b, -1).
    K, viewmat = random_camera(seed)
    rays = depth_to_points(torch.ones(19, 26, 1, dtype=torch.float64), K, torch.eye(4, dtype=torch.float64))
    depth = 4.0 / (1.0 - a * rays[..., :1] - b * rays[..., 1:2])
    expected = torch.tensor([a, b, -1.0], dtype=torch.float64) / math.sqrt(a * a + b * b + 1)
    expected = viewmat[:3, :3].T @ expected
    normals = depth_to_normals(depth, K, viewmat)
    torch.testing.assert_close(normals, expected.expand_as(normals), rtol=0, atol=1e-9)


def test_normals_of_a_tiny_scene_survive_float32():
    K = random_camera(0)[0].float()
    depth = torch.full((1, 6, 7, 1), 1e-4)
    normals = depth_to_normals(depth, K[None] * torch.tensor([100.0, 100.0, 1.0])[:, None], torch.eye(4)[None])
    torch.testing.assert_close(normals, torch.tensor([0.0, 0.0, -1.0]).expand_as(normals), rtol=0, atol=1e-3)


def test_normals_are_differentiable():
    K, viewmat = random_camera(7)
    depth = random_depth(8, (4, 5, 1), low=2.0, high=2.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: depth_to_normals(d, K, viewmat), (depth,))
    holes = torch.zeros(4, 5, 1, dtype=torch.float64, requires_grad=True)
    normals = depth_to_normals(holes, K, torch.eye(4, dtype=torch.float64))
    assert normals.abs().max() == 0
    (gradient,) = torch.autograd.grad(normals.sum(), holes)
    assert torch.isfinite(gradient).all()


def test_normals_need_two_rows_and_columns():
    with pytest.raises(ValueError, match="1 x 4"):
        depth_to_normals(torch.ones(4, 1, 1), torch.eye(3), torch.eye(4))
