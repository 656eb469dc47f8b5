"""The teacher of stage 2: a trained model, and how the frames of a prepared set get to it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.checkpoint import open_checkpoint, resolve_stats
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.extraction import hidden_states, pad_features, resolve_layers
from s3prl_melhubert.frontend import stack_frames
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.data.manifest import Utterance, label_count, utterance_features
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.devices import resolve_device


class Teacher:
    """The model whose hidden states are clustered.

    The frames of a set may have been normalized with other statistics than the model was trained with; they
    are rescaled on their way to it.

    Args:
        checkpoint: the model's file.
        layer: the layer whose output is taken: 0 is the projected input, negative ones count from the end.
        stats: what the model was trained with, where its file does not say.
        data_stats: what the set's features were normalized with; None if nobody knows.
        device: where the model runs: `cpu`, `cuda`, `cuda:N`; None for the best there is.
        precision: `fp32` or `bf16`.
        max_frames: of a batch, in the model's frames, padding included.

    Attributes:
        file: the checkpoint's, wherever it came from.
        layer: the layer, counted from the start.
        dim: width of its hidden states.
        frame_period: 10 or 20 ms.
        data_stats: the set's statistics, or where it has none, the model's.
        weights: a hash of the model's weights, by which its quantizer is known to be its own.

    Raises:
        MelHuBERTError: the checkpoint, its statistics, the layer or the device cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        layer: int,
        *,
        stats: FeatureStats | None = None,
        data_stats: FeatureStats | None = None,
        device: str | None = None,
        precision: str = "fp32",
        max_frames: int | None = None,
    ):
        loaded = open_checkpoint(checkpoint)
        self.device = resolve_device(device)
        self.file = loaded.path
        self.frame_period = loaded.frame_period
        self.weights = loaded.weights_digest()
        [self.layer] = resolve_layers([layer], loaded.config)
        self.dim = loaded.config.encoder_embed_dim
        own_stats = resolve_stats(loaded, stats)
        if data_stats is None:
            warnings.warn(
                "the set does not say what its features were normalized with; taken to be what the model was "
                "trained with",
                MelHuBERTWarning,
                stacklevel=3,
            )
        self.data_stats = data_stats or own_stats
        self._scale, self._shift = map(torch.from_numpy, self.data_stats.rescaling(own_stats))
        self._same = self.data_stats == own_stats
        self._model: MelHuBERT = loaded.build_model().to(self.device)
        self._precision, self._max_frames = precision, max_frames

    def frames(self, utterance: Utterance) -> int:
        """How many frames the model reads of an utterance, which is how many labels it gets."""
        return label_count(utterance.length, self.frame_period)

    def states(self, utterances: Sequence[Utterance]) -> Iterator[tuple[int, Tensor]]:
        """Yields index and (T, C) float32 hidden states of each utterance, on the device, in any order.

        Raises:
            MelHuBERTError: features or hidden states of an utterance cannot be used.
        """
        for index, layers in hidden_states(
            self._model,
            [self.frames(utterance) for utterance in utterances],
            load=lambda i: self._load(utterances[i]),
            collate=lambda items: pad_features([item.to(self.device) for item in items]),
            layers=[self.layer],
            max_frames=self._max_frames,
            precision=self._precision,
        ):
            if not layers[0].isfinite().all():
                utterance = utterances[index]
                raise MelHuBERTError(
                    f"utterance {utterance.id} ({utterance.features}): hidden states with NaN or infinite "
                    f"figures found; is this file damaged, or {self.file}?"
                )
            yield index, layers[0]

    def _load(self, utterance: Utterance) -> Tensor:
        features = utterance_features(utterance, self.data_stats)[:]
        frames = torch.from_numpy(np.array(features, dtype=np.float32))
        if not self._same:
            frames = frames * self._scale + self._shift
        return stack_frames(frames) if self.frame_period == 20 else frames
