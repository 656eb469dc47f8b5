"""Hidden states of audio files, written to files: what `melhubert extract` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.checkpoint import Checkpoint, resolve_stats
from s3prl_melhubert.extraction.inputs import InputNotes, find_utterances
from s3prl_melhubert.extraction.long_files import check_long
from s3prl_melhubert.extraction.output import (
    check_out,
    check_space,
    copies_pieces,
    only_extraction,
    open_output,
)
from s3prl_melhubert.extraction.recordings import Recordings
from s3prl_melhubert.extraction.states import resolve_layers
from s3prl_melhubert.extraction.windows import Windows
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
    window: float | None = None,
    overlap: float | None = None,
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
        window: seconds; a longer recording is read in windows of this length, in a memory that does not grow
            with it. None reads every recording at once.
        overlap: seconds that two windows share; a default if not given.

    Raises:
        MelHuBERTError: no such layer, file or statistics, windows that cannot be, or an output that cannot be
            written or that another process is writing. A single file that cannot be read, or does not fit
            into memory at once, is skipped and noted instead.
    """
    windows = Windows.asked_for(window, overlap, checkpoint.frame_period)
    chosen = resolve_layers(layers, checkpoint.config)
    frontend = Frontend(resolve_stats(checkpoint, stats), checkpoint.frame_period).to(device)
    model = checkpoint.build_model().to(device)

    utterances = find_utterances(paths)
    check_out(out, len(utterances))
    with ExitStack() as stack:
        stack.enter_context(only_extraction(out))
        notes = InputNotes()
        recordings = Recordings(utterances, frontend, windows, notes)
        check_long(utterances, recordings.at_once, checkpoint.config, chosen, device, notes)
        width = checkpoint.config.encoder_embed_dim
        # Some formats need room for a second copy of what is written in pieces.
        second = max(recordings.cut.values(), default=0) if copies_pieces(out) else 0
        check_space(out, (recordings.frames + second) * len(chosen) * width)
        single = layers is not None and len(chosen) == 1  # (T, C) is written, and not (layers, T, C).

        written = 0
        bar = stack.enter_context(progress(recordings.frames, "extract", "frames", unit_scale=True, delay=2))
        for name, frames, pieces in recordings.states(
            model, chosen, max_frames=max_frames, precision=precision
        ):
            if not written:  # The output is begun when there is something to put into it.
                output = stack.enter_context(open_output(out))
            arrays = _arrays(pieces, single, bar.update)
            if name in recordings.cut:
                shape = (frames, width) if single else (len(chosen), frames, width)
                output.write_pieces(name, shape, arrays)
            else:
                [array] = arrays
                output.write(name, array)
            written += 1
    return Extracted(list(utterances.values()), written, chosen, notes)


def _arrays(pieces: Iterable[Tensor], single: bool, update: Callable[[int], object]) -> Iterator[np.ndarray]:
    """Yield what is written of each piece (layers, t, C), and count its frames."""
    for states in pieces:
        yield (states[0] if single else states).cpu().numpy()
        update(states.shape[1])
