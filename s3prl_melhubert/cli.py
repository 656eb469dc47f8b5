"""The `melhubert` command.

Each subcommand is a module with `add_arguments(parser)` and `run(args) -> int`, imported only when it is
asked for, so that `melhubert --help` answers at once. Bad input is a `MelHuBERTError`: one line, status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import NamedTuple

from s3prl_melhubert import __version__
from s3prl_melhubert.errors import MelHuBERTError


class Command(NamedTuple):
    module: str  # where `add_arguments` and `run` are
    summary: str
    example: str


COMMANDS = {
    "quickstart": Command(
        "s3prl_melhubert.downstream_recipes.quickstart.quickstart",
        "the whole path on a small synthesized corpus, on a CPU, in minutes",
        "melhubert quickstart --out first-steps",
    ),
    "pretrain": Command(
        "s3prl_melhubert.commands.pretrain",
        "train a model on prepared data",
        "melhubert pretrain -f 20 -g model.yaml -c runner.yaml -n exp --data data/train",
    ),
    "link": Command(
        "s3prl_melhubert.commands.link",
        "put pretrain/melhubert and upstream/melhubert into a checkout of s3prl",
        "melhubert link s3prl/",
    ),
    "unlink": Command(
        "s3prl_melhubert.commands.unlink",
        "take them out again, leaving the checkout as it was",
        "melhubert unlink s3prl/",
    ),
    "prepare": Command(
        "s3prl_melhubert.pretrain.prepare",
        "a folder of audio, or the published archive, to features and cluster labels for training",
        "melhubert prepare --audio LibriSpeech --subset train-clean-360 --out data/train",
    ),
    "relabel": Command(
        "s3prl_melhubert.pretrain.relabel",
        "new cluster labels for a prepared set, from a layer of a trained model (stage 2)",
        "melhubert relabel --data data/train --checkpoint EXP/last.ckpt --layer 8 --out data/stage2",
    ),
    "label-quality": Command(
        "s3prl_melhubert.pretrain.label_quality",
        "phone purity, cluster purity and PNMI of cluster labels against frame alignments",
        "melhubert label-quality --data data/train --alignments phones.txt",
    ),
    "superb": Command(
        "s3prl_melhubert.downstream_recipes.superb",
        "SUPERB's phone recognition, speaker identification and speech recognition, and the submission",
        "melhubert superb pr --librispeech LibriSpeech -u melhubert -p exp/pr",
    ),
    "extract": Command(
        "s3prl_melhubert.commands.extract",
        "hidden states of audio files",
        "melhubert extract -c melhubert.ckpt speech/ --out hidden_states.npz",
    ),
    "convert": Command(
        "s3prl_melhubert.commands.convert",
        "rewrite a checkpoint: other format, with its statistics, without code",
        "melhubert convert published.ckpt model.safetensors --stats librispeech-960h",
    ),
    "info": Command(
        "s3prl_melhubert.commands.info",
        "parameters, multiply-accumulates, frame period and statistics of a checkpoint",
        "melhubert info melhubert.ckpt",
    ),
    "doctor": Command(
        "s3prl_melhubert.commands.doctor",
        "what is wrong with this environment, and the command that mends it",
        "melhubert doctor",
    ),
}

# Programs of s3prl, run as they are: every argument is theirs, --help included.
PROGRAMS = {
    "run-pretrain": Command(
        "s3prl_melhubert.commands.run_pretrain:run_pretrain",
        "s3prl's run_pretrain.py, arguments untouched",
        "melhubert run-pretrain -u melhubert -c config_runner.yaml -n NAME",
    ),
    "run-downstream": Command(
        "s3prl_melhubert.commands.s3prl_runners:run_downstream",
        "s3prl's run_downstream.py, arguments untouched",
        "melhubert run-downstream -m train -u melhubert -d example -c config.yaml -p EXPDIR",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except MelHuBERTError as error:
        print(f"melhubert: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("melhubert: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this, Python complains once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else None
    if name in PROGRAMS:
        home, function = PROGRAMS[name].module.split(":")
        return getattr(import_module(home), function)(arguments[1:])
    if name in COMMANDS:
        command = COMMANDS[name]
        module = import_module(command.module)
        parser = argparse.ArgumentParser(
            prog=f"melhubert {name}",
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        parsed = parser.parse_args(arguments[1:])
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            return module.run(parsed)
    overview = _overview()
    if name is None:
        overview.print_help()
        return 2
    overview.parse_args(arguments)  # --help, --version, or the complaint about an unknown command
    return 0


def _show_warning(show_as_ever, message, category, *where) -> None:
    """Ours in one line, like errors; those of libraries with their place, as ever."""
    if category is UserWarning:
        print(f"melhubert: {message}", file=sys.stderr)
    else:
        show_as_ever(message, category, *where)


def _overview() -> argparse.ArgumentParser:
    commands = {**COMMANDS, **PROGRAMS}
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]
    parser = argparse.ArgumentParser(
        prog="melhubert",
        usage="melhubert COMMAND [ARGUMENT ...]",
        description="MelHuBERT: a self-supervised speech model on log-Mel frames, inside s3prl.",
        epilog="\n".join(["commands:", *lines, "", "melhubert COMMAND --help tells more of one."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"s3prl-melhubert {__version__}")
    parser.add_argument("command", choices=list(commands), metavar="COMMAND", help="one of those below")
    return parser
