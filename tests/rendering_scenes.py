"""Scenes and comparisons that the rasteriser's tests share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from genfusion_ns.rendering.surfels import SurfelRender, Surfels

IMAGES = ("rgb", "alpha", "depth", "median_depth", "normals", "distortion")


@dataclass(frozen=True)
class Scene:
    """Surfels with C cameras around them and a background."""

    surfels: Surfels
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int
    background: Tensor

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Scene:
        """The same scene in another float type or place, detached."""

        def convert(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(device, dtype)

        surfels = Surfels(*(convert(getattr(self.surfels, field.name)) for field in fields(Surfels)))
        tensors = {name: convert(getattr(self, name)) for name in ("viewmats", "Ks", "background")}
        return replace(self, surfels=surfels, **tensors)

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor that gradients reach."""
        named = {field.name: getattr(self.surfels, field.name) for field in fields(Surfels)}
        named |= {"viewmats": self.viewmats, "background": self.background}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def requiring_grad(self) -> Scene:
        """Mark every tensor that gradients reach."""
        for tensor in self.parameters().values():
            tensor.requires_grad_()
        return self


def rotation(axis: tuple[float, float, float], angle: float) -> Tensor:
    """Rotation about an axis, float64. [3, 3]"""
    x, y, z = (torch.tensor(axis, dtype=torch.float64) / torch.tensor(axis, dtype=torch.float64).norm()).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(angle * cross)


def random_scene(
    seed: int, count: int = 150, size: tuple[int, int] = (45, 38), cameras: int = 1, sh_degree: int | None = None
) -> Scene:
    """Overlapping surfels of mixed size and opacity, some outside the image or behind the camera; float32-exact."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    bands = 0 if sh_degree is None else (sh_degree + 1) ** 2 - 1
    surfels = Surfels(
        means=normal(count, 3) * torch.tensor([1.2, 1.0, 1.3]) + torch.tensor([0.0, 0.0, 2.5]),
        quats=normal(count, 4),
        scales=0.12 * torch.exp(0.7 * normal(count, 2)),
        opacities=uniform(count) ** 0.5,
        features_dc=uniform(count, 3) if sh_degree is None else 0.8 * normal(count, 3),
        features_rest=0.3 * normal(count, bands, 3) if bands else None,
    )
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    for camera in range(cameras):
        turned = rotation((0.3, 1.0, 0.2), 0.15 * (camera + 1) * (-1) ** camera)
        viewmats[camera, :3, :3] = turned.float()
        viewmats[camera, :3, 3] = 0.1 * normal(3)
    width, height = size
    K = torch.tensor([[0.9 * width, 0, 0.52 * width], [0, 0.95 * width, 0.47 * height], [0, 0, 1]])
    return Scene(surfels, viewmats, K.repeat(cameras, 1, 1), width, height, uniform(cameras, 3))


def cotangents(render: SurfelRender, seed: int = 7) -> dict[str, Tensor]:
    """Random upstream gradients of every image."""
    generator = torch.Generator().manual_seed(seed)
    images = {name: getattr(render, name) for name in IMAGES}
    return {
        name: torch.randn(image.shape, generator=generator).to(image.device, image.dtype)
        for name, image in images.items()
    }


def backpropagate(render: SurfelRender, upstream: dict[str, Tensor]) -> None:
    """Backward from all images at once."""
    torch.autograd.backward([getattr(render, name) for name in upstream], list(upstream.values()))


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Relative L2 distance; a tensor shorter than 0.01 counts as that long."""
    value, expected = value.detach().double().cpu(), expected.detach().double().cpu()
    return float((value - expected).norm() / expected.norm().clamp_min(1e-2))
