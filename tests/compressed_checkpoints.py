"""Makes compressed checkpoints, in the formats in which the authors of MelHuBERT's compression store theirs.

All are of one small dense model with random weights. Beside each stands the dense model that computes the
same: what was pruned is zero in it.
"""

from __future__ import annotations

import argparse
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

KINDS = ("weights", "heads", "rows", "uneven", "distilled")

HEAD_WIDTH = 12
SETTINGS: dict[str, Any] = {
    "feat_emb_dim": 80,
    "encoder_layers": 3,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "num_cluster": 16,
    "skip_masked": False,
    "skip_nomask": True,
}
# The heads and rows that the layers keep.
HEADS = {"heads": ([0, 2, 3], [1], [0, 1, 2, 3]), "uneven": ([3, 1], [], [2])}
ROWS = {"rows": (range(0, 96, 2), range(5, 9), range(96)), "uneven": (range(90), range(1), [])}


class Compressed(NamedTuple):
    """A compressed checkpoint."""

    path: Path
    dense: Path  # a checkpoint of the dense model that computes the same
    heads: list[int]  # of each layer
    rows: list[int]  # of each layer's MLP


def make(kind: str, folder: Path) -> Compressed:
    """Write a checkpoint of a kind, and the dense one that computes the same."""
    settings = dict(SETTINGS)
    if kind == "distilled":
        settings["encoder_layers"] = 2
    state = _dense(settings)
    content = _published(settings)
    zeroed = {name: tensor.clone() for name, tensor in state.items()}
    layers = range(settings["encoder_layers"])
    heads, rows = [4] * len(layers), [96] * len(layers)
    if kind == "weights":
        content |= {"TotalStep": 300, "Pruning": {"smooth_loss": 1.5, "pruning_times": 2}}
        content["RandomState"] = {
            "random": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "torch.cuda": torch.get_rng_state(),
        }
        _mask(state, zeroed)
    if kind in HEADS:
        kept = [list(some) for some in HEADS[kind]]
        heads = [len(some) for some in kept]
        # They count the heads of each pruning anew, so that the numbers are not those of the dense model.
        content["Pruned_heads"] = [{i: [0] for i in layers if heads[i] < 4}]
        for i in layers:
            _keep_heads(state, zeroed, f"encoder.layers.{i}.self_attn.", kept[i])
    if kind in ROWS:
        kept = [list(some) for some in ROWS[kind]]
        rows = [len(some) for some in kept]
        for i in layers:
            _keep_rows(state, zeroed, f"encoder.layers.{i}.", kept[i])
    if kind == "distilled":
        content["Upstream_Config"] = {
            "melhubert": {"initial_from_teacher": True, **settings},
            "teacher": SETTINGS,
            "task": {"sequence_length": 750},
            "loss_param": {"T": 1, "alpha": 1, "type": "nomasked"},
        }
    path, dense = folder / f"{kind}.ckpt", folder / f"{kind}-dense.ckpt"
    torch.save({**content, "model": OrderedDict(state)}, path)
    torch.save({**_published(settings), "model": OrderedDict(zeroed)}, dense)
    return Compressed(path, dense, heads, rows)


def _published(settings: dict[str, Any]) -> dict[str, Any]:
    """What the authors' trainer writes beside the weights."""
    return {
        "Optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "Step": 200,
        "Args": argparse.Namespace(mode="head-pruning", expdir="result"),
        "Runner": {"runner": {"total_steps": 300}, "prune": {"total_steps": 2, "interval": 100}},
        "Upstream_Config": {"melhubert": {**settings, "mask_other": 0.0, "attention_type": "original"}},
    }


def _dense(settings: dict[str, Any]) -> dict[str, Tensor]:
    from s3prl_melhubert import MelHuBERT, MelHuBERTConfig

    torch.manual_seed(7)
    state = MelHuBERT(MelHuBERTConfig(**settings)).state_dict()
    # Weights as they are before training would make attention even, and pruned heads no difference.
    return {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in state.items()}


def _mask(state: dict[str, Tensor], zeroed: dict[str, Tensor]) -> None:
    for name in list(state):
        part = name.split(".")
        if name.startswith("encoder.layers.") and part[-2] in (
            "q_proj",
            "k_proj",
            "v_proj",
            "out_proj",
            "fc1",
            "fc2",
        ):
            mask = torch.rand_like(state[name]) < 0.4
            state[f"{name}_mask"] = mask
            state[f"{name}_orig"] = state.pop(name)
            zeroed[name][~mask] = 0


def _keep_heads(state: dict[str, Tensor], zeroed: dict[str, Tensor], prefix: str, kept: list[int]) -> None:
    there = torch.zeros(4, dtype=torch.bool)
    there[kept] = True
    there = there.repeat_interleave(HEAD_WIDTH)
    for name in ("q_proj", "k_proj", "v_proj"):
        for part in ("weight", "bias"):
            zeroed[f"{prefix}{name}.{part}"][~there] = 0
            state[f"{prefix}{name}.{part}"] = state[f"{prefix}{name}.{part}"][there]
    state[f"{prefix}out_proj.weight"] = state[f"{prefix}out_proj.weight"][:, there]


def _keep_rows(state: dict[str, Tensor], zeroed: dict[str, Tensor], prefix: str, kept: list[int]) -> None:
    there = torch.zeros(96, dtype=torch.bool)
    there[kept] = True
    for part in ("weight", "bias"):
        zeroed[f"{prefix}fc1.{part}"][~there] = 0
        state[f"{prefix}fc1.{part}"] = state[f"{prefix}fc1.{part}"][there]
    state[f"{prefix}fc2.weight"] = state[f"{prefix}fc2.weight"][:, there]
