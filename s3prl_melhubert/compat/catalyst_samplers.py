"""`catalyst.data.sampler` without Catalyst, of which s3prl's keyword spotting imports one class.

Catalyst is no longer developed. s3prl uses the class in multi-GPU training alone, but imports it always.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DistributedSampler, Sampler


class DistributedSamplerWrapper(DistributedSampler):
    """Any sampler in distributed training: each process goes through its share of what the sampler draws.

    The shares are of equal size; where the draws cannot be divided, the first ones come twice.

    Args:
        sampler: of a length that does not change.
        num_replicas: processes; None for those of the process group.
        rank: this process' number; None for that in the process group.
        shuffle: whether the draws are put into another order, which `set_epoch` changes.
    """

    def __init__(
        self,
        sampler: Sampler[Any],
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__(range(len(sampler)), num_replicas, rank, shuffle)  # type: ignore[arg-type]
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        drawn = list(self.sampler)
        return (drawn[position] for position in super().__iter__())


def restore() -> bool:
    """Put the module where s3prl looks for it, unless Catalyst is installed; true if it was missing."""
    from importlib.machinery import ModuleSpec
    from importlib.util import find_spec

    top = "catalyst"
    if top in sys.modules or find_spec(top) is not None:
        return False
    parent: types.ModuleType | None = None
    for name in (top, f"{top}.data", f"{top}.data.sampler"):
        module = types.ModuleType(name, "A part of Catalyst, from s3prl_melhubert.compat.catalyst_samplers.")
        module.__spec__ = ModuleSpec(name, loader=None, is_package=not name.endswith("sampler"))
        module.__path__ = []  # the import system takes what has a path for a package
        sys.modules[name] = module
        if parent is not None:
            setattr(parent, name.rpartition(".")[2], module)
        parent = module
    vars(sys.modules[f"{top}.data.sampler"])["DistributedSamplerWrapper"] = DistributedSamplerWrapper
    return True
