"""Compiled kernels of the CPU rasteriser: projection, tile lists, blending, and the gradients of each.

All kernels live in this one module because numba's on-disk cache watches only the file of the function it caches.

Algebra. With M the homography of a surfel (2DGS equation 5) and p = (px, py, 1), the tangent-plane hit is
(s, t, 1) / z = inv(M) p, where z is the hit's depth: three functions affine in the pixel. They are kept relative to the
projected centre c = (M02, M12) / M22 and times M22, which makes ``hit = (A x + B y, C x + D y, 1 + a x + b y)`` with
(x, y) = p - c: six numbers per surfel, s = hit_0 / hit_2, t = hit_1 / hit_2, z = M22 / hit_2. Float32 suffices for
pixels; everything per surfel is prepared in double precision.

The object-space mip filter of variance k (AA-2DGS, 2025) needs the Jacobian J of (s, t) at each pixel. With
i = 1 / hit_2 and E = A D - B C,  tr J J^T = i^4 f(x, y) with a quadratic f,  det J = i^3 E,  and s r_1 - t r_0, with
the rows r of J, comes to i^2 E (-y, x). So V = I + k J J^T has det V = 1 + k i^4 f + (k E i^3)^2, and the exponent's
(s, t) inv(V) (s, t)^T is (s^2 + t^2 + k E^2 i^4 (x^2 + y^2)) / det V. All of it stays as it is when (s, t) are turned,
which sets C to 0.

Blending runs front to back in both directions. In backward all channels of a pair fold into one scalar
q = dL/dw; the sum over the pairs behind is the pixel's total (known from the images) minus the running sum.

Style. Pixels are 4x4 blocks of 16 lanes in a flat float32 scratch; the lane loops have constant trip count, constant
offsets, selects instead of branches and only + reductions, because that is what LLVM turns into vector code. A Python
float literal would silently promote such a loop to float64, hence the float32 constants. No kernel uses numba's
``parallel=True``, whose default layer aborts the process when two Python threads render at once.

What paid, as shares of the 110 ms of CPU time that forward + backward of 50,000 surfels at 480 x 270 once took on a
Xeon with AVX-512: vectors of 16 floats instead of 8, a tenth; leaving out in backward the blocks in which forward hit
nothing, 6 %; slots in the order of the scene, and the pose's gradient in one sum, 5 %. Of today's 86 ms, backward takes
40 %, forward 24 %, the lists 10 %. What did not: reciprocal estimates, which LLVM makes only where infinity may be
ignored.
"""

# ruff: noqa: E741
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from genfusion_ns.rendering import spherical_harmonics as sh
from genfusion_ns.rendering.compiled import inlined, kernel, vector_helper

TILE = 16
RECORD = 20
"""Floats per surfel: c (2), A B C D a b, M22, opacity, box centre - c (2), rgb, world normal, two cut-offs."""
MIP_RECORD = 28
"""With the filter: c (2), A B w D a b, M22, opacity, k f_1, k f_x, rgb (3), normal (3), cut-off, reach, k f_y, k f_r,
k E^2, rim, u v, k^2 E^2, nothing; pixels with (u x + v y)^2 + (w y)^2 above the cut-off times hit_2^2 are out of reach.
"""
SLOT = 19
"""Gradient sums per (tile, surfel) entry: hit x (x, y, 1) (9), opacity, box centre (2), rgb (3), normal (3), M22."""
MIP_SLOT = 20
"""With the filter: A B D a b, k f (4), opacity, pixel - c (2), rgb (3), normal (3), M22 times M22, twice k E^2."""

_f = np.float32
_THREE = _f(3.0)
_ZERO, _ONE, _TWO, _HALF, _HIT = _f(0.0), _f(1.0), _f(2.0), _f(0.5), _f(32.0)
_MIN_ALPHA, _MAX_ALPHA = _f(1.0 / 255.0), _f(0.999)
_MIN_TRANSMITTANCE = _f(1e-4)
_MIN_COVERAGE = _f(1e-10)
_MAX_EXPONENT = _f(5.6)  # exp(-5.6) < 1/255, so clamping there cannot turn a skipped pair into a hit
_EIGHTH = _f(0.125)
# exp(-u) on 0..0.7 with relative error 9e-8 (weighted least squares towards the minimax fit); three squarings follow
_E1, _E2, _E3, _E4, _E5 = _f(-0.99999476), _f(0.49989976), _f(-0.16602834), _f(0.03984821), _f(-0.0058852)
_BLOCK_REACH = _f(1.51)  # from a block's centre to its outermost pixel centres, with a margin for rounding
_TILE_REACH = _f(7.51)
_SLACK = _f(1.0001)
_MOST_Q = _f(1e30)
_NO_RIM = _f(-1e30)
_LEAST, _MOST = 1e-30, 1e30
# 1 / sqrt to 6e-7: Newton's steps with constants that halve the error of each (Walczyk, Moroz, Cieslinski 2021)
_R1, _R2 = _f(1.50087896), _f(1.50000057)

# scratch planes of 256 floats, one float per pixel of a tile, block by block
_P = 256
_T, _CR, _CG, _CB, _NX, _NY, _NZ, _Z, _DI, _ME, _MI = (k * _P for k in range(11))
_LX, _LY = 11 * _P, 11 * _P + 16
_FORWARD_SCRATCH = 11 * _P + 32
_Q, _VR, _VG, _VB, _VX, _VY, _VZN, _VZ, _VA, _VD, _VM, _AT, _ZT, _QT = (k * _P for k in (1, *range(3, 16)))
_ZA, _MID = 2 * _P, 16 * _P
_ACC = 17 * _P
_BX, _BY = _ACC + MIP_SLOT * 16, _ACC + MIP_SLOT * 16 + 16
_SUM = _ACC + MIP_SLOT * 16 + 32
_BACKWARD_SCRATCH = _SUM + MIP_SLOT

_C0, _C1 = sh.C0, sh.C1
_C2XY, _C2ZZ, _C2XX = sh.C2_XY, sh.C2_ZZ, sh.C2_XX
_C3XXX, _C3XYZ, _C3YZZ, _C3ZZZ, _C3ZXX = sh.C3_XXX, sh.C3_XYZ, sh.C3_YZZ, sh.C3_ZZZ, sh.C3_ZXX


@intrinsic
def _atomic_add(typingctx, array, amount) -> tuple[Any, Callable[..., Any]]:
    """array[0] += amount, atomically; the value before."""
    signature = types.int64(array, types.int64)

    def codegen(context, builder, sig, args) -> Any:
        data = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "monotonic")

    return signature, codegen


_fetch_add: Any = _atomic_add


@intrinsic
def _count_trailing_zeros(typingctx, value) -> tuple[Any, Callable[..., Any]]:
    """Index of the lowest set bit of a nonzero int64."""
    signature = types.int64(types.int64)

    def codegen(context, builder, sig, args) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return signature, codegen


_lowest_bit: Any = _count_trailing_zeros


@intrinsic
def _prefer_wide_vectors(typingctx) -> tuple[Any, Callable[..., Any]]:
    """Let the kernel that calls this use vectors of 16 floats where the CPU has them.

    LLVM keeps to 8 on most CPUs with AVX-512, for fear of lower clocks. Both the helper with the loop, which is
    vectorised before it is inlined, and the kernel that it ends up in have to ask.
    """

    def codegen(context, builder, sig, args) -> Any:
        # llvmlite checks names against a list that holds none with a value
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


_wide: Any = _prefer_wide_vectors


@intrinsic
def _guess_rsqrt(typingctx, value) -> tuple[Any, Callable[..., Any]]:
    """1 / sqrt of a positive float32 to 4 %, from halving its exponent: as bits, in one vector with the floats."""
    signature = types.float32(types.float32)

    def codegen(context, builder, sig, args) -> Any:
        word = ir.IntType(32)
        half = builder.lshr(builder.bitcast(args[0], word), ir.Constant(word, 1))
        return builder.bitcast(builder.sub(ir.Constant(word, 0x5F376908), half), args[0].type)

    return signature, codegen


_rsqrt_guess: Any = _guess_rsqrt


@kernel
def _rotation(quats, n) -> tuple[tuple[float, ...], float]:
    """Rotation matrix of quaternion n (nine numbers, row-major) and 1 / |q|."""
    w, x, y, z = float(quats[n, 0]), float(quats[n, 1]), float(quats[n, 2]), float(quats[n, 3])
    # the same floor as torch.nn.functional.normalize
    scale = 1.0 / max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w * scale, x * scale, y * scale, z * scale
    first = (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y))
    second = (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x))
    third = (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y))
    return first + second + third, scale


@kernel
def _rotation_backward(quats, n, scale, d0, d1, d2, grad) -> None:
    """Add the gradient of rotation columns d0, d1, d2 to that of the unnormalised quaternion, grad[n]."""
    w, x, y, z = quats[n, 0] * scale, quats[n, 1] * scale, quats[n, 2] * scale, quats[n, 3] * scale
    xy, xz, yz = d0[1] + d1[0], d0[2] + d2[0], d1[2] + d2[1]
    wx, wy, wz = d1[2] - d2[1], d2[0] - d0[2], d0[1] - d1[0]
    gw = 2.0 * (x * wx + y * wy + z * wz)
    gx = 2.0 * (-2.0 * x * (d1[1] + d2[2]) + y * xy + z * xz + w * wx)
    gy = 2.0 * (x * xy - 2.0 * y * (d0[0] + d2[2]) + z * yz + w * wy)
    gz = 2.0 * (x * xz + y * yz - 2.0 * z * (d0[0] + d1[1]) + w * wz)
    along = w * gw + x * gx + y * gy + z * gz
    grad[n, 0] += scale * (gw - along * w)
    grad[n, 1] += scale * (gx - along * x)
    grad[n, 2] += scale * (gy - along * y)
    grad[n, 3] += scale * (gz - along * z)


