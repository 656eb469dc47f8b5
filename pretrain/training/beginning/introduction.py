"""What a run says of itself before its first step, and what it refuses before it takes memory."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.model import parameter_count
from s3prl_melhubert.pretrain.data.manifest import FRAME_SHIFT_MS
from s3prl_melhubert.pretrain.training.dataset import PretrainingDataset
from s3prl_melhubert.pretrain.training.processes import Processes
from s3prl_melhubert.pretrain.training.rows.attention import attention_in_words
from s3prl_melhubert.pretrain.training.settings import Settings
from s3prl_melhubert.summary import si
from s3prl_melhubert.support.memory import available_memory, size_text


def refuse_giant(config: MelHuBERTConfig) -> None:
    """Raise a MelHuBERTError where a model's weights alone would not fit the memory that there is."""
    memory = available_memory()
    needed = 4 * parameter_count(config)
    if needed > memory:
        raise MelHuBERTError(
            f"the model's settings: its weights have {size_text(needed)}, and {size_text(memory)} of "
            f"memory are available; is encoder_embed_dim {config.encoder_embed_dim}, encoder_ffn_embed_dim "
            f"{config.encoder_ffn_embed_dim} or encoder_layers {config.encoder_layers} meant?"
        )


def introduction(
    settings: Settings, config: MelHuBERTConfig, dataset: PretrainingDataset, processes: Processes
) -> list[str]:
    """What is trained, on what data and on what device: the lines with which a run begins."""
    datarc = settings.datarc
    lines = [f"data: {dataset.utterances.amount}, of {', '.join(datarc.sets)}"]
    trained, valid = (
        Counter(os.path.realpath(Path(path).expanduser()) for path in sets)
        for sets in (datarc.sets, datarc.valid_sets)
    )
    for path, times in trained.items():
        if times > 1:
            lines.append(f"data: {path} is named {times} times; each of its utterances counts {times} times")
    for path in trained & valid:
        lines.append(f"validation: {path} is trained on, too")
    left_out = dataset.utterances.left_out
    if left_out.utterances:
        limit = abs(datarc.max_timestep)
        kind = "over" if datarc.max_timestep > 0 else "not over"
        lines.append(
            f"left out: {left_out}, {kind} {limit} frames "
            f"({limit * FRAME_SHIFT_MS / 1000:g} s), by datarc.max_timestep {datarc.max_timestep}; 0 keeps "
            "all"
        )
    if datarc.rows is True:
        lines.append(
            f"rows: crops end to end in rows of {datarc.sequence_length} frames; attention by "
            f"{attention_in_words(processes.device)}"
        )
    if not settings.learns:
        lines.append("learning rate: 0; nothing is trained, and the checkpoint has the initial weights")
    several = f"{processes.count} x " if processes.count > 1 else ""
    lines.append(
        f"model: {si(parameter_count(config))} parameters, {config.frame_period} ms frames, on "
        f"{several}{processes.device} in {settings.runner.precision}"
    )
    return lines
