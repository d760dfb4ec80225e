"""Compiled kernels of the CPU rasteriser: projection, tile lists, blending, and the gradients of each.

All kernels live in this one module because numba's on-disk cache watches only the file of the function it caches.

Algebra. With M the homography of a surfel (2DGS equation 5) and p = (px, py, 1), the tangent-plane hit is
(s, t, 1) / z = inv(M) p, where z is the hit's depth: three functions affine in the pixel. They are kept relative to the
projected centre c = (M02, M12) / M22 and times M22, which makes ``hit = (A x + B y, C x + D y, 1 + a x + b y)`` with
(x, y) = p - c: six numbers per surfel, s = hit_0 / hit_2, t = hit_1 / hit_2, z = M22 / hit_2. Float32 suffices for
pixels; everything per surfel is prepared in double precision.

Blending runs front to back in both directions. In backward all channels of a pair fold into one scalar
q = dL/dw; the sum over the pairs behind is the pixel's total (known from the images) minus the running sum.

Style. Pixels are 4x4 blocks of 16 lanes in a flat float32 scratch; the lane loops have constant trip count, constant
offsets, selects instead of branches and only + reductions, because that is what LLVM turns into vector code. A Python
float literal would silently promote such a loop to float64, hence the float32 constants. No kernel uses numba's
``parallel=True``, whose default layer aborts the process when two Python threads render at once.
"""

# ruff: noqa: E741
from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from genfusion_ns.rendering import spherical_harmonics as sh

TILE = 16
RECORD = 20
"""Floats per surfel: c (2), A B C D a b (6), M22, opacity, box centre - c (2), rgb (3), world normal (3), two cut-offs."""
SLOT = 19
"""Gradient sums per (tile, surfel) entry: hit x (x, y, 1) (9), opacity, box centre (2), rgb (3), normal (3), M22."""
_FAST = {"contract", "reassoc", "nsz", "arcp"}

_f = np.float32
_ZERO, _ONE, _TWO, _HALF = _f(0.0), _f(1.0), _f(2.0), _f(0.5)
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

# scratch planes of 256 floats, one float per pixel of a tile, block by block
_P = 256
_T, _CR, _CG, _CB, _NX, _NY, _NZ, _Z, _DI, _ME, _MI = (k * _P for k in range(11))
_LX, _LY = 11 * _P, 11 * _P + 16
_FORWARD_SCRATCH = 11 * _P + 32
_Q, _VR, _VG, _VB, _VX, _VY, _VZN, _VZ, _VA, _VD, _VM, _AT, _ZT, _QT = (k * _P for k in (1, *range(3, 16)))
_ZA, _MID = 2 * _P, 16 * _P
_ACC = 17 * _P
_BX, _BY = _ACC + SLOT * 16, _ACC + SLOT * 16 + 16
_BACKWARD_SCRATCH = _ACC + SLOT * 16 + 32

_C0, _C1 = sh.C0, sh.C1
_C2XY, _C2ZZ, _C2XX = sh.C2_XY, sh.C2_ZZ, sh.C2_XX
_C3XXX, _C3XYZ, _C3YZZ, _C3ZZZ, _C3ZXX = sh.C3_XXX, sh.C3_XYZ, sh.C3_YZZ, sh.C3_ZZZ, sh.C3_ZXX


@intrinsic
def _fetch_add(typingctx, array, amount):  # noqa: ANN001, ANN202
    """array[0] += amount, atomically; the value before."""
    signature = types.int64(array, types.int64)

    def codegen(context, builder, sig, args):  # noqa: ANN001, ANN202
        data = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "monotonic")

    return signature, codegen


@intrinsic
def _lowest_bit(typingctx, value):  # noqa: ANN001, ANN202
    """Index of the lowest set bit of a nonzero int64."""
    signature = types.int64(types.int64)

    def codegen(context, builder, sig, args):  # noqa: ANN001, ANN202
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return signature, codegen


_scalar = njit(nogil=True, cache=True, error_model="numpy", inline="always")
_call = njit(nogil=True, cache=True, error_model="numpy")
_vector = njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)


@_call
def _rotation(quats, n, out):
    """Rotation matrix of quaternion n into out[0:9], row-major; 1 / |q|."""
    w, x, y, z = float(quats[n, 0]), float(quats[n, 1]), float(quats[n, 2]), float(quats[n, 3])
    # the same floor as torch.nn.functional.normalize
    scale = 1.0 / max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w *= scale
    x *= scale
    y *= scale
    z *= scale
    out[0] = 1.0 - 2.0 * (y * y + z * z)
    out[1] = 2.0 * (x * y - w * z)
    out[2] = 2.0 * (x * z + w * y)
    out[3] = 2.0 * (x * y + w * z)
    out[4] = 1.0 - 2.0 * (x * x + z * z)
    out[5] = 2.0 * (y * z - w * x)
    out[6] = 2.0 * (x * z - w * y)
    out[7] = 2.0 * (y * z + w * x)
    out[8] = 1.0 - 2.0 * (x * x + y * y)
    return scale