@inlined
def _turn(view, x, y, z) -> tuple[float, float, float]:
    """World direction -> camera frame. `view` is a viewmat, its first three rows one after the other."""
    return (
        view[0] * x + view[1] * y + view[2] * z,
        view[4] * x + view[5] * y + view[6] * z,
        view[8] * x + view[9] * y + view[10] * z,
    )


@inlined
def _turn_back(view, x, y, z) -> tuple[float, float, float]:
    """Camera direction -> world frame."""
    return (
        view[0] * x + view[4] * y + view[8] * z,
        view[1] * x + view[5] * y + view[9] * z,
        view[2] * x + view[6] * y + view[10] * z,
    )


@kernel
def _homography(mean, axis_u, axis_v, s, t, K) -> tuple[float, ...]:
    """Rows u, v, w of the homography of camera-frame mean and axes with deviations s, t; K is (fx, fy, cx, cy)."""
    fx, fy, cx, cy = K
    wu, wv, wm = s * axis_u[2], t * axis_v[2], mean[2]
    return (
        *(fx * s * axis_u[0] + cx * wu, fx * t * axis_v[0] + cx * wv, fx * mean[0] + cx * wm),
        *(fy * s * axis_u[1] + cy * wu, fy * t * axis_v[1] + cy * wv, fy * mean[1] + cy * wm),
        *(wu, wv, wm),
    )


@kernel
def _hit_coefficients(m) -> tuple[tuple[float, ...], float, float]:
    """A B C D a b of the module docstring, c; an edge-on surfel gets huge ones, so that only its disc remains."""
    u0, u1, u2, v0, v1, v2, w0, w1, w2 = m
    cx, cy = u2 / w2, v2 / w2
    a0, a1, b0, b1 = cx * w0 - u0, cx * w1 - u1, cy * w0 - v0, cy * w1 - v1
    det = a0 * b1 - a1 * b0
    floor = 1e-12 * (a0 * a0 + a1 * a1 + b0 * b0 + b1 * b1) + 1e-30
    if abs(det) < floor:
        det = floor if det >= 0.0 else -floor
    f = 1.0 / det
    d = w2 * f
    return (-b1 * d, a1 * d, b0 * d, -a0 * d, (w0 * b1 - w1 * b0) * f, (a0 * w1 - a1 * w0) * f), cx, cy


@kernel
def _level_box(m, level) -> tuple[float, float, float, float, bool]:
    """Box around the ellipse s^2 + t^2 = level: centre x y, squared half-extents x y; whether all of it is in front."""
    u0, u1, u2, v0, v1, v2, w0, w1, w2 = m
    d = level * (w0 * w0 + w1 * w1) - w2 * w2
    f, g = level / d, -1.0 / d
    x, y = f * (u0 * w0 + u1 * w1) + g * u2 * w2, f * (v0 * w0 + v1 * w1) + g * v2 * w2
    hx, hy = x * x - (f * (u0 * u0 + u1 * u1) + g * u2 * u2), y * y - (f * (v0 * v0 + v1 * v1) + g * v2 * v2)
    return x, y, hx, hy, d < 0.0


@kernel
def _tile_range(low, high, tiles) -> tuple[int, int]:
    """Tiles from `low` to `high`, both in tiles, clamped to 0..tiles."""
    return int(min(max(np.floor(low), 0.0), float(tiles))), int(min(max(np.ceil(high), 0.0), float(tiles)))


@inlined
def _tile_box(m, mx, my, radius, level, tiles_x, tiles_y, rect, n) -> bool:
    """Tiles the surfel may touch: those of the 3-sigma square (part of the definition) that reach alpha = 1/255."""
    x0, x1 = _tile_range((mx - radius) / TILE, (mx + radius) / TILE, tiles_x)
    y0, y1 = _tile_range((my - radius) / TILE, (my + radius) / TILE, tiles_y)
    level += 1e-4
    cx, cy, hx, hy, finite = _level_box(m, level)
    if finite:
        disc = math.sqrt(0.5 * level) + 0.01
        ex, ey = math.sqrt(max(hx, 0.0)) + 0.01, math.sqrt(max(hy, 0.0)) + 0.01
        a, b = _tile_range(min(cx - ex, mx - disc) / TILE, max(cx + ex, mx + disc) / TILE, tiles_x)
        c, d = _tile_range(min(cy - ey, my - disc) / TILE, max(cy + ey, my + disc) / TILE, tiles_y)
        x0, x1, y0, y1 = max(x0, a), min(x1, b), max(y0, c), min(y1, d)
    rect[n, 0], rect[n, 1], rect[n, 2], rect[n, 3] = x0, y0, x1, y1
    return x1 > x0 and y1 > y0


@kernel
def _basis(x, y, z, degree, b) -> None:
    """Spherical harmonics of degrees 1.. into b[1:], see `spherical_harmonics.sh_basis`."""
    b[1], b[2], b[3] = -_C1 * y, _C1 * z, -_C1 * x
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        b[4], b[5], b[7] = _C2XY * x * y, -_C2XY * y * z, -_C2XY * x * z
        b[6], b[8] = _C2ZZ * (2.0 * zz - xx - yy), _C2XX * (xx - yy)
        if degree > 2:
            b[9] = -_C3XXX * y * (3.0 * xx - yy)
            b[10] = _C3XYZ * x * y * z
            b[11] = -_C3YZZ * y * (4.0 * zz - xx - yy)
            b[12] = _C3ZZZ * z * (2.0 * zz - 3.0 * xx - 3.0 * yy)
            b[13] = -_C3YZZ * x * (4.0 * zz - xx - yy)
            b[14] = _C3ZXX * z * (xx - yy)
            b[15] = -_C3XXX * x * (xx - 3.0 * yy)


@kernel
def _basis_backward(x, y, z, degree, g) -> tuple[float, float, float]:
    """Gradient to the direction of sum_k g[k] basis_k, for k >= 1."""
    dx, dy, dz = -_C1 * g[3], -_C1 * g[1], _C1 * g[2]
    if degree > 1:
        g4, g5, g6, g7, g8 = _C2XY * g[4], -_C2XY * g[5], 2.0 * _C2ZZ * g[6], -_C2XY * g[7], 2.0 * _C2XX * g[8]
        dx += g4 * y - g6 * x + g7 * z + g8 * x
        dy += g4 * x + g5 * z - g6 * y - g8 * y
        dz += g5 * y + 2.0 * g6 * z + g7 * x
        if degree > 2:
            xx, yy, zz, xy, xz, yz = x * x, y * y, z * z, x * y, x * z, y * z
            h9, h10, h11, h12 = -_C3XXX * g[9], _C3XYZ * g[10], -_C3YZZ * g[11], _C3ZZZ * g[12]
            h13, h14, h15 = -_C3YZZ * g[13], _C3ZXX * g[14], -_C3XXX * g[15]
            dx += 6.0 * h9 * xy + h10 * yz - 2.0 * h11 * xy - 6.0 * h12 * xz
            dx += h13 * (4.0 * zz - 3.0 * xx - yy) + 2.0 * h14 * xz + 3.0 * h15 * (xx - yy)
            dy += 3.0 * h9 * (xx - yy) + h10 * xz + h11 * (4.0 * zz - xx - 3.0 * yy) - 6.0 * h12 * yz
            dy += -2.0 * h13 * xy - 2.0 * h14 * yz - 6.0 * h15 * xy
            dz += h10 * xy + 8.0 * h11 * yz + h12 * (6.0 * zz - 3.0 * xx - 3.0 * yy) + 8.0 * h13 * xz + h14 * (xx - yy)
    return dx, dy, dz


@kernel
def _view_direction(means, n, view) -> tuple[float, float, float, float]:
    """Unit direction from the camera centre -R^T t to mean n, and the distance."""
    back = _turn_back(view, view[3], view[7], view[11])
    x, y, z = means[n, 0] + back[0], means[n, 1] + back[1], means[n, 2] + back[2]
    distance = max(math.sqrt(x * x + y * y + z * z), 1e-12)
    return x / distance, y / distance, z / distance, distance


@kernel
def _color(means, dc, rest, n, view, degree, b) -> tuple[float, float, float]:
    """Colour of surfel n before the cut at 0; degree -1 takes dc as it is. Leaves the basis in b."""
    if degree < 0:
        return float(dc[n, 0]), float(dc[n, 1]), float(dc[n, 2])
    if degree > 0:
        x, y, z, _ = _view_direction(means, n, view)
        _basis(x, y, z, degree, b)
    red, green, blue = _C0 * dc[n, 0] + 0.5, _C0 * dc[n, 1] + 0.5, _C0 * dc[n, 2] + 0.5
    for k in range(1, (degree + 1) * (degree + 1)):
        red += b[k] * rest[n, k - 1, 0]
        green += b[k] * rest[n, k - 1, 1]
        blue += b[k] * rest[n, k - 1, 2]
    return red, green, blue


