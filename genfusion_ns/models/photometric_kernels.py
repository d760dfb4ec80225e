"""L1 + SSIM and its gradient in one pass over the image, compiled for CPUs.

On a CPU the structural term would otherwise cost more than the whole rasteriser: five Gaussian-windowed moments forward
and as many backward. Here the window is applied separably to strips of rows that stay in cache, and the gradient, which
is a window over three maps that the forward pass already knows, is made along with the value.

With S = SSIM (Wang et al. 2004, equation 13) and moments m_x, m_y, E[xx], E[yy], E[xy], the chain rule gives
dL/dx = W * (g dS/dm_x) + 2 x W * (g dS/dE[xx]) + y W * (g dS/dE[xy]),
where W * is the (symmetric) window and g = dL/dS per pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.rendering.compiled import vector_helper, vector_kernel
from genfusion_ns.rendering.thread_pool import run_on_all

_STRIP = 16
"""Rows per unit of work; with the halo of the window its buffers fit the second-level cache."""
_f = np.float32
_C1, _C2 = _f(0.01**2), _f(0.03**2)
_ZERO, _ONE, _TWO = _f(0.0), _f(1.0), _f(2.0)
_HALF_WINDOW = 5
_PAD = 3 * _HALF_WINDOW


def _window() -> np.ndarray:
    offsets = np.arange(_HALF_WINDOW + 1, dtype=np.float64)
    full = np.exp(-np.square(np.arange(-_HALF_WINDOW, _HALF_WINDOW + 1)) / (2 * 1.5**2)).sum()
    return (np.exp(-np.square(offsets) / (2 * 1.5**2)) / full).astype(np.float32)


_W = _window()
_W0, _W1, _W2, _W3, _W4, _W5 = (_f(value) for value in _W)


class PhotometricLoss(torch.autograd.Function):
    """(1 - ssim_weight) * L1 + ssim_weight * (1 - SSIM) with weights per pixel; see `losses.photometric_loss`."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        image: Float[Tensor, "H W 3"],
        target: Float[Tensor, "H W 3"],
        ssim_weight: float,
        weight: Float[Tensor, "H W 1"] | None,
    ) -> Float[Tensor, ""]:
        value, gradient = _value_and_gradient(image, target, ssim_weight, weight)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * upstream, None, None, None


