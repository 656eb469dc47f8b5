"""Copies of tensors in the memory of the host, which is used again for the next ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class HostCopies:
    """Copies what must not change while it is written: the state of a model and of an optimizer.

    The memory of the copies is kept, because taking as much anew would cost more than the copying does, most
    of all where it is pinned for a GPU.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Tensor] = {}  # by the keys that lead to a tensor
        self._events: list[torch.cuda.Event] = []  # that come when the copies are there

    def take(self, content: Any) -> Any:
        """Copy the tensors in nested mappings, lists and tuples.

        Tensors of a GPU are on their way when this returns. What the GPU is told next comes after them, but
        who reads the copies must call `arrive` before.

        Returns:
            The same, whose tensors are good until the next `take`. What is no tensor is not copied.
        """
        before, self._kept = self._kept, {}
        devices: set[torch.device] = set()

        def copied(value: Any, place: tuple[Any, ...]) -> Any:
            if isinstance(value, Tensor):
                copy = before.get(place)
                if copy is None or (copy.shape, copy.dtype) != (value.shape, value.dtype):
                    copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
                if value.is_cuda:
                    devices.add(value.device)
                self._kept[place] = copy.copy_(value.detach(), non_blocking=True)
                return copy
            if isinstance(value, Mapping):
                return {key: copied(item, (*place, key)) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(copied(item, (*place, number)) for number, item in enumerate(value))
            return value

        taken = copied(content, ())
        self._events = [torch.cuda.current_stream(device).record_event() for device in devices]
        return taken

    def arrive(self) -> None:
        """Wait, in any thread, until the copies that were taken last are there."""
        for event in self._events:
            event.synchronize()
