"""What the rates of a pass share: the data loader, the processes that read for it, and the random numbers."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Rates, begin
from s3prl_melhubert.errors import MelHuBERTError


def is_blocked() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Blocked(Dataset):
    """Whether the process that reads an item is kept from SIGINT."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> bool:
        return is_blocked()


def test_processes_that_read_leave_ctrl_c_to_the_command():
    """One that ended by it in the middle of a batch would be waited for, five seconds long."""
    loader = DataLoader(Blocked(), batch_size=None, num_workers=1)
    assert list(begin(loader)) == [True, True, True]
    assert not is_blocked()


DRAWS: list[Callable[[], float]] = [lambda: float(torch.rand(())), np.random.random, random.random]


@pytest.fixture
def rates() -> Rates:
    """Three rates, of which only the folder and the log matter."""
    upstream = SimpleNamespace(model=None)
    return Rates(
        [
            SimpleNamespace(
                folder=Path(f"lr-{number}"),
                log=SimpleNamespace(redirected=nullcontext),
                models=SimpleNamespace(upstream=upstream),
            )
            for number in range(3)
        ],
        torch.device("cpu"),
    )


def test_each_rate_draws_what_it_would_draw_alone(rates):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    drawn: list[list[float]] = []
    rates.in_turn(lambda rate: drawn.append([draw() for draw in DRAWS]))
    drawn.append([draw() for draw in DRAWS])
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    first, second = ([draw() for draw in DRAWS] for _ in range(2))
    assert drawn == [first, first, first, second]


@pytest.mark.parametrize("draw", DRAWS, ids=["torch", "numpy", "python"])
def test_a_rate_that_draws_more_than_the_others_is_refused(rates, draw):
    with pytest.raises(MelHuBERTError, match="lr-1: draws other random numbers than lr-0"):
        rates.in_turn(lambda rate: draw() if rate is rates[1] else None)
