"""A finished experiment as a model that takes waveforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s3prl_melhubert.compat import finder
from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.outputs import Classes, Embeddings, Labels, Signals, Turns
from s3prl_melhubert.downstream_recipes.prediction.experiment import (
    finished_experiment,
    upstream_checkpoint,
    upstream_settings,
)
from s3prl_melhubert.downstream_recipes.prediction.prediction import Choice, Prediction
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.frontend import check_samples
from s3prl_melhubert.support.devices import resolve_device


class Predictor:
    """The trained downstream model of a finished experiment, with its upstream.

    It needs the experiment's folder and the upstream's checkpoint, and not the corpus. Of several learning
    rates it is the one that is best on dev; the result of the experiment is its. Of a task in parts (folds)
    it is the mean of the probabilities that the models of all parts give.

    Args:
        experiment: the folder of `melhubert superb TASK -p EXP`, ended.
        upstream_ckpt: the upstream's checkpoint (`-k`), where it is not any more at the path of the
            experiment; its content must be the same.
        upstream_model_config: the upstream's settings (`-g`), likewise.
        device: `cpu`, `cuda` or `cuda:N`; None for CUDA where there is a GPU.
        options: the task's options for its second test: a language model for speech recognition.

    Raises:
        MelHuBERTError: the experiment has not ended, its task says nothing of a single utterance, or
            something that it needs is not there or is another.

    Examples:
        >>> predict = Predictor("exp/sid")
        >>> [choice] = predict(read_audio("call.wav").waveform).classes["speaker"]
        >>> choice.label
        'id10003'
    """

    def __init__(
        self,
        experiment: str | Path,
        *,
        upstream_ckpt: str | None = None,
        upstream_model_config: str | None = None,
        device: str | None = None,
        options: TaskOptions | None = None,
    ):
        self.device = resolve_device(device)
        finder.install()
        from s3prl_melhubert.downstream_recipes.prediction.models import TrainedModel, mean_probabilities

        self._mean = mean_probabilities
        self.task, trained = finished_experiment(experiment)
        override = self._second_test(options)
        self._models: list[TrainedModel] = []
        for each in trained:
            self._models.append(
                TrainedModel(
                    self.task,
                    each,
                    self.device,
                    upstream_checkpoint(each, upstream_ckpt),
                    upstream_settings(each, upstream_model_config),
                    override,
                    self._models[0].upstream if self._models else None,
                )
            )

    def _second_test(self, options: TaskOptions | None) -> Mapping[str, Any]:
        given = {} if options is None else {name: v for name, v in options.values.items() if v is not None}
        second = self.task.second_test
        known = {} if second is None else {argument.name for argument in second.arguments}
        for name in given:
            if name not in known:
                raise MelHuBERTError(f"--{name}: not an option of {self.task.name} ({self.task.key})")
        testing = None if second is None else second.from_options(TaskOptions(given))
        return {} if testing is None else testing.override

    @property
    def labels(self) -> Labels:
        """What the outputs of the model stand for, in their order, by what they are: `speaker`, ..."""
        return self._models[0].labels

    @property
    def classifies(self) -> bool:
        """Whether it chooses classes, and gives their probabilities."""
        return isinstance(self.task.outputs, Classes)

    @property
    def marks_turns(self) -> bool:
        """Whether it marks when each speaker talks."""
        return isinstance(self.task.outputs, Turns)

    @property
    def compares(self) -> bool:
        """Whether it gives embeddings, of which two are compared by their cosine."""
        return isinstance(self.task.outputs, Embeddings)

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the signals that it makes of an utterance; none where it makes no signals."""
        return tuple(self.labels["signal"]) if isinstance(self.task.outputs, Signals) else ()

    def __call__(self, waveform: np.ndarray | Tensor, top: int = 1) -> Prediction:
        """Say what the model says of one utterance, whatever it has heard before.

        Args:
            waveform: (n,) float samples at 16 kHz in [-1, 1], one channel, as `audio.read_audio` gives them.
            top: how many of the most probable classes.

        Raises:
            MelHuBERTError: the waveform has another shape, no samples, or others than floats in [-1, 1].
        """
        # Not every upstream looks at its samples, and keyword spotting clips them before one could.
        heard = check_samples(torch.as_tensor(waveform)).float()
        seconds = len(heard) / SAMPLE_RATE
        first = self._models[0]
        with torch.no_grad():
            heard = first.hear(heard).to(self.device)
            features = self._features(heard)
            if not self.classifies:
                return Prediction(seconds, **first.said(features[0], heard))
            pairs = zip(self._models, features, strict=True)
            probabilities = self._mean([model.probabilities(each) for model, each in pairs])
        classes = {kind: self._choices(kind, each, top) for kind, each in probabilities.items()}
        return Prediction(seconds, classes)

    def _features(self, waveform: Tensor) -> Sequence[Tensor]:
        """What each model takes, (T, C); an upstream that several of them share runs once."""
        states: dict[int, Any] = {}
        features = []
        for model in self._models:
            upstream = model.upstream.model
            if id(upstream) not in states:
                states[id(upstream)] = upstream([waveform])
            features.append(model.features(waveform, states[id(upstream)]))
        return features

    def _choices(self, kind: str, probabilities: Tensor, top: int) -> list[Choice]:
        best = probabilities.sort(descending=True, stable=True)
        return [
            Choice(self.labels[kind][index], value)
            for value, index in zip(best.values[:top].tolist(), best.indices[:top].tolist(), strict=True)
        ]