@kernel
def _growth(mip) -> float:
    """Pixels that the filter adds to the square of three standard deviations; `mip` is its variance, or None."""
    if mip is None:
        return 0.0
    return 3.0 * math.sqrt(mip)


@kernel
def _footprint(mip, m, mx, my, radius, opacity, tiles_x, tiles_y, rec, rect, n) -> bool:
    """The coefficients and cut-offs of surfel n, and its tiles; whether it has any."""
    if mip is None:
        cut = math.log(255.0 * opacity)
        if not _tile_box(m, mx, my, radius, 2.0 * cut, tiles_x, tiles_y, rect, n):
            return False
        h, cx, cy = _hit_coefficients(m)
        rec[n, 0], rec[n, 1] = cx, cy
        rec[n, 2], rec[n, 3], rec[n, 4], rec[n, 5], rec[n, 6], rec[n, 7] = h
        rec[n, 10], rec[n, 11] = mx - cx, my - cy
        rec[n, 18], rec[n, 19] = 2.0 * cut + 2e-5, cut + 1e-5
        return True
    return _mip_footprint(mip, m, mx, my, radius, opacity, tiles_x, tiles_y, rec, rect, n)


@kernel
def _upright(h) -> tuple[float, float, float, float]:
    """A B D for (s, t) turned so that C is 0, and the determinant E."""
    A, B, C, D, _, _ = h
    E = A * D - B * C
    first = math.sqrt(A * A + C * C)
    return first, (A * B + C * D) / first, E / first, E


@kernel
def _mip_footprint(k, m, mx, my, radius, opacity, tiles_x, tiles_y, rec, rect, n) -> bool:
    """`_footprint` with the filter of variance k.

    A pixel that reaches alpha = 1/255 has (s, t) = p + sqrt(k) J q with |p|^2 + |q|^2 <= level: then the ellipse
    |p|^2 <= level passes it at sqrt(k level) / (1 + c) pixels, with c the share by which hit_2 changes over
    sqrt(k level) pixels. It has k |det J| <= 255 too, which keeps it off the rim, where hit_2 is 0 and c is large;
    where that does not suffice, all pixels near the rim count. Where J hardly changes over the pixels left, those
    within the ellipse of the filter at the centre count, made a little larger: the tightest bound, and the usual one.
    """
    h, cx, cy = _hit_coefficients(m)
    A, B, D, E = _upright(h)
    a, b = h[4], h[5]
    slope, e, g = math.sqrt(a * a + b * b), A * b - B * a, -D * a
    f_1, f_r = A * A + B * B + D * D, e * e + g * g
    level = 2.0 * math.log(255.0 * opacity)
    blur, rim = math.sqrt(k * level), -1.0
    reach = 1.25 * blur
    change = (blur * slope) ** 3 * 255.0 * opacity
    if change > 0.2**3 * k * abs(E):
        reach = 2.0 * blur
        if change > 0.5**3 * k * abs(E):
            rim = reach
    x0, x1 = _tile_range((mx - radius) / TILE, (mx + radius) / TILE, tiles_x)
    y0, y1 = _tile_range((my - radius) / TILE, (my + radius) / TILE, tiles_y)
    bx, by, hx, hy, finite = _level_box(m, level + 1e-4)
    u, v, w, cut = A, B, D, level
    if finite and rim < 0.0:
        ex, ey = math.sqrt(max(hx, 0.0)) + reach + 0.01, math.sqrt(max(hy, 0.0)) + reach + 0.01
        far_x, far_y = abs(bx - cx) + ex, abs(by - cy) + ey
        far = math.sqrt(far_x * far_x + far_y * far_y)
        # the least that the filter can thin the surfel out here
        top, least = 1.0 + slope * far, max(0.0, math.sqrt(f_1) - math.sqrt(f_r) * far)
        top *= top
        least *= least / top
        thinned = (k * least + (k * E / top) ** 2 / top) / top
        if thinned > 0.2:
            cut -= math.log(1.0 + thinned)
            if not cut > 0.0:
                return False
        low = 1.0 - slope * far
        if low > 0.5:
            low *= low
            moved = math.sqrt(k) * (math.sqrt(f_1) * (1.0 - low) + math.sqrt(f_r) * far) / low
            if moved < 0.5:
                # coefficients of inv(V)^(1/2) (s, t) at the centre, from the sum of the two covariances
                vxx, vxy, vyy = k + (B * B + D * D) / (E * E), -A * B / (E * E), k + A * A / (E * E)
                det = vxx * vyy - vxy * vxy
                u, w = math.sqrt(vyy / det), 1.0 / math.sqrt(vyy)
                v = -vxy / (det * u)
                cut *= 1.0 + moved + moved * moved
                reach = 0.0
        x2, x3 = _tile_range((bx - ex) / TILE, (bx + ex) / TILE, tiles_x)
        y2, y3 = _tile_range((by - ey) / TILE, (by + ey) / TILE, tiles_y)
        x0, x1, y0, y1 = max(x0, x2), min(x1, x3), max(y0, y2), min(y1, y3)
    rect[n, 0], rect[n, 1], rect[n, 2], rect[n, 3] = x0, y0, x1, y1
    rec[n, 0], rec[n, 1] = cx, cy
    rec[n, 2], rec[n, 3], rec[n, 4], rec[n, 5], rec[n, 6], rec[n, 7] = A, B, w, D, a, b
    # all but edge-on they could exceed what a float32 holds, and infinity times a gradient of 0 is no number
    rec[n, 10], rec[n, 11] = min(k * f_1, _MOST), min(max(-2.0 * k * (B * e + D * g), -_MOST), _MOST)
    rec[n, 20], rec[n, 21] = min(max(2.0 * k * A * e, -_MOST), _MOST), min(k * f_r, _MOST)
    rec[n, 22] = min(k * E * E, _MOST)
    rec[n, 18], rec[n, 19], rec[n, 23] = cut + 2e-5, reach, rim if rim > 0.0 else _NO_RIM
    rec[n, 24], rec[n, 25], rec[n, 26] = u, v, min(k * k * E * E + _LEAST, _MOST)
    return x1 > x0 and y1 > y0


@inlined
def _project_one(mip, n, means, quats, scales, opacities, view, K, size, limits, rec, rect, radii) -> bool:
    """Everything about surfel n that pixels need, but for its colour; whether it can show."""
    width, height, tiles_x, tiles_y = size
    x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
    depth = view[8] * x + view[9] * y + view[10] * z + view[11]
    if not (depth >= limits[0] and depth <= limits[1]):
        return False
    r, _ = _rotation(quats, n)
    axis_u, axis_v, normal = _turn(view, r[0], r[3], r[6]), _turn(view, r[1], r[4], r[7]), _turn(view, r[2], r[5], r[8])
    mean = (
        view[0] * x + view[1] * y + view[2] * z + view[3],
        view[4] * x + view[5] * y + view[6] * z + view[7],
        depth,
    )
    m = _homography(mean, axis_u, axis_v, float(scales[n, 0]), float(scales[n, 1]), K)
    mx, my, hx, hy, _ = _level_box(m, 1.0)
    radius = np.ceil(3.0 * math.sqrt(max(1e-4, hx, hy)) + _growth(mip))
    if not (mx + radius > 0.0 and my + radius > 0.0 and mx - radius < width and my - radius < height):
        return False
    radii[n] = int(min(radius, 2147483519.0))
    opacity = float(opacities[n])
    if not opacity * 255.0 >= 1.0:
        return False
    if not _footprint(mip, m, mx, my, radius, opacity, tiles_x, tiles_y, rec, rect, n):
        return False
    rec[n, 8], rec[n, 9] = depth, opacity
    facing = -1.0 if normal[0] * mean[0] + normal[1] * mean[1] + normal[2] * mean[2] > 0.0 else 1.0
    back = _turn_back(view, normal[0], normal[1], normal[2])
    rec[n, 15], rec[n, 16], rec[n, 17] = facing * back[0], facing * back[1], facing * back[2]
    return True


@kernel
def project(counter, block, scene, view, K, size, limits, degree, rec, rect, radii, shown, mip) -> None:
    """Project surfels, `block` at a time, until the counter runs out; shown[n] is whether surfel n can show.

    `mip` is the variance of the pixel filter, or None: here and below the type of the argument picks one of two
    kernels, and what belongs to the other is never compiled.
    """
    means, quats, scales, opacities, dc, rest = scene
    b = np.empty(16)
    count = means.shape[0]
    while True:
        first = _fetch_add(counter, block)
        if first >= count:
            return
        for n in range(first, min(first + block, count)):
            radii[n] = 0
            shown[n] = False
            if _project_one(mip, n, means, quats, scales, opacities, view, K, size, limits, rec, rect, radii):
                shown[n] = True
                red, green, blue = _color(means, dc, rest, n, view, degree, b)
                if degree >= 0:
                    red, green, blue = max(red, 0.0), max(green, 0.0), max(blue, 0.0)
                rec[n, 12], rec[n, 13], rec[n, 14] = red, green, blue


