"""Reads audio files as the frontend wants them: one channel of float32 samples at 16 kHz.

    find_audio(paths)    the audio files among files and folders
    audio_info(path)     length, rate and channels, from the header alone
    read_audio(path)     the samples, mixed down to one channel and resampled to 16 kHz
    audio_pieces(path)   the same a minute at a time, for recordings of any length
    read_stretch(path)   some of these samples, of which as little as possible is decoded

libsndfile decodes (WAV, FLAC, OGG, MP3, ...) and soxr resamples. Nothing here imports torch, so that worker
processes start quickly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from s3prl_melhubert.config import MAX_AMPLITUDE, SAMPLE_RATE
from s3prl_melhubert.cut_audio import cut_short
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.memory import available_memory, size_text

# A folder is searched for these. A file that is given by its own name is read, whatever its suffix.
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".sph", ".w64")

# Samples per channel that a header may claim: 37 h at 16 kHz. More is a header written before the length
# was known (audio sent through a pipe) or a damaged one.
MAX_SAMPLES = 2**31
PIECE_VALUES = 2**24  # samples over all channels that are decoded at once: 64 MB
STREAM_VALUES = 2**20  # the same for `audio_pieces`: 4 MB, a minute of one channel at 16 kHz
# A file that takes more than this to read is held against the memory that there is.
MUCH_MEMORY = 2**28
# Resampling a slower file would give over 16 times as many samples as it holds; no microphone records faster.
MIN_RATE, MAX_RATE = 1_000, 1_000_000  # Hz


@dataclass(frozen=True)
class AudioInfo:
    """The contents of an audio file's header."""

    frames: int  # samples per channel, at the file's own rate (for MP3, libsndfile's estimate)
    rate: int  # Hz
    channels: int
    # Whether every sample is kept, as WAV and FLAC do, so that they are counted exactly and found anywhere.
    exact: bool = True

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.frames / self.rate

    @property
    def samples(self) -> int:
        """The number of samples after resampling to 16 kHz, give or take one."""
        return round(self.frames * SAMPLE_RATE / self.rate)


@dataclass(frozen=True, eq=False)
class Audio:
    """The waveform that the models hear, and the format of the file that it came from."""

    # (n,) float32 in [-1, 1] (float files may go beyond, to MAX_AMPLITUDE), at 16 kHz, n > 0, all finite
    waveform: np.ndarray
    original_rate: int  # Hz, of the file
    original_channels: int


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """List the audio files among files and folders.

    Files are taken as they are given. Folders are searched, with all below them and through symbolic
    links, for the suffixes of `AUDIO_SUFFIXES`, in sorted order; hidden files and folders are passed over.

    Raises:
        MelHuBERTError: a path that does not exist, or a folder that cannot be listed or holds no audio.
    """
    return list(each_audio(paths))


