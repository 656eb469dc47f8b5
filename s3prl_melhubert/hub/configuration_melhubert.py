"""The settings of a MelHuBERT model as transformers keeps them, in `config.json`."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PretrainedConfig

from s3prl_melhubert import config as settings
from s3prl_melhubert.config import LayerSizes, check_possible, layer_sizes, refuse_unsupported
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.settings import typed

# The settings of the model itself, with the published 20 ms base model's values.
DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(settings.MelHuBERTConfig)
}
TYPES: dict[str, str] = settings.TYPES
# Those of the heads.
HEADS = {
    "vocab_size": "int",
    "classifier_proj_size": "int",
    "use_weighted_layer_sum": "bool",
    "ctc_zero_infinity": "bool",
    "ctc_loss_reduction": "str",
}


class MelHuBERTConfig(PretrainedConfig):
    """The settings of a MelHuBERT model.

    Args:
        feature_mean: 40 means of log-Mel energies over the training audio; None where they are unknown.
        feature_std: 40 deviations of the same.
        vocab_size: outputs of `MelHuBERTForCTC`, the blank among them.
        pad_token_id: the blank of `MelHuBERTForCTC`.
        ctc_loss_reduction: `mean` or `sum`, over the utterances of a batch.
        ctc_zero_infinity: leave out of the loss what has too few frames for its labels.
        use_weighted_layer_sum: have the heads read a learned weighted sum of all hidden states, as SUPERB
            does, and not the last one.
        classifier_proj_size: width between the hidden states and the classes of
            `MelHuBERTForSequenceClassification`.
        kwargs: settings of the model by their published names (see `DEFAULTS`), and what transformers takes.

    Raises:
        ValueError: there can be no model with these settings.
    """

    model_type = "melhubert"
    attribute_map = {  # noqa: RUF012 (as transformers has it)
        "hidden_size": "encoder_embed_dim",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_embed_dim",
    }

    def __init__(
        self,
        feature_mean: list[float] | None = None,
        feature_std: list[float] | None = None,
        vocab_size: int = 32,
        pad_token_id: int = 0,
        ctc_loss_reduction: str = "mean",
        ctc_zero_infinity: bool = True,
        use_weighted_layer_sum: bool = False,
        classifier_proj_size: int = 256,
        **kwargs: Any,
    ):
        refuse_unsupported(kwargs)
        for name, default in DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, default))
        period = kwargs.pop("frame_period", None)  # It stands in the file for readers.
        self.feature_mean = feature_mean
        self.feature_std = feature_std
        self.vocab_size = vocab_size
        self.ctc_loss_reduction = ctc_loss_reduction
        self.ctc_zero_infinity = ctc_zero_infinity
        self.use_weighted_layer_sum = use_weighted_layer_sum
        self.classifier_proj_size = classifier_proj_size
        super().__init__(**{"pad_token_id": pad_token_id, **kwargs})
        self.check()
        if period not in (None, self.frame_period):
            raise MelHuBERTError(
                f"frame_period: {shown(period)} found, expected {self.frame_period}, which follows from "
                f"feat_emb_dim, {self.feat_emb_dim}"
            )

    def check(self) -> None:
        """Check that there can be a model with these settings, which anybody may have changed since.

        Raises:
            ValueError: a setting is of another type, or there can be no such model.
        """
        for name, expected in {**TYPES, **HEADS}.items():
            value = typed(name, getattr(self, name), expected)
            setattr(self, name, list(value) if isinstance(value, tuple) else value)
        check_possible(self)
        reduction = self.ctc_loss_reduction
        if reduction not in ("mean", "sum"):
            raise MelHuBERTError(f"ctc_loss_reduction: {shown(reduction)} found, expected mean or sum")

    @property
    def frame_period(self) -> int:
        """Milliseconds between two frames that the model reads: 10 or 20."""
        return self.feat_emb_dim // 4

    @property
    def has_projection(self) -> bool:
        """Whether a linear layer maps the input to the encoder's width."""
        return self.feat_emb_dim != self.encoder_embed_dim

    @property
    def layer_sizes(self) -> list[LayerSizes]:
        """What each layer has, which differs between those of a pruned model."""
        return layer_sizes(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for `config.json`, the frame period among them."""
        return {**super().to_dict(), "frame_period": self.frame_period}
