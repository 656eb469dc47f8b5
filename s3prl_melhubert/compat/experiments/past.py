"""The checkpoint from which s3prl's programs go on, looked at before they begin.

torch's archive is opened and its pickle read, which finds a file that was cut short. The weights are mapped;
what is gone on with, or tested, is also held against the checksums in it, for which all of it is read.
"""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from s3prl_melhubert.compat.experiments.saving import STATES, states_in
from s3prl_melhubert.errors import MelHuBERTError, said

LAST = "states-epoch-*.ckpt"  # of an ended pre-training

# What s3prl takes of the experiment, whichever of its programs made it.
PARTS = {"Args", "Config"}
# What run_downstream.py trains. It passes over what a checkpoint lacks, and begins with random weights.
TRAINED = {"Featurizer", "Downstream"}


class Past(NamedTuple):
    """What a checkpoint says of its run."""

    args: Mapping[str, Any]
    config: Mapping[str, Any]
    step: int | None  # up to which it has trained
    upstream: Any  # the settings of the upstream, where it has some
    has_optimizer: bool  # which s3prl loads, with its settings


def check_past(argument: str, place: str, program: str, parts: Collection[str]) -> Past | None:
    """Return what the checkpoint says that s3prl goes on from, or None of a pipe, which can be read once.

    Args:
        argument: the argument in words, `-a` or `-e`.
        place: a checkpoint, or a folder of some.
        program: the one that goes on, in words.
        parts: what its checkpoints hold beside `PARTS`.

    Raises:
        MelHuBERTError: s3prl cannot go on from it.
    """
    is_folder = os.path.isdir(place)
    path = _in_order(place)[-1] if is_folder else place
    if not os.path.isfile(path):
        return None
    try:
        content = _read(path)
    except Exception as error:  # A damaged file fails in many ways.
        raise MelHuBERTError(
            f"{_unreadable(argument, path, error)}; {_way_out(path, is_file=path == place)}"
        ) from None
    needed = PARTS | set(parts)
    # Of an optimizer that has no state, as in a compressed model's file, s3prl's pre-training takes none.
    if not isinstance(content, dict) or not {k for k in content if k != "Optimizer" or content[k]} >= needed:
        remedy = f"name one, such as a {STATES}"
        if isinstance(content, dict) and {"model", "Upstream_Config"} <= content.keys():
            remedy += f"; `melhubert pretrain -i {path}` begins a run with this one's weights"
        raise MelHuBERTError(
            f"{argument} {path}: no checkpoint of {program}, which has {', '.join(sorted(needed))}; {remedy}"
        )
    run = _past(content)
    if is_folder:
        _refuse_ended(argument, place, path, run.step)
    return run


def _past(content: Mapping[str, Any]) -> Past:
    step = content.get("Step")
    return Past(
        args=getattr(content.get("Args"), "__dict__", {}),
        config=content.get("Config", {}),
        step=step if isinstance(step, int) else None,
        upstream=content.get("Upstream_Config"),
        has_optimizer=bool(content.get("Optimizer")),
    )


def _refuse_ended(argument: str, folder: str, path: str, step: int | None) -> None:
    """Raise MelHuBERTError where s3prl would train the last steps of a run anew, over its final model.

    A run of `run_pretrain.py` writes its last checkpoint as `states-epoch-EPOCHS.ckpt`. s3prl orders it by
    that number, and so takes an older one of more steps than the run has epochs.

    Args:
        argument: the argument in words, `-a` or `-e`.
        folder: that s3prl goes on in.
        path: the checkpoint that it takes of it.
        step: of this checkpoint.
    """
    for last in fnmatch.filter(states_in(folder), f"*{LAST}"):
        reached = _step(last)
        if step is not None and reached is not None and reached > step:
            raise MelHuBERTError(
                f"{argument} {folder}: the run has ended with {last} (step {reached}), and s3prl would go on "
                f"from {path} (step {step}) and replace it; `melhubert pretrain -i {last}` trains on, "
                f"-e {path} does the last steps once more"
            )


def _step(path: str) -> int | None:
    """The step of a checkpoint, None where it holds none, or cannot be read."""
    try:
        return _past(_opened(path)).step
    except Exception:  # A damaged file fails in many ways.
        return None


def check_weights(
    path: str, mode: str, trainable: bool | None = None, *, has_model: bool = True
) -> Past | None:
    """Return what the checkpoint of `-i` says of its run, or None of a pipe.

    Args:
        path: the checkpoint.
        mode: of run_downstream.py: `train`, `evaluate` or `inference`.
        trainable: whether the upstream is to be trained, where that is known.
        has_model: whether the task has a downstream model, which is trained.

    Raises:
        MelHuBERTError: s3prl cannot read it, or would pass over it and take random weights.
    """
    if not os.path.isfile(path):
        return None
    try:
        content = _read(path)
    except Exception as error:
        raise MelHuBERTError(f"{_unreadable('-i', path, error)}; name a whole one") from None
    found = content.keys() if isinstance(content, dict) else set()
    needs_all = has_model and mode != "train"
    if not found >= TRAINED if needs_all else not found & {*TRAINED, "Upstream"}:
        raise MelHuBERTError(
            f"-i {path}: no checkpoint of run-downstream, which has {' and '.join(sorted(TRAINED))}, so that "
            f"s3prl would take random weights; name a {STATES} or *-best.ckpt"
        )
    trained = "Upstream" in found
    if mode == "train" and content.get("Optimizer") and trainable not in (None, trained):
        remedy = (
            "trains the upstream, too; add -f" if trained else "does not train the upstream; leave out -f"
        )
        raise MelHuBERTError(f"-i {path}: the optimizer in it, which s3prl goes on with, {remedy}")
    return _past(content)


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

    from s3prl_melhubert.support.tensor_files import ARCHIVE

    with open(path, "rb") as file:
        is_archive = file.read(len(ARCHIVE)) == ARCHIVE  # Files of a torch before 1.6 are read as a whole.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice, which s3prl's own call shows
        return torch.load(path, map_location="cpu", mmap=is_archive)


def _read(path: str) -> Any:
    """The same of a file whose weights are to be used: they are held against their checksums."""
    from s3prl_melhubert.support.tensor_files import damage_in

    content = _opened(path)
    damage = damage_in(path)
    if damage:
        raise ValueError(damage)
    return content


def _unreadable(argument: str, path: str, error: Exception) -> str:
    """The first half of the error of a file that cannot be read."""
    reason = said(error).partition(". ")[0]  # torch's messages go on about its settings.
    return f"{argument} {path}: cannot be read ({os.path.getsize(path)} bytes; {reason})"


def _way_out(path: str, *, is_file: bool) -> str:
    """What to do about a damaged checkpoint: the last whole one of the folder, where there is one."""
    for other in reversed(_in_order(os.path.dirname(path) or ".")):
        if _is_whole(other):
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
        return isinstance(_read(path), dict)
    except Exception:
        return False
