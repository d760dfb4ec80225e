"""Samples of objects for training: one view to go by, and windows of others, chosen towards the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from genfusion_ns.geometry.object_views import JudgedObject, ObjectSample, ObjectViews
from genfusion_ns.geometry.pixel_rays import pixel_rays
from genfusion_ns.seeds import generator_of

_EMPTY = 0.1
"""Weight of a window without any object beside one that is full of it."""


@dataclass
class ObjectSampling:
    """What a sample looks like."""

    windows: int = 4
    """Views of the object that the network is held to, one window of each; the first is of the view that it gets."""
    crop: int = 128
    """Rays along a window."""
    spacing: int = 1
    """Pixels from one ray of a window to the next: windows see more of a view than they have rays. LPIPS wants 1."""
    elevations: tuple[float, float] = (-10.0, 45.0)
    """Heights of the views that the network gets, in degrees."""
    frame: Literal["object", "image"] = "object"
    """What says how large an object is and where its middle lies: the capture, so that the network must guess both, or
    the image that it gets, which the object fills. Azimuth 0 is where that image was taken, either way."""
    mirror: bool = False
    """Show every second object in a mirror."""

    def check(self, side: int) -> None:
        """Refuse what no sample can have.

        Args:
            side: pixels along a view.

        Raises:
            ValueError: with the flag.
        """
        if self.windows < 1:
            raise ValueError(f"--sampling.windows is {self.windows}; at least 1 is needed")
        if self.spacing < 1:
            raise ValueError(f"--sampling.spacing is {self.spacing}; at least 1 is needed")
        if not 8 <= self.crop <= side // self.spacing:
            raise ValueError(
                f"--sampling.crop is {self.crop}; allowed are 8..{side // self.spacing}, the pixels along a view"
                + (f" over --sampling.spacing {self.spacing}" if self.spacing > 1 else "")
            )
        if not self.elevations[0] < self.elevations[1]:
            raise ValueError(f"--sampling.elevations is {self.elevations}; the lower end comes first")


class ObjectDataset(Dataset[list[ObjectSample]]):
    """Item i is the i-th batch of a training; everything random in a sample follows from its number."""

    def __init__(
        self, objects: Sequence[ObjectViews], sampling: ObjectSampling, *, batch_size: int, batches: int, seed: int
    ) -> None:
        """
        Args:
            objects: at least one.
            sampling: see there.
            batch_size: samples of a batch.
            batches: of the training.
            seed: of all that is random.
        """
        self.objects, self.sampling = objects, sampling
        self.batch_size, self.batches, self.seed = batch_size, batches, seed

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[ObjectSample]:
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)
        return [self.sample(generator_of(self.seed, "object sample", number)) for number in numbers]

    def sample(self, generator: torch.Generator) -> ObjectSample:
        """A sample of a random object."""
        views = self.objects[_below(len(self.objects), generator)]
        return draw_sample(views, self.sampling, generator)


def draw_sample(views: ObjectViews, sampling: ObjectSampling, generator: torch.Generator) -> ObjectSample:
    """A random view of an object, and windows of it and of other views."""
    low, high = sampling.elevations
    heights = views.elevations()
    usable = ((heights >= low) & (heights <= high)).nonzero()[:, 0]
    first = int(usable[_below(len(usable), generator)]) if len(usable) else _below(len(views), generator)
    turned = in_frame(views, first, sampling)
    others = [view for view in torch.randperm(len(views), generator=generator).tolist() if view != first]
    chosen = ([first, *others] * sampling.windows)[: sampling.windows]
    origins, directions = pixel_rays(turned.c2w[chosen], views.K, views.size)
    rgba = views.rgba[chosen].float() / 255
    parts = []
    for planes in zip(origins, directions, rgba, strict=True):
        window = window_on(planes[2][..., 3], sampling.crop, generator, sampling.spacing)
        parts.append([plane[window] for plane in planes])
    sample = ObjectSample(views.rgba[first], *(torch.stack(values) for values in zip(*parts, strict=True)))
    return sample.mirrored() if sampling.mirror and _below(2, generator) else sample


def in_frame(views: ObjectViews, given: int, sampling: ObjectSampling) -> ObjectViews:
    """The views in the frame that the network is to have of the one that it gets."""
    return views.seen_from(given) if sampling.frame == "object" else views.framed_by(given)


def judged(views: ObjectViews, sampling: ObjectSampling, others: int) -> JudgedObject:
    """A view at the middle of the heights that the network gets, and `others` around the object to compare."""
    middle = sum(sampling.elevations) / 2
    given = int((views.elevations() - middle).abs().argmin())
    chosen = [(given + (k + 1) * len(views) // (others + 1)) % len(views) for k in range(others)]
    framed = in_frame(views, given, sampling)
    return JudgedObject(views.rgba[given], replace(framed, rgba=framed.rgba[chosen], c2w=framed.c2w[chosen]))


def window_on(
    alpha: Float[Tensor, "H W"], side: int, generator: torch.Generator, spacing: int = 1
) -> tuple[slice, slice]:
    """Rows and columns of a square window, the more probable the more of the object it shows.

    Args:
        alpha: of the view.
        side: rays along the window.
        generator: chooses.
        spacing: pixels from one ray to the next.
    """
    span = side * spacing
    shares = functional.avg_pool2d(alpha[None, None], span, stride=1)[0, 0]
    place = int(torch.multinomial((shares + _EMPTY).flatten(), 1, generator=generator))
    row, column = divmod(place, shares.shape[1])
    return slice(row, row + span, spacing), slice(column, column + span, spacing)


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