def each_audio(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yields what `find_audio` lists, for those who do not keep a `Path` of each of millions."""
    for path in map(Path, paths):
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except OSError as error:  # the name is too long, or a folder may not be entered
            raise MelHuBERTError(f"{str(path)[:200]}: cannot be read ({error.strerror})") from None
        if is_folder:
            inside = _walk(path, frozenset())
            first = next(inside, None)
            if first is None:
                raise MelHuBERTError(
                    f"{path}: no audio in this folder or below it (looked for {', '.join(AUDIO_SUFFIXES)})"
                )
            yield first
            yield from inside
        elif is_file:
            yield path
        else:
            raise MelHuBERTError(f"{path}: no such file or folder (looked for {path.absolute()})")


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """List audio files in and below a folder, sorted; `above` holds its parents, to find loops of links."""
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
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a symbolic link that points to itself
            is_folder = is_file = False
        if is_folder:
            yield from _walk(Path(entry.path), above | {here})
        # A broken link is listed, too. Reading it gives an error, but leaving it out would give no message.
        elif entry.name.lower().endswith(AUDIO_SUFFIXES) and (is_file or entry.is_symlink()):
            yield Path(entry.path)


def audio_info(path: str | Path) -> AudioInfo:
    """Read the length, rate and channels of an audio file without decoding it.

    Raises:
        MelHuBERTError: the file cannot be opened as audio, holds no samples, or was cut short.
    """
    with _opened_whole(path) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels, _is_exact(file))


def read_audio(path: str | Path) -> Audio:
    """Read an audio file as one channel (the mean of all) at 16 kHz.

    Raises:
        MelHuBERTError: the file cannot be opened or decoded as audio, is empty, was cut short, or holds NaN
            or infinite samples.
    """
    return _read(path, _opened_whole(path))


def _read(path: str | Path, opened: soundfile.SoundFile) -> Audio:
    with opened as file:
        rate, channels = file.samplerate, file.channels
        _check_memory(path, file)
        pieces = list(_decode(path, file, PIECE_VALUES))
    waveform = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    del pieces
    _check_peak(path, waveform)
    decoded = len(waveform)
    if rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")
    if len(waveform) == 0:
        raise _nothing_left(path, decoded, rate)
    return Audio(waveform, rate, channels)


def read_stretch(path: str | Path, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Read some of the samples that `read_audio` reads.

    Of a file at 16 kHz that keeps its samples one by one or without loss (WAV, FLAC), only these are decoded.
    A file that was cut short is read as far as it goes: a set of an earlier version may have been made of it.

    Args:
        path: the file.
        start: the first sample, at 16 kHz.
        stop: the sample to end before.

    Returns:
        (n,) float32 samples, n = stop - start or less where the file ends before, and the number of samples
        that the whole file has at 16 kHz.

    Raises:
        MelHuBERTError: as `read_audio`, for what was decoded, but not for a file that was cut short.
    """
    with _opened(path) as file:
        total = file.frames
        if file.samplerate == SAMPLE_RATE and _is_exact(file):
            try:
                file.seek(min(start, total))
                wanted = max(0, min(stop, total) - start)
                samples = next(_decode(path, file, wanted * file.channels))[:wanted]
            except soundfile.LibsndfileError as error:
                raise MelHuBERTError(f"{path}: damaged audio ({_reason(error)})") from None
            _check_peak(path, samples)
            return samples, total
    whole = _read(path, _opened(path)).waveform
    return whole[start:stop], len(whole)


def _is_exact(file: soundfile.SoundFile) -> bool:
    return file.seekable() and file.subtype.startswith(("PCM_", "FLOAT", "DOUBLE"))


def audio_pieces(path: str | Path) -> Iterator[Audio]:
    """Read an audio file as `read_audio` does, in pieces of about a minute, in little memory.

    The pieces one after the other are the same samples, bit for bit.

    Raises:
        MelHuBERTError: as `read_audio`, when the piece is reached in which something is wrong.
    """
    samples = decoded = 0
    with _opened_whole(path) as file:
        rate, channels = file.samplerate, file.channels
        resampler = None
        if rate != SAMPLE_RATE:
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        for piece in _decode(path, file, STREAM_VALUES):
            _check_peak(path, piece)
            decoded += len(piece)
            if resampler is not None:
                piece = resampler.resample_chunk(piece)
            samples += len(piece)
            if len(piece):
                yield Audio(piece, rate, channels)
    rest = resampler.resample_chunk(np.empty(0, np.float32), last=True) if resampler else np.empty(0)
    if len(rest):
        yield Audio(rest, rate, channels)
    elif samples == 0:
        raise _nothing_left(path, decoded, rate)


def _nothing_left(path: str | Path, decoded: int, rate: int) -> MelHuBERTError:
    """Why a file gives no sample at 16 kHz, by how many were decoded at its own rate."""
    if decoded:
        return MelHuBERTError(
            f"{path}: too short; at {SAMPLE_RATE} Hz nothing is left of its {decoded} samples at {rate} Hz"
        )
    return MelHuBERTError(f"{path}: no samples could be decoded (cut short?)")


def _decode(path: str | Path, file: soundfile.SoundFile, values: int) -> Iterator[np.ndarray]:
    """Yield the samples at the file's rate, the mean of its channels, in pieces (n,).

    A piece is made of at most so many values over all channels, so that memory follows what is decoded, and
    not what a header claims.
    """
    # This product is the mean over channels. It is eight times as fast as `mean(axis=1)`.
    mean = np.full(file.channels, 1 / file.channels, dtype=np.float32)
    size = max(1, values // file.channels)
    while True:
        try:
            samples = file.read(min(size, file.frames), dtype="float32")  # (n,) or (n, channels)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise MelHuBERTError(f"{path}: damaged audio ({_reason(error)})") from None
        with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is no audio
            yield samples @ mean if file.channels > 1 else samples
        if len(samples) < size:
            return


def _check_memory(path: str | Path, file: soundfile.SoundFile) -> None:
    """Refuse a file whose samples would not fit: an hour of silence is 180 kB as FLAC, and 460 MB here."""
    # The pieces and what they are joined to, then what is resampled.
    needed = 4 * max(2 * file.frames, file.frames * (1 + SAMPLE_RATE / file.samplerate))
    if needed > MUCH_MEMORY and needed > (available := available_memory()):
        raise MelHuBERTError(
            f"{path}: its {file.frames / file.samplerate / 3600:.1f} h take {size_text(needed)} to read, and "
            f"{size_text(available)} of memory are available; split it"
        )


def _check_peak(path: str | Path, waveform: np.ndarray) -> None:
    peak = max(-float(waveform.min()), float(waveform.max())) if len(waveform) else 0.0  # NaN if any is NaN
    if not peak <= MAX_AMPLITUDE:
        found = f"samples up to {peak:.3g}" if math.isfinite(peak) else "NaN or infinite samples"
        raise MelHuBERTError(f"{path}: {found} found, expected values in [-1, 1]")


def _opened(path: str | Path) -> soundfile.SoundFile:
    """Open the file for reading, if it is audio of a known length above zero."""
    try:
        # The file is opened by the bytes of its name, which need not be UTF-8.
        file = soundfile.SoundFile(os.fsencode(path))
    # TypeError: a .raw file, which has no rate. ValueError: the name contains a NUL character.
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise MelHuBERTError(f"{path}: {_why_not_audio(Path(path), error)}") from None
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        rate = file.samplerate
        file.close()
        raise MelHuBERTError(f"{path}: a rate of {rate} Hz found, expected {MIN_RATE} to {MAX_RATE}")
    if not 0 < file.frames <= MAX_SAMPLES:
        # A FLAC file without samples has the same header as one of unknown length.
        frames = 0 if _is_flac_without_audio(path) else file.frames
        file.close()
        if frames == 0:
            raise MelHuBERTError(f"{path}: zero samples of audio")
        raise MelHuBERTError(
            f"{path}: its header does not tell its length (was it written through a pipe?); "
            "rewrite it, for example with: ffmpeg -i IN.flac OUT.flac"
        )
    return file


def _opened_whole(path: str | Path) -> soundfile.SoundFile:
    """Open the file as `_opened` does, if it has as much audio as its header says."""
    file = _opened(path)
    told = cut_short(file)
    if told:
        file.close()
        raise MelHuBERTError(f"{path}: {told}")
    return file


def _is_flac_without_audio(path: str | Path) -> bool:
    """Tell whether a FLAC file ends after its metadata. It has the same header as one of unknown length."""
    with open(path, "rb") as file:
        if file.read(4) != b"fLaC":
            return False
        # The header of a metadata block is a mark on the last one, then 24 bits of size.
        while len(head := file.read(4)) == 4:
            file.seek(int.from_bytes(head[1:], "big"), os.SEEK_CUR)
            if head[0] & 0x80:
                return not file.read(1)
    return False


def _why_not_audio(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return "an empty file (0 bytes)"
    except OSError as refused:
        return f"cannot be read ({refused.strerror or refused})"
    except ValueError as refused:
        return f"cannot be the name of a file ({refused})"
    return f"not an audio file that libsndfile can decode ({_reason(error)})"


def _reason(error: Exception) -> str:
    """Return libsndfile's message without its `Error :` and full stop."""
    said = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return said.strip().removeprefix("Error :").strip().rstrip(".").strip() or type(error).__name__
