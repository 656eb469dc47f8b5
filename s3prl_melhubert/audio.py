"""Audio files to what the frontend reads: one channel of float32 samples at 16 kHz.

    find_audio(paths)    the audio files among files and folders
    audio_info(path)     length, rate and channels, from the header alone
    read_audio(path)     the samples, mixed down to one channel and resampled to 16 kHz

libsndfile decodes (WAV, FLAC, OGG, MP3, ...) and soxr resamples. Nothing here imports torch, so that worker
processes start quickly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.errors import MelHuBERTError

# What a folder is searched for. A file that is given by its own name is read whatever it is called.
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".sph", ".w64")

# Samples per channel that a header may claim: 37 h at 16 kHz. More is a header written before the length
# was known (audio sent through a pipe) or a damaged one.
MAX_SAMPLES = 2**31


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    frames: int  # samples per channel, at the file's own rate (for MP3, libsndfile's estimate)
    rate: int  # Hz
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def samples(self) -> int:
        """Samples after resampling to 16 kHz, give or take one."""
        return round(self.frames * SAMPLE_RATE / self.rate)


@dataclass(frozen=True, eq=False)
class Audio:
    """The content of an audio file as the models hear it, and what it was made from."""

    waveform: np.ndarray  # (n,) float32 in [-1, 1] (float files may go beyond), 16 kHz, n > 0, all finite
    original_rate: int  # Hz, of the file
    original_channels: int


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """The audio files among files and folders.

    Files are taken as they are given. Folders are searched, with all below them and through symbolic
    links, for the suffixes of `AUDIO_SUFFIXES`, in sorted order; hidden files and folders are passed over.

    Raises:
        MelHuBERTError: a path that does not exist, or a folder that cannot be listed or holds no audio.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = list(_walk(path, frozenset()))
            if not inside:
                raise MelHuBERTError(
                    f"{path}: no audio in this folder or below it (looked for {', '.join(AUDIO_SUFFIXES)})"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise MelHuBERTError(f"{path}: no such file or folder (looked for {path.absolute()})")
    return found


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Audio files in and below a folder, sorted; `above` holds the folders on the way, against link loops."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise MelHuBERTError(f"{folder}: cannot be listed ({error.strerror or error})") from None
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in listed:
        if entry.name.startswith("."):  # .git, or the ._name.wav that some systems leave beside name.wav
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), above | {here})
        elif entry.name.lower().endswith(AUDIO_SUFFIXES) and entry.is_file():
            yield Path(entry.path)


def audio_info(path: str | Path) -> AudioInfo:
    """Length, rate and channels of an audio file, without decoding it.

    Raises:
        MelHuBERTError: the file cannot be opened as audio or holds no samples.
    """
    with _opened(path) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read_audio(path: str | Path) -> Audio:
    """Read an audio file as one channel (the mean of all) at 16 kHz.

    Raises:
        MelHuBERTError: the file cannot be opened or decoded as audio, is empty, or holds NaN or infinite
            samples.
    """
    with _opened(path) as file:
        rate, channels = file.samplerate, file.channels
        try:
            waveform = file.read(dtype="float32")  # (n,) or (n, channels)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise MelHuBERTError(f"{path}: damaged audio ({_reason(error)})") from None
    if channels > 1:
        # The mean over channels; as a product it is eight times as fast as `mean(axis=1)`.
        waveform = waveform @ np.full(channels, 1 / channels, dtype=np.float32)
    if not np.isfinite(waveform).all():
        raise MelHuBERTError(f"{path}: NaN or infinite samples found, expected values in [-1, 1]")
    if rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")
    if len(waveform) == 0:
        raise MelHuBERTError(f"{path}: no samples could be decoded (cut short?)")
    return Audio(waveform, rate, channels)


def _opened(path: str | Path) -> soundfile.SoundFile:
    """The file, open for reading, if it is audio of a known length above zero."""
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: .raw, whose rate nobody knows
        raise MelHuBERTError(f"{path}: {_why_not_audio(Path(path), error)}") from None
    if not 0 < file.frames <= MAX_SAMPLES:
        frames = file.frames
        file.close()
        if frames == 0:
            raise MelHuBERTError(f"{path}: zero samples of audio")
        raise MelHuBERTError(
            f"{path}: its header does not tell its length (was it written through a pipe?); "
            "rewrite it, for example with: ffmpeg -i IN.flac OUT.flac"
        )
    return file


def _why_not_audio(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return "an empty file (0 bytes)"
    except OSError as refused:
        return f"cannot be read ({refused.strerror or refused})"
    return f"not an audio file that libsndfile can decode ({_reason(error)})"


def _reason(error: Exception) -> str:
    """What libsndfile says, without its `Error :` and full stop."""
    said = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return said.strip().removeprefix("Error :").strip().rstrip(".").strip() or type(error).__name__
