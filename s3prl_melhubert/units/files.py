"""Units of audio files, written to a file: what `melhubert units` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.checkpoint import Checkpoint, resolve_stats
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.extraction.inputs import (
    READERS,
    InputNotes,
    find_utterances,
    frame_counts,
    noted_pieces,
)
from s3prl_melhubert.extraction.long_files import check_long
from s3prl_melhubert.extraction.states import hidden_states
from s3prl_melhubert.extraction.windows import Windows, streamed_features, windowed_hidden_states
from s3prl_melhubert.fbank import fbank
from s3prl_melhubert.frontend import Frontend
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.support.files import sha256_of
from s3prl_melhubert.support.progress import progress
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

FILES_AT_ONCE = 64  # whose log-Mel frames are numbered while threads read the next ones

Numbered = Iterator[tuple[int, np.ndarray]]  # an utterance's index and its (T,) units


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
        lengths = frame_counts(missing, frontend, notes)
        cut = {} if windows is None else {name: n for name, n in lengths.items() if n > windows.length}
        at_once = {name: n for name, n in lengths.items() if name not in cut}
        if of_layer:
            check_long(utterances, at_once, checkpoint.config, [quantizer.layer], device, notes)
        names = [*at_once, *cut]
        samples: dict[int, int] = {}

        def load(i: int) -> Tensor:
            audio = read_audio(missing[names[i]])
            notes.note(missing[names[i]], audio)
            samples[i] = len(audio.waveform)
            return torch.from_numpy(audio.waveform)

        def skip(i: int, error: MelHuBERTError) -> None:
            notes.skip(missing[names[i]], error)

        def pieces(i: int) -> Iterator[np.ndarray]:
            samples[i] = 0
            for piece in noted_pieces(missing[names[i]], notes):
                samples[i] += len(piece)
                yield piece

        numbered: Numbered
        if of_layer:
            model = checkpoint.build_model().to(device)
            frames = list(at_once.values())
            layer, nearest = quantizer.layer, NearestCentroid(quantizer.centroids, device)
            numbered = _units_of_layer(
                layer, nearest, model, frontend, frames, load, skip, precision, max_frames
            )
        else:
            numbered = _units_of_log_mel(quantizer, frontend, len(names), load, skip)
        total = sum(at_once.values()) + sum(cut.values())
        with progress(total, "units", "frames", unit_scale=True, delay=2) as bar:
            for i, units in numbered:
                unfinished.add(names[i], units, samples.pop(i))
                bar.update(lengths[names[i]])
            for i in range(len(at_once), len(names)):
                assert windows is not None
                try:
                    features = streamed_features(pieces(i), frontend)  # (T, D)
                except MelHuBERTError as error:
                    skip(i, error)
                    continue
                parts = []
                for states in windowed_hidden_states(
                    model, features, windows, layers=[layer], max_frames=max_frames, precision=precision
                ):
                    parts.append(nearest(states[0]))
                    bar.update(len(parts[-1]))
                unfinished.add(names[i], np.concatenate(parts), samples.pop(i))
        if unfinished.done:
            _write(out, utterances, unfinished, collapsed, figures)
    period = quantizer.period(checkpoint.frame_period)
    return UnitsWritten(list(utterances.values()), quantizer, period, taken_up, figures, notes)


def _units_of_layer(
    layer: int,
    nearest: NearestCentroid,
    model: MelHuBERT,
    frontend: Frontend,
    lengths: Sequence[int],
    load: Callable[[int], Tensor],
    skip: Callable[[int, MelHuBERTError], None],
    precision: str,
    max_frames: int | None,
) -> Numbered:
    device = frontend.mean.device
    for i, states in hidden_states(
        model,
        lengths,
        load,
        collate=lambda waveforms: frontend([waveform.to(device) for waveform in waveforms]),
        layers=[layer],
        max_frames=max_frames,
        precision=precision,
        readers=READERS,
        on_error=skip,
    ):
        yield i, nearest(states[0])


def _units_of_log_mel(
    quantizer: Quantizer,
    frontend: Frontend,
    count: int,
    load: Callable[[int], Tensor],
    skip: Callable[[int, MelHuBERTError], None],
) -> Numbered:
    """Units of log-Mel frames, for which no model runs; reading the files is most of the work."""
    nearest = NearestCentroid(quantizer.centroids)
    mean, std = frontend.mean.cpu().numpy(), frontend.std.cpu().numpy()

    def units(i: int) -> np.ndarray | MelHuBERTError:
        try:
            # As `prepare` makes frames, so that units are its labels.
            return nearest((fbank(load(i).numpy()) - mean) / std)
        except MelHuBERTError as error:
            return error

    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        for start in range(0, count, FILES_AT_ONCE):
            chunk = range(start, min(start + FILES_AT_ONCE, count))
            for i, found in zip(chunk, pool.map(units, chunk), strict=True):
                if isinstance(found, MelHuBERTError):
                    skip(i, found)
                else:
                    yield i, found


def _write(
    out: Path, utterances: dict[str, Path], unfinished: Unfinished, collapsed: bool, figures: UnitFigures
) -> None:
    """Write OUT from what is done, in the order of the utterances, and count what is written."""
    dtype = label_dtype(figures.clusters)
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
