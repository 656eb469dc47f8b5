"""What a long recording takes when the model reads it at once, and what is said before that begins.

Attention relates every frame to every other: its work grows with the square of the length. Its memory does
not, because scores are computed block by block; but the hidden states of all layers are in memory until they
are written.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from s3prl_melhubert.config import SAMPLE_RATE, MelHuBERTConfig, layer_sizes
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.extraction.inputs import InputNotes
from s3prl_melhubert.support.memory import available_memory, size_text

LONG = 300  # seconds from which on a recording is worth a word
GOOD_WINDOW, GOOD_OVERLAP = 30, 4  # seconds; docs/performance.md has what they change
HINT = f"--window {GOOD_WINDOW} --overlap {GOOD_OVERLAP}"


def memory_at_once(config: MelHuBERTConfig, frames: int, layers: Sequence[int]) -> int:
    """Estimate the bytes that a recording takes beside the model's own, if it is read at once.

    Args:
        config: the model's settings.
        frames: T, those of the recording.
        layers: the hidden states that are asked for, at least one.
    """
    width, hidden = config.encoder_embed_dim, max(sizes.rows for sizes in layer_sizes(config))
    kept = (1 + max(layers)) * width  # the outputs of the layers, until the last one has run
    # The MLP's inner activations, before and after the GELU, or the outputs that are chosen, side by side.
    working = max(2 * hidden + 2 * width, len(layers) * width)
    samples = 2 * config.frame_period * SAMPLE_RATE // 1000  # as they are read, and joined
    return 4 * frames * (kept + working + config.feat_emb_dim + samples)


def work_at_once(config: MelHuBERTConfig, frames: int) -> float:
    """Return how many times the multiplications of windows the encoder's layers need at once."""

    def multiplications(attended: float) -> float:
        """Of one frame: attention's four linear layers and the MLP's two; scores and weighted sums."""
        width, all_layers = config.encoder_embed_dim, layer_sizes(config)
        inner = sum(heads * head_width for heads, head_width, _ in all_layers)
        rows = sum(sizes.rows for sizes in all_layers)
        return 4 * width * inner + 2 * width * rows + 2 * attended * inner

    return multiplications(frames) / multiplications(1000 * GOOD_WINDOW / config.frame_period)


def check_long(
    utterances: Mapping[str, Path],
    lengths: dict[str, int],
    config: MelHuBERTConfig,
    layers: Sequence[int],
    device: torch.device,
    notes: InputNotes,
) -> None:
    """Say what long recordings will take, and take out those that the memory cannot hold.

    Args:
        utterances: the files by utterance id.
        lengths: frames by utterance id; what does not fit is taken out.
        config: the model's settings.
        layers: the hidden states that are asked for, at least one.
        device: the device that computes.
        notes: learns of what is taken out.

    Raises:
        MelHuBERTError: the one file that was given does not fit.
    """
    long = {name: n for name, n in lengths.items() if n * config.frame_period / 1000 > LONG}
    if not long:
        return
    available = _available(device)
    for name in list(long):
        needed = memory_at_once(config, long[name], layers)
        if needed > available:
            error = MelHuBERTError(
                f"{utterances[name]}: {_minutes(long[name], config)} at once need about {size_text(needed)} "
                f"of memory on {device}, and {size_text(available)} are available; read it in windows: {HINT}"
            )
            if len(utterances) == 1:
                raise error
            notes.skip(utterances[name], error)
            del lengths[name], long[name]
    if long:
        longest = max(long, key=long.__getitem__)
        frames = long[longest]
        others = f" (and {len(long) - 1} more over {LONG // 60} min)" if len(long) > 1 else ""
        warnings.warn(
            f"{utterances[longest]}: {_minutes(frames, config)} at once take about "
            f"{size_text(memory_at_once(config, frames, layers))} of memory and "
            f"{work_at_once(config, frames):.0f} times the multiplications of windows, because attention "
            f"grows with the square of the length{others}; for windows: {HINT}",
            MelHuBERTWarning,
            stacklevel=3,
        )


def _available(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def _minutes(frames: int, config: MelHuBERTConfig) -> str:
    return f"{frames * config.frame_period / 60_000:.0f} min"