@_call
def _rotation_backward(quats, n, scale, d, grad):
    """Gradient of a rotation matrix, d[0:9], to the unnormalised quaternion, into grad[n]."""
    w, x, y, z = quats[n, 0] * scale, quats[n, 1] * scale, quats[n, 2] * scale, quats[n, 3] * scale
    gw = 2.0 * (x * (d[7] - d[5]) + y * (d[2] - d[6]) + z * (d[3] - d[1]))
    gx = 2.0 * (-2.0 * x * (d[4] + d[8]) + y * (d[1] + d[3]) + z * (d[2] + d[6]) + w * (d[7] - d[5]))
    gy = 2.0 * (x * (d[1] + d[3]) - 2.0 * y * (d[0] + d[8]) + z * (d[5] + d[7]) + w * (d[2] - d[6]))
    gz = 2.0 * (x * (d[2] + d[6]) + y * (d[5] + d[7]) - 2.0 * z * (d[0] + d[4]) + w * (d[3] - d[1]))
    along = w * gw + x * gx + y * gy + z * gz
    grad[n, 0] += scale * (gw - along * w)
    grad[n, 1] += scale * (gx - along * x)
    grad[n, 2] += scale * (gy - along * y)
    grad[n, 3] += scale * (gz - along * z)


@_call
def _camera_frame(means, quats, scales, n, view, K, r, m):
    """Fill r[0:9] (rotation), r[9:18] (its columns in the camera frame, row-major), m[0:9] (homography), m[9:12] (mean).

    Returns 1 / |q|.
    """
    scale = _rotation(quats, n, r)
    x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
    for i in range(3):
        v0, v1, v2 = view[i, 0], view[i, 1], view[i, 2]
        m[9 + i] = v0 * x + v1 * y + v2 * z + view[i, 3]
        for j in range(3):
            r[9 + 3 * i + j] = v0 * r[j] + v1 * r[3 + j] + v2 * r[6 + j]
    s0, s1 = float(scales[n, 0]), float(scales[n, 1])
    for j in range(3):
        if j == 0:
            tx, ty, tz = s0 * r[9], s0 * r[12], s0 * r[15]
        elif j == 1:
            tx, ty, tz = s1 * r[10], s1 * r[13], s1 * r[16]
        else:
            tx, ty, tz = m[9], m[10], m[11]
        m[j] = K[0, 0] * tx + K[0, 2] * tz
        m[3 + j] = K[1, 1] * ty + K[1, 2] * tz
        m[6 + j] = tz
    return scale


@_call
def _hit_coefficients(m, h):
    """A B C D a b of the module docstring into h[0:6]; an edge-on surfel gets huge ones, so that its disc remains."""
    u0, u1, v0, v1 = m[0], m[1], m[3], m[4]
    w0, w1, w2 = m[6], m[7], m[8]
    cx, cy = m[2] / w2, m[5] / w2
    a0, a1, b0, b1 = cx * w0 - u0, cx * w1 - u1, cy * w0 - v0, cy * w1 - v1
    det = a0 * b1 - a1 * b0
    floor = 1e-12 * (a0 * a0 + a1 * a1 + b0 * b0 + b1 * b1) + 1e-30
    if abs(det) < floor:
        det = floor if det >= 0.0 else -floor
    inverse = 1.0 / det
    h[0], h[1] = -w2 * b1 * inverse, w2 * a1 * inverse
    h[2], h[3] = w2 * b0 * inverse, -w2 * a0 * inverse
    h[4], h[5] = (w0 * b1 - w1 * b0) * inverse, (a0 * w1 - a1 * w0) * inverse
    return cx, cy


@_call
def _level_box(m, level):
    """Box around the ellipse s^2 + t^2 = level: centre x y, half-extents x y, and whether it is finite."""
    w0, w1, w2 = m[6], m[7], m[8]
    d = level * (w0 * w0 + w1 * w1) - w2 * w2
    if d == 0.0:
        return 0.0, 0.0, 0.0, 0.0, False
    f, g = level / d, -1.0 / d
    x = f * (m[0] * w0 + m[1] * w1) + g * m[2] * w2
    y = f * (m[3] * w0 + m[4] * w1) + g * m[5] * w2
    hx = x * x - (f * (m[0] * m[0] + m[1] * m[1]) + g * m[2] * m[2])
    hy = y * y - (f * (m[3] * m[3] + m[4] * m[4]) + g * m[5] * m[5])
    return x, y, hx, hy, d < 0.0


