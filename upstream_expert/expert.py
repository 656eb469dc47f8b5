"""s3prl's upstream interface: it takes a list of waveforms and returns hidden states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from s3prl.upstream.interfaces import UpstreamBase
from torch import Tensor

from s3prl_melhubert.checkpoint import load_checkpoint, resolve_stats
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.frontend import Frontend, lengthen_for_s3prl
from s3prl_melhubert.statistics import FeatureStats, stats_named_in
from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS, check_precision, precision_dtype
from s3prl_melhubert.support.settings import nearest, read_yaml_mapping

# s3prl's own base class takes these. Any other unknown argument would be ignored without a message.
S3PRL_ARGUMENTS = ("hooks", "hook_postprocess")


class UpstreamExpert(UpstreamBase):
    """MelHuBERT as an s3prl upstream.

    Args:
        ckpt: a checkpoint file.
        model_config: s3prl's `-g`: a YAML file (or a mapping) with any of

            - `feature_stats`: a published name, a .yaml or .npy file (relative to the YAML file or to the
              working directory), or a mapping with `mean` and `std`;
            - `precision`: `fp32`, or `bf16` to compute in bfloat16 where that is safe. Hidden states are
              float32 in any case.
        feature_stats: statistics in the same forms. They are used instead of those in `model_config`.
        precision: it is used instead of the one in `model_config`.
        entry_stats: the name of the statistics of a published checkpoint, if the file is known to be one.

    Raises:
        MelHuBERTError: the checkpoint or the settings cannot be used.
    """

    def __init__(
        self,
        ckpt: str | Path,
        model_config: str | Path | Mapping[str, Any] | None = None,
        feature_stats: str | Path | Mapping[str, Any] | FeatureStats | None = None,
        precision: str | None = None,
        entry_stats: str | None = None,
        **kwargs: Any,
    ):
        refuse_unknown_arguments("UpstreamExpert", kwargs, EXPERT_ARGUMENTS, S3PRL_ARGUMENTS)
        super().__init__(**kwargs)
        settings = read_settings(model_config)
        checkpoint = load_checkpoint(ckpt)
        stats = resolve_stats(checkpoint, feature_stats, settings.get("feature_stats"), entry_stats)
        self.stats = stats
        self.frontend = Frontend(stats, checkpoint.frame_period)
        self.model = checkpoint.build_model()
        chosen = settings.get("precision", "fp32") if precision is None else precision
        self.precision = precision_dtype(check_precision(chosen, "precision", INFERENCE_PRECISIONS))

    def get_downsample_rates(self, key: str) -> int:
        """Return the samples per frame of the output `key`: 160 or 320, the same for all outputs."""
        return self.frontend.samples_per_frame

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Compute the hidden states of a batch.

        In training mode (s3prl's `-f`) dropout is on and gradients reach the model and the waveforms;
        nothing is masked in either mode.

        Args:
            wavs: unpadded 1-D float waveforms in [-1, 1] at 16 kHz, on the model's device.

        Returns:
            `hidden_states`: list of (B, T, C) float32, the projected input and every layer's output;
            `last_hidden_state`: (B, T, C), the final output; `hidden_state_0`, `hidden_state_1`, ...:
            the hidden states one by one, for s3prl's `-s`.
        """
        features, padding_mask = self.frontend(wavs)
        # The model uses its own precision, even when s3prl has opened an autocast around it.
        reduced = self.precision != torch.float32
        with torch.autocast(features.device.type, dtype=self.precision, enabled=reduced):
            output = self.model(features, padding_mask)
        longest, hop = max(len(wav) for wav in wavs), self.frontend.samples_per_frame
        hidden_states = [lengthen_for_s3prl(hidden.float(), longest, hop) for hidden in output.hidden_states]
        return {
            "hidden_states": hidden_states,
            "last_hidden_state": lengthen_for_s3prl(output.last_hidden_state.float(), longest, hop),
            **{f"hidden_state_{i}": hidden for i, hidden in enumerate(hidden_states)},
        }


def read_settings(source: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Read the settings of s3prl's `-g`: a YAML file, or a mapping of the same form.

    Raises:
        MelHuBERTError: there is no such file, it holds no mapping, or a key or the precision is unknown.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        settings, where = dict(source), "model_config"
    elif isinstance(source, str | Path):
        settings, where = read_yaml_mapping(source), str(source)
    else:
        raise MelHuBERTError(
            f"model_config: {type(source).__name__} found, expected a YAML file or a mapping"
        )
    unknown = [shown(key).strip("'") for key in settings if key not in ("feature_stats", "precision")]
    if unknown:
        raise MelHuBERTError(
            f"{where}: unknown key {', '.join(unknown)}; expected feature_stats or precision (the model's "
            "own settings come from its checkpoint)"
        )
    if "precision" in settings:
        check_precision(settings["precision"], f"{where}: precision", INFERENCE_PRECISIONS)
    if "feature_stats" in settings and not isinstance(source, Mapping):
        settings["feature_stats"] = stats_named_in(source, settings["feature_stats"])
    return settings


def refuse_unknown_arguments(
    entry: str, given: Iterable[str], known: Iterable[str], passed_on: Iterable[str] = ()
) -> None:
    """Raise a MelHuBERTError for the first keyword argument that an entry does not know.

    Args:
        entry: the name of the entry, for the error.
        given: names of the arguments that were left over.
        known: the names that the entry takes. The error names the nearest one.
        passed_on: names that are s3prl's own, and allowed.
    """
    for name in given:
        if name not in passed_on:
            raise MelHuBERTError(f"{entry}: unknown argument {name} ({nearest(name, known)})")


EXPERT_ARGUMENTS = ("ckpt", "model_config", "feature_stats", "precision")
