"""The processes that train together, their devices and their precision, by Accelerate and what it lacks.

Gradients are added up by `gradients.GradientSums`. The model therefore is not wrapped, and its parameters
have their published names everywhere.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from s3prl_melhubert.errors import MelHuBERTError, said, shown
from s3prl_melhubert.pretrain.training.beginning.joining import (
    TORCH_DEVICE,
    are_several,
    asked_of_accelerate,
    join_group,
    refuse_split_models,
    unused_settings,
)
from s3prl_melhubert.support.devices import resolve_device
from s3prl_melhubert.support.progress import say

T = TypeVar("T")


@contextmanager
def one_line_of_lost_processes() -> Iterator[None]:
    """Raise a MelHuBERTError where another process of the run has died; torch raises errors of its own."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise MelHuBERTError(
            "another process of this run has died, or its machine cannot be reached "
            f"({' '.join(str(error).split())[:200]}); see what it said, and continue with --resume"
        ) from None


@contextmanager
def _device_for_accelerate(device: torch.device) -> Iterator[None]:
    """Have Accelerate take this device, whatever the environment says.

    Of the GPUs there is no other way to tell it one than a variable, which must not reach a later run.
    """
    before = os.environ.pop(TORCH_DEVICE, None)
    if device.index is not None:
        os.environ[TORCH_DEVICE] = str(device)
    try:
        yield
    finally:
        os.environ.pop(TORCH_DEVICE, None)
        if before is not None:
            os.environ[TORCH_DEVICE] = before


_last_work: list[dist.Work] = []


def _hold_until_exit(work: dist.Work) -> dist.Work:
    """Keep the last work that a process group was given, so that this thread is the one that lets it go.

    Where a thread of gloo's is the last to let go of a work, it needs Python's lock to let go of its tensors,
    too. When the interpreter is on its way out by then, torch 2.11 ends the process with SIGABRT
    ("terminate called without an active exception"), and torchrun calls a run failed that has ended well. A
    barrier of gloo's lets go of all works before it in this way, so that the last barrier of a run did it.
    """
    _last_work[:] = [work]
    return work


class Wanted(NamedTuple):
    """What all processes do after the present step."""

    stop: signal.Signals | None  # the signal that one of them received
    save: bool


