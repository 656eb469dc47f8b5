"""From waveforms to what the model reads: log-Mel, normalization, frames side by side, one padded batch.

The log-Mel is defined in `fbank`: Kaldi's, with torchaudio's defaults but for the Hamming window, 40 bins and
no dither. Everything here is differentiable and runs where the waveforms are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_melhubert.config import MAX_AMPLITUDE, N_MELS, SAMPLE_RATE
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.fbank import (
    FFT_SIZE,
    FRAME_LENGTH,
    FRAME_SHIFT,
    INT16_SCALE,
    LOW_FREQUENCY,
    MEL_FLOOR,
    PRE_EMPHASIS,
    frame_count,
)
from s3prl_melhubert.statistics import FeatureStats

# So many frames (5 s) of a long waveform are worked on at a time. They fit into the cache, which makes it 2
# to 3 times as fast on one core as 12 s or more at once, and they bound the memory: a frame takes 10 kB on
# its way.
LOG_MEL_BLOCK = 500
LOG_MEL_AT_ONCE = 6_000  # frames (1 min) from which on the frontend works in blocks


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Computes as written, whatever autocast surrounds it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _constant(make: Callable[[torch.device, torch.dtype], Tensor]) -> Callable[..., Tensor]:
    """Keep a constant tensor for each device and type, one that autograd may use whoever asked first.

    A tensor that is made under `torch.inference_mode()` can never take part in a backward pass, and one that
    is made under autocast may be rounded; the caller's modes must not stick to what later callers get.
    """

    @cache
    def kept(device: torch.device, dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False), torch.no_grad(), without_autocast(device):
            return make(device, dtype)

    return kept


@_constant
def mel_banks(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(40, 257) triangles, equally spaced on Kaldi's mel scale, 1127 ln(1 + f / 700)."""
    low = 1127 * math.log(1 + LOW_FREQUENCY / 700)
    high = 1127 * math.log(1 + SAMPLE_RATE / 2 / 700)
    step = (high - low) / (N_MELS + 1)
    # In float32 and in this order, torchaudio's figures come out to the last bit.
    bins = torch.arange(N_MELS, dtype=torch.float32)[:, None]  # (40, 1)
    left, centre, right = low + bins * step, low + (bins + 1.0) * step, low + (bins + 2.0) * step
    frequency = SAMPLE_RATE / FFT_SIZE * torch.arange(FFT_SIZE // 2, dtype=torch.float32)  # (256,)
    mel = 1127 * (1 + frequency / 700).log()
    rising = (mel - left) / (centre - left)
    falling = (right - mel) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)  # (40, 256)
    # Kaldi leaves out the bin at Nyquist's frequency.
    return F.pad(triangles, (0, 1)).to(device, dtype)


