"""The checkpoint from which s3prl's programs go on, looked at before they begin.

Of a file of any size, torch's archive is opened and its pickle read, which finds one that was cut short. The
weights are mapped, and not read.
"""

from __future__ import annotations

import fnmatch
import os
import warnings
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, NamedTuple

from s3prl_melhubert.compat.experiments.saving import STATES, states_in
from s3prl_melhubert.errors import MelHuBERTError, said

LAST = "states-epoch-*.ckpt"  # of an ended pre-training

# What s3prl takes of the experiment.
PARTS = {"Args", "Config"}


class Past(NamedTuple):
    """What a checkpoint says of its run."""

    args: Namespace
    config: Mapping[str, Any]
    upstream: Any = None  # the settings of the upstream, where it has some


def check_past(argument: str, place: str) -> Past | None:
    """Return what the checkpoint says that s3prl goes on from, or None of a pipe, which can be read once.

    Args:
        argument: the argument in words, `-a` or `-e`.
        place: a checkpoint, or a folder of some.

    Raises:
        MelHuBERTError: s3prl cannot go on from it.
    """
    is_folder = os.path.isdir(place)
    path = _in_order(place)[-1] if is_folder else place
    if not os.path.isfile(path):
        return None
    try:
        content = _opened(path)
    except Exception as error:  # A damaged file fails in many ways.
        raise MelHuBERTError(
            f"{_unreadable(argument, path, error)}; {_way_out(path, is_file=path == place)}"
        ) from None
    if not isinstance(content, dict) or not content.keys() >= PARTS:
        raise MelHuBERTError(
            f"{argument} {path}: no checkpoint of an experiment, which has {' and '.join(sorted(PARTS))}; "
            f"name a {STATES} or *-best.ckpt"
        )
    if is_folder:
        _refuse_ended(argument, place, path, content)
    return Past(content["Args"], content["Config"], content.get("Upstream_Config"))


def _refuse_ended(argument: str, folder: str, path: str, content: dict[str, Any]) -> None:
    """Raise MelHuBERTError where s3prl would train the last steps of a run anew, over its final model.

    A run of `run_pretrain.py` writes its last checkpoint as `states-epoch-EPOCHS.ckpt`. s3prl orders it by
    that number, and so takes an older one of more steps than the run has epochs.

    Args:
        argument: the argument in words, `-a` or `-e`.
        folder: that s3prl goes on in.
        path: the checkpoint that it takes of it.
        content: what is in it.
    """
    step = content.get("Step")
    for last in fnmatch.filter(states_in(folder), f"*{LAST}"):
        reached = _step(last)
        if isinstance(step, int) and reached is not None and reached > step:
            raise MelHuBERTError(
                f"{argument} {folder}: the run has ended with {last} (step {reached}), and s3prl would go on "
                f"from {path} (step {step}) and replace it; `melhubert pretrain -i {last}` trains on, "
                f"-e {path} does the last steps once more"
            )


def _step(path: str) -> int | None:
    """The step of a checkpoint, None where it holds none, or cannot be read."""
    try:
        step = _opened(path)["Step"]
    except Exception:  # A damaged file fails in many ways.
        return None
    return step if isinstance(step, int) else None


def check_weights(argument: str, path: str | None) -> None:
    """Raise MelHuBERTError where a file is named whose weights s3prl cannot read."""
    try:
        if path is not None and os.path.isfile(path):
            _opened(path)
    except Exception as error:
        raise MelHuBERTError(f"{_unreadable(argument, str(path), error)}; name a whole one") from None


def _number(path: str) -> int:
    """The number by which s3prl orders a checkpoint, which is that of the epoch in `states-epoch-1.ckpt`."""
    try:
        return int(path.split("-")[-1].split(".")[0])
    except ValueError:
        raise MelHuBERTError(
            f"{path}: no number in its name, by which s3prl orders checkpoints; give it another name"
        ) from None


def _opened(path: str) -> Any:
    """What s3prl's `torch.load` makes of a file, with the weights left on the disk where that can be."""
    import torch

    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"  # Files of a torch before 1.6 are read as a whole.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice, which s3prl's own call shows
        return torch.load(path, map_location="cpu", mmap=is_archive)


def _unreadable(argument: str, path: str, error: Exception) -> str:
    """The first half of the error of a file that cannot be read."""
    reason = said(error).partition(". ")[0]  # torch's messages go on about its settings.
    return f"{argument} {path}: cannot be read ({os.path.getsize(path)} bytes; {reason})"


def _way_out(path: str, *, is_file: bool) -> str:
    """What to do about a damaged checkpoint: the last whole one of the folder, where there is one."""
    for other in reversed(_in_order(os.path.dirname(path) or ".")):
        if not os.path.samefile(other, path) and _is_whole(other):
            step = f"give -e {other}" if is_file else f"remove it to go on from {other}"
            return f"{step}, the newest whole one there"
    return "no whole one is there, so begin a new experiment in another folder"


def _in_order(folder: str) -> list[str]:
    """The checkpoints of a folder as s3prl orders them.

    Raises:
        MelHuBERTError: a name has no number.
    """
    return sorted(states_in(folder), key=_number)


def _is_whole(path: str) -> bool:
    try:
        return isinstance(_opened(path), dict)
    except Exception:
        return False