@_call
def _tile_range(low, high, tiles):
    """Tiles from `low` to `high`, both in tiles, clamped to 0..tiles."""
    return int(min(max(math.floor(low), 0.0), float(tiles))), int(min(max(math.ceil(high), 0.0), float(tiles)))


@_call
def _tile_box(m, mx, my, radius, opacity, tiles_x, tiles_y, rect, n):
    """Tiles the surfel may touch: those of the 3-sigma square (part of the definition) that reach alpha = 1/255."""
    x0, x1 = _tile_range((mx - radius) / TILE, (mx + radius) / TILE, tiles_x)
    y0, y1 = _tile_range((my - radius) / TILE, (my + radius) / TILE, tiles_y)
    level = 2.0 * math.log(255.0 * opacity) + 1e-4
    cx, cy, hx, hy, finite = _level_box(m, level)
    if finite:
        disc = math.sqrt(0.5 * level) + 0.01
        ex, ey = math.sqrt(max(hx, 0.0)) + 0.01, math.sqrt(max(hy, 0.0)) + 0.01
        a, b = _tile_range(min(cx - ex, mx - disc) / TILE, max(cx + ex, mx + disc) / TILE, tiles_x)
        c, d = _tile_range(min(cy - ey, my - disc) / TILE, max(cy + ey, my + disc) / TILE, tiles_y)
        x0, x1, y0, y1 = max(x0, a), min(x1, b), max(y0, c), min(y1, d)
    rect[n, 0], rect[n, 1], rect[n, 2], rect[n, 3] = x0, y0, x1, y1
    return x1 > x0 and y1 > y0


@_call
def _basis(x, y, z, degree, b):
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


@_call
def _basis_backward(x, y, z, degree, g):
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


@_call
def _view_direction(means, n, view):
    """Unit direction from the camera centre -R^T t to mean n, and the distance."""
    x = means[n, 0] + view[0, 0] * view[0, 3] + view[1, 0] * view[1, 3] + view[2, 0] * view[2, 3]
    y = means[n, 1] + view[0, 1] * view[0, 3] + view[1, 1] * view[1, 3] + view[2, 1] * view[2, 3]
    z = means[n, 2] + view[0, 2] * view[0, 3] + view[1, 2] * view[1, 3] + view[2, 2] * view[2, 3]
    distance = max(math.sqrt(x * x + y * y + z * z), 1e-12)
    return x / distance, y / distance, z / distance, distance


@_call
def _color(means, dc, rest, n, view, degree, b, rgb):
    """Colour of surfel n into rgb[0:3]; degree -1 takes dc as it is."""
    if degree < 0:
        for c in range(3):
            rgb[c] = dc[n, c]
        return
    if degree > 0:
        x, y, z, _ = _view_direction(means, n, view)
        _basis(x, y, z, degree, b)
    r, g, bl = _C0 * dc[n, 0] + 0.5, _C0 * dc[n, 1] + 0.5, _C0 * dc[n, 2] + 0.5
    for k in range(1, (degree + 1) * (degree + 1)):
        r += b[k] * rest[n, k - 1, 0]
        g += b[k] * rest[n, k - 1, 1]
        bl += b[k] * rest[n, k - 1, 2]
    rgb[0], rgb[1], rgb[2] = r, g, bl


