"""What a page shows so that it stays within its size: less of what is seen least, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

LEAST_WEIGHT = 0.8
"""Share of the photos' pixels that the surfels of a page make up at least; with less the scene falls apart."""
_FILM = {0: "the video is shown as it is", 1: "the video is encoded again with up to 480 lines",
         2: "the video is encoded again with up to 360 lines", 3: "the video is left out"}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """How much of a run a page shows."""

    degree: int
    """Of the harmonics of the surfels' colours."""
    frames: int
    """Compared per clip of a round; 0: none."""
    film: int
    """0: the video as it is; 1, 2: smaller ones; 3: none."""
    surfels: float = 1.0
    """Share of them, those with the largest weight."""


def fitted(most: Choice, limit: int, size: Callable[[Choice], int], least_surfels: float) -> Choice:
    """The best page within a size.

    A smaller video goes first, then frames, degrees of harmonics, the video, all frames, and surfels last; what turns
    out not to have been needed comes back.

    Args:
        most: all that there is.
        limit: bytes that the page may have.
        size: bytes of a page.
        least_surfels: share of the surfels that must stay.

    Raises:
        ValueError: nothing fits; the message says the least that would.
    """
    steps = list(_reductions(most))
    for choice in [most, *steps]:
        if size(choice) <= limit:
            return _restored(choice, most, limit, size)
    smallest = steps[-1] if steps else most
    share = _share(smallest, limit, size)
    if share >= least_surfels:
        return replace(smallest, surfels=share)
    least = size(replace(smallest, surfels=least_surfels))
    raise ValueError(
        f"--max-megabytes {limit / 1e6:g} is too small: with plain colours, without pictures and video, and with "
        f"{least_surfels:.0%} of the surfels the page has {least / 1e6:.2f} MB. Give {-(-least // 10**4) / 100:.2f} "
        "or more"
    )


def left_out(choice: Choice, most: Choice, surfels: int) -> list[str]:
    """What a page does not show, in words.

    Args:
        choice: what it shows.
        most: all that there is.
        surfels: how many there are.
    """
    words = []
    if choice.film != most.film:
        words.append(_FILM[choice.film])
    if choice.frames != most.frames:
        words.append(f"{choice.frames or 'no'} frame{'s' * (choice.frames != 1)} of each clip instead of {most.frames}")
    if choice.degree != most.degree:
        words.append(f"colours by direction up to degree {choice.degree} instead of {most.degree}")
    if choice.surfels < 1:
        gone = surfels - round(choice.surfels * surfels)
        words.append(f"{gone:,} of {surfels:,} surfels are left out, those of which photos show least")
    return words


def _reductions(most: Choice) -> Iterator[Choice]:
    choice = most
    orders: list[dict[str, int]] = [
        {"film": 1}, {"film": 2}, {"frames": 1}, {"degree": 2}, {"degree": 1}, {"film": 3}, {"degree": 0}, {"frames": 0}
    ]  # fmt: skip
    for order in orders:
        (name, value) = next(iter(order.items()))
        now = getattr(choice, name)
        if (value > now) if name == "film" else (value < now):
            choice = replace(choice, **order)
            yield choice


def _restored(choice: Choice, most: Choice, limit: int, size: Callable[[Choice], int]) -> Choice:
    """The choice with as much of what was taken as there is room for: colours first, then frames, then the video."""
    for name, values in (
        ("degree", range(most.degree, choice.degree, -1)),
        ("frames", sorted({most.frames, 1} & set(range(choice.frames + 1, most.frames + 1)), reverse=True)),
        ("film", range(most.film, choice.film)),
    ):
        for value in values:
            better = replace(choice, **{name: value})
            if size(better) <= limit:
                choice = better
                break
    return choice


def _share(choice: Choice, limit: int, size: Callable[[Choice], int]) -> float:
    """The largest share of the surfels that fits, to a thousandth; 0 where none does."""
    low, high = 0, 1000
    while high - low > 1:
        middle = (low + high) // 2
        if size(replace(choice, surfels=middle / 1000)) <= limit:
            low = middle
        else:
            high = middle
    return low / 1000
