"""Random numbers that depend on what they are for, not on who draws them or when.

A clip's crop, its masks and its dropped text vectors are drawn from (seed, step, utterance), dropout from (seed, step,
position in the global batch). So a resumed run repeats an unbroken one without storing a generator's state.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from what the numbers are for; the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator of its own for one purpose."""
    return np.random.Generator(np.random.Philox(derive(*parts)))


def seed_torch(*parts: int | str) -> None:
    """Seed torch's own generators (dropout, initial weights), on all devices."""
    torch.manual_seed(derive(*parts))
