"""How a run goes on from one of its checkpoints: what must be as before, and how it was begun."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from s3prl_melhubert.checkpoint import Checkpoint, check_state, open_checkpoint
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.beginning.identity import FORMER, STEPS, VALIDATION, identity_changes
from s3prl_melhubert.pretrain.training.beginning.initial import MODEL, chosen_layers
from s3prl_melhubert.pretrain.training.checkpointing import Progress, noted_arguments
from s3prl_melhubert.pretrain.training.settings import Settings
from s3prl_melhubert.support.huggingface import names_repository

INITIAL = {  # the arguments that say what a run begins with, and their options
    "initial_weight": "-i",
    "init_layers": "--init_layers",
    "init_stats": "--init_stats",
    "init_optimizer_from_initial_weight": "--init_optimizer_from_initial_weight",
}
# What checkpoints note of `-i` beside these arguments: the digest of its weights, and how many layers it has.
INITIAL_WEIGHTS = "initial_weights_digest"
INITIAL_DEPTH = "initial_weights_layers"
MOST_LAYERS = 9999  # that `--init_layers` can name


def progress_of(
    checkpoint: Checkpoint, identity: Mapping[str, Any]
) -> tuple[Progress, dict[str, Any], list[str]]:
    """What a checkpoint of this package's runner holds for going on from it.

    Returns:
        The progress, the state of fp16's scaler (empty without one), and lines on what has changed and may.

    Raises:
        MelHuBERTError: it is no such checkpoint, or it is of a run with other settings.
    """
    path = checkpoint.path
    saved = checkpoint.rest.get("Progress")
    if not isinstance(saved, dict) or not isinstance(saved.get("identity"), dict) or "step" not in saved:
        raise MelHuBERTError(
            f"{path}: has no key Progress, so that the run cannot be continued exactly; start a new one from "
            f"its weights with -i {path}"
        )
    saved = dict(saved)
    before, scaler = saved.pop("identity"), saved.pop("scaler", {})
    lines = []
    for change in identity_changes(before, identity):
        if FORMER.get(change.name, change.name) != VALIDATION:
            raise MelHuBERTError(
                f"{path}: the run was started with {change}; continue it with the old setting, or start a "
                f"new run from its weights with -i {path} and another -n"
            )
        lines.append(
            f"{change.name}: {change.now}; up to here {change.before}, so that the figures of validation in "
            "the log are of both and cannot be compared"
        )
    try:
        return Progress(**saved), scaler, lines
    except TypeError as error:
        raise MelHuBERTError(f"{path}: its key Progress is not this package's ({error})") from None


def load_weights(model: MelHuBERT, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into the model.

    Raises:
        MelHuBERTError: the weights are not this model's; the message names the tensors.
    """
    check_state(checkpoint.state, model.state_dict(), f"{checkpoint.path} (for the model of -g)")
    model.load_state_dict(checkpoint.state)


def complete_identity(checkpoint: Checkpoint, steps_per_epoch: int) -> None:
    """Take the steps of the schedule from the settings, in which alone earlier versions noted them."""
    with suppress(MelHuBERTError, TypeError, AttributeError, KeyError):
        steps = Settings.from_mapping(checkpoint.rest["Runner"], "").runner.steps(steps_per_epoch)
        checkpoint.rest["Progress"]["identity"].setdefault(STEPS, steps)


def begun_with(checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What a run that goes on began with, as its checkpoint notes it; none of it need be given again.

    Returns:
        What it began with, and how `-i` is known to be that.

    Raises:
        MelHuBERTError: something else is given now.
    """
    names = (*INITIAL, INITIAL_WEIGHTS, INITIAL_DEPTH)
    noted = {name: value for name, value in noted_arguments(checkpoint).items() if name in names}
    known = "not read"
    if noted.get("initial_weight") is None:  # by an earlier version, this may be one that went on without -i
        return noted, known
    for name, option in INITIAL.items():
        before, now = noted.get(name), arguments.get(name)
        if name == "init_stats":
            before = before or MODEL  # which is meant where it is not given
        if not now or name not in noted or before == now:
            continue
        if name == "initial_weight":
            known = _how_it_is_known(now, str(before), noted.get(INITIAL_WEIGHTS))
            if known:
                continue
        if name == "init_layers" and _are_the_same_layers(before, now, noted):
            continue
        raise MelHuBERTError(
            f"{checkpoint.path}: the run was begun with {option} {before}, now {now}; leave the option "
            "out to continue it, or start a new run with another -n"
        )
    return noted, known


def _are_the_same_layers(before: str | None, now: str, noted: Mapping[str, Any]) -> bool:
    """Whether `--init_layers` means what it meant, as 1,2 does of 1-2: for any checkpoint, or for its own.

    Args:
        before: with which the run was begun; None for all layers.
        now: that is given.
        noted: of the beginning. Earlier versions did not note the depth, and their checkpoint may be gone.
    """

    def are_same(depth: int) -> bool:
        try:
            first, second = (chosen_layers(text, depth, "") for text in (before, now))
        except MelHuBERTError:
            return False
        return first == second

    if are_same(MOST_LAYERS):
        return True
    depth = noted.get(INITIAL_DEPTH)
    with suppress(MelHuBERTError):
        depth = depth or open_checkpoint(str(noted["initial_weight"])).config.encoder_layers
    return depth is not None and are_same(depth)


def _how_it_is_known(now: str, before: str, weights: str | None) -> str:
    """How the checkpoint of `-i` is known to be the one that a run was begun with; nothing if it is another.

    Args:
        now: the checkpoint.
        before: where the one of the beginning was. Folders are moved, so that it may be elsewhere now.
        weights: the digest of its weights, which earlier versions did not note.
    """
    # The same command goes on, whatever its file holds by now.
    if os.path.realpath(Path(now).expanduser()) == os.path.realpath(before):
        return "not read"
    if weights is None and not names_repository(before) and not Path(before).exists():
        return f"not read, and not compared with {before}, which is gone"
    weights = weights or _digest_of_weights(before)
    if weights is not None and _digest_of_weights(now) == weights:
        return f"the same weights as those of {before}, with which the run was begun"
    return ""


def _digest_of_weights(source: str) -> str | None:
    """The digest of a checkpoint's weights; None where they cannot be had any more."""
    try:
        return open_checkpoint(source).weights_digest()
    except MelHuBERTError:
        return None
