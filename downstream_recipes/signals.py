"""The signals that s3prl's speech enhancement and source separation make of a recording, without its corpus.

Both tasks estimate a mask for each signal, multiply the recording's spectrum with it, and turn the product
back into sound. s3prl does so only to score the result, and keeps one of a thousand.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.downstream_recipes.corpora.parallel import check_packages
from s3prl_melhubert.downstream_recipes.outputs import Labels, Signals

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

KIND = "signal"
ENHANCED = "enhanced"  # what the estimate of a single signal is called
SPLITS = ("train", "dev", "test")


def signals_of(task: str) -> Signals:
    """The outputs of a task, whose name in words this is."""

    def labels(settings: Mapping[str, Any]) -> Labels:
        sources = settings["downstream_expert"]["datarc"]["tgt"]
        return {KIND: sources if len(sources) > 1 else [ENHANCED]}

    def stand_in(settings: dict[str, Any], labels: Labels, folder: Path) -> None:
        check_packages(task)
        _write_empty_lists(settings["downstream_expert"], folder)

    return Signals(kinds=(KIND,), labels=labels, stand_in=stand_in, signals=masked_signals)


def _write_empty_lists(section: dict[str, Any], folder: Path) -> None:
    """Write lists of files without a line for each signal of each split, and set their paths."""
    for signal in (*section["datarc"]["src"], *section["datarc"]["tgt"]):
        (folder / signal).mkdir(exist_ok=True)
        (folder / signal / "wav.scp").touch()
    section["loaderrc"].update({f"{split}_dir": str(folder) for split in SPLITS})


def masked_signals(expert: Any, features: Tensor, waveform: Tensor) -> np.ndarray:
    """Make the signals of a recording as s3prl's test does.

    Args:
        expert: s3prl's, of `enhancement_stft` or `separation_stft`.
        features: (T, C).
        waveform: (n,) samples at 16 kHz.

    Returns:
        (signals, n) float32 samples, of any scale.
    """
    import librosa
    import numpy as np
    from torch.nn.utils.rnn import pack_sequence

    theirs = import_module(type(expert).__module__)
    given = expert.datarc
    form = {name: given[name] for name in ("win_length", "window", "center")}
    form["hop_length"] = expert.upstream_rate
    heard = waveform.cpu().numpy()
    spectrum = librosa.stft(heard, n_fft=given["n_fft"], **form)  # (bins, frames)
    matched = theirs.match_length([features], [spectrum.shape[1]])
    signals = []
    for mask in expert.model(pack_sequence(matched)):  # (1, frames, bins)
        signal = librosa.istft(mask[0].T.cpu().numpy() * spectrum, length=len(heard), **form)
        if signal.any():  # s3prl looks for the last sample that is not zero.
            with redirect_stdout(io.StringIO()):
                signal = theirs.postprocess(signal)
        signals.append(signal)
    return np.stack(signals)