@kernel
def sort_by_depth(rec, shown) -> np.ndarray:
    """Indices of the surfels that can show, nearest first, ties by index.

    A three-pass radix sort of the bits of the depths, which are positive floats.
    """
    count = 0
    for n in range(shown.shape[0]):
        count += shown[n]
    ids, depths = np.empty(count, np.int32), np.empty(count, np.float32)
    k = 0
    for n in range(shown.shape[0]):
        if shown[n]:
            ids[k], depths[k] = n, rec[n, 8]
            k += 1
    keys = depths.view(np.int32)
    next_ids, next_keys = np.empty_like(ids), np.empty_like(keys)
    starts = np.empty(2049, np.int64)
    for shift in (0, 11, 22):
        starts[:] = 0
        for k in range(count):
            starts[((keys[k] >> shift) & 2047) + 1] += 1
        for d in range(2048):
            starts[d + 1] += starts[d]
        for k in range(count):
            digit = (keys[k] >> shift) & 2047
            next_ids[starts[digit]], next_keys[starts[digit]] = ids[k], keys[k]
            starts[digit] += 1
        ids, next_ids, keys, next_keys = next_ids, ids, next_keys, keys
    return ids


@inlined
def _may_touch(x, y, hx, hy, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high) -> bool:
    """Whether any pixel within (x +- hx, y +- hy), relative to the centre, can reach alpha = 1/255 (interval bound)."""
    sx = max(abs(A * x + B * y) - (abs(A) * hx + abs(B) * hy), _ZERO)
    sy = max(abs(C * x + D * y) - (abs(C) * hx + abs(D) * hy), _ZERO)
    zz = _ONE + a * x + b * y
    reach = abs(a) * hx + abs(b) * hy
    top = abs(zz) + reach
    dx, dy = max(abs(x - ox) - hx, _ZERO), max(abs(y - oy) - hy, _ZERO)
    on_plane = (sx * sx + sy * sy <= cut * top * top) & (zz + reach > z_low) & (zz - reach < z_high)
    return on_plane | (dx * dx + dy * dy <= disc)


@vector_helper
def _block_mask(lanes, x, y, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high) -> int:
    """The 4x4-pixel blocks, as bits, of the tile with corner (x, y) that the surfel may touch."""
    _wide()
    ex, ey = (abs(A) + abs(B)) * _BLOCK_REACH, (abs(C) + abs(D)) * _BLOCK_REACH
    reach = (abs(a) + abs(b)) * _BLOCK_REACH
    mask = _ZERO
    for l in range(16):
        px, py = x + lanes[l], y + lanes[16 + l]
        sx, sy = abs(A * px + B * py) - ex, abs(C * px + D * py) - ey
        sx, sy = (sx if sx > _ZERO else _ZERO), (sy if sy > _ZERO else _ZERO)
        zz = _ONE + a * px + b * py
        top = abs(zz) + reach
        dx, dy = abs(px - ox) - _BLOCK_REACH, abs(py - oy) - _BLOCK_REACH
        dx, dy = (dx if dx > _ZERO else _ZERO), (dy if dy > _ZERO else _ZERO)
        on_plane = (sx * sx + sy * sy <= cut * top * top) & (zz + reach > z_low) & (zz - reach < z_high)
        mask += lanes[32 + l] if on_plane | (dx * dx + dy * dy <= disc) else _ZERO
    return int(mask)


@inlined
def _may_touch_blurred(x, y, hx, hy, A, B, D, a, b, cut, reach, rim, z_low, z_high) -> bool:
    """`_may_touch` with the filter, for coefficients with C = 0; see `_mip_footprint`."""
    wide, high = hx + reach, hy + reach
    sx = max(abs(A * x + B * y) - (abs(A) * wide + abs(B) * high), _ZERO)
    sy = max(abs(D * y) - abs(D) * high, _ZERO)
    zz = _ONE + a * x + b * y
    near, top = abs(a) * hx + abs(b) * hy, abs(zz) + abs(a) * wide + abs(b) * high
    on_plane = (sx * sx + sy * sy <= cut * top * top) | (abs(zz) <= near + (abs(a) + abs(b)) * rim)
    return on_plane & (zz + near > z_low) & (zz - near < z_high)


@vector_helper
def _blurred_mask(lanes, x, y, A, B, D, a, b, cut, reach, rim, z_low, z_high) -> int:
    """`_block_mask` with the filter."""
    _wide()
    wide = _BLOCK_REACH + reach
    ex, ey = (abs(A) + abs(B)) * wide, abs(D) * wide
    slope = abs(a) + abs(b)
    near, more, at_rim = slope * _BLOCK_REACH, slope * wide, slope * (_BLOCK_REACH + rim)
    mask = _ZERO
    for l in range(16):
        px, py = x + lanes[l], y + lanes[16 + l]
        sx, sy = abs(A * px + B * py) - ex, abs(D * py) - ey
        sx, sy = (sx if sx > _ZERO else _ZERO), (sy if sy > _ZERO else _ZERO)
        zz = _ONE + a * px + b * py
        top = abs(zz) + more
        on_plane = (sx * sx + sy * sy <= cut * top * top) | (abs(zz) <= at_rim)
        mask += lanes[32 + l] if on_plane & (zz + near > z_low) & (zz - near < z_high) else _ZERO
    return int(mask)


@kernel
def _grown(array) -> np.ndarray:
    bigger = np.empty(2 * array.shape[0], array.dtype)
    bigger[: array.shape[0]] = array
    return bigger


@kernel
def _reaches(mip, rec, n, x, y, hx, hy, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high) -> bool:
    if mip is None:
        return _may_touch(x, y, hx, hy, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high)
    return _may_touch_blurred(x, y, hx, hy, rec[n, 24], rec[n, 25], C, a, b, cut, rec[n, 19], rec[n, 23], z_low, z_high)


@kernel
def _lane_table() -> np.ndarray:
    lanes = np.empty(48, np.float32)
    for l in range(16):
        lanes[l], lanes[16 + l], lanes[32 + l] = 4 * (l & 3) + 2, 4 * (l >> 2) + 2, 1 << l
    return lanes


@kernel
def list_tiles(ids, first, last, rec, rect, near, tiles_x, counts, mip) -> tuple[np.ndarray, np.ndarray]:
    """Entries (tile id, block mask) of surfels ids[first:last], surfel by surfel; their number per surfel into counts.

    `near` 0 means that no intersection is skipped.
    """
    tiles, masks = np.empty(8192, np.int32), np.empty(8192, np.uint16)
    used = 0
    lanes = _lane_table()
    for k in range(first, last):
        n = ids[k]
        before = used
        cx, cy, A, B, C, D = rec[n, 0], rec[n, 1], rec[n, 2], rec[n, 3], rec[n, 4], rec[n, 5]
        a, b, ox, oy, cut, disc = rec[n, 6], rec[n, 7], rec[n, 10], rec[n, 11], rec[n, 18] * _SLACK, rec[n, 19]
        z_low, z_high = _f(-np.inf), _f(np.inf)
        if near > 0.0:
            z_low, z_high = _ZERO, _f(rec[n, 8] / near) * _SLACK
        x0, y0, x1, y1 = rect[n, 0], rect[n, 1], rect[n, 2], rect[n, 3]
        big = (x1 - x0) * (y1 - y0) > 6
        half = _f(8 * (x1 - x0))
        for row in range(y0, y1):
            y = _f(row * TILE) - cy
            middle = _f(x0 * TILE) + half - cx
            if big and not _reaches(
                mip, rec, n, middle, y + _f(8.0), half, _TILE_REACH, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high
            ):
                continue
            for column in range(x0, x1):
                x = _f(column * TILE) - cx
                if big and not _reaches(
                    mip,
                    rec,
                    n,
                    x + _f(8.0),
                    y + _f(8.0),
                    _TILE_REACH,
                    _TILE_REACH,
                    A,
                    B,
                    C,
                    D,
                    a,
                    b,
                    ox,
                    oy,
                    cut,
                    disc,
                    z_low,
                    z_high,
                ):
                    continue
                if mip is None:
                    mask = _block_mask(lanes, x, y, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high)
                else:
                    mask = _blurred_mask(
                        lanes, x, y, rec[n, 24], rec[n, 25], C, a, b, cut, rec[n, 19], rec[n, 23], z_low, z_high
                    )
                if mask:
                    if used == tiles.shape[0]:
                        tiles, masks = _grown(tiles), _grown(masks)
                    tiles[used], masks[used] = row * tiles_x + column, mask
                    used += 1
        counts[n] = used - before
    return tiles[:used].copy(), masks[:used].copy()


@kernel
def fill_tiles(ids, starts, tiles, masks, offsets, listed, listed_masks) -> None:
    """Counting sort of the entries into their tiles; within a tile they stay in depth order.

    listed[:, 0] is the surfel n, listed[:, 1] the entry's slot (where its gradient goes), starts[n] .. starts[n + 1]:
    slots lie in the order of the scene, so that the sums over them stream through memory.
    """
    offsets[:] = 0
    for e in range(tiles.shape[0]):
        offsets[tiles[e] + 1] += 1
    for t in range(offsets.shape[0] - 1):
        offsets[t + 1] += offsets[t]
    cursor = offsets[:-1].copy()
    e = 0
    for k in range(ids.shape[0]):
        n = ids[k]
        for slot in range(starts[n], starts[n + 1]):
            to = cursor[tiles[e]]
            cursor[tiles[e]] = to + 1
            listed[to, 0], listed[to, 1], listed_masks[to] = n, slot, masks[e]
            e += 1