def _value_and_gradient(
    image: Tensor, target: Tensor, ssim_weight: float, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    height, width, channels = image.shape
    row = width * channels
    x, y = (tensor.detach().contiguous().view(height, row).numpy() for tensor in (image, target))
    trust = None if weight is None else weight.detach().expand_as(image).contiguous().view(height, row).numpy()
    trust = np.ones((1, 1), np.float32) if trust is None else trust
    partials = np.empty((3, height, row), np.float32)
    gradient = np.empty((height, row), np.float32)
    strips = -(-height // _STRIP)
    sums = np.zeros((strips, 2))
    scale_l1, scale_ssim = (1 - ssim_weight) / x.size, ssim_weight / x.size

    def statistics(strip: int) -> None:
        first, last = strip * _STRIP, min((strip + 1) * _STRIP, height)
        _moments(x, y, trust, partials, sums[strip], first, last)

    def gradients(strip: int) -> None:
        first, last = strip * _STRIP, min((strip + 1) * _STRIP, height)
        _gradient(x, y, trust, partials, gradient, first, last, _f(scale_l1), _f(scale_ssim))

    _share_out(statistics, strips)
    _share_out(gradients, strips)
    absolute, dissimilar = sums.sum(axis=0)
    value = image.new_tensor(scale_l1 * absolute + scale_ssim * dissimilar)
    return value, torch.from_numpy(gradient).view(height, width, channels)


def _share_out(work: Callable[[int], None], count: int) -> None:
    # One `next` of a shared counter is atomic under the interpreter lock, which the kernels release.
    counter = itertools.count()

    def take() -> None:
        while (unit := next(counter)) < count:
            work(unit)

    run_on_all(take)


@vector_helper
def _blur_row(source: np.ndarray, out: np.ndarray) -> None:
    """Window along a row of interleaved rgb; `source` carries _PAD zeros on either side.

    Constant offsets, because LLVM does not vectorise the loop when the number of channels is a variable.
    """
    for i in range(out.shape[0]):
        out[i] = (
            _W0 * source[i + 15]
            + _W1 * (source[i + 12] + source[i + 18])
            + _W2 * (source[i + 9] + source[i + 21])
            + _W3 * (source[i + 6] + source[i + 24])
            + _W4 * (source[i + 3] + source[i + 27])
            + _W5 * (source[i] + source[i + 30])
        )


@vector_helper
def _blur_column(rows: np.ndarray, k: int, out: np.ndarray) -> None:
    """Window down the columns, centred on row k + 5 of `rows`."""
    a, b, c, d, e, m = rows[k], rows[k + 1], rows[k + 2], rows[k + 3], rows[k + 4], rows[k + 5]
    n, o, p, q, r = rows[k + 6], rows[k + 7], rows[k + 8], rows[k + 9], rows[k + 10]
    for i in range(out.shape[0]):
        out[i] = (
            _W0 * m[i]
            + _W1 * (e[i] + n[i])
            + _W2 * (d[i] + o[i])
            + _W3 * (c[i] + p[i])
            + _W4 * (b[i] + q[i])
            + _W5 * (a[i] + r[i])
        )


@vector_kernel
def _moments(
    x: np.ndarray,
    y: np.ndarray,
    trust: np.ndarray,
    partials: np.ndarray,
    sums: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Sums of |x - y| and 1 - SSIM over rows first..last, and the three derivatives of SSIM per pixel."""
    height, row = x.shape
    count = last - first + 10
    blurred = np.zeros((5, count, row), np.float32)
    padded = np.zeros((5, row + 2 * _PAD), np.float32)
    for k in range(count):
        r = first - 5 + k
        if r < 0 or r >= height:
            continue
        xr, yr = x[r], y[r]
        p0, p1, p2, p3, p4 = padded[0], padded[1], padded[2], padded[3], padded[4]
        for i in range(row):
            a, b = xr[i], yr[i]
            p0[_PAD + i], p1[_PAD + i] = a, b
            p2[_PAD + i], p3[_PAD + i], p4[_PAD + i] = a * a, b * b, a * b
        for m in range(5):
            _blur_row(padded[m], blurred[m, k])
    moment = np.empty((5, row), np.float32)
    weighted = trust.size > 1
    ones = np.ones(row, np.float32)
    for r in range(first, last):
        for m in range(5):
            _blur_column(blurred[m], r - first, moment[m])
        w = trust[r] if weighted else ones
        absolute, dissimilar = _structure(x[r], y[r], w, moment, partials[0, r], partials[1, r], partials[2, r])
        sums[0] += absolute
        sums[1] += dissimilar


@vector_helper
def _structure(
    xr: np.ndarray,
    yr: np.ndarray,
    w: np.ndarray,
    moment: np.ndarray,
    d_mean: np.ndarray,
    d_square: np.ndarray,
    d_product: np.ndarray,
) -> tuple[np.float32, np.float32]:
    mx, my, mxx, myy, mxy = moment[0], moment[1], moment[2], moment[3], moment[4]
    absolute, dissimilar = _ZERO, _ZERO
    for i in range(xr.shape[0]):
        u, v = mx[i], my[i]
        uu, vv, uv = u * u, v * v, u * v
        a1, a2 = _TWO * uv + _C1, _TWO * (mxy[i] - uv) + _C2
        b1, b2 = uu + vv + _C1, mxx[i] - uu + myy[i] - vv + _C2
        inverse = _ONE / (b1 * b2)
        s = a1 * a2 * inverse
        absolute += w[i] * abs(xr[i] - yr[i])
        dissimilar += w[i] * (_ONE - s)
        square = -s * b1 * inverse
        product = _TWO * a1 * inverse
        d_square[i] = w[i] * square
        d_product[i] = w[i] * product
        d_mean[i] = w[i] * (_TWO * v * a2 * inverse - _TWO * u * s * b2 * inverse - v * product - _TWO * u * square)
    return absolute, dissimilar


@vector_kernel
def _gradient(
    x: np.ndarray,
    y: np.ndarray,
    trust: np.ndarray,
    partials: np.ndarray,
    gradient: np.ndarray,
    first: int,
    last: int,
    scale_l1: np.float32,
    scale_ssim: np.float32,
) -> None:
    """Gradient of the loss by x over rows first..last."""
    height, row = x.shape
    count = last - first + 10
    blurred = np.zeros((3, count, row), np.float32)
    padded = np.zeros(row + 2 * _PAD, np.float32)
    for k in range(count):
        r = first - 5 + k
        if r < 0 or r >= height:
            continue
        for m in range(3):
            padded[_PAD : _PAD + row] = partials[m, r]
            _blur_row(padded, blurred[m, k])
    window = np.empty((3, row), np.float32)
    weighted = trust.size > 1
    ones = np.ones(row, np.float32)
    for r in range(first, last):
        for m in range(3):
            _blur_column(blurred[m], r - first, window[m])
        w = trust[r] if weighted else ones
        xr, yr, out = x[r], y[r], gradient[r]
        g_mean, g_square, g_product = window[0], window[1], window[2]
        for i in range(row):
            difference = xr[i] - yr[i]
            sign = _ONE if difference > _ZERO else (-_ONE if difference < _ZERO else _ZERO)
            structural = g_mean[i] + _TWO * xr[i] * g_square[i] + yr[i] * g_product[i]
            out[i] = scale_l1 * w[i] * sign - scale_ssim * structural
