"""Randomness without a state: a seed for each thing that is drawn, from what it is drawn for.

So nothing has to be saved to draw it again, and nobody's draws depend on how much others have drawn.
"""

from __future__ import annotations

import numpy as np
import torch

# What is drawn. First among the numbers of a seed, so that two kinds never share one.
ORDER = 1  # of the utterances of an epoch
CROP = 2
MASK = 3
DROPOUT = 4


def seed_of(*numbers: int) -> int:
    """One seed, of 63 bits, from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(numbers)


def torch_generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*numbers))
