"""What the rates of a pass share: the data loader, and the processes that read for it."""

from __future__ import annotations

import signal

from torch.utils.data import DataLoader, Dataset

from s3prl_melhubert.downstream_recipes.running.one_pass.rate import begin


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
