"""Random streams that need no saving: a stream is a function of the seed and of what it is for.

A generator that is consumed step by step has to be saved and restored, and every new consumer shifts all later draws.
Here each purpose has its own stream, so a decision draws the same numbers however many others were taken before it,
on however many slots, and after a crash.
"""

from __future__ import annotations

import hashlib
import random

__all__ = ["stream", "uniform_key"]


def stream(seed: int, *purpose: str | int) -> random.Random:
    """Return a fresh generator for one purpose.

    Args:
        seed: the experiment's seed.
        *purpose: what the numbers are for, for example ``("explore", trial_index, generation)``. Equal purposes give
            equal streams; different ones are independent.
    """
    return random.Random(_digest(seed, purpose, 16))


def uniform_key(seed: int, *purpose: str | int) -> float:
    """Return one number in [0, 1) for one purpose: as good as the first draw of a stream, at a tenth of its cost."""
    return (_digest(seed, purpose, 8) >> 11) / (1 << 53)


def _digest(seed: int, purpose: tuple[str | int, ...], size: int) -> int:
    text = str(seed)
    for part in purpose:
        text += f"\x1fint:{part}" if type(part) is int else f"\x1f{type(part).__name__}:{part}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "big")
