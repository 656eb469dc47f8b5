"""Long recordings in overlapping windows, so that memory does not grow with them, and time in proportion.

    windows = Windows.of_seconds(30, 4, frame_period=20)
    features = streamed_features(pieces, frontend)                          # (T, D) of the whole recording
    for states in windowed_hidden_states(model, features, windows):         # (layers, t, C), in order
        ...

The model reads each window by itself. Where two windows overlap, the first half of the overlap is taken from
the window before it and the second half from the window after it, so that no frame is nearer to a cut than
half the overlap. The frames are those of the whole recording: as many, at the same times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.extraction.states import hidden_states, pad_features
from s3prl_melhubert.fbank import FRAME_LENGTH, FRAME_SHIFT
from s3prl_melhubert.frontend import Frontend, blockwise_log_mel, check_samples, check_waveform
from s3prl_melhubert.model import MelHuBERT

DEFAULT_OVERLAP = 4.0  # seconds, or a quarter of a shorter window
SHORTEST, LONGEST = 1.0, 1e9  # seconds of a window; no recording takes 30 years


@dataclass(frozen=True)
class Span:
    """A window of a recording, and the part of it that is kept; in frames of the recording."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class Windows:
    """How recordings that are longer than a window are cut.

    Raises:
        MelHuBERTError: there are no frames in a window, or none by which windows advance.
    """

    length: int  # frames of a window
    overlap: int  # frames that a window shares with the next one

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.length:
            raise MelHuBERTError(
                f"windows of {self.length} frames that share {self.overlap} found, expected an overlap of at "
                "least 0 and less than the window"
            )

    @classmethod
    def of_seconds(cls, window: float, overlap: float | None, frame_period: int) -> Windows:
        """Make windows of so many seconds.

        Args:
            window: seconds of a window, at least `SHORTEST`.
            overlap: seconds that two neighbours share, below `window`; None for the default.
            frame_period: ms between two frames.

        Raises:
            MelHuBERTError: a length that is no number or cannot be, or no frame by which windows advance.
        """
        if not SHORTEST <= window <= LONGEST:
            limit = f"at most {LONGEST:g} s" if window > LONGEST else f"{SHORTEST:g} s or more"
            raise MelHuBERTError(f"window: {window:g} s found, expected {limit}")
        if overlap is None:
            overlap = min(DEFAULT_OVERLAP, window / 4)
        if not (math.isfinite(overlap) and overlap >= 0):
            raise MelHuBERTError(f"overlap: {overlap:g} s found, expected 0 s or more")
        length, shared = (round(x * 1000 / frame_period) for x in (window, min(overlap, window)))
        if shared >= length:
            raise MelHuBERTError(
                f"overlap: {overlap:g} s found, expected less than the window of {window:g} s; leave it out "
                f"for {min(DEFAULT_OVERLAP, window / 4):g} s"
            )
        return cls(length, shared)

    @classmethod
    def asked_for(cls, window: float | None, overlap: float | None, frame_period: int) -> Windows | None:
        """Make the windows of `--window` and `--overlap`; None where every recording is read at once.

        Raises:
            MelHuBERTError: as `of_seconds`, or there is an overlap and no window.
        """
        if window is not None:
            return cls.of_seconds(window, overlap, frame_period)
        if overlap is not None:
            raise MelHuBERTError(f"overlap: {overlap:g} s found without a window; give --window SECONDS, too")
        return None

    def spans(self, frames: int) -> list[Span]:
        """Cut a recording of so many frames; the parts that are kept follow each other and leave nothing out.

        The last window is moved back to the end of the recording, so that it is as long as the others.
        """
        if frames <= self.length:
            return [Span(0, frames, 0, frames)]
        starts = [*range(0, frames - self.length, self.length - self.overlap), frames - self.length]
        # The border between two windows lies in the middle of what they share.
        borders = [(before + self.length + after) // 2 for before, after in pairwise(starts)]
        return [
            Span(start, start + self.length, keep_start, keep_stop)
            for start, keep_start, keep_stop in zip(starts, [0, *borders], [*borders, frames], strict=True)
        ]


def streamed_features(waveform: Iterable[np.ndarray], frontend: Frontend) -> Tensor:
    """Make the features of a recording that comes in pieces: those of the whole, in 16 kB a second of speech.

    Args:
        waveform: consecutive float samples (n_i,) in [-1, 1] at 16 kHz, at least one in all.
        frontend: the frontend, on the device that computes.

    Returns:
        (T, D) features on the CPU.

    Raises:
        MelHuBERTError: a piece that is not 1-D, float and finite, or no sample in all.
    """
    device = frontend.mean.device
    blocks: list[Tensor] = []  # (F_i, 40) normalized log-Mel
    # The samples from the next frame's first one on.
    rest = torch.empty(0, dtype=torch.float32, device=device)
    with torch.inference_mode():
        for i, piece in enumerate(waveform):
            if len(piece):
                samples = check_samples(torch.as_tensor(piece), f"piece {i} of the waveform")
                rest = torch.cat((rest, samples.float().to(device)))
            if len(rest) >= FRAME_LENGTH:
                blocks.append(frontend.normalize(blockwise_log_mel(rest)).cpu())
                rest = rest[len(blocks[-1]) * FRAME_SHIFT :]
        if not blocks:  # Shorter than a frame: it is padded.
            check_waveform(rest)
            blocks.append(frontend.normalize(blockwise_log_mel(rest)).cpu())
        return frontend.stack(torch.cat(blocks))


def windowed_hidden_states(
    model: MelHuBERT,
    features: Tensor,
    windows: Windows,
    *,
    layers: Iterable[int] | None = None,
    max_frames: int | None = None,
    precision: str = "fp32",
) -> Iterator[Tensor]:
    """Compute the hidden states of one recording window by window, in flat memory.

    Args:
        model: a model in evaluation mode, on the device that does the work.
        features: (T, D) features of the whole recording, on any device.
        windows: how to cut it. A recording that is no longer than a window is one piece.
        layers: as of `hidden_states`.
        max_frames: as of `hidden_states`; a batch holds as many windows as fit it.
        precision: as of `hidden_states`.

    Yields:
        (layers, t, C) float32 hidden states of the next t frames, on the model's device; T frames in all.

    Raises:
        MelHuBERTError: as `hidden_states`.
    """
    device = next(model.parameters()).device
    spans = windows.spans(len(features))
    found = hidden_states(
        model,
        [span.stop - span.start for span in spans],  # All are equal, so that they keep their order.
        lambda i: features[spans[i].start : spans[i].stop],
        lambda items: pad_features([item.to(device) for item in items]),
        layers=layers,
        max_frames=max_frames,
        precision=precision,
        readers=1,
    )
    for i, states in found:
        span = spans[i]
        yield states[:, span.keep_start - span.start : span.keep_stop - span.start]
