"""Hidden states of audio files, written to files: what `melhubert extract` does."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.checkpoint import Checkpoint, resolve_stats
from s3prl_melhubert.extraction.inputs import READERS, InputNotes, find_utterances, frame_counts
from s3prl_melhubert.extraction.output import check_out, check_space, open_output
from s3prl_melhubert.extraction.states import hidden_states, resolve_layers
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.support.progress import progress


@dataclass(frozen=True)
class Extracted:
    """What an extraction did."""

    files: list[Path]  # the inputs, the skipped ones among them
    written: int  # utterances in the output; with 0, the output was not touched
    layers: list[int]  # indices of the hidden states
    notes: InputNotes


def extract_files(
    checkpoint: Checkpoint,
    paths: Iterable[str | Path],
    out: Path,
    *,
    stats: str | None = None,
    layers: list[int] | None = None,
    device: torch.device,
    precision: str = "fp32",
    max_frames: int | None = None,
) -> Extracted:
    """Write the hidden states of audio files to a .npz, a .npy or a folder.

    The arrays are float32 (layers, T, C), or (T, C) where a single layer is asked for.

    Args:
        checkpoint: the model.
        paths: audio files, or folders of them.
        out: where to write; see `output` for what its name decides.
        stats: the name or file of the log-Mel statistics, where the checkpoint holds none.
        layers: indices into `MelHuBERTOutput.hidden_states`, or None for all of them.
        device: the device that computes.
        precision: one of `INFERENCE_PRECISIONS`.
        max_frames: the frames of a batch, with padding; None for the device's default.

    Raises:
        MelHuBERTError: no such layer, file or statistics, or an output that cannot be written. A single file
            that cannot be read is skipped and noted instead.
    """
    chosen = resolve_layers(layers, checkpoint.config)
    frontend = Frontend(resolve_stats(checkpoint, stats), checkpoint.frame_period).to(device)
    model = checkpoint.build_model().to(device)

    utterances = find_utterances(paths)
    check_out(out, len(utterances))
    notes = InputNotes()
    lengths = frame_counts(utterances, frontend, notes)
    check_space(out, sum(lengths.values()) * len(chosen) * checkpoint.config.encoder_embed_dim)
    readable = list(lengths)

    def load(i: int) -> Tensor:
        path = utterances[readable[i]]
        audio = read_audio(path)
        notes.note(path, audio)
        return torch.from_numpy(audio.waveform)

    extracted = hidden_states(
        model,
        list(lengths.values()),
        load,
        collate=lambda waveforms: frontend([waveform.to(device) for waveform in waveforms]),
        layers=chosen,
        max_frames=max_frames,
        precision=precision,
        readers=READERS,
        on_error=lambda i, error: notes.skip(utterances[readable[i]], error),
    )
    written = 0
    with ExitStack() as stack:
        bar = stack.enter_context(
            progress(sum(lengths.values()), "extract", "frames", unit_scale=True, delay=2)
        )
        for i, states in extracted:
            if not written:  # The output is begun when there is something to put into it.
                write = stack.enter_context(open_output(out))
            array = states if layers is None or len(layers) > 1 else states[0]  # (layers, T, C) or (T, C)
            write(readable[i], array.cpu().numpy())
            written += 1
            bar.update(states.shape[1])
    return Extracted(list(utterances.values()), written, chosen, notes)
