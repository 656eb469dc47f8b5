"""`melhubert convert`: rewrite a checkpoint in another format, with its statistics, and free of code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.checkpoint import (
    check_state,
    load_checkpoint,
    resolve_stats,
    save_checkpoint,
)
from s3prl_melhubert.commands.info import si, statistics_name
from s3prl_melhubert.model import MelHuBERT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a published checkpoint, one of ours, or a .safetensors")
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help="NAME.safetensors, or any other name for the published format",
    )
    parser.add_argument(
        "--stats",
        metavar="NAME|FILE",
        help="log-Mel statistics, where IN holds none: librispeech-360h, ..., or a .yaml or .npy",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the code that IN may hold (only if you trust where it comes from) and write what is plain "
        "data, so that OUT needs no trust",
    )


def run(args: argparse.Namespace) -> int:
    checkpoint = load_checkpoint(args.input, trust=args.trust)
    stats = resolve_stats(checkpoint, args.stats)
    with torch.device("meta"):
        expected = MelHuBERT(checkpoint.config).state_dict()
    check_state(checkpoint.state, expected, args.input)
    state = {name: _plain_tensor(tensor) for name, tensor in checkpoint.state.items()}
    if args.output.suffix == ".safetensors":
        rest, why = {}, "the format holds tensors only"
        left_out = [key for key, value in checkpoint.rest.items() if _says_something(value)]
    else:
        left_out, why = [], "no plain data"
        rest = {key: _plain(value, str(key), left_out) for key, value in checkpoint.rest.items()}

    save_checkpoint(args.output, checkpoint.config, state, stats, checkpoint.step or 0, rest)
    size = args.output.stat().st_size
    parameters = sum(tensor.numel() for tensor in state.values())
    print(
        f"{args.output}: {si(size)}B, {si(parameters)} parameters, "
        f"a frame every {checkpoint.frame_period} ms, "
        f"statistics {statistics_name(stats) or stats.name}, step {checkpoint.step or 0}"
    )
    if left_out:
        named = ", ".join(left_out[:8]) + (f", and {len(left_out) - 8} more" if len(left_out) > 8 else "")
        print(f"left out ({why}): {named}")
    return 0


def _plain_tensor(tensor: Tensor) -> Tensor:
    # A copy, because a tensor may be a view of a larger one, which would be written with it.
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _says_something(value: Any) -> bool:
    if isinstance(value, argparse.Namespace):
        return bool(vars(value))
    return value is not None and value != {}


def _plain(value: Any, where: str, left_out: list[str]) -> Any:
    """`value` as plain data, which loads without running code; what is not becomes None.

    Args:
        value: anything that a pickle may hold.
        where: what to call it.
        left_out: gets the name and class of everything that had to be left out.
    """
    if value is None or type(value) in (bool, int, float, str, bytes, torch.dtype, torch.device):
        return value
    if isinstance(value, Tensor):
        return _plain_tensor(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
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
