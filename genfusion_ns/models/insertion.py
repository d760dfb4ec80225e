"""New surfels in a scene that is being trained: aligned with the optimisers and with the densification statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy.ops import _update_param_with_optimizer
from jaxtyping import Float, Int64
from nerfstudio.models.splatfacto import RGB2SH
from torch import Tensor
from torch.nn import Parameter, ParameterDict

FLAT_LOG_SCALE = -12.0
"""Logarithm of the third scale of every surfel in scene lengths, far below a pixel."""


@dataclass(frozen=True)
class NewSurfels:
    """M round surfels to insert."""

    means: Float[Tensor, "M 3"]
    """Centres, scene units."""
    colours: Float[Tensor, "M 3"]
    """0..1."""
    radius: Float[Tensor, " M"]
    """Standard deviation along both tangents, scene units, above 0."""
    normals: Float[Tensor, "M 3"]
    """Of any length but zero, of either sign: a surfel has no inside."""
    opacity: float = 0.1
    """Opacity to start from, between 0 and 1, both exclusive."""

    def __len__(self) -> int:
        return len(self.means)

    def chosen(self, which: Tensor) -> NewSurfels:
        """Some of them, by index or mask. [K] or [M]"""
        return NewSurfels(self.means[which], self.colours[which], self.radius[which], self.normals[which], self.opacity)

    def thinned(self, count: int) -> NewSurfels:
        """At most `count` of them, evenly picked in their order; larger, so that they cover the same area."""
        if len(self) <= count:
            return self
        kept = evenly_picked(len(self), count).to(self.means.device)
        radius = self.radius[kept] * math.sqrt(len(self) / max(count, 1))
        return NewSurfels(self.means[kept], self.colours[kept], radius, self.normals[kept], self.opacity)


def evenly_picked(count: int, chosen: int) -> Int64[Tensor, " chosen"]:
    """Indices of `chosen` of `count` things, evenly spread over their order; on the CPU."""
    return torch.linspace(0, count - 1, chosen, dtype=torch.float64).round().long()


def parameter_values(
    means: Float[Tensor, "M 3"],
    colours: Float[Tensor, "M 3"],
    radius: Float[Tensor, " M"],
    quats: Float[Tensor, "M 4"],
    *,
    opacity: float,
    sh_degree: int,
    scene_length: float = 1.0,
) -> dict[str, Tensor]:
    """Raw parameters of round surfels under the names and shapes of splatfacto.

    Args:
        means: centres, scene units. [M, 3]
        colours: 0..1; the view-dependent bands are zero. [M, 3]
        radius: standard deviation along both tangents, scene units. [M]
        quats: (w, x, y, z). [M, 4]
        opacity: of all of them, between 0 and 1.
        sh_degree: 0 stores colours as logits instead of harmonics, as splatfacto does.
        scene_length: scene units; the third scale is a share of it.
    """
    flat = FLAT_LOG_SCALE + math.log(scene_length)
    log_scale = torch.log(radius)[:, None]
    return {
        "means": means,
        "scales": torch.cat([log_scale, log_scale, torch.full_like(log_scale, flat)], dim=-1),
        "quats": quats,
        "features_dc": RGB2SH(colours) if sh_degree > 0 else torch.logit(colours, eps=1e-3),
        "features_rest": means.new_zeros(len(means), (sh_degree + 1) ** 2 - 1, 3),
        "opacities": torch.logit(means.new_full((len(means), 1), opacity)),
    }


def facing_quats(normals: Float[Tensor, "M 3"]) -> Float[Tensor, "M 4"]:
    """Shortest rotations (w, x, y, z) that bring the axis of a surfel, its local z, onto the line of `normals`."""
    unit = torch.nn.functional.normalize(normals, dim=-1, eps=1e-20)
    # A surfel looks the same from both sides; the upper half of the sphere keeps clear of the half turn, whose axis is
    # undetermined.
    unit = torch.where(unit[:, 2:] < 0, -unit, unit)
    x, y, z = unit.unbind(-1)
    return torch.nn.functional.normalize(torch.stack([1 + z, -y, x, torch.zeros_like(z)], dim=-1), dim=-1)


@torch.no_grad()
def insert_surfels(
    params: ParameterDict,
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: MutableMapping[str, Any],
    new: NewSurfels,
    *,
    sh_degree: int,
    scene_length: float = 1.0,
) -> None:
    """Append surfels to a scene between two training steps, in place.

    Their optimiser moments and densification statistics start at zero, those of the others are kept; from then on they
    are pruned and densified like all others.

    Args:
        params: the six parameters of the scene, the first axis of each is N; replaced by longer ones.
        optimizers: one per parameter, holding it alone.
        state: statistics of the densification strategy; every tensor in it with N entries grows as well.
        new: at least one surfel, in the frame of the scene; moved to its device.
        sh_degree: highest band of the scene's colours.
        scene_length: see `parameter_values`.

    Raises:
        ValueError: tensors of other shapes, values that are not finite, radius or opacity out of range.
    """
    _check(new)
    reference = params["means"]
    count, device = len(reference), reference.device
    means, colours, radius, normals = (
        value.detach().to(device, reference.dtype) for value in (new.means, new.colours, new.radius, new.normals)
    )
    values = parameter_values(
        means,
        colours.clamp(0, 1),
        radius,
        facing_quats(normals),
        opacity=new.opacity,
        sh_degree=sh_degree,
        scene_length=scene_length,
    )

    def longer_parameter(name: str, parameter: Tensor) -> Tensor:
        return Parameter(torch.cat([parameter, values[name]]), requires_grad=parameter.requires_grad)

    def longer_state(_: str, moments: Tensor) -> Tensor:
        return _with_zeros(moments, len(new))

    _update_param_with_optimizer(longer_parameter, longer_state, params, dict(optimizers), list(values))
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) == count:
            state[key] = _with_zeros(value, len(new))


def _with_zeros(value: Tensor, count: int) -> Tensor:
    return torch.cat([value, value.new_zeros(count, *value.shape[1:])])


def _check(new: NewSurfels) -> None:
    count = len(new)
    for name, shape in (("means", (count, 3)), ("colours", (count, 3)), ("radius", (count,)), ("normals", (count, 3))):
        value: Tensor = getattr(new, name)
        if value.shape != shape:
            raise ValueError(f"{name} of the new surfels has shape {tuple(value.shape)}; {shape} belongs to {count}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} of the new surfels holds values that are not finite")
    if not bool((new.radius > 0).all()):
        raise ValueError(f"radius of the new surfels goes down to {float(new.radius.min()):.3g}; it must be above 0")
    if not bool((new.normals.norm(dim=-1) > 0).all()):
        raise ValueError("normals of the new surfels contain zero vectors; give each a direction, e.g. to its camera")
    if not 0 < new.opacity < 1:
        raise ValueError(f"opacity of the new surfels is {new.opacity}; it must be above 0 and below 1")
