"""`melhubert pretrain`: train a model on prepared sets. The flags are those of the published trainer."""

from __future__ import annotations

import argparse
from pathlib import Path


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
    from s3prl_melhubert.pretrain.training.beginning.options import Options
    from s3prl_melhubert.pretrain.training.runner import Pretraining

    return Pretraining(Options.from_command(vars(args))).run()