@_call
def _project_one(n, scene, view, K, size, limits, degree, work, rec, rect, radii):
    """Everything about surfel n that pixels need; whether it can show."""
    means, quats, scales, opacities, dc, rest = scene
    width, height, tiles_x, tiles_y = size
    r, m, h, b, rgb = work
    depth = view[2, 0] * means[n, 0] + view[2, 1] * means[n, 1] + view[2, 2] * means[n, 2] + view[2, 3]
    if not (depth >= limits[0] and depth <= limits[1]):
        return False
    _camera_frame(means, quats, scales, n, view, K, r, m)
    mx, my, hx, hy, _ = _level_box(m, 1.0)
    radius = math.ceil(3.0 * math.sqrt(max(1e-4, hx, hy)))
    if not (mx + radius > 0.0 and my + radius > 0.0 and mx - radius < width and my - radius < height):
        return False
    radii[n] = int(min(radius, 2147483519.0))
    opacity = float(opacities[n])
    if not opacity * 255.0 >= 1.0:
        return False
    if not _tile_box(m, mx, my, radius, opacity, tiles_x, tiles_y, rect, n):
        return False
    cx, cy = _hit_coefficients(m, h)
    _color(means, dc, rest, n, view, degree, b, rgb)
    rec[n, 0], rec[n, 1] = cx, cy
    for k in range(6):
        rec[n, 2 + k] = h[k]
    rec[n, 8], rec[n, 9], rec[n, 10], rec[n, 11] = m[8], opacity, mx - cx, my - cy
    facing = -1.0 if r[11] * m[9] + r[14] * m[10] + r[17] * m[11] > 0.0 else 1.0
    for c in range(3):
        rec[n, 12 + c] = max(rgb[c], 0.0) if degree >= 0 else rgb[c]
        rec[n, 15 + c] = facing * (view[0, c] * r[11] + view[1, c] * r[14] + view[2, c] * r[17])
    cut = math.log(255.0 * opacity) + 1e-5
    rec[n, 18], rec[n, 19] = 2.0 * cut, cut
    return True


@_call
def project(counter, block, scene, view, K, size, limits, degree, rec, rect, radii, visible):
    """Project all surfels, `block` at a time, until the shared counter runs out. visible[n] is set to 0 or 1."""
    work = (np.empty(18), np.empty(12), np.empty(6), np.empty(16), np.empty(3))
    count = scene[0].shape[0]
    while True:
        first = _fetch_add(counter, block)
        if first >= count:
            return
        for n in range(first, min(first + block, count)):
            radii[n] = 0
            visible[n] = _project_one(n, scene, view, K, size, limits, degree, work, rec, rect, radii)


@_call
def sort_by_depth(rec, visible):
    """Indices of the visible surfels, nearest first, ties by index: a three-pass radix sort of the float bits."""
    count = 0
    for n in range(visible.shape[0]):
        count += visible[n]
    ids, depths = np.empty(count, np.int32), np.empty(count, np.float32)
    k = 0
    for n in range(visible.shape[0]):
        if visible[n]:
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


@_scalar
def _may_touch(x, y, hx, hy, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high):
    """Whether any pixel within (x +- hx, y +- hy), relative to the centre, can reach alpha = 1/255 (interval bound)."""
    sx = max(abs(A * x + B * y) - (abs(A) * hx + abs(B) * hy), _ZERO)
    sy = max(abs(C * x + D * y) - (abs(C) * hx + abs(D) * hy), _ZERO)
    zz = _ONE + a * x + b * y
    reach = abs(a) * hx + abs(b) * hy
    top = abs(zz) + reach
    dx, dy = max(abs(x - ox) - hx, _ZERO), max(abs(y - oy) - hy, _ZERO)
    on_plane = (sx * sx + sy * sy <= cut * top * top) & (zz + reach > z_low) & (zz - reach < z_high)
    return on_plane | (dx * dx + dy * dy <= disc)


@_vector
def _block_mask(lanes, x, y, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high):
    """The 4x4-pixel blocks, as bits, of the tile with corner (x, y) that the surfel may touch."""
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


@_call
def _grown(array):
    bigger = np.empty(2 * array.shape[0], array.dtype)
    bigger[: array.shape[0]] = array
    return bigger


@_call
def _lane_table():
    lanes = np.empty(48, np.float32)
    for l in range(16):
        lanes[l], lanes[16 + l], lanes[32 + l] = 4 * (l & 3) + 2, 4 * (l >> 2) + 2, 1 << l
    return lanes


