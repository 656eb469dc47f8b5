"""Batches of a DataLoader's processes, where shared memory has no room for them."""

from __future__ import annotations

import pytest

# The largest size of a file stands for a small /dev/shm, which only root can mount.
READ = """
import resource, sys, torch
from torch.utils.data import DataLoader
from s3prl_melhubert.compat.shared_memory import restore_without_room

torch.multiprocessing.set_sharing_strategy(sys.argv[1])
assert restore_without_room() and not restore_without_room()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
waves = [torch.full((n,), float(n)) for n in (100, 100_000, 200_000)]  # 0.4, 400 and 800 kB
for i, batch in enumerate(DataLoader(waves, batch_size=None, num_workers=1)):
    assert torch.equal(batch, waves[i]) and batch.dtype == torch.float32
    print(len(batch))
"""


@pytest.mark.parametrize("strategy", ["file_system", "file_descriptor"])
def test_batches_arrive_without_room_in_shared_memory(strategy, run_python):
    """s3prl uses the first strategy; without room, its programs waited for ever."""
    ran = run_python("-c", READ, strategy, timeout=100)
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, ["100", "100000", "200000"], "")
