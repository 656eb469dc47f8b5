"""`melhubert superb`: SUPERB's tasks, their settings for s3prl's own program, the report and the submission.

A command of its own for each task of `downstream_recipes.tasks`; the logic of all of them stands in
`downstream_recipes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# `melhubert --help` imports this module for a line of summary, so that all else is imported where it is used.
if TYPE_CHECKING:
    from s3prl_melhubert.downstream_recipes.task import Argument, Task, TaskOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from s3prl_melhubert.downstream_recipes.report.report import PICTURE, REPORT
    from s3prl_melhubert.downstream_recipes.report.submission import ARCHIVE
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  melhubert superb {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    tasks = all_tasks()
    for key, task in tasks.items():
        corpus = " ".join(f"{each.option} {each.example}" for each in task.arguments if each.example)
        command = add(
            key,
            f"{task.name}: check the corpus, train, test ({task.metric.name})",
            f"{key} {corpus} -u melhubert_local -k model.ckpt -p exp/{key}",
        )
        _add_run_arguments(command, task)
        command.set_defaults(run_command=_run_task)

    command = add(
        "config",
        "write a task's settings for s3prl's own run_downstream.py and print the file's path",
        "config pr --librispeech LibriSpeech",
    )
    _add_config_arguments(command, list(tasks.values()))
    command.set_defaults(run_command=_run_config)

    command = add(
        "make-sd",
        "mix LibriSpeech for speaker diarization, in Kaldi's layout",
        "make-sd --librispeech LibriSpeech --mixtures LibriMix/metadata/Libri2Mix --out libri2mix",
    )
    _add_mixing_arguments(command)
    command.set_defaults(run_command=_run_mixing)

    command = add(
        "report",
        "a table and a picture of several experiments, beside published results",
        "report exp/pr exp/sid exp/asr --out report",
    )
    command.add_argument(
        "experiments",
        nargs="+",
        metavar="EXP",
        help="an experiment's folder, or a folder with several of them somewhere below",
    )
    command.add_argument("--out", metavar="DIR", help=f"also write {REPORT} and {PICTURE} there")
    command.set_defaults(run_command=_run_report)

    command = add(
        "submit",
        "predict.zip for SUPERB's leaderboard, after checking the predictions",
        "submit --pr exp/pr --sid exp/sid --asr exp/asr --out submission",
    )
    for key, task in tasks.items():
        command.add_argument(f"--{key}", metavar="EXP", help=f"the folder of an experiment in {task.name}")
    command.add_argument("--out", required=True, metavar="DIR", help=f"where {ARCHIVE} goes")
    command.set_defaults(run_command=_run_submit)


def run(args: argparse.Namespace) -> int:
    """Run SUPERB's tasks, report the results, and make the submission.

    Example: melhubert superb pr --librispeech LibriSpeech -u melhubert -p exp/pr
    """
    return args.run_command(args)


# -- a task ----------------------------------------------------------------------------------------------


def _add_run_arguments(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the arguments of `melhubert superb TASK`; what s3prl's runner has, too, has its names."""
    from s3prl_melhubert.downstream_recipes.running.options import SEED, default_workers
    from s3prl_melhubert.support.devices import INFERENCE_PRECISIONS

    corpus = parser.add_argument_group("corpus")
    _add_task_arguments(corpus, task.all_arguments)
    upstream = parser.add_argument_group("upstream")
    upstream.add_argument("-u", "--upstream", required=True, help="any upstream of s3prl's, MelHuBERT or not")
    upstream.add_argument("-k", "--upstream_ckpt", metavar="FILE", help="its checkpoint, where it takes one")
    upstream.add_argument("-g", "--upstream_model_config", metavar="YAML", help="its settings")
    experiment = parser.add_argument_group("experiment")
    experiment.add_argument(
        "-p", "--expdir", type=Path, required=True, metavar="EXP", help="its folder; run again, it continues"
    )
    experiment.add_argument(
        "--stage",
        choices=("check", "train", "test"),
        help="only look at everything; stop after training; or only test. Default: all that is left to do",
    )
    experiment.add_argument("--device", help="default: cuda where there is a GPU, otherwise cpu")
    experiment.add_argument("--seed", type=int, default=SEED, help="s3prl's default: %(default)s")
    experiment.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=default_workers(),
        help="processes that read audio (default: %(default)s)",
    )
    settings = parser.add_argument_group("settings")
    settings.add_argument(
        "--lr",
        type=learning_rates,
        metavar="X[,Y...]",
        help="learning rate; several (`sweep`: 1e-1 to 1e-5) are trained in one pass, the best on dev counts",
    )
    settings.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        help="of the frozen upstream, where it is a MelHuBERT (default: what -g says, otherwise fp32)",
    )
    settings.add_argument("--steps", type=int, metavar="N", help="train for fewer steps than SUPERB")
    settings.add_argument(
        "-o", "--override", metavar="OVERRIDE", help="s3prl's: config.runner.log_step=10,,args.NAME=VALUE"
    )


