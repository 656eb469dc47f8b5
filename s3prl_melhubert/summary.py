"""What a checkpoint is, in figures: its model's size and speed, its statistics, its file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from s3prl_melhubert.checkpoint import Checkpoint
from s3prl_melhubert.compression.speed import compression_facts, sparsity
from s3prl_melhubert.compression.stored import ORIGIN
from s3prl_melhubert.config import MelHuBERTConfig, layer_sizes
from s3prl_melhubert.model import MelHuBERT, macs_per_second
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
        "heads": [sizes.heads for sizes in layer_sizes(config)],
        "head_width": layer_sizes(config)[0].head_width,
        "rows": [sizes.rows for sizes in layer_sizes(config)],
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

    How fast a compressed model is beside the dense one is measured, which takes seconds.

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
        "sparsity": sparsity(checkpoint.state),
        "compressed": compression_facts(checkpoint.config, checkpoint.rest, str(checkpoint.path)),
        "step": checkpoint.step,
        "published": entry.name if entry else None,
        "format": _format(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "holds_also": sorted(str(key) for key in checkpoint.rest if key != ORIGIN),
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
        "heads": f"{_each(facts['heads'])}, {facts['head_width']} wide",
        "MLP rows": _each(facts["rows"]),
        "clusters": str(facts["clusters"]),
    }
    if "format" in facts:
        if facts["sparsity"] >= 0.001:
            rows["sparsity"] = f"{100 * facts['sparsity']:.1f} % of the layers' weights are zero"
        if facts["compressed"]:
            rows |= _compression_rows(facts, facts["compressed"])
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


def _each(numbers: Sequence[int]) -> str:
    """What the layers have, once where it is the same in all of them."""
    if len(set(numbers)) == 1:
        return f"{numbers[0]} in each layer"
    return f"{', '.join(map(str, numbers))} in the layers"


def _compression_rows(facts: dict[str, Any], compressed: dict[str, Any]) -> dict[str, str]:
    """What a compressed model was made of, and what it gained."""
    dense = compressed["dense"]
    heads, rows = (dense[f"encoder_{name}"] for name in ("attention_heads", "ffn_embed_dim"))
    shares = [f"{100 * facts['parameters'] / compressed['dense_parameters']:.0f} % of its parameters"]
    if "dense_macs_per_second" in compressed:
        share = facts["macs_per_second"] / compressed["dense_macs_per_second"]
        shares.append(f"{100 * share:.0f} % of its multiply-accumulates")
    lines = {
        "made of": f"{dense['encoder_layers']} layers, {heads} heads, {rows} MLP rows",
        "beside it": ", ".join(shares),
    }
    if compressed["how"]:
        lines["compressed"] = compressed["how"]
    if compressed["seconds"]:
        seconds, before = compressed["seconds"], compressed["dense_seconds"]
        lines["time"] = (
            f"{seconds:.2g} s for {compressed['speech_seconds']} s of speech on this CPU, the dense model "
            f"{before:.2g} s: {before / seconds:.1f} times as fast"
        )
    return lines


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