@inlined
def _meet(x, y, A, B, C, D, a, b, w2, ox, oy, at_hit) -> tuple[Any, ...]:
    """Where the ray of pixel c + (x, y) meets a surfel (2DGS equations 8-11).

    Depth, falloff, whether the surfel wins over the low-pass disc, 1 / hit_2, s, t, s^2 + t^2, offset from the disc's
    centre.
    """
    inv = _ONE / (_ONE + a * x + b * y)
    s, t = (A * x + B * y) * inv, (C * x + D * y) * inv
    squared = s * s + t * t
    dx, dy = x - ox, y - oy
    disc = _TWO * (dx * dx + dy * dy)
    wins = squared <= disc
    z = w2 * (at_hit * inv + (_ONE - at_hit)) if wins else w2
    exponent = _HALF * (squared if wins else disc)
    e = (exponent if exponent < _MAX_EXPONENT else _MAX_EXPONENT) * _EIGHTH
    p = _ONE + e * (_E1 + e * (_E2 + e * (_E3 + e * (_E4 + e * _E5))))
    p = p * p
    p = p * p
    return z, p * p, wins, inv, s, t, squared, dx, dy


@inlined
def _meet_backward(d_exponent, d_z, z, wins, inv, s, t, squared, at_hit) -> tuple[Any, ...]:
    """Gradients of `_meet`: of hit_0, hit_1, hit_2, and of the offset from the disc's centre over that offset."""
    h0 = d_exponent * inv * s if wins else _ZERO
    h1 = d_exponent * inv * t if wins else _ZERO
    h2 = -inv * (d_exponent * squared + at_hit * d_z * z) if wins else _ZERO
    return h0, h1, h2, _ZERO if wins else -_TWO * d_exponent


@inlined
def _meet_filtered(x, y, A, B, D, a, b, f_1, f_x, f_y, f_r, kEE, kkEE) -> tuple[Any, ...]:
    """Where the ray of pixel c + (x, y) meets a surfel, through the filter (AA-2DGS; see the module).

    With Q = hit_2^6 |V|, so that the falloff need not wait for a division: falloff, exponent, 1 / Q, k f, hit_0, hit_1,
    hit_0^2 + hit_1^2, hit_2, its square, x^2 + y^2.
    """
    n = _ONE + a * x + b * y
    h0, h1 = A * x + B * y, D * y
    r = x * x + y * y
    n2 = n * n
    f = f_1 + f_x * x + f_y * y + f_r * r
    Q = n2 * (n2 * n2 + f) + kkEE
    Q = Q if Q < _MOST_Q else _MOST_Q
    half, root = _HALF * Q, _rsqrt_guess(Q)
    root = root * (_R1 - half * root * root)
    root = root * (_R2 - half * root * root)
    shrink, square = root * root, h0 * h0 + h1 * h1
    exponent = _HALF * n2 * shrink * (n2 * square + kEE * r)
    exponent = exponent if exponent < _MAX_EXPONENT else _MAX_EXPONENT
    e = exponent * _EIGHTH
    p = _ONE + e * (_E1 + e * (_E2 + e * (_E3 + e * (_E4 + e * _E5))))
    p = p * p
    p = p * p
    thin = abs(n) * n2 * root
    # where Q was cut, the exponent is at its own limit, and so no pair is a hit
    p = p * p * (thin if thin < _ONE else _ONE)
    return p, exponent, shrink, f, h0, h1, square, n, n2, r


@vector_helper
def _shade_filtered(S, block, rec, n, x0, y0, near, at_hit, k) -> int:
    """`_shade` with the filter of variance k."""
    _wide()
    first = (block & 15) * 16
    bx, by = x0 + _f(4 * (block & 3)) - rec[n, 0], y0 + _f(4 * (block >> 2)) - rec[n, 1]
    A, B, D, a, b = rec[n, 2], rec[n, 3], rec[n, 5], rec[n, 6], rec[n, 7]
    w2, opacity, key = rec[n, 8], rec[n, 9], _f(n)
    f_1, f_x, f_y, f_r, kEE, kkEE = rec[n, 10], rec[n, 11], rec[n, 20], rec[n, 21], rec[n, 22], rec[n, 26]
    red, green, blue, nx, ny, nz = rec[n, 12], rec[n, 13], rec[n, 14], rec[n, 15], rec[n, 16], rec[n, 17]
    lanes = _ZERO
    for l in range(16):
        i = first + l
        x, y = bx + S[_LX + l], by + S[_LY + l]
        met = _meet_filtered(x, y, A, B, D, a, b, f_1, f_x, f_y, f_r, kEE, kkEE)
        alpha = opacity * met[0]
        alpha = alpha if alpha < _MAX_ALPHA else _MAX_ALPHA
        z = w2 * (at_hit / met[7] + (_ONE - at_hit))
        T = S[_T + i]
        after = T * (_ONE - alpha)
        hit = (alpha >= _MIN_ALPHA) & (z >= near)
        # elsewhere it may be infinite
        z = z if hit else w2
        go = hit & (after > _MIN_TRANSMITTANCE)
        w = alpha * T if go else _ZERO
        S[_CR + i] += w * red
        S[_CG + i] += w * green
        S[_CB + i] += w * blue
        S[_NX + i] += w * nx
        S[_NY + i] += w * ny
        S[_NZ + i] += w * nz
        sum_z = S[_Z + i]
        S[_DI + i] += _TWO * w * (z * (_ONE - T) - sum_z)
        S[_Z + i] = sum_z + w * z
        median = go & (T > _HALF)
        last_z, last_id = S[_ME + i], S[_MI + i]
        S[_ME + i] = z if median else last_z
        S[_MI + i] = key if median else last_id
        T = after if go else (-abs(T) if hit else T)
        S[_T + i] = T
        lanes += (_ONE if T > _ZERO else _ZERO) + (_HIT if hit else _ZERO)
    return int(lanes)


@vector_helper
def _shade(S, block, rec, n, x0, y0, near, at_hit) -> int:
    """Blend surfel n into a block of the tile with corner (x0, y0); pixels still open plus 32 times those it hit.

    Colour and normal as in 2DGS equation 12, distortion as in equation 13.
    """
    _wide()
    first = (block & 15) * 16
    bx, by = x0 + _f(4 * (block & 3)) - rec[n, 0], y0 + _f(4 * (block >> 2)) - rec[n, 1]
    A, B, C, D, a, b = rec[n, 2], rec[n, 3], rec[n, 4], rec[n, 5], rec[n, 6], rec[n, 7]
    w2, opacity, ox, oy, key = rec[n, 8], rec[n, 9], rec[n, 10], rec[n, 11], _f(n)
    red, green, blue, nx, ny, nz = rec[n, 12], rec[n, 13], rec[n, 14], rec[n, 15], rec[n, 16], rec[n, 17]
    lanes = _ZERO
    for l in range(16):
        i = first + l
        x, y = bx + S[_LX + l], by + S[_LY + l]
        met = _meet(x, y, A, B, C, D, a, b, w2, ox, oy, at_hit)
        z = met[0]
        alpha = opacity * met[1]
        alpha = alpha if alpha < _MAX_ALPHA else _MAX_ALPHA
        T = S[_T + i]
        after = T * (_ONE - alpha)
        hit = (alpha >= _MIN_ALPHA) & (z >= near)
        go = hit & (after > _MIN_TRANSMITTANCE)
        w = alpha * T if go else _ZERO
        S[_CR + i] += w * red
        S[_CG + i] += w * green
        S[_CB + i] += w * blue
        S[_NX + i] += w * nx
        S[_NY + i] += w * ny
        S[_NZ + i] += w * nz
        sum_z = S[_Z + i]
        S[_DI + i] += _TWO * w * (z * (_ONE - T) - sum_z)
        S[_Z + i] = sum_z + w * z
        median = go & (T > _HALF)
        last_z, last_id = S[_ME + i], S[_MI + i]
        S[_ME + i] = z if median else last_z
        S[_MI + i] = key if median else last_id
        # a closed pixel keeps its transmittance with the sign flipped, so that nothing passes the test above again
        T = after if go else (-abs(T) if hit else T)
        S[_T + i] = T
        lanes += (_ONE if T > _ZERO else _ZERO) + (_HIT if hit else _ZERO)
    return int(lanes)


@kernel
def _start_tile(S, lanes_x, lanes_y, tile, size) -> tuple[int, int, int]:
    """Transmittance 1 for the tile's pixels inside the image, closed outside; bits of the blocks with open pixels."""
    width, height, tiles_x, _ = size
    x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
    live = 0
    for b in range(16):
        for l in range(16):
            inside = x0 + 4 * (b & 3) + (l & 3) < width and y0 + 4 * (b >> 2) + (l >> 2) < height
            S[_T + 16 * b + l] = _ONE if inside else -_ONE
            if inside:
                live |= 1 << b
    for l in range(16):
        S[lanes_x + l], S[lanes_y + l] = _f(l & 3) + _HALF, _f(l >> 2) + _HALF
    return x0, y0, live


