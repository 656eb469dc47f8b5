"""The sum of the gradients of all processes, of which most is on its way while the rest is computed.

Parameters are put into buckets in the order in which a backward pass comes to them, and `.grad` of each is a
piece of its bucket's memory. In the last backward pass of a step, a bucket is sent as soon as all its
gradients are there (`register_post_accumulate_grad_hook`), in an order that is the same everywhere.

This is what DistributedDataParallel does, but for three things. The gradient is a sum and not a mean (see
`accumulate_gradients`). The model is not wrapped. And a process that runs out of memory in the middle sends
what the others wait for, so that all of them can throw the sum away and compute the step again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 25_000_000  # of a bucket at least: one layer of the base model has 28 MB
FP32, BF16 = "fp32", "bf16"


class GradientSums:
    """Adds up the gradients of all processes; of a single process it leaves them alone.

    A step is `begin`, backward passes of which the last one follows `send_with_next_backward`, and `finish`.

    Args:
        parameters: all that the optimizer has, in the same order in every process.
        precision: in what gradients are sent and added: `fp32`, or `bf16`, which is half as much to send and
            rounds each sum to 8 bits (an error of up to 0.4 % of it, for each addition).
    """

    def __init__(self, parameters: Iterable[Tensor], precision: str = FP32):
        self.parameters = list(parameters)
        self.active = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._buckets: list[_Bucket] = []
        self._armed = False
        self._sent = 0  # buckets
        self._present: set[int] = set()  # numbers of the parameters that have a gradient
        if not self.active:
            return
        bucket_of: dict[int, _Bucket] = {}
        for some in _buckets(range(len(self.parameters)), lambda i: self.parameters[i].numel()):
            bucket = _Bucket([self.parameters[i] for i in some], precision)
            self._buckets.append(bucket)
            bucket_of |= dict.fromkeys(some, bucket)
        for i, parameter in enumerate(self.parameters):
            parameter.register_post_accumulate_grad_hook(self._hook(i, bucket_of[i]))

    def begin(self) -> None:
        """Set all gradients to zero; nothing was sent yet."""
        self._armed, self._sent = False, 0
        self._present.clear()
        for bucket in self._buckets:
            bucket.begin()

    def send_with_next_backward(self) -> None:
        """The next backward pass is the last of the step: send each bucket when it is full."""
        self._armed = self.active

    def finish(self) -> None:
        """Send what was not sent, wait for all of it, and leave the sums in `.grad`.

        A process whose step failed calls this, too: the others wait for what it has. A layer that LayerDrop
        left out in a whole step has no gradient, and the optimizer passes it over. With several processes
        that holds where all of them left it out; where one did not, the others have added zeros.
        """
        if not self.active:
            return
        self._armed = False
        while self._sent < len(self._buckets):
            self._send()
        for bucket in self._buckets:
            bucket.wait()
        flags = [float(number in self._present) for number in range(len(self.parameters))]
        present = torch.tensor(flags, device=self.parameters[0].device)
        dist.all_reduce(present)
        for parameter, count in zip(self.parameters, present.tolist(), strict=True):
            if not count:
                parameter.grad = None

    def _hook(self, number: int, bucket: _Bucket) -> Callable[[Tensor], None]:
        def note(parameter: Tensor) -> None:
            self._present.add(number)
            if not self._armed:
                return
            bucket.missing -= 1
            while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
                self._send()

        return note

    def _send(self) -> None:
        self._buckets[self._sent].send()
        self._sent += 1


class _Bucket:
    """Some parameters whose gradients are pieces of one tensor."""

    def __init__(self, parameters: Sequence[Tensor], precision: str):
        self.parameters = parameters
        self.flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        pieces = self.flat.split([p.numel() for p in parameters])
        self.pieces = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
        self.missing = 0  # gradients of the last backward pass that are still to come
        self._work: Any = None
        # What is sent. It is made beforehand, because a process without memory must be able to send, too.
        self._sent = self.flat if precision == FP32 else self.flat.bfloat16()

    def begin(self) -> None:
        self.flat.zero_()
        self.missing = len(self.parameters)
        for parameter, piece in zip(self.parameters, self.pieces, strict=True):
            parameter.grad = piece

    def send(self) -> None:
        if self._sent is not self.flat:
            self._sent.copy_(self.flat)
        self._work = dist.all_reduce(self._sent, async_op=True)

    def wait(self) -> None:
        self._work.wait()
        if self._sent is not self.flat:
            self.flat.copy_(self._sent)
        self._work = None


def _buckets(numbers: Sequence[int], size: Callable[[int], int]) -> Iterator[list[int]]:
    """Put parameters, of so many figures each, into buckets, the last one first."""
    some: list[int] = []
    for number in reversed(numbers):
        some.append(number)
        if 4 * sum(map(size, some)) >= BUCKET_BYTES:
            yield some
            some = []
    if some:
        yield some