def _add_task_arguments(
    group: argparse._ActionsContainer, arguments: Sequence[Argument], may_be_required: bool = True
) -> None:
    for argument in arguments:
        group.add_argument(
            argument.option,
            dest=argument.name,
            required=argument.required and may_be_required,
            nargs="+" if argument.several else None,
            metavar=argument.metavar,
            help=argument.help,
        )


def _task_options(args: argparse.Namespace, arguments: Sequence[Argument]) -> TaskOptions:
    from s3prl_melhubert.downstream_recipes.task import TaskOptions

    return TaskOptions({argument.name: getattr(args, argument.name) for argument in arguments})


def learning_rates(text: str) -> tuple[float, ...]:
    """`1e-3,5e-4` as numbers; `sweep` as SUPERB's range.

    Raises:
        argparse.ArgumentTypeError: they are no numbers above zero, or one of them is there twice.
    """
    from s3prl_melhubert.downstream_recipes.running.options import SWEEP

    if text == "sweep":
        return SWEEP
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected different numbers above zero, as in 1e-3,5e-4, or sweep"
        )
    return rates


def _run_task(args: argparse.Namespace) -> int:
    from s3prl_melhubert.downstream_recipes.running.options import RunOptions
    from s3prl_melhubert.downstream_recipes.running.parts import run_task
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    task = all_tasks()[args.command]
    options = RunOptions(
        upstream=args.upstream,
        upstream_ckpt=args.upstream_ckpt,
        upstream_model_config=args.upstream_model_config,
        expdir=args.expdir,
        task_options=_task_options(args, task.all_arguments),
        stage=args.stage,
        device=args.device,
        seed=args.seed,
        workers=args.workers,
        rates=args.lr or (),
        precision=args.precision,
        steps=args.steps,
        override=args.override,
    )
    run_task(task, options)
    return 0


# -- config ----------------------------------------------------------------------------------------------


def _add_config_arguments(parser: argparse.ArgumentParser, tasks: Sequence[Task]) -> None:
    commands = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for task in tasks:
        command = commands.add_parser(task.key, help=f"for s3prl's -d {task.downstream}")
        corpus = command.add_argument_group("corpus")
        # A second test is s3prl's -m evaluate, for which there is nothing to prepare.
        _add_task_arguments(corpus, task.arguments, may_be_required=False)
        command.add_argument("--workers", type=int, default=4, metavar="N", help="processes that read audio")
        command.add_argument("--out", type=Path, metavar="DIR", help="default: a folder in ~/.cache")


def _run_config(args: argparse.Namespace) -> int:
    """Print the file's path alone on stdout, so that a shell can take it from there."""
    from s3prl_melhubert.downstream_recipes.running.settings_file import write_settings_file
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    task = all_tasks()[args.task]
    path, notes = write_settings_file(task, _task_options(args, task.arguments), args.workers, args.out)
    for line in notes:
        print(line, file=sys.stderr)
    print(path)
    return 0


# -- mixtures --------------------------------------------------------------------------------------------


def _add_mixing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--librispeech", required=True, metavar="DIR", help="holds the splits")
    parser.add_argument("--mixtures", required=True, metavar="DIR", help="holds LibriMix's libri2mix_*.csv")
    parser.add_argument(
        "--turns", metavar="DIR", help="holds train_clean_100.rttm, ...; default: an utterance is one turn"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="for train, dev and test")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="threads (default: %(default)s)")


def _run_mixing(args: argparse.Namespace) -> int:
    from s3prl_melhubert.downstream_recipes.speaker_diarization.mixing import make_libri2mix

    sets = make_libri2mix(args.librispeech, args.mixtures, args.turns, args.out, args.workers)
    for name, mixtures in sets.items():
        print(f"{Path(args.out) / name}: {mixtures} mixtures")
    print(f"next: melhubert superb sd --libri2mix {args.out} ...")
    return 0


# -- report and submission -------------------------------------------------------------------------------


def _run_report(args: argparse.Namespace) -> int:
    from s3prl_melhubert.downstream_recipes.report.report import find_experiments, write_report
    from s3prl_melhubert.downstream_recipes.report.results import read_result
    from s3prl_melhubert.downstream_recipes.report.table import table

    folders = find_experiments(args.experiments)
    results = [read_result(folder) for folder in folders]
    print(table(results, folders))
    if args.out is not None:
        print(f"\nwritten: {', '.join(map(str, write_report(results, Path(args.out), folders)))}")
    return 0


def _run_submit(args: argparse.Namespace) -> int:
    from s3prl_melhubert.downstream_recipes.report.submission import ARCHIVE, submit
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    given = {key: getattr(args, key) for key in all_tasks()}
    predictions = submit({key: folder for key, folder in given.items() if folder is not None}, args.out)
    archive = Path(args.out) / ARCHIVE
    print(f"{archive}: written, and the same files beside it")
    width = max(len(each.place) for each in predictions)
    for each in predictions:
        empty = f" (empty hypotheses: {each.empty})" if each.empty else ""
        print(
            f"  {each.place:{width}}  {each.utterances} utterances{empty}, {each.metric} {each.score:.2f} %"
        )
    print(f"next: upload {archive} at the SUPERB leaderboard, superbbenchmark.org")
    return 0