class Processes:
    """This process among the `count` that torchrun or `accelerate launch` started, or a single one.

    Args:
        device: cpu, cuda or cuda:N; None for the best there is. With several processes, each has its own.
        precision: fp32, bf16 or fp16.
        where: what an error calls the section of settings that has the precision.

    Raises:
        MelHuBERTError: no such device, or one that cannot do this precision.
    """

    def __init__(self, device: str | None, precision: str, where: str = "runner"):
        chosen = resolve_device(device)
        several = are_several(chosen)
        if chosen.type == "cuda" and chosen.index is not None:
            if several:
                raise MelHuBERTError(
                    f"--device {device}: with several processes each takes its own GPU; leave the number out"
                )
            torch.cuda.set_device(chosen)
        if precision == "fp16" and chosen.type == "cpu":
            raise MelHuBERTError(f"{where}: precision: fp16 needs a GPU; on a CPU use fp32 or bf16")
        refuse_split_models()
        if several and "RANK" in os.environ:  # MPI's processes find each other by MPI
            join_group(chosen)
        # An earlier run in this process may have had another device or precision.
        AcceleratorState._reset_state(reset_partial_state=not several)
        try:
            with _device_for_accelerate(chosen):
                self.accelerator = Accelerator(
                    cpu=chosen.type == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision)
                )
        except (ValueError, ImportError) as error:
            raise MelHuBERTError(
                f"Accelerate cannot begin ({said(error)}), by what the environment says: "
                f"{asked_of_accelerate() or 'nothing'}; unset what is wrong there"
            ) from None
        self.device = self.accelerator.device
        self.count = self.accelerator.num_processes
        self.index = self.accelerator.process_index
        self.is_main = self.accelerator.is_main_process
        self._saved_at = time.monotonic()
        for line in unused_settings(precision):
            self.warn(f"melhubert: {line}")

    # What one process knows and all must --------------------------------------------------------------

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over the processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        _hold_until_exit(dist.all_reduce(total, async_op=True)).wait()
        return total.tolist()

    def any(self, mine: bool) -> bool:
        return self.sum([mine])[0] > 0

    def all(self, mine: bool) -> bool:
        return self.sum([mine])[0] == self.count

    def gather(self, mine: T) -> list[T]:
        """What each process has, in the order of their numbers."""
        if self.count == 1:
            return [mine]
        everything: list[Any] = [None] * self.count
        dist.all_gather_object(everything, mine)
        self.wait()  # the group's last work must not be one of `all_gather_object`'s, see `_hold_until_exit`
        return everything

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Put the first process's values into every process's tensors.

        New weights may differ in their last bits on processors of different kinds.
        """
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)
            self.wait()  # see `gather`

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise a MelHuBERTError in every process where one of them raises it in the block.

        The others would wait for that one for ever. Within the block, no process may wait for another.
        """
        fault = None
        try:
            yield
        except MelHuBERTError as error:
            fault = error
        if self.any(fault is not None):
            raise fault or MelHuBERTError("another process of this run cannot begin; see what it said")

    def refuse_differences(self, mine: Mapping[str, Any]) -> None:
        """Raise a MelHuBERTError in every process unless all have the same, by its names."""
        first, *others = self.gather(dict(mine))
        for index, other in enumerate(others, 1):
            for name in {**first, **other}:
                here, there = first.get(name, "absent"), other.get(name, "absent")
                if here != there:
                    raise MelHuBERTError(
                        f"the processes of this run are not asked for the same: {name} is {shown(here)} in "
                        f"process 0 and {shown(there)} in process {index}; give one command, the same files "
                        "and the same data on all machines"
                    )

    def agree(self, received: signal.Signals | None, save_minutes: float) -> Wanted:
        """Whether to stop, because some process received a signal, or to save, by the first one's clock."""
        late = self.is_main and 0 < save_minutes * 60 < time.monotonic() - self._saved_at
        term, interrupt, save = self.sum([received == signal.SIGTERM, received == signal.SIGINT, late])
        if save:
            self._saved_at = time.monotonic()
        stop = signal.SIGTERM if term else signal.SIGINT if interrupt else None
        return Wanted(stop, bool(save))

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.sum([0.0])  # and no barrier of gloo's, see `_hold_until_exit`

    # Precision ---------------------------------------------------------------------------------------

    def prepare(self, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any]) -> Any:
        """The optimizer, wrapped for this precision; `scaler` is a checkpoint's state of fp16's scaling."""
        if self.accelerator.scaler is not None and scaler:
            self.accelerator.scaler.load_state_dict(dict(scaler))
        return self.accelerator.prepare_optimizer(optimizer)

    def scaler_state(self) -> dict[str, Any]:
        return {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()

    def autocast(self) -> AbstractContextManager:
        return self.accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss, which fp16 needs scaled."""
        # Accelerate's own backward is not used, because the environment may tell it to divide the loss.
        scaler = self.accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def clip(self, parameters: Sequence[Tensor], largest: float) -> float:
        """Scale the gradient down to a norm of at most `largest` (0 leaves it); return its norm before."""
        self.accelerator.unscale_gradients()
        return float(torch.nn.utils.clip_grad_norm_(parameters, largest or math.inf))

    def update(self, optimizer: Any, norm: float) -> bool:
        """Take the step, if the gradient, whose norm this is, is finite; return whether it was taken."""
        if self.accelerator.scaler is not None:
            optimizer.step()  # the scaler looks at the gradient itself, and lowers its scale
            # Accelerate does not notice that a fused optimizer skips the step inside.
            return math.isfinite(norm) and not self.accelerator.optimizer_step_was_skipped
        if math.isfinite(norm):
            optimizer.step()
        return math.isfinite(norm)

    # The rest ----------------------------------------------------------------------------------------

    def free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def say(self, line: str) -> None:
        """Print a line on stdout, from one process of several."""
        if self.is_main:
            say(line)

    def warn(self, line: str) -> None:
        """Print a line on stderr, from one process of several."""
        if self.is_main:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()
