"""What a TripoSR is trained on, and what it is validated with: which objects are which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.objects.captures import object_captures, read_object
from genfusion_ns.data.objects.procedural import procedural_views
from genfusion_ns.geometry.object_views import ObjectViews
from genfusion_ns.seeds import seed_of

_LEAST_VIEWS = 2


class ObjectChoice(Protocol):
    """Settings that say which objects there are; see `TrainTripoSRConfig`."""

    objects: Path | None
    held_out_objects: tuple[str, ...]
    held_out_limit: int
    procedural: int
    views: int
    view_size: int


def split_objects(choice: ObjectChoice) -> tuple[list[ObjectViews], list[ObjectViews]]:
    """Objects to train on, and objects that are kept for validation.

    Raises:
        ValueError: nothing to train on, unknown names, or captures that cannot be used.
        FileNotFoundError: no captures.
    """
    if choice.held_out_limit < 1:
        raise ValueError(f"--held-out-limit is {choice.held_out_limit}; at least 1 is needed")
    if not 16 <= choice.view_size <= 4096:
        raise ValueError(f"--view-size is {choice.view_size}; allowed are 16..4096 pixels")
    if choice.objects is not None:
        return _captures(choice, choice.objects)
    if choice.procedural < 1 or choice.views < _LEAST_VIEWS:
        raise ValueError(
            f"--procedural is {choice.procedural} and --views {choice.views}; at least 1 object with "
            f"{_LEAST_VIEWS} views is needed"
        )
    made = [
        procedural_views(seed_of(0, "object", number), choice.views, choice.view_size)
        for number in range(choice.procedural)
    ]
    kept = made[::10][: choice.held_out_limit] if len(made) > 1 else made
    chosen = {id(views) for views in kept}
    return [views for views in made if len(made) == 1 or id(views) not in chosen], kept


def _captures(choice: ObjectChoice, folder: Path) -> tuple[list[ObjectViews], list[ObjectViews]]:
    folders = object_captures(folder)
    names = [path.name for path in folders]
    unknown = sorted(set(choice.held_out_objects) - set(names))
    if unknown:
        raise ValueError(f"--held-out-objects {' '.join(unknown)} are not in {folder}, which has {' '.join(names)}")
    if choice.held_out_objects:
        held_out = {name for name in names if name in choice.held_out_objects}
    else:
        held_out = set(names[::10]) if len(names) > 1 else set()
    training = [read_object(path, choice.view_size) for path in folders if path.name not in held_out]
    if not training:
        raise ValueError(f"all objects of {folder} are held out; nothing is left to train on")
    kept = [path for path in folders if path.name in held_out][: choice.held_out_limit]
    return training, [read_object(path, choice.view_size) for path in kept] or training[:1]


def mean_view(objects: Sequence[ObjectViews]) -> Float[Tensor, "H W 4"]:
    """Mean of all views of objects: colours over white, and opacity."""
    total, count = torch.zeros(()), 0
    for views in objects:
        rgba = views.rgba.float() / 255
        alpha = rgba[..., 3:]
        total = total + torch.cat([rgba[..., :3] * alpha + 1 - alpha, alpha], dim=-1).sum(0)
        count += len(views)
    return total / count
