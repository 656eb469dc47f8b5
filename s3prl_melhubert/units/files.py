"""Units of audio files, written to a file: what `melhubert units` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.checkpoint import Checkpoint, resolve_stats
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.extraction.inputs import READERS, InputNotes, find_utterances
from s3prl_melhubert.extraction.long_files import check_long
from s3prl_melhubert.extraction.recordings import Recordings
from s3prl_melhubert.extraction.windows import Windows
from s3prl_melhubert.fbank import fbank
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.support.files import sha256_of
from s3prl_melhubert.support.progress import progress
from s3prl_melhubert.support.read_ahead import ahead
from s3prl_melhubert.units.figures import UnitFigures, collapse
from s3prl_melhubert.units.nearest import NearestCentroid, label_dtype
from s3prl_melhubert.units.output import (
    Unfinished,
    Utterance,
    check_out,
    open_output,
    source_of,
    unfinished_units,
)
from s3prl_melhubert.units.quantizer import LOG_MEL, TEACHER, Quantizer

FILES_AHEAD = 64  # whose log-Mel frames are numbered before they are asked for

Numbered = Iterator[tuple[str, np.ndarray]]  # an utterance's id and its (T,) units


@dataclass(frozen=True)
class UnitsWritten:
    """What was written."""

    files: list[Path]  # the inputs, the skipped ones among them
    quantizer: Quantizer
    period: int  # ms from one unit to the next, before runs are collapsed
    taken_up: int  # utterances that an interrupted command had done before
    figures: UnitFigures  # of the units as they are written; without an utterance, nothing was
    notes: InputNotes


def usable_quantizer(checkpoint: Checkpoint, given: Quantizer | None = None) -> Quantizer:
    """The quantizer that makes units of a checkpoint's own frames.

    Args:
        checkpoint: the model, with or without a quantizer.
        given: another quantizer, to be used in place of the checkpoint's.

    Raises:
        MelHuBERTError: there is none, it numbers another model's hidden states, or it does not fit.
    """
    quantizer = given or checkpoint.quantizer
    if quantizer is None:
        raise MelHuBERTError(
            f"{checkpoint.path}: holds no quantizer; store one with `melhubert convert {checkpoint.path} OUT "
            "--quantizer DATA` (the folder that relabel or prepare made with it), or give --kmeans"
        )
    if quantizer.source == TEACHER:
        teacher = quantizer.made_by.get("checkpoint", "another model")
        raise MelHuBERTError(
            f"{checkpoint.path}: its quantizer is of layer {quantizer.layer} of the model that labelled its "
            f"training data, {teacher}; take that checkpoint, or relabel with this one and give --kmeans"
        )
    quantizer.check_fits(checkpoint.config, "--kmeans" if given else f"{checkpoint.path}: Quantizer")
    return quantizer


def units_of_files(
    checkpoint: Checkpoint,
    paths: Iterable[str | Path],
    out: Path,
    *,
    quantizer: Quantizer | None = None,
    collapsed: bool = False,
    stats: str | None = None,
    device: torch.device,
    precision: str = "fp32",
    max_frames: int | None = None,
    window: float | None = None,
    overlap: float | None = None,
) -> UnitsWritten:
    """Write the units of audio files; a call that was interrupted continues.

    Args:
        checkpoint: the model.
        paths: audio files, or folders of them.
        out: the file to write; see `output` for what its name decides.
        quantizer: in place of the checkpoint's own.
        collapsed: whether runs of a unit become one, with their durations.
        stats: the name or file of the log-Mel statistics, where the checkpoint holds none.
        device: the device that computes.
        precision: one of `INFERENCE_PRECISIONS`.
        max_frames: the frames of a batch, with padding; None for the device's default.
        window: as of `extract_files`, for hidden states; log-Mel frames do not depend on it.
        overlap: as of `extract_files`, with `window`.

    Raises:
        MelHuBERTError: no usable quantizer, no such file or statistics, windows that cannot be, or an output
            that exists or cannot be written. A single file that cannot be read, or does not fit into memory
            at once, is skipped and noted instead.
    """
    quantizer = usable_quantizer(checkpoint, quantizer)
    of_layer = quantizer.source != LOG_MEL
    windows = Windows.asked_for(window, overlap, checkpoint.frame_period)
    if not of_layer:
        windows = None
    used_stats = resolve_stats(checkpoint, stats)
    utterances = find_utterances(paths)
    check_out(out, list(utterances), collapsed)
    frontend = Frontend(used_stats, checkpoint.frame_period).to(device)
    asked = {
        "checkpoint": sha256_of(checkpoint.path)[:16],
        "quantizer": quantizer.digest[:16],
        "statistics": repr(used_stats.to_mapping()) if checkpoint.stats is None else "of the checkpoint",
        "precision": precision,
        "window": None if windows is None else [windows.length, windows.overlap],
    }
    notes = InputNotes()
    figures = UnitFigures(quantizer.clusters)
    sources = {name: source_of(path) for name, path in utterances.items()}
    with unfinished_units(out, asked, sources, collapsed) as unfinished:
        taken_up = len(unfinished.done)
        missing = {name: path for name, path in utterances.items() if name not in unfinished.done}
        recordings = Recordings(missing, frontend, windows, notes)
        if of_layer:
            check_long(utterances, recordings.at_once, checkpoint.config, [quantizer.layer], device, notes)
        with progress(recordings.frames, "units", "frames", unit_scale=True, delay=2) as bar:
            if of_layer:
                model = checkpoint.build_model().to(device)
                states = recordings.states(
                    model, [quantizer.layer], max_frames=max_frames, precision=precision
                )
                numbered = _units_of_states(states, NearestCentroid(quantizer.centroids, device), bar.update)
            else:
                numbered = _units_of_log_mel(recordings, NearestCentroid(quantizer.centroids), bar.update)
            for name, units in numbered:
                unfinished.add(name, units, recordings.samples.pop(name))
        if unfinished.done:
            _write(out, utterances, unfinished, collapsed, figures)
    period = quantizer.period(checkpoint.frame_period)
    return UnitsWritten(list(utterances.values()), quantizer, period, taken_up, figures, notes)


def _units_of_states(
    recordings: Iterable[tuple[str, int, Iterator[Tensor]]],
    nearest: NearestCentroid,
    update: Callable[[int], object],
) -> Numbered:
    """Units of a layer's hidden states, as `Recordings.states` gives them; `update` counts the frames."""
    for name, _, pieces in recordings:
        parts = []
        for states in pieces:  # (1, t, C)
            parts.append(nearest(states[0]))
            update(len(parts[-1]))
        yield name, np.concatenate(parts)


