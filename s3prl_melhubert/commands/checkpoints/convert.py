"""`melhubert convert`: rewrite a checkpoint in another format, with its statistics, and free of code."""

from __future__ import annotations

import argparse
import re
import sys
import time
from functools import partial
from pathlib import Path

from s3prl_melhubert.commands.checkpoints.arguments import add_stats_argument, layer_numbers
from s3prl_melhubert.errors import MelHuBERTError

NAMED = 8  # things left out that are named, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="IN",
        help="a published checkpoint, one of ours, a .safetensors, or ORG/NAME on the Hub; or s3prl's of a "
        "downstream model, whose fine-tuned upstream is written",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help="NAME.safetensors, NAME.onnx, or any other name for the published format",
    )
    add_stats_argument(parser, "IN")
    parser.add_argument(
        "-k",
        "--upstream-ckpt",
        "--upstream_ckpt",
        metavar="CKPT",
        help="the checkpoint from which the fine-tuning of IN's upstream began, if it is not where it was",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the code that IN may hold (only if you trust where it comes from) and write what is plain "
        "data, so that OUT needs no trust",
    )
    parser.add_argument(
        "--quantizer",
        metavar="DATA",
        help="a folder that relabel made with IN, or prepare: its centroids and their layer go into OUT, for "
        "`melhubert units` (default: what IN holds)",
    )
    parser.add_argument(
        "--layers",
        type=layer_numbers,
        metavar="N[,N...]",
        help="of an .onnx file: 0 is the projected input, -1 the last layer (default: all layers)",
    )


def run(args: argparse.Namespace) -> int:
    """Rewrite a checkpoint: in another format, with its statistics, without code.

    Example: melhubert convert published.ckpt model.safetensors --stats librispeech-960h
    """
    from s3prl_melhubert.conversion import convert_checkpoint
    from s3prl_melhubert.pretrain.data.clusters import set_quantizer
    from s3prl_melhubert.summary import si, statistics_name
    from s3prl_melhubert.support.tensor_files import named_onnx

    if named_onnx(args.output):
        return _write_onnx(args)
    if args.layers is not None:
        raise MelHuBERTError(f"--layers: {args.output} holds all layers; only NAME.onnx can hold some")
    find_quantizer = partial(set_quantizer, args.quantizer) if args.quantizer else None
    converted = convert_checkpoint(
        args.input,
        args.output,
        args.stats,
        args.trust,
        find_quantizer,
        _find_upstream,
        _find_noted,
        args.upstream_ckpt,
    )
    quantizer = converted.quantizer
    print(
        f"{args.output}: {si(args.output.stat().st_size)}B, {si(converted.parameters)} parameters, "
        f"a frame every {converted.frame_period} ms, "
        f"statistics {statistics_name(converted.stats) or converted.stats.name}, "
        + ("unknown step" if converted.step is None else f"step {converted.step}")
        + (f", {quantizer.clusters} units of {quantizer.what_frames()}" if quantizer else "")
    )
    left_out = converted.left_out
    if left_out:
        more = f", and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        print(f"left out ({converted.reason}): {', '.join(left_out[:NAMED])}{more}")
    return 0


def _find_upstream(name: str, given: str | None) -> str | Path:
    from s3prl_melhubert.upstream_expert.download import fetch_upstream

    return fetch_upstream(name, given)


def _find_noted(checkpoint: Path, settings: Path) -> str | None:
    """The digest of the statistics that the upstream's settings named when a downstream model was trained.

    An experiment of `melhubert superb` notes the digest, in the folder above that of a learning rate. s3prl's
    program keeps a copy of the settings whenever a training begins there anew, with the time in its name.

    Returns:
        None where it was not noted.
    """
    from s3prl_melhubert.downstream_recipes.experiment_files import STATISTICS, read_identity
    from s3prl_melhubert.downstream_recipes.running.digests import statistics_digest

    folder = checkpoint.absolute().parent
    identity = read_identity(folder)
    if not identity and folder.name.startswith("lr-"):
        identity = read_identity(folder.parent)
    if (noted := identity.get(STATISTICS)) is not None:
        return str(noted)
    named = re.compile(rf"{re.escape(settings.stem)}_(\d{{4}}(?:-\d\d){{5}}){re.escape(settings.suffix)}")
    copies = {found[1]: path for path in folder.iterdir() if (found := named.fullmatch(path.name))}
    if not copies:
        return None
    # The checkpoint is of the training that began last before it was written. Times that say otherwise of
    # all copies are those of another time zone.
    written = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(checkpoint.stat().st_mtime))
    began = max([each for each in copies if each <= written] or copies)
    return statistics_digest(str(copies[began]), str(settings))


def _write_onnx(args: argparse.Namespace) -> int:
    from s3prl_melhubert.export.onnx import OPSET, export_onnx
    from s3prl_melhubert.summary import si, statistics_name

    if args.upstream_ckpt is not None:
        raise MelHuBERTError(
            f"-k {args.upstream_ckpt}: a fine-tuned upstream becomes a .ckpt first; leave it out"
        )
    if args.quantizer is not None:
        raise MelHuBERTError(
            f"--quantizer: {args.output} cannot hold one; its centroids are {args.quantizer}/kmeans.npy"
        )
    exported = export_onnx(
        args.input,
        args.output,
        layers=args.layers,
        stats=args.stats,
        trust=args.trust,
        on_begin=lambda: print(f"{args.output}: torch takes up to a minute for this", file=sys.stderr),
    )
    print(
        f"{args.output}: {si(args.output.stat().st_size)}B, ONNX opset {OPSET}, waveforms at 16 kHz to layer"
        f"{'s' * (len(exported.layers) > 1)} {', '.join(map(str, exported.layers))}, a frame every "
        f"{exported.frame_period} ms, statistics {statistics_name(exported.stats) or exported.stats.name}"
    )
    return 0
