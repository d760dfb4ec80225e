"""The surfel rasteriser's contract: what goes in, what comes out, and which backend does the work.

Conventions
-----------
Cameras are OpenCV (x right, y down, z forward), viewmats are world-to-camera, the centre of pixel (row i, column j) is
(j + 0.5, i + 0.5). Depth is z in the camera frame, scene units. A surfel is a disc with Gaussian falloff: two unit
tangents (the first two columns of its rotation), one standard deviation along each (2DGS, Huang et al. 2024, 4.1).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import full_precision
from genfusion_ns.rendering.contract import MAX_SH_DEGREE, Backend, DepthAt, RasterSettings, SurfelRender, Surfels


@full_precision()
def rasterize_surfels(
    surfels: Surfels,
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    *,
    background: Float[Tensor, "*C 3"] | None = None,
    sh_degree: int | None = None,
    near: float = 0.2,
    far: float = 1e10,
    depth_at: DepthAt = "intersection",
    pixel_variance: float | None = None,
    backend: Backend = "auto",
) -> SurfelRender:
    """Render surfels into C cameras, differentiably.

    Gradients reach means, quats, scales, opacities, features, background and viewmats (as rigid world-to-camera poses;
    the last row is constant), not Ks. The pixel set is that of gsplat 1.4 ``rasterization_2dgs``: alpha below 1/255 is
    skipped, a pixel ends before its transmittance would fall to 1e-4, a surfel touches the 16x16 tiles within three
    standard deviations, and its footprint never gets thinner than the low-pass disc of 2DGS equation 11. Autocast stays
    outside: everything is computed in the type of the tensors.

    With `pixel_variance` k every surfel is seen through the pixel instead of the disc (AA-2DGS, Younes and Boukhayma
    2025): at each pixel, with J the derivative of the hit (u, v) by the pixel and V = I + k J J^T, its falloff is
    (det V)^-1/2 exp(-1/2 (u, v) inv(V) (u, v)^T), and it touches tiles within 3 sqrt(k) pixels more. The light that it
    covers then stays the same at any resolution. k = 1/12 is the variance of a pixel, 0 leaves the footprint as it is.

    Args:
        surfels: the scene, float32 (float64 with the reference backend).
        viewmats: world-to-camera matrices with orthonormal rotations. [C, 4, 4]
        Ks: intrinsics in pixels, without skew. [C, 3, 3]
        width, height: size of the images in pixels.
        background: rgb behind the scene, one for all cameras or one each; black if None. [3] or [C, 3]
        sh_degree: evaluate spherical harmonics up to this degree (0..3) and take max(0, SH + 0.5) as colour; None takes
            ``features_dc`` as rgb.
        near: surfels with a centre nearer than this are culled, intersections nearer than this skipped. Scene units.
        far: surfels with a centre beyond this are culled. Scene units.
        depth_at: ``intersection`` takes the depth of the ray-surfel intersection (2DGS; centre depth where the low-pass
            disc wins), ``centre`` that of the surfel's centre everywhere and skips no intersection, as gsplat does.
            The gsplat backend does not recompute median depth and distortion; see its module docstring.
        pixel_variance: of the filter, pixels squared, 0 or more; None: the low-pass disc. The gsplat backend filters
            once per surfel, and with no less than 0.5.
        backend: ``auto`` is gsplat for CUDA tensors, the compiled kernels for float32 on the CPU, else the reference.

    Returns:
        The images and what densification needs.

    Raises:
        ValueError: shapes, types, devices or options that do not fit together.
    """
    _check_options((width, height), (near, far), depth_at, sh_degree)
    if pixel_variance is not None and not 0 <= pixel_variance < math.inf:
        raise ValueError(f"pixel_variance={pixel_variance}; use 0 or more pixels squared, or None.")
    _check_tensors(surfels, viewmats, Ks, background, sh_degree)
    settings = RasterSettings(
        int(width), int(height), sh_degree, float(near), float(far), depth_at, _float_or_none(pixel_variance)
    )
    behind = surfels.means.new_zeros(3) if background is None else background
    chosen = choose_backend(surfels.means) if backend == "auto" else backend
    if chosen == "gsplat":
        from genfusion_ns.rendering.backends import gsplat as implementation
    elif chosen == "cpu":
        from genfusion_ns.rendering.backends import cpu as implementation
    elif chosen == "reference":
        from genfusion_ns.rendering.backends import reference as implementation
    else:
        raise ValueError(f"backend={backend!r} is unknown; use 'auto', 'gsplat', 'cpu' or 'reference'.")
    return implementation.render(surfels, viewmats, Ks, behind.expand(viewmats.shape[0], 3), settings)


def _float_or_none(value: float | None) -> float | None:
    return None if value is None else float(value)


def choose_backend(means: Tensor) -> Backend:
    """The backend that ``auto`` stands for, given the tensors of a scene."""
    if means.is_cuda:
        return "gsplat"
    if means.device.type == "cpu" and means.dtype == torch.float32:
        return "cpu"
    return "reference"


def _check_options(size: tuple[int, int], planes: tuple[float, float], depth_at: str, sh_degree: int | None) -> None:
    (width, height), (near, far) = size, planes
    if width < 1 or height < 1:
        raise ValueError(f"width x height is {width} x {height}; both must be at least 1 pixel.")
    if not 0 < near < far:
        raise ValueError(f"near={near}, far={far}: need 0 < near < far.")
    if depth_at not in ("intersection", "centre"):
        raise ValueError(f"depth_at={depth_at!r} is unknown; use 'intersection' or 'centre'.")
    if sh_degree is not None and not 0 <= sh_degree <= MAX_SH_DEGREE:
        raise ValueError(f"sh_degree={sh_degree}; use 0..{MAX_SH_DEGREE}, or None for plain rgb.")


def _check_tensors(
    surfels: Surfels, viewmats: Tensor, Ks: Tensor, background: Tensor | None, sh_degree: int | None
) -> None:
    n, c = surfels.means.shape[0], viewmats.shape[0]
    _check_shape("surfels.means", surfels.means, (n, 3))
    _check_shape("surfels.quats", surfels.quats, (n, 4))
    _check_shape("surfels.scales", surfels.scales, (n, 2), (n, 3))
    _check_shape("surfels.opacities", surfels.opacities, (n,))
    _check_shape("surfels.features_dc", surfels.features_dc, (n, 3))
    _check_shape("viewmats", viewmats, (c, 4, 4))
    _check_shape("Ks", Ks, (c, 3, 3))
    named = {
        "surfels.quats": surfels.quats,
        "surfels.scales": surfels.scales,
        "surfels.opacities": surfels.opacities,
        "surfels.features_dc": surfels.features_dc,
        "viewmats": viewmats,
        "Ks": Ks,
    }
    rest = surfels.features_rest
    if rest is not None:
        _check_shape("surfels.features_rest", rest, (n, rest.shape[1] if rest.ndim == 3 else -1, 3))
        named["surfels.features_rest"] = rest
        if sh_degree is None:
            raise ValueError("surfels.features_rest is given but sh_degree is None: pass a degree, or leave it out.")
    bands = 0 if rest is None else rest.shape[1]
    if sh_degree is not None and bands < (sh_degree + 1) ** 2 - 1:
        raise ValueError(
            f"sh_degree={sh_degree} needs {(sh_degree + 1) ** 2 - 1} coefficients per surfel in features_rest, "
            f"which has {bands}: lower the degree or add coefficients."
        )
    if background is not None:
        _check_shape("background", background, (3,), (c, 3))
        named["background"] = background
    like = surfels.means
    if not like.is_floating_point():
        raise ValueError(f"surfels.means is {like.dtype}; use float32, or float64 with the reference backend.")
    for name, tensor in named.items():
        if tensor.dtype != like.dtype or tensor.device != like.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, surfels.means {like.dtype} on {like.device}; "
                "all tensors of a render must agree."
            )


def _check_shape(name: str, tensor: Tensor, *allowed: tuple[int, ...]) -> None:
    if tuple(tensor.shape) not in allowed:
        wanted = " or ".join(str(list(shape)).replace("-1", "bands") for shape in allowed)
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {wanted}.")
