"""Results by scale, and the average error of the paper."""

import numpy as np
import pytest
import torch
from shared_files import recorded

from genfusion_ns.fusion.multiscale.evaluation import average_error, by_scale
from genfusion_ns.models.metrics import ImageMetrics

PUBLISHED = {
    "psnr": (32.634, 34.350, 35.505, 35.636),
    "ssim": (0.9578, 0.9703, 0.9786, 0.9834),
    "lpips": (0.0469, 0.0260, 0.0168, 0.0120),
}
"""Of the authors, on the multi-scale Blender data."""


def images(leave_out: set[tuple[str, int]] = frozenset()) -> list[tuple[int, dict[str, float]]]:
    found = []
    for level in range(4):
        for off in (-1.0, 1.0):  # two images whose means are the published figures
            metrics = {name: values[level] * (1 + 0.01 * off) for name, values in PUBLISHED.items()}
            found.append((level, {name: v for name, v in metrics.items() if (name, level) not in leave_out}))
    return found


def test_the_average_error_of_the_published_row():
    results = by_scale(images())
    assert results["avg_error"] == pytest.approx(0.0114, abs=5e-5)
    assert results["psnr_x1"] == pytest.approx(32.634) and results["lpips_x8"] == pytest.approx(0.0120)
    assert results["psnr"] == pytest.approx(np.mean(PUBLISHED["psnr"]))
    assert not any("left_out" in name for name in results)


def test_average_errors_are_those_of_the_authors():
    with np.load(recorded("siblings/mipnerf_reference.npz")) as ref:
        for row, expected in zip(ref["avg_in"], ref["avg_out"], strict=True):
            assert average_error(*row) == pytest.approx(expected, rel=1e-6)


def test_scales_count_alike_however_many_images_they_have():
    results = by_scale([(0, {"psnr": 20.0}), (0, {"psnr": 22.0}), (0, {"psnr": 24.0}), (1, {"psnr": 30.0})])
    assert results["psnr_x1"] == 22 and results["psnr"] == 26


def test_images_too_small_for_a_metric_are_counted_and_the_error_has_another_name():
    results = by_scale(images({("lpips", 2), ("lpips", 3)}))
    assert results["lpips_left_out"] == {"x4": 2, "x8": 2}
    assert results["lpips_mean_of"] == ["x1", "x2"]
    assert "avg_error" not in results and "lpips_x4" not in results
    assert results["avg_error_nolpips"] == pytest.approx(
        average_error(np.mean(PUBLISHED["psnr"]), np.mean(PUBLISHED["ssim"]))
    )
    assert not {"ssim", "avg_error", "avg_error_nolpips"} & set(by_scale([(0, {"psnr": 20.0})]))


def test_ssim_is_that_of_the_authors():
    with np.load(recorded("siblings/mipnerf_reference.npz")) as ref:
        pair = [torch.from_numpy(ref[name]) for name in ("ssim_a", "ssim_b")]
        metrics = ImageMetrics("alex")(*pair)
        assert metrics["ssim_valid"] == pytest.approx(float(ref["ssim_ab"]), abs=1e-5)


@pytest.mark.parametrize("size", [(10, 40), (4, 3), (1, 1)])
def test_small_images_have_the_metrics_that_they_can_have(size):
    metrics = ImageMetrics("alex")(torch.rand(*size, 3), torch.rand(*size, 3))
    assert metrics["psnr"] > 0 and not {"ssim", "lpips"} & set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
