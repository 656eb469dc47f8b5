"""What a checkpoint is, in figures: its model's size and speed, its statistics, its file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from s3prl_melhubert.checkpoint import Checkpoint
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.macs import macs_per_second
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.published import recognize
from s3prl_melhubert.statistics import FeatureStats, published_stats
from s3prl_melhubert.support.tensor_files import is_safetensors


def model_facts(config: MelHuBERTConfig, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """Return the size and speed of a model, by the names that `melhubert info --json` prints.

    Args:
        config: the model's settings.
        checkpoint: the checkpoint that the settings come from, if they come from one.

    Raises:
        MelHuBERTError: the checkpoint's weights do not fit its settings.
    """
    if checkpoint is not None:
        model = checkpoint.checked_shapes()
    else:
        with torch.device("meta"):  # Only shapes are needed here, so no memory is taken.
            model = MelHuBERT(config)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "encoder_parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "macs_per_second": macs_per_second(config),
        "frame_period_ms": config.frame_period,
        "layers": config.encoder_layers,
        "width": config.encoder_embed_dim,
        "clusters": config.num_cluster,
    }


def published_models() -> dict[str, dict[str, Any]]:
    """Return the facts of the two published base models, by what they are called."""
    return {
        f"published base model, {period} ms": model_facts(MelHuBERTConfig(feat_emb_dim=4 * period))
        for period in (20, 10)
    }


def checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the facts of a checkpoint's model, and what its file says beyond them.

    Raises:
        MelHuBERTError: the weights do not fit their settings.
    """
    entry = recognize(checkpoint.path)
    if checkpoint.stats is not None:
        statistics = statistics_name(checkpoint.stats)
        source = "in the file" if statistics else "in the file, none of the published ones"
    elif entry is not None:
        statistics, source = entry.feature_stats, f"none in the file: those of {entry.name}"
    else:
        statistics, source = None, "none in the file: give --stats (or feature_stats=) wherever it is used"
    return {
        **model_facts(checkpoint.config, checkpoint),
        "statistics": statistics,
        "statistics_source": source,
        "quantizer": _quantizer_facts(checkpoint),
        "step": checkpoint.step,
        "published": entry.name if entry else None,
        "format": _format(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "holds_also": sorted(str(key) for key in checkpoint.rest),
    }


def _quantizer_facts(checkpoint: Checkpoint) -> dict[str, Any] | None:
    quantizer = checkpoint.quantizer
    if quantizer is None:
        return None
    return {
        "clusters": quantizer.clusters,
        "layer": quantizer.layer,
        "source": quantizer.source,
        "frames": quantizer.what_frames(),
        "period_ms": quantizer.period(checkpoint.frame_period),
        "sha256": quantizer.digest,
    }


def table(title: str, facts: dict[str, Any]) -> str:
    """Return the facts of `model_facts` or `checkpoint_facts` as lines for people."""
    rows = {
        "parameters": f"{si(facts['parameters'])}, {si(facts['encoder_parameters'])} of them in the encoder",
        "multiply-accumulates": f"{si(facts['macs_per_second'])} for 1 s of speech (without the head)",
        "frame period": f"{facts['frame_period_ms']} ms",
        "layers": f"{facts['layers']} of width {facts['width']}",
        "clusters": str(facts["clusters"]),
    }
    if "format" in facts:
        source = facts["statistics_source"]
        rows["statistics"] = f"{facts['statistics']}, {source}" if facts["statistics"] else source
        if facts["quantizer"]:
            rows["units"] = "{clusters} of {frames}, one every {period_ms} ms".format(**facts["quantizer"])
        rows["training step"] = "unknown" if facts["step"] is None else str(facts["step"])
        rows["published as"] = facts["published"] or "not recognized"
        rows["file"] = f"{facts['format']}, {si(facts['bytes'])}B"
        if facts["holds_also"]:
            rows["also in the file"] = ", ".join(facts["holds_also"])
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows.items())])


def statistics_name(stats: FeatureStats) -> str | None:
    """Return the name of the published statistics that these are, or None if they are others."""
    return next((name for name, published in published_stats().items() if published == stats), None)


def si(number: float) -> str:
    """Return a figure to three digits, with the prefix of its unit: `90.2 M`."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            digits = max(0, 3 - len(str(int(number / size))))
            return f"{number / size:.{digits}f} {prefix}"
    return f"{number:.0f} "


def _format(path: Path) -> str:
    if is_safetensors(path):
        return "safetensors"
    return "PyTorch pickle" if zipfile.is_zipfile(path) else "PyTorch pickle, before PyTorch 1.6"