@_call
def list_tiles(ids, first, last, rec, rect, near, tiles_x, counts):
    """Entries (tile id, block mask) of surfels ids[first:last], surfel by surfel; their number into counts.

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
            if big and not _may_touch(
                middle, y + _f(8.0), half, _TILE_REACH, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high
            ):
                continue
            for column in range(x0, x1):
                x = _f(column * TILE) - cx
                if big and not _may_touch(
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
                mask = _block_mask(lanes, x, y, A, B, C, D, a, b, ox, oy, cut, disc, z_low, z_high)
                if mask:
                    if used == tiles.shape[0]:
                        tiles, masks = _grown(tiles), _grown(masks)
                    tiles[used], masks[used] = row * tiles_x + column, mask
                    used += 1
        counts[k] = used - before
    return tiles[:used].copy(), masks[:used].copy()


@_call
def fill_tiles(ids, starts, tiles, masks, offsets, listed, listed_masks):
    """Counting sort of the entries into their tiles; within a tile they stay in depth order.

    listed[:, 0] is the surfel, listed[:, 1] the entry's number in surfel order (where its gradient goes).
    """
    offsets[:] = 0
    for e in range(tiles.shape[0]):
        offsets[tiles[e] + 1] += 1
    for t in range(offsets.shape[0] - 1):
        offsets[t + 1] += offsets[t]
    cursor = offsets[:-1].copy()
    for k in range(ids.shape[0]):
        for e in range(starts[k], starts[k + 1]):
            to = cursor[tiles[e]]
            cursor[tiles[e]] = to + 1
            listed[to, 0], listed[to, 1], listed_masks[to] = ids[k], e, masks[e]


@_vector
def _shade(S, o, key, x, y, A, B, C, D, a, b, w2, op, ox, oy, cr, cg, cb, nx, ny, nz, near, at_hit):
    """Blend one surfel into the 16 pixels of the block at scratch offset o; the number of pixels still open."""
    open_lanes = _ZERO
    at_centre = _ONE - at_hit
    for l in range(16):
        i = o + l
        px, py = x + S[_LX + l], y + S[_LY + l]
        inv = _ONE / (_ONE + a * px + b * py)
        s, t = (A * px + B * py) * inv, (C * px + D * py) * inv
        g3 = s * s + t * t
        dx, dy = px - ox, py - oy
        g2 = _TWO * (dx * dx + dy * dy)
        meets = g3 <= g2
        z = w2 * (at_hit * inv + at_centre) if meets else w2
        exponent = _HALF * (g3 if meets else g2)
        e = (exponent if exponent < _MAX_EXPONENT else _MAX_EXPONENT) * _EIGHTH
        p = _ONE + e * (_E1 + e * (_E2 + e * (_E3 + e * (_E4 + e * _E5))))
        p = p * p
        p = p * p
        p = p * p
        alpha = op * p
        alpha = alpha if alpha < _MAX_ALPHA else _MAX_ALPHA
        T = S[_T + i]
        after = T * (_ONE - alpha)
        hit = (alpha >= _MIN_ALPHA) & (z >= near)
        go = hit & (after > _MIN_TRANSMITTANCE)
        w = alpha * T if go else _ZERO
        S[_CR + i] += w * cr
        S[_CG + i] += w * cg
        S[_CB + i] += w * cb
        S[_NX + i] += w * nx
        S[_NY + i] += w * ny
        S[_NZ + i] += w * nz
        sum_z = S[_Z + i]
        S[_DI + i] += _TWO * w * (z * (_ONE - T) - sum_z)
        S[_Z + i] = sum_z + w * z
        median = go & (T > _HALF)
        S[_ME + i] = z if median else S[_ME + i]
        S[_MI + i] = key if median else S[_MI + i]
        # a closed pixel keeps its transmittance with the sign flipped, so that nothing passes the test above again
        T = after if go else (-abs(T) if hit else T)
        S[_T + i] = T
        open_lanes += _ONE if T > _ZERO else _ZERO
    return open_lanes


@_call
def _start_tile(S, lanes_x, lanes_y, tile, size):
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


@_call
def _write_tile(S, x0, y0, size, background, images):
    width, height = size[0], size[1]
    rgb, alpha, depth, median, normals, distortion, median_id = images
    for b in range(16):
        for l in range(16):
            x, y = x0 + 4 * (b & 3) + (l & 3), y0 + 4 * (b >> 2) + (l >> 2)
            if x < width and y < height:
                i, p = 16 * b + l, y * width + x
                T = abs(S[_T + i])
                rgb[p, 0] = S[_CR + i] + T * background[0]
                rgb[p, 1] = S[_CG + i] + T * background[1]
                rgb[p, 2] = S[_CB + i] + T * background[2]
                normals[p, 0], normals[p, 1], normals[p, 2] = S[_NX + i], S[_NY + i], S[_NZ + i]
                alpha[p] = _ONE - T
                depth[p] = S[_Z + i] / max(_ONE - T, _MIN_COVERAGE)
                median[p], distortion[p], median_id[p] = S[_ME + i], S[_DI + i], S[_MI + i]


@_call
def forward(counter, batch, size, offsets, listed, masks, rec, near, at_hit, background, images):
    """Blend tiles, `batch` at a time, until the shared counter runs out."""
    S = np.zeros(_FORWARD_SCRATCH, np.float32)
    tile_count = offsets.shape[0] - 1
    while True:
        first = _fetch_add(counter, batch)
        if first >= tile_count:
            return
        for tile in range(first, min(first + batch, tile_count)):
            S[_P:] = _ZERO
            S[_MI : _MI + _P] = -_ONE
            x0, y0, live = _start_tile(S, _LX, _LY, tile, size)
            for k in range(offsets[tile], offsets[tile + 1]):
                bits = masks[k] & live
                n = listed[k, 0]
                x, y = _f(x0) - rec[n, 0], _f(y0) - rec[n, 1]
                while bits:
                    b = _lowest_bit(bits)
                    bits &= bits - 1
                    still_open = _shade(
                        S,
                        16 * b,
                        _f(n),
                        x + _f(4 * (b & 3)),
                        y + _f(4 * (b >> 2)),
                        rec[n, 2],
                        rec[n, 3],
                        rec[n, 4],
                        rec[n, 5],
                        rec[n, 6],
                        rec[n, 7],
                        rec[n, 8],
                        rec[n, 9],
                        rec[n, 10],
                        rec[n, 11],
                        rec[n, 12],
                        rec[n, 13],
                        rec[n, 14],
                        rec[n, 15],
                        rec[n, 16],
                        rec[n, 17],
                        near,
                        at_hit,
                    )
                    if still_open == _ZERO:
                        live &= ~(1 << b)
                if live == 0:
                    break
            _write_tile(S, x0, y0, size, background, images)


@_vector
def _shade_backward(S, o, key, x, y, A, B, C, D, a, b, w2, op, ox, oy, cr, cg, cb, nx, ny, nz, near, at_hit):
    """Repeat `_shade` for one block and add the gradients of the surfel, per lane, to the accumulators."""
    open_lanes = _ZERO
    at_centre = _ONE - at_hit
    for l in range(16):
        i = o + l
        px, py = x + S[_BX + l], y + S[_BY + l]
        inv = _ONE / (_ONE + a * px + b * py)
        s, t = (A * px + B * py) * inv, (C * px + D * py) * inv
        g3 = s * s + t * t
        dx, dy = px - ox, py - oy
        g2 = _TWO * (dx * dx + dy * dy)
        meets = g3 <= g2
        z = w2 * (at_hit * inv + at_centre) if meets else w2
        exponent = _HALF * (g3 if meets else g2)
        e = (exponent if exponent < _MAX_EXPONENT else _MAX_EXPONENT) * _EIGHTH
        p = _ONE + e * (_E1 + e * (_E2 + e * (_E3 + e * (_E4 + e * _E5))))
        p = p * p
        p = p * p
        p = p * p
        raw = op * p
        alpha = raw if raw < _MAX_ALPHA else _MAX_ALPHA
        T = S[_T + i]
        keep = _ONE - alpha
        after = T * keep
        hit = (alpha >= _MIN_ALPHA) & (z >= near)
        go = hit & (after > _MIN_TRANSMITTANCE)
        w = alpha * T if go else _ZERO
        S[_T + i] = after if go else (-abs(T) if hit else T)
        open_lanes += _ONE if S[_T + i] > _ZERO else _ZERO
        covered, sum_z = _ONE - T, S[_ZA + i]
        S[_ZA + i] = sum_z + w * z
        vr, vg, vb, vx, vy, vzn = S[_VR + i], S[_VG + i], S[_VB + i], S[_VX + i], S[_VY + i], S[_VZN + i]
        vz, vd, total_a = S[_VZ + i], S[_VD + i], S[_AT + i]
        q = cr * vr + cg * vg + cb * vb + nx * vx + ny * vy + nz * vzn + z * vz + S[_VA + i]
        q += _TWO * vd * (_TWO * (z * covered - sum_z) + S[_ZT + i] - z * total_a)
        running = S[_Q + i] + q * w
        S[_Q + i] = running
        d_alpha = q * T - (S[_QT + i] - running) / keep
        d_alpha = d_alpha if go & (raw <= _MAX_ALPHA) else _ZERO
        d_exponent = -d_alpha * alpha
        d_z = w * (vz + _TWO * vd * (_TWO * covered + w - total_a))
        d_z += S[_VM + i] if S[_MID + i] == key else _ZERO
        h0 = d_exponent * inv * s if meets else _ZERO
        h1 = d_exponent * inv * t if meets else _ZERO
        h2 = -inv * (d_exponent * g3 + at_hit * d_z * z) if meets else _ZERO
        d_disc = _ZERO if meets else -_TWO * d_exponent
        S[_ACC + l] += h0 * px
        S[_ACC + 16 + l] += h0 * py
        S[_ACC + 32 + l] += h0
        S[_ACC + 48 + l] += h1 * px
        S[_ACC + 64 + l] += h1 * py
        S[_ACC + 80 + l] += h1
        S[_ACC + 96 + l] += h2 * px
        S[_ACC + 112 + l] += h2 * py
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
        S[_ACC + 288 + l] += at_centre * d_z if meets else d_z
    return open_lanes


@_call
def _read_tile(S, x0, y0, size, background, images, cotangents):
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


@_vector
def _fold(S, slots, slot):
    """Sum the accumulators over lanes into the entry's slot."""
    for k in range(SLOT):
        total = _ZERO
        for l in range(16):
            total += S[_ACC + 16 * k + l]
        slots[slot, k] = total


