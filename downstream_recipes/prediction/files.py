"""Predictions of audio files, one after the other, while threads read the next ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from s3prl_melhubert.audio import Audio, read_audio
from s3prl_melhubert.downstream_recipes.prediction.prediction import Prediction
from s3prl_melhubert.downstream_recipes.prediction.predictor import Predictor
from s3prl_melhubert.errors import MelHuBERTError, named
from s3prl_melhubert.extraction.inputs import READERS, InputNotes
from s3prl_melhubert.support.progress import progress
from s3prl_melhubert.support.read_ahead import ahead


def predict_files(
    predictor: Predictor, paths: Sequence[Path], notes: InputNotes, top: int = 1
) -> Iterator[tuple[Path, Prediction]]:
    """Yield the prediction of each file, in their order.

    Args:
        predictor: the model.
        paths: of files of any format and rate that `audio` reads.
        notes: learns of the files that are resampled or mixed down, and of those that are left out because
            they cannot be read or the model cannot take them.
        top: how many of the most probable classes.
    """
    with progress(len(paths), "predict", "files", delay=2) as bar:
        for path, reading in ahead(read_audio, paths, READERS, READERS):
            try:
                audio = reading.result()
                notes.note(path, audio)
                prediction = _predicted(predictor, path, audio, top)
            except MelHuBERTError as error:
                notes.skip(path, error)
            else:
                yield path, prediction
            bar.update()


def _predicted(predictor: Predictor, path: Path, audio: Audio, top: int) -> Prediction:
    """The prediction of a file; raise a MelHuBERTError that names it where the model cannot take it."""
    try:
        return predictor(audio.waveform, top)
    except MelHuBERTError as error:
        raise MelHuBERTError(f"{path}: {error}") from None
    except (RuntimeError, IndexError, AssertionError, MemoryError) as error:
        # Too long for the memory; or too short for an upstream that is not MelHuBERT.
        raise MelHuBERTError(f"{path}: the model cannot take it ({named(error)})") from None
