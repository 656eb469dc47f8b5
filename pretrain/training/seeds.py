"""Randomness without a state: each thing that is drawn has a seed, made from what it is drawn for.

So nothing has to be saved to draw it again, and no draw depends on how much was drawn before it.
"""

from __future__ import annotations

import numpy as np
import torch

# What is drawn stands first among the numbers of a seed, so that two kinds never share a seed.
ORDER = 1  # the order of the utterances of an epoch
CROP = 2
MASK = 3
DROPOUT = 4


def seed_of(*numbers: int) -> int:
    """Make one seed, of 63 bits, from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_generator(*numbers: int) -> np.random.Generator:
    """numpy's generator for what these numbers stand for."""
    return np.random.default_rng(numbers)


def torch_generator(*numbers: int) -> torch.Generator:
    """torch's generator, on the CPU, for what these numbers stand for."""
    return torch.Generator().manual_seed(seed_of(*numbers))
