"""`torchaudio.load`, `info` and `save` as they were before torchaudio 2.9, through soundfile.

From 2.9 on, torchaudio has no `info`, and needs TorchCodec and FFmpeg for the others. `restorations` puts
these functions in their place for programs that use s3prl. The arguments of torchaudio's functions that chose
between its backends (`format`, `buffer_size`, `backend`) are taken and ignored.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class AudioMetaData:
    """What `info` says of a file, with torchaudio's names."""

    sample_rate: int  # Hz
    num_frames: int  # samples of one channel
    num_channels: int
    bits_per_sample: int  # 0 where a codec has no such thing
    encoding: str  # PCM_S, PCM_U, PCM_F, FLAC, ULAW, ALAW, MP3, VORBIS, OPUS or UNKNOWN


# By libsndfile's name of a sample format: the bits of a sample, torchaudio's name, and the type in which
# `load` reads it from a WAV file with normalize=False (24 bits lie in the upper part of 32).
_SAMPLE_FORMATS = {
    "PCM_S8": (8, "PCM_S", "float32"),
    "PCM_U8": (8, "PCM_U", "int16"),
    "PCM_16": (16, "PCM_S", "int16"),
    "PCM_24": (24, "PCM_S", "int32"),
    "PCM_32": (32, "PCM_S", "int32"),
    "FLOAT": (32, "PCM_F", "float32"),
    "DOUBLE": (64, "PCM_F", "float64"),
    "ULAW": (8, "ULAW", "float32"),
    "ALAW": (8, "ALAW", "float32"),
    "VORBIS": (0, "VORBIS", "float32"),
    "OPUS": (0, "OPUS", "float32"),
    "MPEG_LAYER_III": (0, "MP3", "float32"),
}
_OTHER_FORMAT = (0, "UNKNOWN", "float32")


def info(
    uri: Any, format: str | None = None, buffer_size: int = 4096, backend: str | None = None
) -> AudioMetaData:
    """Return the sample rate, length and encoding of an audio file, from its header.

    `uri` is a path or a binary file object.
    """
    import soundfile

    header = soundfile.info(_readable(uri))
    bits, encoding, _ = _SAMPLE_FORMATS.get(header.subtype, _OTHER_FORMAT)
    return AudioMetaData(
        sample_rate=header.samplerate,
        num_frames=header.frames,
        num_channels=header.channels,
        bits_per_sample=bits,
        encoding="FLAC" if header.format == "FLAC" else encoding,
    )


def load(
    uri: Any,
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
) -> tuple[torch.Tensor, int]:
    """Read an audio file of any format that libsndfile knows: WAV, FLAC, MP3, Ogg, SPHERE, ...

    `uri` is a path or a binary file object. Read are `num_frames` samples of each channel from `frame_offset`
    on, or fewer where the file ends; -1 means all.

    As it was in torchaudio, `normalize=False` is about number types, not loudness, and matters for WAV
    alone: 8-bit samples come as uint8, 16-bit ones as int16, 24- and 32-bit ones as int32 (a 24-bit value
    times 256), 64-bit floats as float64.

    Returns:
        The samples, float32 in [-1, 1], of shape (channels, time), or (time, channels) unless
        `channels_first`; and the sample rate in Hz.

    Raises:
        ValueError: `frame_offset` is negative.
    """
    import numpy as np
    import soundfile
    import torch

    if frame_offset < 0:
        raise ValueError(f"frame_offset is {frame_offset}; it counts samples from the start of the file")
    with soundfile.SoundFile(_readable(uri)) as file:
        as_stored = not normalize and file.format in ("WAV", "WAVEX", "RF64")
        *_, stored = _SAMPLE_FORMATS.get(file.subtype, _OTHER_FORMAT)
        if frame_offset:
            file.seek(min(frame_offset, file.frames))
        samples = file.read(
            max(num_frames, -1), dtype=stored if as_stored else "float32", always_2d=True
        )  # (time, channels)
        if as_stored and file.subtype == "PCM_U8":  # libsndfile has no unsigned type, so it is shifted back.
            samples = ((samples >> 8) + 128).astype(np.uint8)
        sample_rate = file.samplerate
    waveform = torch.from_numpy(np.ascontiguousarray(samples.T if channels_first else samples))
    return waveform, sample_rate


def save(
    uri: Any,
    src: torch.Tensor,
    sample_rate: int,
    channels_first: bool = True,
    format: str | None = None,
    encoding: str | None = None,
    bits_per_sample: int | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
    compression: float | None = None,
) -> None:
    """Write samples of shape (channels, time) to an audio file of the format that its suffix names.

    A WAV file takes the tensor's own type (float32, float64, int32, int16, uint8) unless `encoding`
    (PCM_S, PCM_U, PCM_F, ULAW, ALAW) or `bits_per_sample` ask for another; FLAC is written with 16 bits
    unless `bits_per_sample` says otherwise. A file object needs `format`.
    """
    import numpy as np
    import soundfile
    import torch

    if src.ndim > 2:
        raise ValueError(f"src has shape {tuple(src.shape)}; save takes (channels, time) or (time,)")
    samples = src.detach().cpu()
    if samples.dtype in (torch.float16, torch.bfloat16):
        samples = samples.float()
    array = samples.numpy()
    if array.ndim == 2 and channels_first:
        array = array.T
    if hasattr(uri, "write"):
        target, suffix = uri, (format or "")
        if not format:
            raise ValueError("save to a file object needs format=, such as format='wav'")
    else:
        target, suffix = os.fspath(uri), (format or Path(os.fspath(uri)).suffix[1:])
    container = {"": None, "SPH": "NIST", "VORBIS": "OGG"}.get(suffix.upper(), suffix.upper())
    subtype = _subtype(container, str(array.dtype), encoding, bits_per_sample)
    if array.dtype == np.uint8:
        array = (array.astype(np.int16) - 128) << 8
    if subtype in ("FLOAT", "DOUBLE") and array.dtype in (np.int16, np.int32):
        # libsndfile would write 16384.0 for half of full scale, and not 0.5.
        array = array / -float(np.iinfo(array.dtype).min)
    soundfile.write(target, array, sample_rate, subtype=subtype, format=container)


def _subtype(container: str | None, dtype: str, encoding: str | None, bits: int | None) -> str | None:
    """Return libsndfile's name of the sample format, or None where the container decides."""
    if container == "FLAC":
        return "PCM_S8" if bits == 8 else f"PCM_{bits or 16}"
    if container not in ("WAV", "NIST", "W64", "RF64"):
        return None
    if encoding is None and bits is None:
        by_dtype = {"uint8": "PCM_U8", "int16": "PCM_16", "int32": "PCM_32", "float64": "DOUBLE"}
        return "PCM_16" if container == "NIST" else by_dtype.get(dtype, "FLOAT")
    if encoding in ("ULAW", "ALAW"):
        return encoding
    if encoding == "PCM_F":
        return "DOUBLE" if bits == 64 else "FLOAT"
    if encoding == "PCM_U" or (bits == 8 and container == "WAV"):  # WAV's 8 bits have no sign.
        return "PCM_U8"
    if encoding in (None, "PCM_S"):
        return f"PCM_{bits or 32}"
    raise ValueError(f"encoding={encoding!r} with {bits} bits cannot be written to {container}")


def _readable(uri: Any) -> Any:
    """Return `uri` in a form that soundfile reads: a path, or a file object that can seek."""
    if not hasattr(uri, "read"):
        return os.fspath(uri)
    seekable = getattr(uri, "seekable", None)
    return uri if seekable is not None and seekable() else io.BytesIO(uri.read())
