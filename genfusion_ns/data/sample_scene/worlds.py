"""The worlds of the sample scene: furnished rooms, cluttered rooms, open ground."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from genfusion_ns.data.sample_scene.clutter import ClutteredRoom
from genfusion_ns.data.sample_scene.render import Scene
from genfusion_ns.data.sample_scene.rooms import FurnishedRoom
from genfusion_ns.data.sample_scene.shell import Layout
from genfusion_ns.data.sample_scene.yard import Yard

World = Literal["room", "clutter", "outdoor"]
_BUILDERS = {"room": FurnishedRoom, "clutter": ClutteredRoom, "outdoor": Yard}


def build_scene(layout: Layout, seed: int, light_spacing: float = 0.06, world: World = "room") -> Scene:
    """Build and light a world.

    Args:
        layout: ``orbit``, things in the middle to walk around; or ``forward``, things to pass by.
        seed: everything in the world, its materials and its camera path follow from (world, layout, seed).
        light_spacing: metres between stored samples of the light; smaller shows finer shadows and takes longer.
        world: ``room``, ``clutter`` (thin, glossy and textureless things) or ``outdoor`` (ground with a far backdrop).

    Raises:
        ValueError: if the layout or the world is unknown or the seed negative.
    """
    for name, value, known in (("layout", layout, get_args(Layout)), ("world", world, get_args(World))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    number = get_args(World).index(world)
    # Rooms are older than the other worlds, and keep what their seeds mean.
    rng = np.random.default_rng([seed, get_args(Layout).index(layout), *([number] if number else [])])
    place = _BUILDERS[world](layout, rng)
    return Scene(place.groups, place.lights, place.box, place.path(), rng, light_spacing)
