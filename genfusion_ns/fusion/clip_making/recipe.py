"""How training clips are made of a capture: the settings, and the weak reconstructions that they ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ClipRecipe:
    """What is done with each capture; a rerun goes on only with the same recipe."""

    views: tuple[int, ...] = (3, 6, 9)
    """Numbers of photos of the sparse reconstructions; which ones depends on the seed."""
    masked_strides: tuple[int, ...] = (2,)
    """Masked reconstructions: a crop window of every n-th photo, as genfusion-masked has them."""
    masked_area: float = 0.25
    """Share of each photo that its crop window shows."""
    lifted: tuple[int, ...] = ()
    """Numbers of photos of weak scenes that are not fitted but made of the capture's depth maps, with random errors: a
    hundredth of the time. Needs depth maps; with neither views nor masked strides nothing is fitted at all."""
    lifted_repeats: int = 2
    """Such scenes of each number of photos, with other photos and errors each."""
    iterations: int = 1000
    """Steps of a weak reconstruction."""
    dense_iterations: int = 2000
    """Steps of the reconstruction from all photos: the clean depth, and the clean side of perturbed paths."""
    stages: tuple[float, ...] = (0.25, 1.0)
    """Shares of the weak run at which clips are rendered: rounds meet scenes that are not fitted to the end."""
    perturbed_paths: int = 1
    """Paths along the photos with smooth departures from them; their clean side is rendered."""
    min_dense_psnr: float = 24.0
    """Perturbed paths are left out where the reconstruction from all photos is not good enough to learn from: where it
    shows them with a lower mean PSNR in dB."""
    min_confirmed: float = 0.3
    """Perturbed paths: windows are left out in which photos confirm less than this share of what some frame shows. The
    comparison is strict about depth; good windows have about a half."""
    position_jitter: float = 0.5
    """Perturbed paths: largest departure, as a share of the distance between neighbouring photos."""
    turn_jitter: float = 5.0
    """Perturbed paths: largest turn away from the photos' directions in degrees."""
    resolution: tuple[int, int] = (256, 144)
    """Width and height that clips have about as many pixels as."""
    downscale_factor: int | None = None
    """Read images_<factor>; by default the dataparser chooses."""
    num_references: int = 6
    """Photos stored with each clip at most: of those that the weak reconstruction had, the nearest."""
    clip_length: int = 16
    """Frames of a clip."""
    max_windows: int = 8
    """Clips along one path at most; on longer ones they are spread evenly."""
    layout: Literal["shards", "published"] = "shards"
    """shards: lossless, with cameras and photos; published: the side-by-side videos that GenFusion's training reads."""
    shard_megabytes: int = 256
    """Size at which the next shard begins."""

    def check(self) -> None:
        """Raise ValueError for settings that cannot be used; the message names the flag."""
        least = {"iterations": 1, "dense_iterations": 1, "clip_length": 2, "max_windows": 1, "num_references": 1}
        least |= {
            "lifted_repeats": 1,
            "perturbed_paths": 0,
            "shard_megabytes": 1,
            "position_jitter": 0,
            "turn_jitter": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least {minimum}")
        if not self.stages or not all(0 < stage <= 1 for stage in self.stages):
            raise ValueError(f"--stages is {self.stages}; give shares of the run, above 0 and at most 1")
        for name, values in (
            ("stages", [round(100 * stage) for stage in self.stages]),
            ("views", self.views),
            ("masked-strides", self.masked_strides),
            ("lifted", self.lifted),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"--{name} names one value twice, in whole percents where they are shares: {values}")
        if not self.views and not self.masked_strides and not self.lifted:
            raise ValueError("--views, --masked-strides and --lifted are all empty; there is nothing to reconstruct")
        for name, views in (("views", self.views), ("lifted", self.lifted)):
            if any(number < 2 for number in views):
                raise ValueError(f"--{name} is {views}; a reconstruction needs at least 2")
        if any(stride < 1 for stride in self.masked_strides):
            raise ValueError(f"--masked-strides is {self.masked_strides}; each must be at least 1")
        if not 0 < self.masked_area < 1:
            raise ValueError(f"--masked-area is {self.masked_area}; it must be above 0 and below 1")
        if min(self.resolution) < 16:
            raise ValueError(f"--resolution is {self.resolution}; both sides must be at least 16")

    def as_record(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def stage_of_step(self) -> dict[int, float]:
        """After which steps (0-based) of a weak run clips are rendered."""
        return {max(1, round(self.iterations * stage)) - 1: stage for stage in sorted(self.stages)}

    def difficulties(self, num_photos: int, seed: int) -> list[Difficulty]:
        """The weak reconstructions of a capture.

        Args:
            num_photos: registered photos of the capture.
            seed: decides which photos sparse reconstructions have, where a masked stride begins, and its windows.

        Raises:
            ValueError: the capture has too few photos.
        """
        wanted = max([*self.views, *self.lifted, *(stride + 1 for stride in self.masked_strides)])
        if num_photos <= wanted:
            raise ValueError(
                f"it has {num_photos} photos; --views {self.views}, --lifted {self.lifted} and --masked-strides "
                f"{self.masked_strides} need more than {wanted}"
            )
        sparse = [
            Difficulty(f"v{views}", f"{views} views", tuple(_spread(num_photos, views, seed)), None)
            for views in self.views
        ]
        masked = [
            Difficulty(
                f"m{stride}",
                f"crop windows of every {_ordinal(stride)} photo",
                tuple(range(seed % stride, num_photos, stride)),
                self.masked_area,
            )
            for stride in self.masked_strides
        ]
        return sparse + masked


@dataclass(frozen=True)
class Difficulty:
    """One weak reconstruction."""

    key: str
    """For names of clips."""
    description: str
    train_ids: tuple[int, ...]
    """Positions of its photos among all, sorted by name."""
    masked_area: float | None
    """Share of each photo that is seen; None: all of it."""


def _spread(count: int, picks: int, seed: int) -> list[int]:
    """One position out of each of `picks` equal parts of 0..count - 1: spread out, and different for every seed."""
    import torch

    from genfusion_ns.seeds import numbered_generator

    shifts = torch.rand(picks, generator=numbered_generator(seed, picks)).tolist()
    return [min(int((part + shift) * count / picks), count - 1) for part, shift in enumerate(shifts)]


def lifted_seed(seed: int, repeat: int) -> int:
    """Seed of one lifted scene of a job; scenes of other photo counts share it."""
    return seed * 1009 + repeat


def lifted_ids(recipe: ClipRecipe, num_photos: int, seed: int) -> list[tuple[int, list[int]]]:
    """Number of the scene and positions of its photos, of all lifted scenes; errors as in `difficulties`."""
    recipe.difficulties(num_photos, seed)
    return [
        (repeat, _spread(num_photos, count, lifted_seed(seed, repeat)))
        for count in recipe.lifted
        for repeat in range(recipe.lifted_repeats)
    ]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
