"""Random numbers that depend on their purpose, not on the process or time of the draw.

A clip's crop, its masks and its dropped text vectors are drawn from (seed, step, utterance), dropout from (seed, step,
position in the global batch). So a resumed run equals an uninterrupted one without a stored state of generators.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from the purpose of the numbers; the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator for one purpose."""
    return np.random.Generator(np.random.Philox(derive(*parts)))


def seed_torch(*parts: int | str) -> None:
    """Seed torch's own generators (dropout, initial weights), on all devices."""
    torch.manual_seed(derive(*parts))
