"""Checkpoints that s3prl's programs load, held against the checksums in them.

`torch.save` writes a checksum (CRC-32) of each tensor, and `torch.load` does not look at it: of a file with a
byte that has changed, it makes other weights without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

from s3prl_melhubert.compat.experiments.saving import STATES
from s3prl_melhubert.errors import MelHuBERTError

WRITTEN = (STATES, "*-best.ckpt", "best-states-*.ckpt")  # by s3prl's runners


@contextmanager
def damage_refused() -> Iterator[None]:
    """While the block runs, `torch.load` raises a MelHuBERTError for a damaged checkpoint of s3prl's.

    What else s3prl loads, such as the checkpoint of another upstream, may come from a program that wrote no
    checksums.
    """
    import torch

    from s3prl_melhubert.support.tensor_files import damage_in

    plain = torch.load

    def load(f: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(f, str | os.PathLike) and not options.get("mmap"):  # of those, weights are not wanted
            name = os.path.basename(f)
            damage = damage_in(f) if any(fnmatch(name, pattern) for pattern in WRITTEN) else None
            if damage:
                raise MelHuBERTError(f"{f}: is damaged ({damage}); put a whole copy there, or give another")
        return plain(f, *arguments, **options)

    torch.load = load
    try:
        yield
    finally:
        torch.load = plain
