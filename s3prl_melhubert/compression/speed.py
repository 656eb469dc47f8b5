"""What a compressed model gains: its size, multiply-accumulates and time beside the dense model's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s3prl_melhubert.compression.stored import ORIGIN, dense_config, sizes_of
from s3prl_melhubert.config import MelHuBERTConfig, layer_sizes
from s3prl_melhubert.model import MelHuBERT, macs_per_second, parameter_count
from s3prl_melhubert.support.memory import available_memory
from s3prl_melhubert.support.progress import progress

SECONDS = 5  # of speech that is timed
ROUNDS = 3  # of which the fastest counts


def sparsity(state: Mapping[str, Tensor]) -> float:
    """The fraction of zeros among the matrices of the encoder's layers."""
    matrices = [
        tensor for name, tensor in state.items() if name.startswith("encoder.layers.") and tensor.dim() == 2
    ]
    count = sum(tensor.numel() for tensor in matrices)
    return sum(int((tensor == 0).sum()) for tensor in matrices) / count if count else 0.0


def compression_facts(config: MelHuBERTConfig, rest: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """What a compressed model was made of, and what it gains beside that.

    Args:
        config: the model's settings.
        rest: the further keys of its checkpoint.
        where: what an error calls the file.

    Returns:
        None where nothing shows that the model was compressed.

    Raises:
        MelHuBERTError: what the file tells of the dense model is impossible.
    """
    dense = dense_config(config, rest, where)
    if dense is None:
        return None
    origin = rest.get(ORIGIN)
    how = origin.get("how") if isinstance(origin, Mapping) else None
    facts: dict[str, Any] = {
        "how": how if isinstance(how, str) else None,
        "dense": sizes_of(dense),
        "dense_parameters": parameter_count(dense),
        "speech_seconds": SECONDS,
        "threads": torch.get_num_threads(),
        "seconds": None,
        "dense_seconds": None,
    }
    is_smaller = layer_sizes(dense) != layer_sizes(config)
    if 4 * facts["dense_parameters"] < available_memory() // 4:
        facts["dense_macs_per_second"] = macs_per_second(dense)
        if is_smaller:
            facts |= measure(config, dense)
    return facts


def measure(config: MelHuBERTConfig, dense: MelHuBERTConfig) -> dict[str, float]:
    """Seconds that two models take for the same speech on this CPU, by the names of `compression_facts`."""
    models = {name: MelHuBERT(each).eval() for name, each in (("seconds", config), ("dense_seconds", dense))}
    features = torch.randn(1, SECONDS * 1000 // config.frame_period, config.feat_emb_dim)
    best = dict.fromkeys(models, float("inf"))
    with progress(total=1 + ROUNDS, title="timing", unit="rounds") as bar, torch.inference_mode():
        for number in range(1 + ROUNDS):  # The first one warms up.
            for name, model in models.items():
                begin = time.perf_counter()
                model(features)
                if number:
                    best[name] = min(best[name], time.perf_counter() - begin)
            bar.update()
    return best
