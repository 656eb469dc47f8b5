"""`melhubert compress`: a smaller, faster model of a model: fewer heads and rows in each layer."""

from __future__ import annotations

import argparse
from pathlib import Path

from s3prl_melhubert.commands.checkpoints.arguments import add_stats_argument
from s3prl_melhubert.errors import MelHuBERTError

STAGES = 4
SEED = 1337


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint, or ORG/NAME on the Hub")
    parser.add_argument("--heads", type=int, metavar="N", help="attention heads that every layer keeps")
    parser.add_argument("--ffn", type=int, metavar="M", help="rows of the MLP that every layer keeps")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="the checkpoint to write, in either format",
    )
    add_stats_argument(parser, "CKPT")
    training = parser.add_argument_group(
        "training between prunings", "each of several stages removes a part and trains what is left"
    )
    training.add_argument(
        "--data", action="append", metavar="DIR", help="a prepared folder to train on; may be repeated"
    )
    training.add_argument("--steps", type=int, metavar="K", help="optimizer steps, of all stages together")
    training.add_argument(
        "--stages", type=int, metavar="S", help=f"in how many the steps are taken (default: {STAGES})"
    )
    training.add_argument(
        "-c",
        "--runner-config",
        type=Path,
        metavar="RUNNER.yaml",
        help="settings of optimizer, batches and device, as for pretrain (default: the published ones)",
    )
    training.add_argument("--seed", type=int, help=f"of all that is random (default: {SEED})")
    training.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")


def run(args: argparse.Namespace) -> int:
    """Remove the attention heads and MLP rows that count least, and train what is left if there is data.

    Example: melhubert compress melhubert.ckpt --heads 6 --ffn 1024 --out small.ckpt --data data --steps 20000
    """
    from s3prl_melhubert.checkpoint import (
        load_checkpoint,
        open_checkpoint,
        resolve_stats,
        save_checkpoint,
    )
    from s3prl_melhubert.compression.pruning import Target, origin, prune
    from s3prl_melhubert.compression.stored import ORIGIN
    from s3prl_melhubert.units.quantizer import MODEL

    _check(args)
    source = open_checkpoint(args.checkpoint)
    target = Target(args.heads, args.ffn)
    target.check(source.config, args.checkpoint)
    source.checked_shapes()
    stats = resolve_stats(source, args.stats)
    if args.data:
        from s3prl_melhubert.pretrain.pruning_stages import prune_in_stages, stages_folder

        status = prune_in_stages(source, stats, target, _training(args, source.frame_period), args.out)
        if status:
            return status
        trained = f"trained for {args.steps} steps, logs in {stages_folder(args.out)}"
    else:
        smaller = prune(source, target)
        rest = {**smaller.rest, ORIGIN: origin(source, target)}
        save_checkpoint(args.out, smaller.config, smaller.state, stats, source.step, rest, smaller.quantizer)
        trained = "not trained since; --data and --steps do that"
    written, quantizer = load_checkpoint(args.out), source.quantizer
    print(_summary(args.out, source.config, written.config, trained))
    if (
        quantizer is not None
        and quantizer.source == MODEL
        and (written.quantizer is None or not written.quantizer.is_as(quantizer))
    ):
        print(
            f"left out (it is of the larger model): its quantizer of {quantizer.what_frames()}; `melhubert "
            f"relabel --checkpoint {args.out}` finds centroids of this one, for `melhubert units --kmeans`"
        )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise a MelHuBERTError where the arguments do not go together."""
    from s3prl_melhubert.support.settings import LARGEST_SEED, check_seed
    from s3prl_melhubert.support.tensor_files import refuse_onnx

    if args.heads is None and args.ffn is None:
        raise MelHuBERTError("compress: neither --heads nor --ffn found; give one or both")
    refuse_onnx(args.out)
    if args.out.exists():
        raise MelHuBERTError(f"{args.out}: is there already; remove it, or give another --out")
    if not args.out.parent.is_dir():
        raise MelHuBERTError(f"{args.out}: cannot be written (there is no folder {args.out.parent})")
    if args.data is None:
        for option, value in (
            ("--steps", args.steps),
            ("--stages", args.stages),
            ("-c", args.runner_config),
            ("--seed", args.seed),
            ("--device", args.device),
        ):
            if value is not None:
                raise MelHuBERTError(f"{option} {value}: trains, and needs --data DIR to train on")
        return
    if args.steps is None:
        raise MelHuBERTError("--data: found without --steps; say with --steps K how long to train")
    stages = STAGES if args.stages is None else args.stages
    if stages < 1:
        raise MelHuBERTError(f"--stages {stages}: expected at least 1")
    if args.steps < stages:
        raise MelHuBERTError(f"--steps {args.steps}: expected at least one for each of the {stages} stages")
    if args.seed is not None:
        check_seed(args.seed, LARGEST_SEED - stages)  # each stage has a seed of its own, one after the other


def _training(args, frame_period):
    """How to train between prunings."""
    from s3prl_melhubert.pretrain.pruning_stages import Training, begun_with_crops
    from s3prl_melhubert.pretrain.training.settings import Settings, default_yaml
    from s3prl_melhubert.support.files import full_path

    settings = Settings.from_yaml(args.runner_config or default_yaml("runner", frame_period))
    return Training(
        sets=tuple(map(full_path, args.data)),
        steps=args.steps,
        stages=STAGES if args.stages is None else args.stages,
        settings=settings.of_period(frame_period, begun_with_crops(args.out)),
        seed=SEED if args.seed is None else args.seed,
        device=args.device,
    )


def _summary(out, before, after, trained):
    """A line on what was written."""
    from s3prl_melhubert.config import layer_sizes
    from s3prl_melhubert.model import macs_per_second, parameter_count
    from s3prl_melhubert.summary import si

    def of(small: float, large: float) -> str:
        return f"{si(small).strip()} of {si(large).strip()}"

    def least(index: int, config) -> str:
        numbers = sorted({sizes[index] for sizes in layer_sizes(config)})
        return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

    return (
        f"{out}: {after.encoder_layers} layers of {least(0, after)} heads (of {least(0, before)}) and "
        f"{least(2, after)} MLP rows (of {least(2, before)}); "
        f"{of(parameter_count(after), parameter_count(before))} parameters, "
        f"{of(macs_per_second(after), macs_per_second(before))} multiply-accumulates for 1 s of speech; "
        f"{trained}"
    )
