"""Which pairs of photos are compared: all, neighbours in order, or those that look alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float, Num

from genfusion_ns.data.from_photos.photos import Photo
from genfusion_ns.data.from_photos.settings import Matching

MOST_FOR_ALL = 80
"""Photos of which all pairs are compared unless the user says otherwise."""
_NEIGHBOURS = 10
"""Frames that each frame of a video is compared with, and those 16, 32, 64 after it."""
_FAR = (16, 32, 64)
_ALIKE = 30
"""Photos that look most like a photo, which it is compared with."""
_ALIKE_BESIDE_ORDER = 8
_WORDS = 64
_PER_PHOTO = 400
_FOR_WORDS = 40_000

Pair = tuple[int, int]


def chosen_matching(photos: Sequence[Photo], matching: Matching) -> Matching:
    """What auto means for these photos."""
    if matching != "auto":
        return matching
    if len(photos) <= MOST_FOR_ALL:
        return "exhaustive"
    return "sequential" if all(photo.from_video for photo in photos) else "retrieval"


def all_pairs(count: int) -> list[Pair]:
    """All pairs (i, j), i < j, in squares, so that neighbours in the list have photos in common."""
    side = 10
    squares: dict[Pair, list[Pair]] = {}
    for i, j in combinations(range(count), 2):
        squares.setdefault((i // side, j // side), []).append((i, j))
    return [pair for square in sorted(squares) for pair in squares[square]]


def neighbours(photos: Sequence[Photo]) -> list[Pair]:
    """Pairs of photos that are near each other in the order of their input."""
    places: dict[int, list[int]] = {}
    for i, photo in enumerate(photos):
        places.setdefault(photo.source, []).append(i)
    pairs = []
    for members in places.values():
        for k, i in enumerate(members):
            later = [*range(k + 1, k + 1 + _NEIGHBOURS), *(k + far for far in _FAR)]
            pairs += [(i, members[m]) for m in later if m < len(members)]
    return pairs


def look_alikes(signatures: Float[np.ndarray, "N D"], count: int) -> list[Pair]:
    """Each photo with the `count` others whose signatures are nearest to its own."""
    alike = signatures @ signatures.T
    np.fill_diagonal(alike, -np.inf)
    count = min(count, len(alike) - 1)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :count]
    return [(int(i), int(j)) for i, row in enumerate(nearest) for j in row]


def signatures(descriptors: Iterable[Num[np.ndarray, "F 128"]], seed: int) -> Float[np.ndarray, "N D"]:
    """One vector of length 1 for each photo by the features it has (VLAD, Jégou et al. 2010).

    The visual words are the clusters of these photos' own features, so that no vocabulary is fetched.

    Args:
        descriptors: of the features of each photo.
        seed: of the samples and the clusters.
    """
    from scipy.cluster.vq import kmeans2, vq

    rng = np.random.default_rng([seed, 31])
    samples = [_sample(one, rng) for one in descriptors]
    pooled = np.concatenate(samples)
    if len(pooled) > _FOR_WORDS:
        pooled = pooled[rng.choice(len(pooled), _FOR_WORDS, replace=False)]
    count = min(_WORDS, max(1, len(pooled) // 20))
    words, _ = kmeans2(pooled, count, iter=12, minit="++", seed=rng)  # type: ignore[call-arg]  # rng from scipy 1.15 on
    found = np.zeros((len(samples), words.size))
    for row, sample in zip(found, samples, strict=True):
        if len(sample):
            word, _ = vq(sample, words)
            sums = np.zeros_like(words)
            np.add.at(sums, word, sample - words[word])
            row[:] = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)).ravel()
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def pairs_to_compare(
    photos: Sequence[Photo], matching: Matching, descriptors: Iterable[Num[np.ndarray, "F 128"]], seed: int
) -> list[Pair]:
    """The pairs of photos to compare, as positions, each once.

    Args:
        photos: all of the capture.
        matching: other than auto.
        descriptors: of each photo; asked for only where looks count.
        seed: of the clusters.
    """
    if matching == "exhaustive" or len(photos) <= _NEIGHBOURS:
        return all_pairs(len(photos))
    count = _ALIKE if matching == "retrieval" else _ALIKE_BESIDE_ORDER
    pairs = neighbours(photos) if matching == "sequential" else []
    pairs += look_alikes(signatures(descriptors, seed), count)
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _sample(descriptors: Num[np.ndarray, "F 128"], rng: np.random.Generator) -> Float[np.ndarray, "f 128"]:
    """Some descriptors of a photo, as root of their L1 normed values, which compare better (RootSIFT)."""
    count = min(len(descriptors), _PER_PHOTO)
    some = descriptors[rng.choice(len(descriptors), count, replace=False)].astype(np.float64)
    return np.sqrt(some / np.maximum(some.sum(1, keepdims=True), 1e-9))