@kernel
def _write_tile(S, x0, y0, size, background, images) -> None:
    width, height = size[0], size[1]
    rgb, alpha, depth, median, normals, distortion, median_id = images
    red, green, blue = background[0], background[1], background[2]
    for y in range(y0, min(y0 + TILE, height)):
        for x in range(x0, min(x0 + TILE, width)):
            p = y * width + x
            i = 16 * ((y - y0 & 12) + (x - x0 >> 2)) + 4 * (y & 3) + (x & 3)
            T = abs(S[_T + i])
            rgb[p, 0] = S[_CR + i] + T * red
            rgb[p, 1] = S[_CG + i] + T * green
            rgb[p, 2] = S[_CB + i] + T * blue
            normals[p, 0], normals[p, 1], normals[p, 2] = S[_NX + i], S[_NY + i], S[_NZ + i]
            alpha[p] = _ONE - T
            depth[p] = S[_Z + i] / max(_ONE - T, _MIN_COVERAGE)
            median[p], distortion[p], median_id[p] = S[_ME + i], S[_DI + i], S[_MI + i]


@kernel
def forward(counter, batch, size, offsets, listed, masks, rec, near, at_hit, background, images, mip) -> None:
    """Blend tiles, `batch` at a time, until the shared counter runs out.

    The masks shrink to the blocks with a pixel that the surfel hits: backward need not look at the others again.
    """
    _wide()
    S = np.zeros(_FORWARD_SCRATCH, np.float32)
    tile_count = offsets.shape[0] - 1
    while True:
        first = _fetch_add(counter, batch)
        if first >= tile_count:
            return
        for tile in range(first, min(first + batch, tile_count)):
            for i in range(_P, _MI):
                S[i] = _ZERO
            for i in range(_MI, _MI + _P):
                S[i] = -_ONE
            x0, y0, live = _start_tile(S, _LX, _LY, tile, size)
            x, y = _f(x0), _f(y0)
            for k in range(offsets[tile], offsets[tile + 1]):
                bits = masks[k] & live
                n, hit = listed[k, 0], 0
                while bits:
                    b = _lowest_bit(bits)
                    bits &= bits - 1
                    if mip is None:
                        lanes = _shade(S, b, rec, n, x, y, near, at_hit)
                    else:
                        lanes = _shade_filtered(S, b, rec, n, x, y, near, at_hit, mip)
                    if lanes & 31 == 0:
                        live &= ~(1 << b)
                    if lanes > 31:
                        hit |= 1 << b
                masks[k] = hit
                if live == 0:
                    break
            _write_tile(S, x0, y0, size, background, images)


@kernel
def count_pairs(size, offsets, listed, masks, rec, near, at_hit, mip) -> int:
    """Surfel-pixel pairs that contribute to an image: the unit in which renderings can be compared for work."""
    S = np.zeros(_FORWARD_SCRATCH, np.float32)
    before = np.empty(16, np.float32)
    pairs = 0
    for tile in range(offsets.shape[0] - 1):
        x0, y0, live = _start_tile(S, _LX, _LY, tile, size)
        for k in range(offsets[tile], offsets[tile + 1]):
            bits = masks[k] & live
            while bits:
                b = _lowest_bit(bits)
                bits &= bits - 1
                before[:] = S[_T + 16 * b : _T + 16 * b + 16]
                if mip is None:
                    _shade(S, b, rec, listed[k, 0], _f(x0), _f(y0), near, at_hit)
                else:
                    _shade_filtered(S, b, rec, listed[k, 0], _f(x0), _f(y0), near, at_hit, mip)
                for l in range(16):
                    # a pixel that closes does so without the pair
                    pairs += S[_T + 16 * b + l] > _ZERO and S[_T + 16 * b + l] < before[l]
    return int(pairs)


@vector_helper
def _shade_backward(S, block, rec, n, x0, y0, near, at_hit) -> np.floating:
    """Repeat `_shade` and add the gradients of surfel n, per lane, to the accumulators."""
    _wide()
    first = (block & 15) * 16
    bx, by = x0 + _f(4 * (block & 3)) - rec[n, 0], y0 + _f(4 * (block >> 2)) - rec[n, 1]
    A, B, C, D, a, b = rec[n, 2], rec[n, 3], rec[n, 4], rec[n, 5], rec[n, 6], rec[n, 7]
    w2, opacity, ox, oy, key = rec[n, 8], rec[n, 9], rec[n, 10], rec[n, 11], _f(n)
    red, green, blue, nx, ny, nz = rec[n, 12], rec[n, 13], rec[n, 14], rec[n, 15], rec[n, 16], rec[n, 17]
    open_lanes = _ZERO
    for l in range(16):
        i = first + l
        x, y = bx + S[_BX + l], by + S[_BY + l]
        z, p, wins, inv, s, t, squared, dx, dy = _meet(x, y, A, B, C, D, a, b, w2, ox, oy, at_hit)
        raw = opacity * p
        alpha = raw if raw < _MAX_ALPHA else _MAX_ALPHA
        T = S[_T + i]
        keep = _ONE - alpha
        after = T * keep
        hit = (alpha >= _MIN_ALPHA) & (z >= near)
        go = hit & (after > _MIN_TRANSMITTANCE)
        w = alpha * T if go else _ZERO
        T_next = after if go else (-abs(T) if hit else T)
        S[_T + i] = T_next
        open_lanes += _ONE if T_next > _ZERO else _ZERO
        covered, sum_z = _ONE - T, S[_ZA + i]
        S[_ZA + i] = sum_z + w * z
        vr, vg, vb, vx, vy, vzn = S[_VR + i], S[_VG + i], S[_VB + i], S[_VX + i], S[_VY + i], S[_VZN + i]
        vz, vd, total_a, vm = S[_VZ + i], S[_VD + i], S[_AT + i], S[_VM + i]
        q = red * vr + green * vg + blue * vb + nx * vx + ny * vy + nz * vzn + z * vz + S[_VA + i]
        q += _TWO * vd * (_TWO * (z * covered - sum_z) + S[_ZT + i] - z * total_a)
        running = S[_Q + i] + q * w
        S[_Q + i] = running
        d_alpha = q * T - (S[_QT + i] - running) / keep
        d_alpha = d_alpha if go & (raw <= _MAX_ALPHA) else _ZERO
        d_exponent = -d_alpha * alpha
        d_z = w * (vz + _TWO * vd * (_TWO * covered + w - total_a))
        d_z += vm if S[_MID + i] == key else _ZERO
        h0, h1, h2, d_disc = _meet_backward(d_exponent, d_z, z, wins, inv, s, t, squared, at_hit)
        S[_ACC + l] += h0 * x
        S[_ACC + 16 + l] += h0 * y
        S[_ACC + 32 + l] += h0
        S[_ACC + 48 + l] += h1 * x
        S[_ACC + 64 + l] += h1 * y
        S[_ACC + 80 + l] += h1
        S[_ACC + 96 + l] += h2 * x
        S[_ACC + 112 + l] += h2 * y
        S[_ACC + 128 + l] += h2
        S[_ACC + 144 + l] += d_alpha * p
        S[_ACC + 160 + l] += d_disc * dx
        S[_ACC + 176 + l] += d_disc * dy
        S[_ACC + 192 + l] += w * vr
        S[_ACC + 208 + l] += w * vg
        S[_ACC + 224 + l] += w * vb
        S[_ACC + 240 + l] += w * vx
        S[_ACC + 256 + l] += w * vy
        S[_ACC + 272 + l] += w * vzn
        S[_ACC + 288 + l] += (_ONE - at_hit) * d_z if wins else d_z
    return open_lanes