@_call
def backward(counter, batch, size, offsets, listed, masks, rec, near, at_hit, background, images, cotangents, slots):
    """Gradients of all entries of the tiles, `batch` at a time, each into its own slot."""
    S = np.zeros(_BACKWARD_SCRATCH, np.float32)
    tile_count = offsets.shape[0] - 1
    while True:
        first = _fetch_add(counter, batch)
        if first >= tile_count:
            return
        for tile in range(first, min(first + batch, tile_count)):
            S[:] = _ZERO
            x0, y0, live = _start_tile(S, _BX, _BY, tile, size)
            _read_tile(S, x0, y0, size, background, images, cotangents)
            for k in range(offsets[tile], offsets[tile + 1]):
                bits = masks[k] & live
                n, slot = listed[k, 0], listed[k, 1]
                if bits == 0:
                    slots[slot] = _ZERO
                    continue
                x, y = _f(x0) - rec[n, 0], _f(y0) - rec[n, 1]
                S[_ACC : _ACC + 16 * SLOT] = _ZERO
                while bits:
                    b = _lowest_bit(bits)
                    bits &= bits - 1
                    still_open = _shade_backward(
                        S,
                        16 * b,
                        _f(n),
                        x + _f(4 * (b & 3)),
                        y + _f(4 * (b >> 2)),
                        rec[n, 2],
                        rec[n, 3],
                        rec[n, 4],
                        rec[n, 5],
                        rec[n, 6],
                        rec[n, 7],
                        rec[n, 8],
                        rec[n, 9],
                        rec[n, 10],
                        rec[n, 11],
                        rec[n, 12],
                        rec[n, 13],
                        rec[n, 14],
                        rec[n, 15],
                        rec[n, 16],
                        rec[n, 17],
                        near,
                        at_hit,
                    )
                    if still_open == _ZERO:
                        live &= ~(1 << b)
                _fold(S, slots, slot)


