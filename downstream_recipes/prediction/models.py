"""s3prl's own featurizer and downstream model, made from a checkpoint without the corpus."""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from s3prl.downstream.runner import ModelEntry
from torch import Tensor

from s3prl_melhubert.downstream_recipes.outputs import (
    Classes,
    Embeddings,
    Labels,
    Signals,
    Transcript,
    Turns,
    read_labels,
)
from s3prl_melhubert.downstream_recipes.prediction.experiment import Trained
from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Models
from s3prl_melhubert.downstream_recipes.running.s3prl_run import without_traps
from s3prl_melhubert.downstream_recipes.running.settings import with_override
from s3prl_melhubert.downstream_recipes.task import Task
from s3prl_melhubert.errors import MelHuBERTError, named

# What the experts want beside the audio and would score by. It is no utterance's, and nothing is made of it.
NAME, TARGET = "utterance", 4


class TrainedModel:
    """The models of one checkpoint, in evaluation mode.

    Args:
        task: the checkpoint's.
        trained: the checkpoint.
        device: that computes.
        upstream_ckpt: of the upstream, where it takes one.
        upstream_model_config: settings of the upstream, where it has any.
        override: of s3prl's settings, by their places.
        upstream: one that was loaded for another checkpoint of the same experiment, to be used for this one.

    Raises:
        MelHuBERTError: s3prl cannot make them.
    """

    def __init__(
        self,
        task: Task[Any],
        trained: Trained,
        device: torch.device,
        upstream_ckpt: str | None,
        upstream_model_config: str | None,
        override: Mapping[str, Any],
        upstream: ModelEntry | None = None,
    ):
        assert task.outputs is not None
        content, self.outputs = trained.content, task.outputs
        args, settings = deepcopy(content["Args"]), deepcopy(content["Config"])
        args.device = str(device)
        args.upstream_ckpt, args.upstream_model_config = upstream_ckpt, upstream_model_config
        self.choice = task.outputs.choice(trained.tested) if isinstance(task.outputs, Turns) else ""
        self.labels: Labels = read_labels(trained.folder, task.outputs, settings)
        try:
            if upstream is None or "Upstream" in content:  # that was trained, too
                with redirect_stdout(io.StringIO()):
                    upstream = Models.upstream_of(args)
                if "Upstream" in content:
                    upstream.model.load_state_dict(content["Upstream"])
            self.upstream = upstream
            models = self._without_corpus(task, args, settings, override, content)
        except MelHuBERTError:
            raise
        except Exception as error:
            raise MelHuBERTError(
                f"{trained.checkpoint}: s3prl cannot make its models ({named(error)})"
            ) from error
        self.settings = models.config  # with what the expert adds when it is made
        self.featurizer = models.featurizer.model.eval()
        self.expert = models.downstream.model.eval()

    def _without_corpus(
        self, task: Task[Any], args: Any, settings: Any, override: Mapping[str, Any], content: Any
    ) -> Models:
        """Let s3prl make the models on a stand-in of the corpus; what it prints is about that."""
        with TemporaryDirectory() as name, _unheard():
            folder = Path(name)
            args.expdir = name
            self.outputs.stand_in(settings, self.labels, folder)
            changes = ",,".join(f"{place}={value}" for place, value in override.items())
            settings, _ = with_override(settings, changes)
            with without_traps(task.replacements(folder)):
                return Models(args, settings, self.upstream, content)

    def hear(self, waveform: Tensor) -> Tensor:
        """What the upstream gets of a waveform (n,)."""
        return self.outputs.hear(waveform, self.settings)

    def features(self, waveform: Tensor, states: Mapping[str, Any]) -> Tensor:
        """What the downstream model takes, (T, C), of a waveform (n,) and the upstream's output for it."""
        [features] = self.featurizer([waveform], states)
        return features

    def probabilities(self, features: Tensor) -> dict[str, Tensor]:
        """The probabilities of the classes of each kind, (N,) float64 on the CPU, for features (T, C)."""
        assert isinstance(self.outputs, Classes)
        logits = self.outputs.logits(self.expert, features)
        sizes = [len(labels) for labels in self.labels.values()]
        if len(logits) != sum(sizes):
            raise MelHuBERTError(
                f"the model has {len(logits)} outputs, its experiment's labels.json names {sum(sizes)}"
            )
        kinds = logits.double().cpu().split(sizes)
        return {kind: each.softmax(0) for kind, each in zip(self.labels, kinds, strict=True)}

    def said(self, features: Tensor, waveform: Tensor) -> dict[str, Any]:
        """What is said of an utterance where no classes are chosen, as `Prediction` has it.

        Args:
            features: (T, C).
            waveform: (n,) samples, as they were heard.
        """
        match self.outputs:
            case Transcript() as outputs:
                return {"transcript": self._transcript(outputs, features)}
            case Turns() as outputs:
                return {"turns": outputs.turns(self.expert, features, waveform, self.choice)}
            case Signals() as outputs:
                [names] = self.labels.values()
                made = outputs.signals(self.expert, features, waveform)
                return {"signals": dict(zip(names, made, strict=True))}
            case Embeddings() as outputs:
                return {"embedding": outputs.embedding(self.expert, features).cpu().numpy()}
        raise TypeError(f"{type(self.outputs).__name__} are classes, of which several models may choose")

    def _transcript(self, outputs: Transcript, features: Tensor) -> dict[str, str | list[tuple[str, str]]]:
        """What s3prl's own test would write of an utterance of features (T, C)."""
        records: defaultdict[str, list[Any]] = defaultdict(list)
        self.expert("test", [features], [[TARGET]], [NAME], records=records)
        [said] = records[outputs.record]
        return outputs.parts(said if isinstance(said, str) else " ".join(said))


@contextmanager
def _unheard() -> Iterator[None]:
    """Let what is said while the block runs go nowhere, and what the program logs later, where it would."""
    nowhere = logging.NullHandler()
    # Without a handler, the first message would make one that keeps the present stderr for ever.
    logging.getLogger().addHandler(nowhere)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.getLogger().removeHandler(nowhere)


def mean_probabilities(models: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of what several models say."""
    return {kind: torch.stack([each[kind] for each in models]).mean(0) for kind in models[0]}
