"""Waveforms to the normalized log-Mel frames that MelHuBERT reads, as a feature extractor of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BatchFeature, SequenceFeatureExtractor

from s3prl_melhubert.config import N_MELS, SAMPLE_RATE
from s3prl_melhubert.frontend import Frontend

Waveform = Any  # (n,) samples in [-1, 1]: a numpy array, a tensor, or a list of floats


class FeatureStats(NamedTuple):
    """Mean and deviation of the natural logarithms of mel energies, 40 figures each."""

    mean: Tensor
    std: Tensor


class MelHuBERTFeatureExtractor(SequenceFeatureExtractor):
    """Make the input of MelHuBERT from waveforms.

    Args:
        feature_mean: 40 means of log-Mel energies over the training audio. Without them, waveforms are
            refused; `from_pretrained` finds them in the model's folder.
        feature_std: 40 deviations of the same, all above zero.
        frame_period: 10 or 20 ms; at 20 ms, two frames stand side by side.
        feature_size: size of a frame, which follows from the period.
        sampling_rate: 16 kHz, and nothing else.
        padding_value: what stands at padding, after normalization.
        kwargs: what transformers takes.
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012 (as transformers has it)

    def __init__(
        self,
        feature_mean: Sequence[float] | None = None,
        feature_std: Sequence[float] | None = None,
        frame_period: int = 20,
        feature_size: int | None = None,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(
            feature_size=4 * frame_period, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs
        )
        self.feature_mean = None if feature_mean is None else [float(x) for x in feature_mean]
        self.feature_std = None if feature_std is None else [float(x) for x in feature_std]
        self.frame_period = frame_period

    def __call__(
        self,
        raw_speech: Waveform | Sequence[Waveform],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool = True,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Compute the frames of one waveform or of a batch.

        Args:
            raw_speech: one waveform of samples in [-1, 1], or a list of them.
            sampling_rate: of the waveforms; 16000, if it is given.
            padding: as in `SequenceFeatureExtractor.pad`.
            max_length: in frames, as in `SequenceFeatureExtractor.pad`.
            truncation: cut what is longer than `max_length`.
            pad_to_multiple_of: as in `SequenceFeatureExtractor.pad`.
            return_attention_mask: return the mask, too.
            return_tensors: `pt` for tensors, `np` for arrays.

        Returns:
            `input_features`: (B, T, 40 or 80) float32, zero at padding; `attention_mask`: (B, T), 1 at frames
            and 0 at padding.

        Raises:
            ValueError: another sampling rate, something that is no waveform, or no statistics.
        """
        if self.sampling_rate != SAMPLE_RATE:
            raise ValueError(
                f"sampling_rate: the extractor's own is {self.sampling_rate}, expected {SAMPLE_RATE}, the "
                "only one of MelHuBERT"
            )
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"sampling_rate: {sampling_rate} found, expected {self.sampling_rate}; resample the audio"
            )
        if not isinstance(raw_speech, list | tuple) or (
            raw_speech and isinstance(raw_speech[0], float | int)
        ):
            raw_speech = [raw_speech]
        waveforms = [torch.as_tensor(waveform, device="cpu") for waveform in raw_speech]
        frontend: Any = Frontend(self.statistics(), self.frame_period)  # type: ignore[arg-type]
        features, _ = frontend(waveforms)  # (B, T, D)
        lengths = [frontend.frame_count(len(waveform)) for waveform in waveforms]
        frames = [each[:length].detach().numpy() for each, length in zip(features, lengths, strict=True)]
        return self.pad(
            BatchFeature({"input_features": frames}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    def statistics(self) -> FeatureStats:
        """The statistics that frames are normalized with.

        Raises:
            ValueError: there are none, or figures that cannot be statistics.
        """
        checked = []
        for name in ("feature_mean", "feature_std"):
            figures = getattr(self, name)
            values = torch.tensor(figures or [], dtype=torch.float32)
            if len(values) != N_MELS or not values.isfinite().all():
                raise ValueError(
                    f"{name}: {len(values)} figures found, expected {N_MELS} finite ones, those of the "
                    "model's training; from_pretrained takes them from the model's folder"
                )
            checked.append(values)
        mean, std = checked
        if not (std > 0).all():
            raise ValueError(f"feature_std: {float(std.min()):g} found, expected figures above zero")
        return FeatureStats(mean, std)