@_call
def _homography_backward(m, h, cx, cy, g, d):
    """Sums g[0:19] of a surfel -> gradient of its homography, d[0:9] row-major; the raster stage's dL/dM02, dL/dM12."""
    w2 = m[8]
    z = (h[0], h[1], 0.0, h[2], h[3], 0.0, h[4], h[5], 1.0)
    # relative to the centre: dM' = -inv(M')^T dL/dinv(M') inv(M')^T, with inv(M') = Z / w2
    for i in range(3):
        for j in range(3):
            total = 0.0
            for k in range(3):
                for l in range(3):
                    total += z[3 * k + i] * g[3 * k + l] * z[3 * j + l]
            d[3 * i + j] = -total / w2
    for j in range(3):
        d[6 + j] -= cx * d[j] + cy * d[3 + j]
    raster_u, raster_v = d[2], d[5]
    d[8] += g[18]
    # the low-pass disc sits at the centre of the one-sigma box
    f = 1.0 / (m[6] * m[6] + m[7] * m[7] - m[8] * m[8])
    for j in range(3):
        sign = f if j < 2 else -f
        if j == 0:
            mx = f * (m[0] * m[6] + m[1] * m[7] - m[2] * m[8])
            my = f * (m[3] * m[6] + m[4] * m[7] - m[5] * m[8])
        d[j] += g[10] * sign * m[6 + j]
        d[3 + j] += g[11] * sign * m[6 + j]
        d[6 + j] += sign * (g[10] * (m[j] - 2.0 * mx * m[6 + j]) + g[11] * (m[3 + j] - 2.0 * my * m[6 + j]))
    return raster_u, raster_v