@vector_helper
def _shade_filtered_backward(S, block, rec, n, x0, y0, near, at_hit, k) -> np.floating:
    """`_shade_backward` with the filter of variance k."""
    _wide()
    first = (block & 15) * 16
    bx, by = x0 + _f(4 * (block & 3)) - rec[n, 0], y0 + _f(4 * (block >> 2)) - rec[n, 1]
    A, B, D, a, b = rec[n, 2], rec[n, 3], rec[n, 5], rec[n, 6], rec[n, 7]
    w2, opacity, key = rec[n, 8], rec[n, 9], _f(n)
    f_1, f_x, f_y, f_r, kEE, kkEE = rec[n, 10], rec[n, 11], rec[n, 20], rec[n, 21], rec[n, 22], rec[n, 26]
    red, green, blue, nx, ny, nz = rec[n, 12], rec[n, 13], rec[n, 14], rec[n, 15], rec[n, 16], rec[n, 17]
    twice_f_r, twice_k, six = _TWO * f_r, _TWO * k, _THREE + _THREE
    open_lanes = _ZERO
    for l in range(16):
        i = first + l
        x, y = bx + S[_BX + l], by + S[_BY + l]
        p, exponent, shrink, f, h0, h1, square, hit_2, n2, r = _meet_filtered(
            x, y, A, B, D, a, b, f_1, f_x, f_y, f_r, kEE, kkEE
        )
        inv = _ONE / hit_2
        raw = opacity * p
        alpha = raw if raw < _MAX_ALPHA else _MAX_ALPHA
        z = w2 * (at_hit * inv + (_ONE - at_hit))
        T = S[_T + i]
        keep = _ONE - alpha
        after = T * keep
        hit = (alpha >= _MIN_ALPHA) & (z >= near)
        z, inv = (z if hit else w2), (inv if hit else _ZERO)
        go = hit & (after > _MIN_TRANSMITTANCE)
        w = alpha * T if go else _ZERO
        T_next = after if go else (-abs(T) if hit else T)
        S[_T + i] = T_next
        open_lanes += _ONE if T_next > _ZERO else _ZERO
        covered, sum_z = _ONE - T, S[_ZA + i]
        S[_ZA + i] = sum_z + w * z
        vr, vg, vb, vx, vy, vzn = S[_VR + i], S[_VG + i], S[_VB + i], S[_VX + i], S[_VY + i], S[_VZN + i]
        vz, vd, total_a, vm = S[_VZ + i], S[_VD + i], S[_AT + i], S[_VM + i]
        q = red * vr + green * vg + blue * vb + nx * vx + ny * vy + nz * vzn + z * vz + S[_VA + i]
        q += _TWO * vd * (_TWO * (z * covered - sum_z) + S[_ZT + i] - z * total_a)
        running = S[_Q + i] + q * w
        S[_Q + i] = running
        d_alpha = q * T - (S[_QT + i] - running) / keep
        d_alpha = d_alpha if go & (raw <= _MAX_ALPHA) else _ZERO
        d_exponent = -d_alpha * alpha
        d_z = w * (vz + _TWO * vd * (_TWO * covered + w - total_a))
        d_z += vm if S[_MID + i] == key else _ZERO
        # alpha goes with |hit_2|^3 Q^-1/2 exp(-exponent), the exponent with hit_2^2 / Q (hit_2^2 square + k E^2 r)
        d_over = d_exponent * shrink
        d_Q = d_over * (_HALF - exponent)
        d_f, d_r = d_Q * n2, d_over * n2
        d_square = d_r * n2
        h0, h1 = d_square * h0, d_square * h1
        d_hit = hit_2 * (d_r * square + d_Q * (six * (n2 * n2) + _TWO * f))
        d_hit += inv * (d_exponent * (_TWO * exponent - _THREE) - at_hit * d_z * z)
        turn = kEE * d_r + twice_f_r * d_f
        S[_ACC + l] += h0 * x
        S[_ACC + 16 + l] += h0 * y
        S[_ACC + 32 + l] += h1 * y
        S[_ACC + 48 + l] += d_hit * x
        S[_ACC + 64 + l] += d_hit * y
        S[_ACC + 80 + l] += d_f
        S[_ACC + 96 + l] += d_f * x
        S[_ACC + 112 + l] += d_f * y
        S[_ACC + 128 + l] += d_f * r
        S[_ACC + 144 + l] += d_alpha * p
        S[_ACC + 160 + l] += A * h0 + a * d_hit + f_x * d_f + turn * x
        S[_ACC + 176 + l] += B * h0 + D * h1 + b * d_hit + f_y * d_f + turn * y
        S[_ACC + 192 + l] += w * vr
        S[_ACC + 208 + l] += w * vg
        S[_ACC + 224 + l] += w * vb
        S[_ACC + 240 + l] += w * vx
        S[_ACC + 256 + l] += w * vy
        S[_ACC + 272 + l] += w * vzn
        S[_ACC + 288 + l] += d_z * z
        S[_ACC + 304 + l] += d_r * r + twice_k * d_Q
    return open_lanes


@kernel
def _read_tile(S, x0, y0, size, background, images, cotangents) -> None:
    """Upstream gradients and the forward totals of a tile's pixels; sum_k w_k dL/dw_k from the images alone."""
    width, height = size[0], size[1]
    rgb, alpha, depth, _, normals, distortion, median_id = images
    v_rgb, v_alpha, v_depth, v_median, v_normals, v_distortion = cotangents
    for b in range(16):
        for l in range(16):
            x, y = x0 + 4 * (b & 3) + (l & 3), y0 + 4 * (b >> 2) + (l >> 2)
            if x < width and y < height:
                i, p = 16 * b + l, y * width + x
                total = alpha[p]
                covered = max(total, _MIN_COVERAGE)
                vz, sum_z = v_depth[p] / covered, depth[p] * covered
                vr, vg, vb = v_rgb[p, 0], v_rgb[p, 1], v_rgb[p, 2]
                va = v_alpha[p] - (background[0] * vr + background[1] * vg + background[2] * vb)
                if total > _MIN_COVERAGE:
                    va -= vz * depth[p]
                S[_VR + i], S[_VG + i], S[_VB + i] = vr, vg, vb
                S[_VX + i], S[_VY + i], S[_VZN + i] = v_normals[p, 0], v_normals[p, 1], v_normals[p, 2]
                S[_VZ + i], S[_VA + i], S[_VD + i], S[_VM + i] = vz, va, v_distortion[p], v_median[p]
                S[_AT + i], S[_ZT + i], S[_MID + i] = total, sum_z, median_id[p]
                behind = _ONE - total
                q = (rgb[p, 0] - behind * background[0]) * vr + (rgb[p, 1] - behind * background[1]) * vg
                q += (rgb[p, 2] - behind * background[2]) * vb + normals[p, 0] * v_normals[p, 0]
                q += normals[p, 1] * v_normals[p, 1] + normals[p, 2] * v_normals[p, 2]
                S[_QT + i] = q + sum_z * vz + total * va + _TWO * distortion[p] * v_distortion[p]


@vector_helper
def _fold(S, slots, slot, mip) -> None:
    """Sum the accumulators over lanes into the entry's slot."""
    _wide()
    count = SLOT if mip is None else MIP_SLOT
    for k in range(count):
        total = _ZERO
        for l in range(16):
            total += S[_ACC + 16 * k + l]
        # not into `slots` itself, which could overlap with S as far as the compiler knows
        S[_SUM + k] = total
    for k in range(count):
        slots[slot, k] = S[_SUM + k]


@kernel
def backward(
    counter, batch, size, offsets, listed, masks, rec, near, at_hit, background, images, cotangents, slots, mip
) -> None:
    """Gradients of all entries of the tiles, `batch` at a time, each into its own slot."""
    _wide()
    S = np.zeros(_BACKWARD_SCRATCH, np.float32)
    tile_count = offsets.shape[0] - 1
    while True:
        first = _fetch_add(counter, batch)
        if first >= tile_count:
            return
        for tile in range(first, min(first + batch, tile_count)):
            S[:] = _ZERO
            x0, y0, live = _start_tile(S, _BX, _BY, tile, size)
            x, y = _f(x0), _f(y0)
            _read_tile(S, x0, y0, size, background, images, cotangents)
            for k in range(offsets[tile], offsets[tile + 1]):
                bits = masks[k] & live
                n, slot = listed[k, 0], listed[k, 1]
                if bits == 0:
                    slots[slot] = _ZERO
                    continue
                S[_ACC : _ACC + 16 * (SLOT if mip is None else MIP_SLOT)] = _ZERO
                while bits:
                    b = _lowest_bit(bits)
                    bits &= bits - 1
                    if mip is None:
                        still_open = _shade_backward(S, b, rec, n, x, y, near, at_hit)
                    else:
                        still_open = _shade_filtered_backward(S, b, rec, n, x, y, near, at_hit, mip)
                    if still_open == _ZERO:
                        live &= ~(1 << b)
                _fold(S, slots, slot, mip)


@kernel
def _filtered_homography_backward(
    k, m, h, cx, cy, g
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float, float]:
    """`_homography_backward` for the sums of `_shade_filtered_backward`."""
    u0, u1, _, v0, v1, _, w0, w1, w2 = m
    A, B, C, D, a, b = h
    first, second, third, E = _upright(h)
    e, f = first * b - second * a, -third * a
    # k times the quadratic f of the module, of A B 0 D a b and these two
    d_e = 2.0 * k * (first * g[7] - second * g[6] + e * g[8])
    d_f = 2.0 * k * (f * g[8] - third * g[6])
    d_first = g[0] + 2.0 * k * (first * g[5] + e * g[7]) + b * d_e
    d_second = g[1] + 2.0 * k * (second * g[5] - e * g[6]) - a * d_e
    d_third = g[2] + 2.0 * k * (third * g[5] - f * g[6]) - a * d_f
    da, db = g[3] - second * d_e - third * d_f, g[4] + first * d_e
    # before (s, t) were turned
    d_E = k * E * g[19] + d_third / first
    along, across = (d_first - (second * d_second + third * d_third) / first) / first, d_second / first
    dA, dB = A * along + B * across + D * d_E, A * across - C * d_E
    dC, dD = C * along + D * across - B * d_E, C * across + A * d_E
    # `_hit_coefficients` backwards
    a0, a1, b0, b1 = cx * w0 - u0, cx * w1 - u1, cy * w0 - v0, cy * w1 - v1
    inv = 1.0 / (a0 * b1 - a1 * b0)
    d = w2 * inv
    d_d = b0 * dC - b1 * dA + a1 * dB - a0 * dD
    d_det = -inv * (a * da + b * db + d * d_d)
    d_a0, d_a1 = w1 * inv * db - d * dD + b1 * d_det, d * dB - w0 * inv * db - b0 * d_det
    d_b0, d_b1 = d * dC - w1 * inv * da - a1 * d_det, w0 * inv * da - d * dA + a0 * d_det
    d_cx, d_cy = w0 * d_a0 + w1 * d_a1 - g[10], w0 * d_b0 + w1 * d_b1 - g[11]
    d_w0 = inv * (b1 * da - a1 * db) + cx * d_a0 + cy * d_b0
    d_w1 = inv * (a0 * db - b0 * da) + cx * d_a1 + cy * d_b1
    d_w2 = inv * d_d + (g[18] - cx * d_cx - cy * d_cy) / w2
    d_u2, d_v2 = d_cx / w2, d_cy / w2
    return (-d_a0, -d_a1, d_u2), (-d_b0, -d_b1, d_v2), (d_w0, d_w1, d_w2), d_u2, d_v2


