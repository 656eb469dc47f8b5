"""`melhubert info`: what a checkpoint is, or what the published models are, in figures."""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from s3prl_melhubert.checkpoint import Checkpoint, check_state, load_checkpoint
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.macs import macs_per_second
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.published import recognize
from s3prl_melhubert.statistics import FeatureStats, published_stats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CKPT", help="a checkpoint (default: the published base models)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with exact figures")


def run(args: argparse.Namespace) -> int:
    if args.checkpoint is None:
        models = {
            f"published base model, {period} ms": model_facts(MelHuBERTConfig(feat_emb_dim=4 * period))
            for period in (20, 10)
        }
    else:
        checkpoint = load_checkpoint(args.checkpoint)
        models = {args.checkpoint: {**model_facts(checkpoint.config, checkpoint), **file_facts(checkpoint)}}
    if args.json:
        content = models if args.checkpoint is None else models[args.checkpoint]
        print(json.dumps(content, indent=2))
    else:
        print("\n\n".join(_table(title, facts) for title, facts in models.items()))
    return 0


def model_facts(config: MelHuBERTConfig, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """Size and speed of a model.

    Raises:
        MelHuBERTError: the checkpoint's weights do not fit its settings.
    """
    with torch.device("meta"):  # shapes alone
        model = MelHuBERT(config)
    if checkpoint is not None:
        check_state(checkpoint.state, model.state_dict(), str(checkpoint.path))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "encoder_parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "macs_per_second": macs_per_second(config),
        "frame_period_ms": config.frame_period,
        "layers": config.encoder_layers,
        "width": config.encoder_embed_dim,
        "clusters": config.num_cluster,
    }


def file_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint file says beyond its model."""
    entry = recognize(checkpoint.path)
    if checkpoint.stats is not None:
        statistics = statistics_name(checkpoint.stats)
        source = "in the file" if statistics else "in the file, none of the published ones"
    elif entry is not None:
        statistics, source = entry.feature_stats, f"none in the file: those of {entry.name}"
    else:
        statistics, source = None, "none in the file: give --stats (or feature_stats=) wherever it is used"
    return {
        "statistics": statistics,
        "statistics_source": source,
        "step": checkpoint.step,
        "published": entry.name if entry else None,
        "format": _format(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "holds_also": sorted(str(key) for key in checkpoint.rest),
    }


def statistics_name(stats: FeatureStats) -> str | None:
    """The name of the published statistics that these are; None if they are others."""
    return next((name for name, published in published_stats().items() if published == stats), None)


def si(number: float) -> str:
    """A figure to three digits, with its prefix: 90.2 M."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            digits = max(0, 3 - len(str(int(number / size))))
            return f"{number / size:.{digits}f} {prefix}"
    return f"{number:.0f} "


def _format(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(9)[8:] == b"{":
            return "safetensors"
    return "PyTorch pickle" if zipfile.is_zipfile(path) else "PyTorch pickle, before PyTorch 1.6"


def _table(title: str, facts: dict[str, Any]) -> str:
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
        rows["training step"] = "unknown" if facts["step"] is None else str(facts["step"])
        rows["published as"] = facts["published"] or "not recognized"
        rows["file"] = f"{facts['format']}, {si(facts['bytes'])}B"
        if facts["holds_also"]:
            rows["also in the file"] = ", ".join(facts["holds_also"])
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows.items())])
