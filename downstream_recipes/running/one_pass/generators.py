"""The random generators that s3prl's code draws from: torch's, the device's, numpy's and Python's."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Generators:
    """The state of all generators at one moment.

    Attributes:
        cpu: torch's on the CPU, (n,) uint8.
        gpu: torch's on the device, (n,) uint8; None where the device is the CPU.
        numpy: numpy's global one.
        python: the one of the module `random`.
    """

    cpu: Tensor
    gpu: Tensor | None
    numpy: tuple[Any, ...]
    python: tuple[Any, ...]

    @classmethod
    def now(cls, device: torch.device) -> Generators:
        """Take the states as they are."""
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        numbers: Any = np.random.get_state(legacy=True)
        return cls(torch.get_rng_state(), gpu, numbers, random.getstate())

    def put_back(self, device: torch.device) -> None:
        """Let every generator go on from here."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.gpu, device)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def equals(self, other: Generators) -> bool:
        """Whether the same numbers would be drawn from both."""
        gpus = (self.gpu, other.gpu)
        return (
            torch.equal(self.cpu, other.cpu)
            and (self.gpu is None) == (other.gpu is None)
            and (self.gpu is None or torch.equal(*(gpu for gpu in gpus if gpu is not None)))
            and self.numpy[0] == other.numpy[0]
            and np.array_equal(self.numpy[1], other.numpy[1])
            and self.numpy[2:] == other.numpy[2:]
            and self.python == other.python
        )

    def as_plain(self) -> dict[str, Any]:
        """The states as tensors, numbers and tuples, which a file of tensors may hold."""
        name, keys, *rest = self.numpy
        numpy = (name, torch.from_numpy(keys.astype(np.int64)), *rest)
        return {"cpu": self.cpu, "gpu": self.gpu, "numpy": numpy, "python": self.python}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Generators:
        """The states that `as_plain` has written."""
        name, keys, *rest = plain["numpy"]
        numpy = (name, keys.numpy().astype(np.uint32), *rest)
        return cls(plain["cpu"], plain["gpu"], numpy, plain["python"])


def seed_everything(seed: int) -> None:
    """Seed what s3prl seeds, when it starts and before every evaluation."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
