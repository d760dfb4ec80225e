"""Seeded randomness, each way once: a generator per thing, its seed derived from that of the whole.

Everything is drawn on the CPU, so that the numbers do not depend on the device. The derived seeds are part of what a
seed means: another formula would be another run.
"""

from __future__ import annotations

import hashlib

import torch

_SEEDS = 2**63  # those that a generator takes


def seeded_generator(seed: int) -> torch.Generator:
    """Source of random numbers that starts at `seed` itself.

    >>> torch.rand(2, generator=seeded_generator(1)) == torch.rand(2, generator=seeded_generator(1))
    tensor([True, True])
    """
    return torch.Generator().manual_seed(seed)


def numbered_generator(seed: int, number: int) -> torch.Generator:
    """Source of random numbers of one of many things that are counted: batches, worlds, paths.

    >>> numbered_generator(2, 5).initial_seed()
    2000011
    """
    return seeded_generator((seed * 1_000_003 + number) % _SEEDS)


def round_seed(seed: int, round: int) -> int:
    """Seed of one round of a run, as its record names it.

    >>> round_seed(3, 2)
    300011
    """
    return seed * 100_003 + round


def seed_of(seed: int, purpose: str, number: int) -> int:
    """Seed of one thing among many of several kinds; those of different purposes or numbers have nothing in common.

    >>> seed_of(0, "noise", 7)
    3388163033826094110
    """
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS


def generator_of(seed: int, purpose: str, number: int) -> torch.Generator:
    """Source of random numbers of one thing among many of several kinds; see `seed_of`.

    >>> generator_of(0, "noise", 7).initial_seed() == seed_of(0, "noise", 7) != seed_of(0, "layers", 7)
    True
    """
    return seeded_generator(seed_of(seed, purpose, number))