@_call
def _color_backward(n, scene, view, degree, g, b, sums, out, d_view):
    """Gradient of the colour to features, mean (through the view direction) and pose."""
    means, _, _, _, dc, rest = scene
    if degree < 0:
        for c in range(3):
            out[4][n, c] += g[12 + c]
        return
    rgb = sums[16:19]
    _color(means, dc, rest, n, view, degree, b, rgb)
    v0 = g[12] if rgb[0] >= 0.0 else 0.0
    v1 = g[13] if rgb[1] >= 0.0 else 0.0
    v2 = g[14] if rgb[2] >= 0.0 else 0.0
    out[4][n, 0] += _C0 * v0
    out[4][n, 1] += _C0 * v1
    out[4][n, 2] += _C0 * v2
    if degree == 0:
        return
    for k in range(1, (degree + 1) * (degree + 1)):
        sums[k] = v0 * rest[n, k - 1, 0] + v1 * rest[n, k - 1, 1] + v2 * rest[n, k - 1, 2]
        if out[5].shape[0]:
            out[5][n, k - 1, 0] += b[k] * v0
            out[5][n, k - 1, 1] += b[k] * v1
            out[5][n, k - 1, 2] += b[k] * v2
    x, y, z, distance = _view_direction(means, n, view)
    dx, dy, dz = _basis_backward(x, y, z, degree, sums)
    along = dx * x + dy * y + dz * z
    moved = ((dx - along * x) / distance, (dy - along * y) / distance, (dz - along * z) / distance)
    for c in range(3):
        out[0][n, c] += moved[c]
        for i in range(3):
            # the camera centre is -R^T t
            d_view[i, c] += view[i, 3] * moved[c]
            d_view[i, 3] += view[i, c] * moved[c]


@_call
def _pose_backward(n, scene, view, K, r, m, d, g, scale, axes, out, d_view):
    """Gradient of homography (d) and normal (g[15:18]) to mean, scales, rotation and pose."""
    means, quats, scales = scene[0], scene[1], scene[2]
    facing = -1.0 if r[11] * m[9] + r[14] * m[10] + r[17] * m[11] > 0.0 else 1.0
    axes[:] = 0.0
    for j in range(3):
        tx = K[0, 0] * d[j]
        ty = K[1, 1] * d[3 + j]
        tz = d[6 + j] + K[0, 2] * d[j] + K[1, 2] * d[3 + j]
        if j == 2:
            for c in range(3):
                out[0][n, c] += view[0, c] * tx + view[1, c] * ty + view[2, c] * tz
                d_view[0, c] += tx * means[n, c]
                d_view[1, c] += ty * means[n, c]
                d_view[2, c] += tz * means[n, c]
            d_view[0, 3] += tx
            d_view[1, 3] += ty
            d_view[2, 3] += tz
        else:
            s = float(scales[n, j])
            out[2][n, j] += tx * r[9 + j] + ty * r[12 + j] + tz * r[15 + j]
            for c in range(3):
                axes[3 * c + j] = s * (view[0, c] * tx + view[1, c] * ty + view[2, c] * tz)
                d_view[0, c] += s * tx * r[3 * c + j]
                d_view[1, c] += s * ty * r[3 * c + j]
                d_view[2, c] += s * tz * r[3 * c + j]
    for i in range(3):
        turned = facing * (view[i, 0] * g[15] + view[i, 1] * g[16] + view[i, 2] * g[17])
        for c in range(3):
            axes[3 * c + 2] += view[i, c] * turned
            d_view[i, c] += turned * r[3 * c + 2] + facing * r[11 + 3 * i] * g[15 + c]
    _rotation_backward(quats, n, scale, axes, out[1])


@_call
def unproject(counter, block, ids, starts, slots, scene, view, K, degree, out, pose_sums):
    """Slots -> gradients of the surfels (out: means, quats, scales, opacities, dc, rest, gradient_2dgs).

    Works through the depth-sorted surfels `block` at a time; the pose gradient of block k goes to pose_sums[k], so that
    adding the blocks in order gives the same bits for any number of threads.
    """
    r, m, h, d, axes = np.empty(18), np.empty(12), np.empty(6), np.empty(9), np.empty(9)
    g, b, sums = np.empty(SLOT), np.empty(16), np.empty(19)
    while True:
        first = _fetch_add(counter, block)
        if first >= ids.shape[0]:
            return
        d_view = pose_sums[first // block]
        for k in range(first, min(first + block, ids.shape[0])):
            if starts[k] == starts[k + 1]:
                continue
            n = ids[k]
            g[:] = 0.0
            for e in range(starts[k], starts[k + 1]):
                for j in range(SLOT):
                    g[j] += slots[e, j]
            scale = _camera_frame(scene[0], scene[1], scene[2], n, view, K, r, m)
            cx, cy = _hit_coefficients(m, h)
            raster_u, raster_v = _homography_backward(m, h, cx, cy, g, d)
            out[6][n, 0], out[6][n, 1] = raster_u * m[8], raster_v * m[8]
            out[3][n] += g[9]
            _color_backward(n, scene, view, degree, g, b, sums, out, d_view)
            _pose_backward(n, scene, view, K, r, m, d, g, scale, axes, out, d_view)
