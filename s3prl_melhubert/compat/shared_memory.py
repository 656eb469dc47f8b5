"""Tensors on their way between processes, where shared memory has no room for them.

A DataLoader's processes put a batch's tensors into shared memory (/dev/shm), of which containers have 64 MB.
torch pickles them in a thread of the queue: where that fails, the thread prints a traceback, and the process
that waits for the batch waits for ever. Without room, a tensor goes through the queue's pipe, as an array of
numpy's does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def restore_without_room() -> bool:
    """Let a tensor be pickled where shared memory has no room for it; false if that is so already."""
    from multiprocessing.reduction import ForkingPickler

    import torch
    import torch.multiprocessing

    reducers: dict[type, Callable[[Any], tuple]] = vars(ForkingPickler)["_extra_reducers"]
    if reducers.get(torch.UntypedStorage) is not torch.multiprocessing.reductions.reduce_storage:
        return False
    ForkingPickler.register(torch.UntypedStorage, _reduce_storage)
    return True


def _reduce_storage(storage: Any) -> tuple:
    """What makes a storage again: its place in shared memory, or else its bytes."""
    from torch.multiprocessing.reductions import reduce_storage

    try:
        return tuple(reduce_storage(storage))
    except RuntimeError:
        if storage.device.type != "cpu":
            raise
        return _storage_of, (_bytes_of(storage),)


def _bytes_of(storage: Any) -> bytes:
    import torch

    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def _storage_of(content: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