def _units_of_log_mel(
    recordings: Recordings, nearest: NearestCentroid, update: Callable[[int], object]
) -> Numbered:
    """Units of log-Mel frames, for which no model runs; reading the files is most of the work."""
    frontend, lengths = recordings.frontend, recordings.at_once
    mean, std = frontend.mean.cpu().numpy(), frontend.std.cpu().numpy()

    def units(name: str) -> np.ndarray:
        # As `prepare` makes frames, so that units are its labels.
        return nearest((fbank(recordings.read(name).numpy()) - mean) / std)

    for name, numbering in ahead(units, lengths, READERS, FILES_AHEAD):
        try:
            found = numbering.result()
        except MelHuBERTError as error:
            recordings.skip(name, error)
            continue
        yield name, found
        update(lengths[name])


def _write(
    out: Path, utterances: dict[str, Path], unfinished: Unfinished, collapsed: bool, figures: UnitFigures
) -> None:
    """Write OUT from what is done, in the order of the utterances, and count what is written."""
    dtype = label_dtype(figures.clusters)
    unfinished.begin_output(collapsed)
    with open_output(out, collapsed) as write:
        for name, path in utterances.items():
            if name not in unfinished.done:
                continue
            units, samples = unfinished.read(name)
            durations = None
            if collapsed:
                units, durations = collapse(units)
            figures.add(units, samples)
            write(Utterance(name, path, samples, units.astype(dtype), durations))
