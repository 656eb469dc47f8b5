"""`melhubert pretrain`: train a model on prepared sets. The flags are those of the published trainer."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--expdir", required=True, type=Path, metavar="EXPDIR", help="folder of the experiment"
    )
    parser.add_argument(
        "-f",
        "--frame_period",
        "--frame-period",
        type=int,
        choices=(10, 20),
        help="ms between frames (default: what -g or -i says; 20 without these)",
    )
    parser.add_argument(
        "-g",
        "--upstream_config",
        "--upstream-config",
        type=Path,
        metavar="MODEL.yaml",
        help="settings of the model (default: those of -i, whose head is made anew where the data has other "
        "clusters; without -i the published base model)",
    )
    parser.add_argument(
        "-c",
        "--runner_config",
        "--runner-config",
        type=Path,
        metavar="RUNNER.yaml",
        help="settings of data, optimizer and run (default: the published ones)",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="DIR",
        help="a prepared folder or published CSV, instead of datarc.sets; may be repeated",
    )
    parser.add_argument(
        "--valid",
        action="append",
        metavar="DIR",
        help="the same to validate on, instead of datarc.valid_sets",
    )
    parser.add_argument(
        "-i",
        "--initial_weight",
        "--initial-weight",
        metavar="CKPT",
        help="a checkpoint whose weights to start from, as far as they fit: a file, a folder in "
        "transformers' layout, or ORG/NAME[@REVISION] on the Hugging Face Hub",
    )
    parser.add_argument(
        "--init_layers",
        "--init-layers",
        metavar="N-M|N[,N...]",
        help="of its layers take these alone, such as 1-6 or 1,3,5 (1 is the first, -1 the last)",
    )
    parser.add_argument(
        "--init_stats",
        "--init-stats",
        choices=("model", "data"),
        help="with whose statistics to go on: the model's (default; data of others is rescaled as it is "
        "read), or the data's",
    )
    parser.add_argument(
        "--init_optimizer_from_initial_weight",
        "--init-optimizer-from-initial-weight",
        action="store_true",
        help="take the state of its optimizer, too",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in EXPDIR where its last.ckpt stands (from the start, if there is none)",
    )
    parser.add_argument("--seed", type=int, default=1337, help="of everything random (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")


def run(args: argparse.Namespace) -> int:
    """Train a model on prepared data.

    Example: melhubert pretrain -f 20 -g model.yaml -c runner.yaml -n exp --data data/train
    """
    from s3prl_melhubert.pretrain.training.beginning import (
        MODEL_YAML,
        RUNNER_YAML,
        Options,
        is_of_this_launch,
    )
    from s3prl_melhubert.pretrain.training.initial import Initial
    from s3prl_melhubert.pretrain.training.runner import Pretraining
    from s3prl_melhubert.pretrain.training.settings import Settings
    from s3prl_melhubert.support.files import full_path, full_path_of_file
    from s3prl_melhubert.support.settings import check_seed

    check_seed(args.seed)
    for name in ("init_optimizer_from_initial_weight", "init_layers", "init_stats"):
        if getattr(args, name) and args.initial_weight is None:
            raise MelHuBERTError(f"--{name}: needs a checkpoint, -i CKPT")
    initial = None
    if args.initial_weight is not None:
        initial = Initial(args.initial_weight, args.init_layers, args.init_stats or "model")
    model_yaml, runner_yaml = args.upstream_config, args.runner_config
    resume = args.resume or is_of_this_launch(args.expdir)
    if resume:  # A run keeps its settings beside its checkpoints.
        model_yaml = model_yaml or _existing(args.expdir / MODEL_YAML)
        runner_yaml = runner_yaml or _existing(args.expdir / RUNNER_YAML)
    settings = Settings.from_yaml(runner_yaml) if runner_yaml else None
    # The paths become absolute, so that --resume may be given in another folder.
    named = args.data or (settings.datarc.sets if settings else ())
    sets = [full_path(path) for path in named]
    if initial is not None and model_yaml is None:
        config = initial.settings(args.frame_period, sets)
    else:
        config = MelHuBERTConfig.from_yaml(model_yaml or default_yaml("model", args.frame_period))
    if args.frame_period not in (None, config.frame_period):
        raise MelHuBERTError(
            f"-f {args.frame_period}: {model_yaml} has feat_emb_dim {config.feat_emb_dim}, which is "
            f"{config.frame_period} ms; give -f {config.frame_period}, or set it to {4 * args.frame_period}"
        )
    settings = settings or Settings.from_yaml(default_yaml("runner", config.frame_period))
    valid_sets = tuple(args.valid or settings.datarc.valid_sets)
    datarc = replace(settings.datarc, sets=tuple(sets), valid_sets=valid_sets).absolute()
    settings = replace(settings, datarc=datarc)
    arguments = vars(args)
    if initial is not None:
        arguments = {**arguments, "initial_weight": full_path_of_file(args.initial_weight)}

    options = Options(
        expdir=args.expdir,
        config=config,
        settings=settings,
        initial=initial,
        initial_optimizer=args.init_optimizer_from_initial_weight,
        seed=args.seed,
        device=args.device,
        resume=resume,
        arguments=arguments,
    )
    return Pretraining(options).run()


def default_yaml(kind: str, frame_period: int | None) -> Path:
    """Return the file of the published settings of the `model` or the `runner`, which the package brings."""
    from s3prl_melhubert.pretrain.training.settings import config_folder

    suffix = "_10ms" if frame_period == 10 else ""
    return config_folder() / f"config_{kind}{suffix}.yaml"


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