@_constant
def window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(400,) the Hamming window of a frame."""
    return torch.hamming_window(FRAME_LENGTH, periodic=False, device=device, dtype=dtype)


def log_mel(waveform: Tensor) -> Tensor:
    """Log-Mel energies of waveforms of one length.

    Args:
        waveform: (..., n) float samples in [-1, 1] at 16 kHz; fewer than 400 are padded with zeros.

    Returns:
        (..., F, 40) natural logarithms of mel energies, F = `frame_count(n)`; in float32 (float64 for
        float64 samples) also for half-precision samples and inside somebody's autocast, because energies
        of speech do not fit float16.

    Raises:
        MelHuBERTError: the samples are integers.
    """
    _check_float(waveform, "waveform")
    with without_autocast(waveform.device):
        return _log_mel(waveform.float() if waveform.dtype != torch.float64 else waveform)


def _log_mel(waveform: Tensor) -> Tensor:
    if waveform.shape[-1] < FRAME_LENGTH:
        waveform = F.pad(waveform, (0, FRAME_LENGTH - waveform.shape[-1]))
    frames = (waveform * INT16_SCALE).unfold(-1, FRAME_LENGTH, FRAME_SHIFT)  # (..., F, 400)
    frames = frames - frames.mean(-1, keepdim=True)
    previous = torch.cat((frames[..., :1], frames[..., :-1]), dim=-1)
    frames = (frames - PRE_EMPHASIS * previous) * window(waveform.device, waveform.dtype)
    power = torch.fft.rfft(frames, n=FFT_SIZE).abs().square()  # (..., F, 257)
    return (power @ mel_banks(waveform.device, waveform.dtype).T).clamp(min=MEL_FLOOR).log()


def blockwise_log_mel(waveform: Tensor, block: int = LOG_MEL_BLOCK) -> Tensor:
    """Compute `log_mel` of long waveforms a block of frames at a time: (..., n) -> (..., F, 40)."""
    frames = frame_count(waveform.shape[-1])
    starts = range(0, frames, block)
    ends = [min(start + block, frames) for start in starts]
    return torch.cat(
        [
            log_mel(waveform[..., start * FRAME_SHIFT : (end - 1) * FRAME_SHIFT + FRAME_LENGTH])
            for start, end in zip(starts, ends, strict=True)
        ],
        dim=-2,
    )


def check_waveform(waveform: object, name: str = "waveform") -> Tensor:
    """The waveform if it is one: a 1-D, non-empty, floating-point tensor.

    Raises:
        MelHuBERTError: anything else, with what was found and what to do.
    """
    if not isinstance(waveform, Tensor):
        raise MelHuBERTError(
            f"{name}: {type(waveform).__name__} found, expected a 1-D float tensor (torch.from_numpy?)"
        )
    if waveform.dim() != 1:
        raise MelHuBERTError(
            f"{name}: shape {tuple(waveform.shape)} found, expected one dimension of samples; mix channels "
            "down, and give a batch as a list of waveforms"
        )
    _check_float(waveform, name)
    if waveform.numel() == 0:
        raise MelHuBERTError(f"{name}: empty, expected at least one sample")
    return waveform


def _check_float(waveform: object, name: str) -> None:
    if not isinstance(waveform, Tensor) or not waveform.dim():
        found = "a single number" if isinstance(waveform, Tensor) else type(waveform).__name__
        raise MelHuBERTError(f"{name}: {found} found, expected a float tensor of samples (torch.from_numpy?)")
    if not waveform.is_floating_point():
        raise MelHuBERTError(
            f"{name}: {waveform.dtype} samples found, expected float ones in [-1, 1]; divide 16-bit integers "
            "by 32768"
        )


def check_samples(waveform: object, name: str = "waveform") -> Tensor:
    """The waveform if it is one, and all of its samples can be.

    Raises:
        MelHuBERTError: as `check_waveform`, or a sample that is not finite or far beyond [-1, 1].
    """
    waveform = check_waveform(waveform, name)
    peak = float(waveform.detach().abs().max())  # NaN passes through the maximum.
    if not peak <= MAX_AMPLITUDE:
        raise MelHuBERTError(f"{name}: {bad_peak(peak)}")
    return waveform


def bad_peak(peak: float) -> str:
    """What is wrong with samples of so large a magnitude, in words."""
    if not math.isfinite(peak):
        return "NaN or infinite samples found, expected values in [-1, 1]"
    return f"samples up to {peak:.3g} found, expected values in [-1, 1]; divide 16-bit integers by 32768"


class Frontend(nn.Module):
    """Waveforms to the normalized, stacked, padded frames that the model reads.

    Args:
        stats: mean and deviation of each mel bin.
        frame_period: 10 or 20 ms; at 20 ms, frames 2t and 2t + 1 stand side by side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stats: FeatureStats, frame_period: int):
        super().__init__()
        if not hasattr(stats, "mean"):
            raise MelHuBERTError(
                f"stats: {shown(stats)} found, expected statistics, which FeatureStats.load makes of a "
                "name, a file or a mapping"
            )
        if frame_period not in (10, 20):
            raise MelHuBERTError(f"frame period: {frame_period} ms found, expected 10 or 20")
        self.frame_period = frame_period
        # Not part of a state dict: checkpoints keep statistics under a key of their own.
        for name, figures in (("mean", stats.mean), ("std", stats.std)):
            # Lists are taken by every version of torch, which warns of arrays that cannot be written to.
            values = torch.tensor(figures.tolist(), dtype=torch.float32)
            self.register_buffer(name, values, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frontend:
        # `half()` and `bfloat16()` of a model come here, too. Rounded statistics would change the features by
        # more than the model's own rounding does, so the figures follow to a device and keep their type.
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)
        for name, values in exact.items():
            moved = getattr(self, name)
            if moved.dtype != values.dtype:
                setattr(self, name, values.to(moved.device))
        return self

    @property
    def samples_per_frame(self) -> int:
        """160 or 320: the hop between two frames that the model reads."""
        return self.frame_period * SAMPLE_RATE // 1000

    def frame_count(self, samples: int) -> int:
        """Frames that the model reads of a waveform of so many samples."""
        frames = frame_count(samples)
        return frames if self.frame_period == 10 else (frames + 1) // 2

    def normalize(self, frames: Tensor) -> Tensor:
        """(..., 40) log-Mel -> the same, each bin with mean 0 and deviation 1 over the training audio."""
        return (frames - self.mean) / self.std

    def stack(self, frames: Tensor) -> Tensor:
        """(F, 40) normalized log-Mel -> (F, 40) at 10 ms; (ceil(F / 2), 80) at 20 ms, an odd end padded."""
        return stack_frames(frames) if self.frame_period == 20 else frames

    def forward(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Features of a batch of waveforms.

        Args:
            waveforms: B float tensors of samples in [-1, 1] at 16 kHz, of any lengths, on this module's
                device. A (B, n) tensor is taken as B waveforms of n samples.

        Returns:
            (B, T, 40 or 80) features in float32, zero at padding, and the (B, T) bool padding mask, true
            at padding; None instead of a mask if all are of one length.

        Raises:
            MelHuBERTError: neither a list nor a tensor of waveforms, an empty one, or a waveform that is not
                1-D, float, non-empty, finite and on the device.
        """
        if not hasattr(waveforms, "__len__"):
            raise MelHuBERTError(f"waveforms: {type(waveforms).__name__} found, expected a list of waveforms")
        if len(waveforms) == 0:
            raise MelHuBERTError("waveforms: an empty batch found, expected at least one waveform")
        for i, waveform in enumerate(waveforms):
            check_waveform(waveform, f"waveform {i}")
            if waveform.device != self.mean.device:
                raise MelHuBERTError(
                    f"waveform {i}: on {waveform.device}, but the model is on {self.mean.device}; "
                    f"move it with .to({shown(str(self.mean.device))})"
                )
        # NaN passes through the extremes; one look at all of them costs a GPU one wait.
        extremes = [torch.stack(torch.aminmax(waveform.detach())).float() for waveform in waveforms]
        peaks = torch.stack(extremes).abs().amax(1)  # (B,)
        if not (peaks <= MAX_AMPLITUDE).all():
            bad = int((~(peaks <= MAX_AMPLITUDE)).nonzero()[0])
            raise MelHuBERTError(f"waveform {bad}: {bad_peak(float(peaks[bad]))}")
        counts = [self.frame_count(len(waveform)) for waveform in waveforms]
        features = self._on_cpu(waveforms) if self.mean.device.type == "cpu" else self._batched(waveforms)
        if min(counts) == max(counts):
            return features, None
        return features, padding_mask(counts, features.device)

    def _on_cpu(self, waveforms: Sequence[Tensor]) -> Tensor:
        # One utterance at a time stays in the cache: 22 against 37 ms for 16 x 10 s on two cores.
        features = [self.stack(self.normalize(_log_mel_of_any(waveform.float()))) for waveform in waveforms]
        return nn.utils.rnn.pad_sequence(features, batch_first=True)

    def _batched(self, waveforms: Sequence[Tensor]) -> Tensor:
        # A GPU wants few, large kernels. Frames that reach into the padding are set to zero, as if they
        # had been padded afterwards.
        padded = nn.utils.rnn.pad_sequence([waveform.float() for waveform in waveforms], batch_first=True)
        frames = self.normalize(_log_mel_of_any(padded, LOG_MEL_AT_ONCE))  # (B, F, 40)
        lengths = [frame_count(len(waveform)) for waveform in waveforms]
        padding = padding_mask(lengths, frames.device)  # (B, F)
        return self.stack(frames.masked_fill(padding[..., None], 0))


def _log_mel_of_any(waveform: Tensor, block: int = LOG_MEL_BLOCK) -> Tensor:
    """Compute the log-Mel of waveforms (..., n), of which long ones go block by block."""
    if frame_count(waveform.shape[-1]) <= LOG_MEL_AT_ONCE:
        return log_mel(waveform)
    return blockwise_log_mel(waveform, block)


def padding_mask(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Frames of B utterances -> (B, T) bool, true at padding, where the longest has T."""
    return torch.arange(max(lengths), device=device) >= torch.tensor(lengths, device=device)[:, None]


def stack_frames(frames: Tensor) -> Tensor:
    """Frames 2t and 2t + 1 side by side, an odd end padded with a zero frame.

    (..., F, D) -> (..., ceil(F / 2), 2 D)
    """
    if frames.shape[-2] % 2:
        frames = F.pad(frames, (0, 0, 0, 1))
    return frames.reshape(*frames.shape[:-2], frames.shape[-2] // 2, 2 * frames.shape[-1])


def lengthen_for_s3prl(hidden: Tensor, samples: int, hop: int) -> Tensor:
    """Repeat the last frame of a very short batch until s3prl's length check can work with it.

    s3prl expects a frame for each begun hop, and repeats the last one where an upstream has fewer; but it
    refuses one with half as many or less. Whole 25 ms windows are that few in some inputs of about 0.06 s.

    Args:
        hidden: (B, T, C), an output of the model.
        samples: of the longest waveform of the batch.
        hop: samples between two frames.

    Returns:
        (B, T', C), with T' = T for all but very short batches.
    """
    missing = -(-samples // hop) // 2 + 1 - hidden.shape[1]
    return F.pad(hidden, (0, 0, 0, missing), mode="replicate") if missing > 0 else hidden
