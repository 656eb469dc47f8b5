"""The log-Mel's definition, and its form for processes without torch.

The log-Mel is Kaldi's fbank with torchaudio's defaults but for the Hamming window, 40 bins and no dither.
`frontend.log_mel` computes it with torch, differentiably and on any device. What prepares a corpus needs
neither, and `import torch` would take longer than an hour of audio does; so `fbank` is the same in numpy. It
is faster on a CPU, too, because torch takes the square root of every energy before it squares it again, as
torchaudio does.
"""

from __future__ import annotations

import math
import threading
from functools import cache

import numpy as np

from s3prl_melhubert.config import N_MELS, SAMPLE_RATE

FRAME_LENGTH = 400  # samples: 25 ms
FRAME_SHIFT = 160  # samples: 10 ms
FFT_SIZE = 512  # the next power of two
LOW_FREQUENCY = 20.0  # Hz; the highest is Nyquist's
PRE_EMPHASIS = 0.97
INT16_SCALE = 32_768.0  # Kaldi works on samples as 16-bit integers
MEL_FLOOR = float(np.finfo(np.float32).eps)  # energies below are raised to it before the logarithm

# So many frames are worked on at a time: what one operation leaves, the next one finds in the cache.
BLOCK_FRAMES = 200


def frame_count(samples: int) -> int:
    """Number of 10 ms log-Mel frames of a waveform: 1 + (n - 400) // 160, and one for a shorter one."""
    return 1 + max(0, samples - FRAME_LENGTH) // FRAME_SHIFT


def fbank(waveform: np.ndarray) -> np.ndarray:
    """Log-Mel energies of a waveform; `frontend.log_mel`'s but for rounding.

    On real speech, both lie 6e-6 (root mean square) from what float64 gives, and up to 4e-4 in the upper bins
    of loud voiced frames, where little energy stands beside much. Of a frame of one value, Kaldi's definition
    leaves how its mean was rounded: nothing of 16-bit samples, and of finer ones up to 8 above the least
    value, ln(MEL_FLOOR) = -15.94, which differs between the two forms, and is far below any noise.

    Args:
        waveform: (n,) float32 samples in [-1, 1] at 16 kHz; fewer than 400 are padded with zeros.

    Returns:
        (F, 40) float32.
    """
    from scipy import fft  # here, because the frontend imports this file for its figures alone

    count = frame_count(len(waveform))
    if len(waveform) < FRAME_LENGTH:
        waveform = np.pad(waveform, (0, FRAME_LENGTH - len(waveform)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME_LENGTH)[::FRAME_SHIFT]  # (F, 400)
    energies = np.empty((count, N_MELS), np.float32)
    for start in range(0, count, BLOCK_FRAMES):
        size = min(BLOCK_FRAMES, count - start)
        block, padded, power, imaginary = _room.of(size)
        np.multiply(frames[start : start + size], np.float32(INT16_SCALE), out=block)
        block -= block.mean(1, keepdims=True)
        ready = padded[:, :FRAME_LENGTH]
        np.multiply(block[:, :-1], np.float32(-PRE_EMPHASIS), out=ready[:, 1:])
        np.multiply(block[:, 0], np.float32(-PRE_EMPHASIS), out=ready[:, 0])
        ready += block
        ready *= _window()
        spectrum = fft.rfft(padded, axis=1)  # (B, 257) complex64
        np.square(spectrum.real, out=power)
        power += np.square(spectrum.imag, out=imaginary)
        np.dot(power, _mel_banks(), out=energies[start : start + size])
    np.maximum(energies, np.float32(MEL_FLOOR), out=energies)
    return np.log(energies, out=energies)


class _Room(threading.local):
    """Arrays for a block of frames, which each thread keeps.

    Where each file's are made anew, the system gives and takes their memory page by page, which is a quarter
    of all the time.
    """

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def of(self, size: int) -> list[np.ndarray]:
        """(size, 400); (size, 512), zero from the 400th column on; and two of (size, 257)."""
        if not self.arrays:
            widths = (FRAME_LENGTH, FFT_SIZE, FFT_SIZE // 2 + 1, FFT_SIZE // 2 + 1)
            self.arrays = [np.zeros((BLOCK_FRAMES, width), np.float32) for width in widths]
        return [array[:size] for array in self.arrays]


_room = _Room()


@cache
def _window() -> np.ndarray:
    """(400,) the Hamming window of a frame."""
    return np.hamming(FRAME_LENGTH).astype(np.float32)


@cache
def _mel_banks() -> np.ndarray:
    """(257, 40) triangles, equally spaced on Kaldi's mel scale, 1127 ln(1 + f / 700)."""
    low = 1127 * math.log(1 + LOW_FREQUENCY / 700)
    high = 1127 * math.log(1 + SAMPLE_RATE / 2 / 700)
    step = (high - low) / (N_MELS + 1)
    # In float32 and in the order of `frontend.mel_banks`, so that both round alike.
    bins = np.arange(N_MELS, dtype=np.float32)[:, None]  # (40, 1)
    left, centre, right = low + bins * step, low + (bins + 1) * step, low + (bins + 2) * step
    frequency = SAMPLE_RATE / FFT_SIZE * np.arange(FFT_SIZE // 2, dtype=np.float32)  # (256,)
    mel = 1127 * np.log((1 + frequency / 700).astype(np.float64)).astype(np.float32)
    rising = (mel - left) / (centre - left)
    falling = (right - mel) / (right - centre)
    triangles = np.minimum(rising, falling).clip(0)  # (40, 256)
    # Kaldi leaves out the bin at Nyquist's frequency.
    return np.ascontiguousarray(np.pad(triangles, ((0, 0), (0, 1))).T, dtype=np.float32)
