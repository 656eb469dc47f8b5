"""The README.md of a Hub folder: what the model is, how it was trained, what it scores, how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from s3prl_melhubert.checkpoint import Checkpoint
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.summary import model_facts, si, statistics_name

TAGS = ["speech", "melhubert", "hubert", "self-supervised", "feature-extraction", "s3prl", "superb"]
PAPER = "https://arxiv.org/abs/2211.09944"
# What the Hub calls the tasks of SUPERB whose outcome is text or sound; the others classify audio to it.
KINDS = {
    **dict.fromkeys(("pr", "asr", "sf"), "automatic-speech-recognition"),
    **dict.fromkeys(("se", "ss"), "audio-to-audio"),
}


@dataclass(frozen=True)
class Score:
    """A result of one of SUPERB's tasks."""

    task: str  # its key, such as pr
    name: str  # what people call it, such as phone recognition
    metric: str  # such as PER
    value: float
    split: str  # what was tested
    differences: tuple[str, ...] = ()  # settings that were not SUPERB's
    notes: tuple[str, ...] = ()  # what else the result says of itself
    unit: str = "%"  # of the value, or nothing

    @property
    def written(self) -> str:
        """The value with its unit."""
        return f"{self.value:.2f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Card:
    """What a model card tells of."""

    name: str  # ORG/NAME, or the folder's name
    checkpoint: Checkpoint
    stats: FeatureStats
    license: str  # as the Hub has it, such as mit
    scores: tuple[Score, ...] = ()


def model_card(card: Card) -> str:
    """Write README.md: the Hub's metadata in YAML, then the text."""
    sections = [
        f"---\n{_metadata(card)}\n---",
        f"# {card.name.rpartition('/')[2]}",
        _introduction(card),
        "## How it is used",
        _usage(card),
        "## How it was trained",
        _training(card),
    ]
    if card.scores:
        sections += ["## SUPERB", _scores(card.scores)]
    sections += ["## The files", _FILES, "## Citation", _CITATION]
    return "\n\n".join(sections) + "\n"


def _metadata(card: Card) -> str:
    results = [
        EvalResult(
            task_type=KINDS.get(score.task, "audio-classification"),
            task_name=f"SUPERB {score.name}",
            dataset_type="superb",
            # Without it, results of one kind of task become a single one, with several metrics.
            dataset_config=score.task,
            dataset_name=f"SUPERB {score.task.upper()}",
            dataset_split=score.split,
            metric_type=score.metric.lower(),
            metric_name=score.metric + (" (not with SUPERB's settings)" if score.differences else ""),
            metric_value=round(score.value, 4),
        )
        for score in card.scores
    ]
    data = ModelCardData(
        language="en",
        license=card.license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=TAGS,
        model_name=card.name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _introduction(card: Card) -> str:
    config = card.checkpoint.config
    facts = model_facts(config, card.checkpoint)
    where = statistics_name(card.stats)
    statistics = f" (those of `{where}`)" if where else ""
    return (
        f"[MelHuBERT]({PAPER}), a self-supervised speech model on log-Mel frames: {config.encoder_layers} "
        f"Transformer layers of width {config.encoder_embed_dim}, {si(facts['parameters'])} parameters, one "
        f"frame every {config.frame_period} ms, {si(facts['macs_per_second'])} multiply-accumulates for a "
        f"second of speech. It reads 16 kHz mono audio; its log-Mel statistics{statistics} are in "
        "`config.json`."
    )


def _usage(card: Card) -> str:
    layers = card.checkpoint.config.encoder_layers
    width = card.checkpoint.config.encoder_embed_dim
    return f"""With transformers and nothing else:

```python
import torch
from transformers import AutoFeatureExtractor, AutoModel

extractor = AutoFeatureExtractor.from_pretrained("{card.name}", trust_remote_code=True)
model = AutoModel.from_pretrained("{card.name}", trust_remote_code=True).eval()
waveform = 0.1 * torch.randn(16000)  # 1 s at 16 kHz, in [-1, 1]
inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs, output_hidden_states=True)
print(len(output.hidden_states), output.last_hidden_state.shape)  # {layers + 1}, (1, T, {width})
```

`AutoModelForPreTraining`, `AutoModelForCTC` and `AutoModelForAudioClassification` load it, too.

With [s3prl-melhubert](https://pypi.org/project/s3prl-melhubert/), which runs no code from here:

```python
import torch
from s3prl_melhubert import load_model

model, frontend = load_model("{card.name}")
features, padding_mask = frontend([0.1 * torch.randn(16000)])
hidden_states = model(features, padding_mask).hidden_states
```

In s3prl, as an upstream of any of its tasks:

```bash
melhubert run-downstream -m train -u melhubert_hf -k {card.name} -d TASK -n NAME   # with s3prl-melhubert
python run_downstream.py -m train --hub huggingface -u {card.name} -d TASK -n NAME  # with s3prl alone
```"""


def _training(card: Card) -> str:
    config, rest = card.checkpoint.config, card.checkpoint.rest
    steps = f"{card.checkpoint.step} optimizer steps of masked" if card.checkpoint.step else "Masked"
    lines = [
        f"{steps} prediction of {config.num_cluster} clusters, with spans of {config.mask_length} frames "
        f"masked at a probability of {config.mask_prob:g}."
    ]
    noted = {
        "arguments": _public(_mapping(rest.get("Args"))),
        "settings": _public(_mapping(rest.get("Runner"))),
    }
    noted = {name: values for name, values in noted.items() if values}
    if noted:
        text = yaml.safe_dump(noted, sort_keys=False, allow_unicode=True).rstrip()
        lines.append(f"What its checkpoint says of the training (paths left out):\n\n```yaml\n{text}\n```")
    return "\n\n".join(lines)


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return the values of a mapping, or of the Namespace that published checkpoints hold."""
    return value if isinstance(value, Mapping) else getattr(value, "__dict__", {})


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is plain and no path: a path tells of the machine, and means nothing on another."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = _public(value)
            if inner:
                found[str(name)] = inner
        elif isinstance(value, bool | int | float) or (
            isinstance(value, str) and not set(value) & set("/\\")
        ):
            found[str(name)] = value
    return found


def _scores(scores: tuple[Score, ...]) -> str:
    lines = ["| task | metric | | split |", "|---|---|---|---|"]
    lines += [f"| {each.name} | {each.metric} | {each.written} | {each.split} |" for each in scores]
    text = "\n".join(lines)
    for each in scores:
        if each.differences:
            text += f"\n\nNot with SUPERB's settings ({each.name}): {'; '.join(each.differences)}."
        if each.notes:
            text += f"\n\nOf {each.name}: {'; '.join(each.notes)}."
    return text


_FILES = """`config.json`, `model.safetensors`, `preprocessor_config.json` and the three `*_melhubert.py` are
for transformers, `expert.py`, `model.pt` and `requirements.txt` for s3prl and SUPERB's hidden set. The files
of code need torch, numpy and (the first three) transformers."""

_CITATION = """```bibtex
@inproceedings{lin2023melhubert,
  title={{MelHuBERT}: A simplified {HuBERT} on {Mel} spectrograms},
  author={Lin, Tzu-Quan and Lee, Hung-yi and Tang, Hao},
  booktitle={ASRU},
  year={2023},
}
```"""
