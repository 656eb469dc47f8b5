"""A checkpoint rewritten: in another format, with its statistics, and free of code.

What safetensors cannot hold, and what could only be read again by running code, is left out and named.
The fine-tuned upstream that s3prl keeps beside a downstream model becomes a checkpoint of its own.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.checkpoint import (
    DOWNSTREAM_ARGUMENTS,
    Checkpoint,
    DownstreamCheckpoint,
    check_state,
    open_checkpoint,
    resolve_stats,
    save_checkpoint,
)
from s3prl_melhubert.compression.stored import ORIGIN
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.statistics import FeatureStats, stats_named_in
from s3prl_melhubert.support.files import PATHS_AS_TYPED
from s3prl_melhubert.support.progress import say
from s3prl_melhubert.support.settings import read_yaml_mapping
from s3prl_melhubert.support.tensor_files import check_tensor, named_safetensors
from s3prl_melhubert.units.quantizer import Quantizer

SETTINGS = "upstream_model_config"  # s3prl's name of its -g
HEAD = "final_proj."  # Hidden states do not use it, and no downstream training changes it.


@dataclass(frozen=True)
class Converted:
    """What was written."""

    parameters: int
    frame_period: int  # ms
    stats: FeatureStats
    step: int | None  # optimizer steps of training; None where the source does not say
    left_out: list[str]  # names of what the new file does not hold
    reason: str  # why it does not
    quantizer: Quantizer | None = None


def convert_checkpoint(
    source: str,
    target: Path,
    stats: str | None = None,
    trust: bool = False,
    find_quantizer: Callable[[Checkpoint, FeatureStats], Quantizer] | None = None,
    find_upstream: Callable[[str, str | None], str | Path] | None = None,
    find_noted: Callable[[Path, Path], str | None] | None = None,
    began: str | None = None,
) -> Converted:
    """Write a checkpoint anew.

    Args:
        source: a published checkpoint, one of this package, a .safetensors file, or ORG/NAME on the Hub; or
            s3prl's checkpoint of a downstream model whose upstream was fine-tuned. The upstream is written,
            with the settings and statistics of the checkpoint from which fine-tuning began.
        target: a name ending in .safetensors, or any other name for the published format.
        stats: the name or file of the log-Mel statistics, where the source holds none.
        trust: run the code that the source may hold. What is plain data is written, so that the target needs
            no trust.
        find_quantizer: gives the quantizer to store for a checkpoint and its statistics; without it, the
            source's own is kept, if it has one. (A fine-tuned upstream has none: its hidden states are others
            than those that were numbered.)
        find_upstream: gives the file or ORG/NAME that an upstream of ours is, by its name and its `-k` in
            s3prl; without it, that is what `-k` says.
        find_noted: gives the digest of the statistics that were noted when a downstream model was trained, if
            they were, by its checkpoint and the upstream's settings; without it, nothing is compared with it.
        began: the checkpoint from which fine-tuning began, where it is elsewhere now; without it, that is
            looked for where it was, and where it lies beside a folder that was moved as a whole.

    Raises:
        MelHuBERTError: the source cannot be read or its weights do not fit its settings, no statistics are
            known, the upstream's settings name others than were noted, or the target cannot be written.
    """
    configured = None
    try:
        checkpoint = open_checkpoint(source, trust=trust)
    except DownstreamCheckpoint as downstream:
        if "Upstream" not in downstream.content:
            raise
        noted = find_noted if stats is None else None
        checkpoint, configured = _fine_tuned(downstream, began, stats, find_upstream, noted)
    else:
        if began is not None:
            raise MelHuBERTError(f"-k {began}: {source} is no downstream model's; leave it out")
    found = resolve_stats(checkpoint, stats, None if stats else configured)
    checkpoint.checked_shapes()
    quantizer = checkpoint.quantizer if find_quantizer is None else find_quantizer(checkpoint, found)
    state = {name: _plain_tensor(tensor) for name, tensor in checkpoint.state.items()}
    rest: dict[str, Any] = {}
    if named_safetensors(target):
        reason = "the format holds tensors only"
        rest = {key: value for key, value in checkpoint.rest.items() if key == ORIGIN}
        left_out = [
            key for key, value in checkpoint.rest.items() if key not in rest and _says_something(value)
        ]
    else:
        left_out, reason = [], "no plain data"
        rest = {key: _plain(value, str(key), left_out) for key, value in checkpoint.rest.items()}
    save_checkpoint(target, checkpoint.config, state, found, checkpoint.step, rest, quantizer)
    parameters = sum(tensor.numel() for tensor in state.values())
    return Converted(parameters, checkpoint.frame_period, found, checkpoint.step, left_out, reason, quantizer)


def _fine_tuned(
    downstream: DownstreamCheckpoint,
    began: str | None,
    stats: str | None,
    find_upstream: Callable[[str, str | None], str | Path] | None,
    find_noted: Callable[[Path, Path], str | None] | None,
) -> tuple[Checkpoint, Any]:
    """Take the fine-tuned upstream out of s3prl's checkpoint of a downstream model.

    Returns:
        The checkpoint from which fine-tuning began, with the fine-tuned weights; and the statistics that the
        upstream's settings (s3prl's `-g`) name, where the checkpoint holds none.

    Raises:
        MelHuBERTError: it is no MelHuBERT, or the checkpoint from which it began is not there as it was, or
            the statistics are others than were noted.
    """
    path, weights = downstream.path, downstream.content["Upstream"]
    args = getattr(downstream.content.get("Args"), "__dict__", {})
    name, given = (args.get(each) for each in DOWNSTREAM_ARGUMENTS.values())
    ours = isinstance(name, str) and name.startswith("melhubert")
    if not ours or not isinstance(given, str | None) or not isinstance(weights, Mapping):
        raise MelHuBERTError(f"{path}: its fine-tuned upstream is {shown(name)}, expected one of MelHuBERT's")
    if began is None:
        given = _where_now(downstream, DOWNSTREAM_ARGUMENTS["-k"], given)
        began = str(given if find_upstream is None else find_upstream(str(name), given))
    try:
        first = open_checkpoint(began)
    except MelHuBERTError as error:
        raise MelHuBERTError(
            f"{path}: the settings of its upstream are in the checkpoint from which fine-tuning began, "
            f"{began}, which cannot be read; say with -k where it is now ({error})"
        ) from None
    state = {str(key).removeprefix("model."): tensor for key, tensor in weights.items()}
    check_state(state, first.state, f"{path}: Upstream")
    for key, tensor in state.items():
        check_tensor(tensor, key, f"{path}: Upstream", path.stat().st_size)
        if key.startswith(HEAD) and not torch.equal(tensor.float(), first.state[key].float()):
            raise MelHuBERTError(
                f"{path}: its upstream did not begin as {began}, which is another model or was changed "
                "since; give the checkpoint from which fine-tuning began with -k"
            )
    configured, settings = None, args.get(SETTINGS)
    if first.stats is None and stats is None and isinstance(settings, str):
        settings = _where_now(downstream, SETTINGS, settings) or settings
        if not Path(settings).expanduser().is_file():
            raise MelHuBERTError(
                f"{path}: the settings of its upstream, {settings}, which may name its log-Mel statistics, "
                "are not there any more; give the statistics of the training with --stats"
            )
        configured = stats_named_in(settings, read_yaml_mapping(settings).get("feature_stats"))
        noted = None if find_noted is None else find_noted(path, Path(settings).expanduser())
        named = None if configured is None else FeatureStats.load(configured).digest()
        if noted not in (None, named):
            raise MelHuBERTError(
                f"{settings}: names other log-Mel statistics than when {path} was trained; put the settings "
                "back, or give those of the training with --stats"
            )
    rest = {key: value for key, value in first.rest.items() if key == ORIGIN}
    return replace(first, state=state, step=None, rest=rest, quantizer=None), configured


def _where_now(downstream: DownstreamCheckpoint, name: str, given: str | None) -> str | None:
    """Where a file of an experiment is that may have been moved together with the experiment's folder.

    Args:
        downstream: a checkpoint in that folder.
        name: what its `Args` call the file.
        given: where the file was; or what names no file, which is returned as it is.
    """
    if given is None or Path(given).expanduser().exists():
        return given
    args = vars(downstream.content["Args"])
    folder, typed = args.get("expdir"), args.get(PATHS_AS_TYPED)
    paths = [given, typed[name]] if isinstance(typed, Mapping) and name in typed else [given]
    for path in paths:
        places = [path]
        if isinstance(folder, str) and os.path.isabs(folder) == os.path.isabs(path):
            here = downstream.path.absolute().parent
            places.append(os.path.normpath(here / os.path.relpath(path, folder)))
        for place in filter(os.path.exists, places):
            say(f"{downstream.path}: {given} is not there any more; {place} is taken in its place")
            return place
    return given


def _plain_tensor(tensor: Tensor) -> Tensor:
    # A tensor may be a view of a larger one, which would be written with it; a copy is not.
    return tensor.detach().clone()


def _says_something(value: Any) -> bool:
    if isinstance(value, argparse.Namespace):
        return bool(vars(value))
    return value is not None and value != {}


def _plain(value: Any, where: str, left_out: list[str]) -> Any:
    """Return a value as plain data, which loads without running code; what is not plain becomes None.

    Args:
        value: anything that a pickle may hold.
        where: what to call it.
        left_out: gets the name and class of everything that had to be left out.
    """
    if value is None or type(value) in (bool, int, float, str, bytes, torch.dtype, torch.device):
        return value
    if isinstance(value, Tensor):
        return _plain_tensor(value)
    # torch has no numbers of more than 8 bytes, and those of `np.longdouble` have 16.
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.itemsize <= 8:
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value.item()
    if isinstance(value, Mapping):
        return {
            _plain(key, f"{where} key", left_out): _plain(item, f"{where}.{key}", left_out)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}.{i}", left_out) for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**_plain(vars(value), where, left_out))
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, Path):
        return str(value)
    left_out.append(f"{where} ({type(value).__module__}.{type(value).__qualname__})")
    return None