@kernel
def _raster_backward(
    mip, m, h, cx, cy, g
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float, float]:
    if mip is None:
        return _homography_backward(m, h, cx, cy, g)
    return _filtered_homography_backward(mip, m, h, cx, cy, g)


@kernel
def _homography_backward(
    m, h, cx, cy, g
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float, float]:
    """Sums g[0:19] of a surfel -> gradient of its homography, rows u, v, w; the raster stage's dL/dM02 and dL/dM12."""
    A, B, C, D, a, b = h
    f = -1.0 / m[8]
    # relative to the centre: dM' = -inv(M')^T dL/dinv(M') inv(M')^T, with inv(M') = (A B 0, C D 0, a b 1) / M22
    x0, x1, x2 = A * g[0] + C * g[3] + a * g[6], A * g[1] + C * g[4] + a * g[7], A * g[2] + C * g[5] + a * g[8]
    y0, y1, y2 = B * g[0] + D * g[3] + b * g[6], B * g[1] + D * g[4] + b * g[7], B * g[2] + D * g[5] + b * g[8]
    u0, u1, u2 = f * (x0 * A + x1 * B), f * (x0 * C + x1 * D), f * (x0 * a + x1 * b + x2)
    v0, v1, v2 = f * (y0 * A + y1 * B), f * (y0 * C + y1 * D), f * (y0 * a + y1 * b + y2)
    w0 = f * (g[6] * A + g[7] * B) - cx * u0 - cy * v0
    w1 = f * (g[6] * C + g[7] * D) - cx * u1 - cy * v1
    w2 = f * (g[6] * a + g[7] * b + g[8]) - cx * u2 - cy * v2 + g[18]
    raster_u, raster_v = u2, v2
    # the low-pass disc sits at the centre of the one-sigma box
    f = 1.0 / (m[6] * m[6] + m[7] * m[7] - m[8] * m[8])
    mx, my = f * (m[0] * m[6] + m[1] * m[7] - m[2] * m[8]), f * (m[3] * m[6] + m[4] * m[7] - m[5] * m[8])
    gx, gy = f * g[10], f * g[11]
    u0, u1, u2 = u0 + gx * m[6], u1 + gx * m[7], u2 - gx * m[8]
    v0, v1, v2 = v0 + gy * m[6], v1 + gy * m[7], v2 - gy * m[8]
    w0 += gx * (m[0] - 2.0 * mx * m[6]) + gy * (m[3] - 2.0 * my * m[6])
    w1 += gx * (m[1] - 2.0 * mx * m[7]) + gy * (m[4] - 2.0 * my * m[7])
    w2 -= gx * (m[2] - 2.0 * mx * m[8]) + gy * (m[5] - 2.0 * my * m[8])
    return (u0, u1, u2), (v0, v1, v2), (w0, w1, w2), raster_u, raster_v


@inlined
def _color_backward(n, means, dc, rest, view, degree, g, b, sums, d_means, d_dc, d_rest, d_view) -> None:
    """Gradient of the colour to features, mean (through the view direction) and pose."""
    if degree < 0:
        for c in range(3):
            d_dc[n, c] += g[12 + c]
        return
    red, green, blue = _color(means, dc, rest, n, view, degree, b)
    v0 = g[12] if red >= 0.0 else 0.0
    v1 = g[13] if green >= 0.0 else 0.0
    v2 = g[14] if blue >= 0.0 else 0.0
    d_dc[n, 0] += _C0 * v0
    d_dc[n, 1] += _C0 * v1
    d_dc[n, 2] += _C0 * v2
    if degree == 0:
        return
    for k in range(1, (degree + 1) * (degree + 1)):
        sums[k] = v0 * rest[n, k - 1, 0] + v1 * rest[n, k - 1, 1] + v2 * rest[n, k - 1, 2]
    if d_rest.shape[0]:
        for k in range(1, (degree + 1) * (degree + 1)):
            d_rest[n, k - 1, 0] += b[k] * v0
            d_rest[n, k - 1, 1] += b[k] * v1
            d_rest[n, k - 1, 2] += b[k] * v2
    x, y, z, distance = _view_direction(means, n, view)
    dx, dy, dz = _basis_backward(x, y, z, degree, sums)
    along = dx * x + dy * y + dz * z
    moved = ((dx - along * x) / distance, (dy - along * y) / distance, (dz - along * z) / distance)
    turned = _turn(view, moved[0], moved[1], moved[2])
    for c in range(3):
        d_means[n, c] += moved[c]
        # the camera centre is -R^T t
        d_view[4 * c + 3] += turned[c]
        for j in range(3):
            d_view[4 * c + j] += view[4 * c + 3] * moved[j]


@inlined
def _pose_backward(mip, n, means, quats, scales, view, K, g, d_means, d_quats, d_scales, d_view) -> tuple[float, float]:
    """Gradients of homography and normal (g[15:18]) to mean, scales, rotation and pose; the raster stage's M02, M12."""
    fx, fy, cx, cy = K
    x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
    s, t = float(scales[n, 0]), float(scales[n, 1])
    r, inverse_norm = _rotation(quats, n)
    qu, qv, qn = (r[0], r[3], r[6]), (r[1], r[4], r[7]), (r[2], r[5], r[8])
    axis_u, axis_v, normal = (
        _turn(view, qu[0], qu[1], qu[2]),
        _turn(view, qv[0], qv[1], qv[2]),
        _turn(view, qn[0], qn[1], qn[2]),
    )
    at, turned = (x, y, z), _turn(view, x, y, z)
    mean = (turned[0] + view[3], turned[1] + view[7], turned[2] + view[11])
    m = _homography(mean, axis_u, axis_v, s, t, K)
    h, px, py = _hit_coefficients(m)
    u, v, w, raster_u, raster_v = _raster_backward(mip, m, h, px, py, g)
    du = (fx * u[0], fy * v[0], w[0] + cx * u[0] + cy * v[0])
    dv = (fx * u[1], fy * v[1], w[1] + cx * u[1] + cy * v[1])
    dm = (fx * u[2], fy * v[2], w[2] + cx * u[2] + cy * v[2])
    back = _turn_back(view, dm[0], dm[1], dm[2])
    for c in range(3):
        d_means[n, c] += back[c]
        d_view[4 * c + 3] += dm[c]
    d_scales[n, 0] += du[0] * axis_u[0] + du[1] * axis_u[1] + du[2] * axis_u[2]
    d_scales[n, 1] += dv[0] * axis_v[0] + dv[1] * axis_v[1] + dv[2] * axis_v[2]
    facing = -1.0 if normal[0] * mean[0] + normal[1] * mean[1] + normal[2] * mean[2] > 0.0 else 1.0
    v_normal = (facing * g[15], facing * g[16], facing * g[17])
    dn = _turn(view, v_normal[0], v_normal[1], v_normal[2])
    du, dv = (s * du[0], s * du[1], s * du[2]), (t * dv[0], t * dv[1], t * dv[2])
    # what the rotation turned, times the gradient of where it went; the normal is turned there and back
    for i in range(3):
        for j in range(3):
            d_view[4 * i + j] += dm[i] * at[j] + du[i] * qu[j] + dv[i] * qv[j] + dn[i] * qn[j] + normal[i] * v_normal[j]
    back_u, back_v = _turn_back(view, du[0], du[1], du[2]), _turn_back(view, dv[0], dv[1], dv[2])
    back_n = _turn_back(view, dn[0], dn[1], dn[2])
    _rotation_backward(quats, n, inverse_norm, back_u, back_v, back_n, d_quats)
    return raster_u * m[8], raster_v * m[8]


@kernel
def unproject(counter, block, starts, slots, scene, view, K, degree, out, pose_sums, mip) -> None:
    """Slots -> gradients of the surfels (out: means, quats, scales, opacities, dc, rest, gradient_2dgs).

    Works through the surfels `block` at a time; surfel n has slots starts[n] .. starts[n + 1]. The pose gradient of
    block k goes to pose_sums[k]: adding the blocks in order gives the same bits for any number of threads.
    """
    means, quats, scales, _, dc, rest = scene
    d_means, d_quats, d_scales, d_opacities, d_dc, d_rest, gradient_2dgs = out
    count = slots.shape[1]
    g, b, sums, d_view = np.zeros(count), np.empty(16), np.empty(16), np.empty(12)
    while True:
        first = _fetch_add(counter, block)
        if first >= means.shape[0]:
            return
        for j in range(12):
            d_view[j] = 0.0
        for n in range(first, min(first + block, means.shape[0])):
            begin, end = starts[n], starts[n + 1]
            if begin == end:
                continue
            for j in range(count):
                g[j] = slots[begin, j]
            for e in range(begin + 1, end):
                for j in range(count):
                    g[j] += slots[e, j]
            d_opacities[n] += g[9]
            _color_backward(n, means, dc, rest, view, degree, g, b, sums, d_means, d_dc, d_rest, d_view)
            gradient_2dgs[n, 0], gradient_2dgs[n, 1] = _pose_backward(
                mip, n, means, quats, scales, view, K, g, d_means, d_quats, d_scales, d_view
            )
        for j in range(12):
            pose_sums[first // block, j] = d_view[j]
