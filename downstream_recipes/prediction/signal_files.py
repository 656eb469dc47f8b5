"""Where the signals that a model makes of audio files are written: a WAV file for each.

    FOLDER/NAME.wav                       of a model that makes one signal
    FOLDER/s1/NAME.wav, s2/NAME.wav       of one that makes several, as LibriMix lays its sources out

NAME is the file's path below the folder that was given, without the suffix; of a file that was given by name,
the name alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.prediction.prediction import Prediction
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.writable import check_writable, write_faults


class SignalFiles:
    """The files in a folder, which is made.

    Args:
        folder: for the files.
        utterances: the inputs, by name.
        signals: the names of what the model makes of each.

    Raises:
        MelHuBERTError: the folder cannot be written, or a file would take the place of an input.
    """

    def __init__(self, folder: Path, utterances: Mapping[str, Path], signals: Sequence[str]):
        self.folder, self.signals = folder, signals
        self._names = {path: name for name, path in utterances.items()}
        inputs = {path.resolve(): path for path in utterances.values()}
        for name in utterances:
            for out in self.paths(name).values():
                if (given := inputs.get(out.resolve())) is not None:
                    raise MelHuBERTError(
                        f"--out {folder}: {out} would take the place of {given}, give another"
                    )
        check_writable(folder)

    def paths(self, name: str) -> dict[str, Path]:
        """The files of an input, by the names of the signals."""
        several = len(self.signals) > 1
        return {
            signal: (self.folder / signal if several else self.folder) / f"{name}.wav"
            for signal in self.signals
        }

    def write(self, path: Path, prediction: Prediction) -> dict[str, Path]:
        """Write what was made of an input, as float32, which no scale clips; return the files.

        Raises:
            MelHuBERTError: a file cannot be written.
        """
        paths = self.paths(self._names[path])
        for signal, out in paths.items():
            buffer = io.BytesIO()
            soundfile.write(buffer, prediction.signals[signal], SAMPLE_RATE, format="WAV", subtype="FLOAT")
            with write_faults(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(out) as temporary:
                    temporary.write_bytes(buffer.getvalue())
        return paths
