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
        help="ms between frames (default: what -g says; 20 without -g)",
    )
    parser.add_argument(
        "-g",
        "--upstream_config",
        "--upstream-config",
        type=Path,
        metavar="MODEL.yaml",
        help="settings of the model (default: the published base model)",
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
        type=Path,
        metavar="CKPT",
        help="a checkpoint whose weights to start from",
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
    from s3prl_melhubert.pretrain.training.beginning import MODEL_YAML, RUNNER_YAML
    from s3prl_melhubert.pretrain.training.runner import Options, Pretraining
    from s3prl_melhubert.pretrain.training.settings import Settings

    if args.seed < 0:
        raise MelHuBERTError(f"--seed {args.seed}: expected 0 or more")
    if args.init_optimizer_from_initial_weight and args.initial_weight is None:
        raise MelHuBERTError("--init_optimizer_from_initial_weight: needs a checkpoint, -i CKPT")
    model_yaml, runner_yaml = args.upstream_config, args.runner_config
    if args.resume:  # A run keeps its settings beside its checkpoints.
        model_yaml = model_yaml or _existing(args.expdir / MODEL_YAML)
        runner_yaml = runner_yaml or _existing(args.expdir / RUNNER_YAML)
    config = MelHuBERTConfig.from_yaml(model_yaml or default_yaml("model", args.frame_period))
    if args.frame_period not in (None, config.frame_period):
        raise MelHuBERTError(
            f"-f {args.frame_period}: {model_yaml} has feat_emb_dim {config.feat_emb_dim}, which is "
            f"{config.frame_period} ms; give -f {config.frame_period}, or set it to {4 * args.frame_period}"
        )
    settings = Settings.from_yaml(runner_yaml or default_yaml("runner", config.frame_period))
    datarc = settings.datarc
    # The paths become absolute, so that --resume may be given in another folder.
    sets = [str(Path(path).expanduser().absolute()) for path in args.data or datarc.sets]
    valid_sets = [str(Path(path).expanduser().absolute()) for path in args.valid or datarc.valid_sets]
    stats = datarc.feature_stats
    if stats is not None and Path(stats).expanduser().is_file():
        stats = str(Path(stats).expanduser().absolute())
    datarc = replace(datarc, sets=tuple(sets), valid_sets=tuple(valid_sets), feature_stats=stats)
    settings = replace(settings, datarc=datarc)

    options = Options(
        expdir=args.expdir,
        config=config,
        settings=settings,
        initial_weight=args.initial_weight,
        initial_optimizer=args.init_optimizer_from_initial_weight,
        seed=args.seed,
        device=args.device,
        resume=args.resume,
        arguments=vars(args),
    )
    return Pretraining(options).run()


def default_yaml(kind: str, frame_period: int | None) -> Path:
    """Return the file of the published settings of the `model` or the `runner`, which the package brings."""
    from s3prl_melhubert.pretrain.training.settings import config_folder

    suffix = "_10ms" if frame_period == 10 else ""
    return config_folder() / f"config_{kind}{suffix}.yaml"


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
