"""The diarization error rate (DER) of s3prl's predictions, as SUPERB computes it.

A prediction is the probability of each of two speakers in each frame. SUPERB makes speech of what is over a
threshold, with and without a median filter over 11 frames, and takes the best of ten such choices on the
test set. There is no collar around the turns, and where both speakers talk, both are scored. Times are
rounded to 10 ms, as the RTTM files are that SUPERB scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.outputs import Turn
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.progress import progress

if TYPE_CHECKING:
    import numpy as np

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MEDIANS = (1, 11)  # frames
# Each choice of a median filter and a threshold, by what it is in words.
CHOICES = {f"median {median}, threshold {over}": (median, over) for median in MEDIANS for over in THRESHOLDS}


def check_packages() -> None:
    """Make sure that what s3prl's expert and the scoring import is there.

    Raises:
        MelHuBERTError: a package is not; the message says which, and what to install.
    """
    try:
        import h5py
        from pyannote.metrics import diarization  # noqa: F401
    except Exception as error:
        raise MelHuBERTError(
            f"speaker diarization needs h5py and pyannote.metrics, which cannot be imported ({error}): "
            "pip install 's3prl-melhubert[sd]'"
        ) from None
    del h5py


def error_rates(
    references: Mapping[str, Sequence[Turn]], predictions: Path, frame_shift: int
) -> dict[str, float]:
    """Compute the DER of all mixtures for each choice of a median filter and a threshold.

    Args:
        references: who talks when, by mixture.
        predictions: the folder of MIXTURE.h5, whose `T_hat` is (frames, speakers).
        frame_shift: the samples of a frame, at 16 kHz.

    Returns:
        The rates, of which 1 is 100 %, by the choice in words.

    Raises:
        MelHuBERTError: the predictions of a mixture are not there or cannot be read.
    """
    from pyannote.metrics.diarization import DiarizationErrorRate

    rates = {choice: DiarizationErrorRate(collar=0.0, skip_overlap=False) for choice in CHOICES}
    with progress(len(references), "DER", "mixtures") as bar:
        for name, turns in references.items():
            probabilities = _read(predictions / f"{name}.h5")
            reference = _annotation(name, turns)
            for choice, rate in rates.items():
                median, threshold = CHOICES[choice]
                found = turns_of(probabilities, threshold, median, frame_shift)
                hypothesis = _annotation(name, found)
                extent = reference.get_timeline().union(hypothesis.get_timeline()).extent()
                rate(reference, hypothesis, uem=_timeline(extent))
            bar.update()
    return {choice: abs(rate) for choice, rate in rates.items()}


def turns_of(probabilities: np.ndarray, threshold: float, median: int, frame_shift: int) -> list[Turn]:
    """Return who talks when.

    Args:
        probabilities: (frames, speakers).
        threshold: over which a speaker talks.
        median: frames of the median filter; 1 for none.
        frame_shift: the samples of a frame, at 16 kHz.
    """
    import numpy as np
    from scipy.signal import medfilt

    talks = (probabilities > threshold).astype(np.float64)
    if median > 1:
        talks = medfilt(talks, (median, 1))
    seconds = frame_shift / SAMPLE_RATE
    turns = []
    for speaker, frames in enumerate(talks.T):
        changes = np.flatnonzero(np.diff(np.pad(frames, 1)))
        for start, end in zip(changes[::2], changes[1::2], strict=True):
            begin, length = round(start * seconds, 2), round((end - start) * seconds, 2)
            turns.append((speaker_name(speaker), begin, begin + length))
    return turns


def speaker_name(index: int) -> str:
    """What one of the speakers is called that s3prl's model tells apart, and does not know."""
    return f"speaker {index}"


def read_probabilities(file: Path | BinaryIO) -> np.ndarray:
    """Read s3prl's predictions of a mixture, (frames, speakers).

    Raises:
        ValueError: they cannot be read, or are no such probabilities; the message says why.
    """
    import h5py
    import numpy as np

    try:
        with h5py.File(file, "r") as opened:
            found = opened["T_hat"][:]
    # h5py raises a RuntimeError or a TypeError, too, for what is damaged or of another kind.
    except Exception as error:
        raise ValueError(f"no whole HDF5 file with T_hat: {error}") from None
    if found.dtype.kind != "f" or found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(
            f"T_hat is {found.dtype} of shape {found.shape}, expected finite numbers, (frames, speakers)"
        )
    return found


def _read(path: Path) -> np.ndarray:
    try:
        return read_probabilities(path)
    except ValueError as error:
        raise MelHuBERTError(f"{path}: cannot be read as s3prl's predictions ({error})") from None


def _annotation(name: str, turns: Sequence[Turn]) -> Any:
    from pyannote.core import Annotation, Segment

    annotation = Annotation(uri=name)
    for track, (speaker, start, end) in enumerate(turns):
        if end > start:
            annotation[Segment(start, end), track] = speaker
    return annotation


def _timeline(extent: Any) -> Any:
    from pyannote.core import Timeline

    return Timeline([extent])
