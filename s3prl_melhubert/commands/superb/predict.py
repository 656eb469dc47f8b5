"""`melhubert superb predict`: the trained model of a finished experiment on new audio."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_melhubert.commands.superb.arguments import add_task_arguments, task_options
from s3prl_melhubert.errors import MelHuBERTError, printable
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.progress import say

if TYPE_CHECKING:
    from s3prl_melhubert.downstream_recipes.prediction import Prediction
    from s3prl_melhubert.downstream_recipes.task import Argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXP", help="the folder of an experiment that has ended")
    parser.add_argument("paths", nargs="+", metavar="AUDIO", help="audio files, or folders of them")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with the duration")
    parser.add_argument("--top", type=int, metavar="K", help="the K most probable classes (default: 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the lines there, and none to stdout")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    upstream = parser.add_argument_group("upstream", "where it is now, if it was moved since")
    upstream.add_argument("-k", "--upstream_ckpt", metavar="FILE", help="its checkpoint; the same content")
    upstream.add_argument("-g", "--upstream_model_config", metavar="YAML", help="its settings")
    language_model = parser.add_argument_group("language model", "of speech recognition")
    add_task_arguments(language_model, _further_arguments(), may_be_required=False)


def _further_arguments() -> list[Argument]:
    """The arguments of the tasks' second ways of decoding."""
    from s3prl_melhubert.downstream_recipes.tasks import all_tasks

    second = (task.second_test for task in all_tasks().values() if task.outputs is not None)
    return [argument for each in second if each is not None for argument in each.arguments]


def run(args: argparse.Namespace) -> int:
    """Let the trained model of an experiment label or transcribe new audio, a line a file.

    Example: melhubert superb predict exp/sid recordings/ --top 3
    """
    from s3prl_melhubert.audio import find_audio
    from s3prl_melhubert.downstream_recipes.prediction import Predictor
    from s3prl_melhubert.downstream_recipes.prediction.files import predict_files
    from s3prl_melhubert.extraction.inputs import InputNotes

    if args.top is not None and args.top < 1:
        raise MelHuBERTError(f"--top {args.top}: expected at least 1")
    paths = find_audio(args.paths)
    predictor = Predictor(
        args.experiment,
        upstream_ckpt=args.upstream_ckpt,
        upstream_model_config=args.upstream_model_config,
        device=args.device,
        options=task_options(args, _further_arguments()),
    )
    if args.top is not None and not predictor.classifies:
        raise MelHuBERTError(
            f"--top {args.top}: {predictor.task.name} ({predictor.task.key}) transcribes and has no classes"
        )
    notes, predicted = InputNotes(), 0
    with _output(args.out) as write:
        for path, prediction in predict_files(predictor, paths, notes, args.top or 1):
            write(_as_json(path, prediction) if args.json else f"{printable(str(path))}\t{prediction.line()}")
            predicted += 1
        notes.print(list(dict.fromkeys(paths)))  # A file may be given twice.
        if not predicted:
            raise MelHuBERTError("none of the files could be read; nothing was predicted")
    return 1 if notes.skipped else 0


def _as_json(path: Path, prediction: Prediction) -> str:
    return json.dumps({"file": str(path), **prediction.as_json()}, ensure_ascii=True)


@contextmanager
def _output(out: Path | None) -> Iterator[Callable[[str], object]]:
    """Give a function that writes a line: on stdout, or into a file that is there when all is well."""
    if out is None:
        yield say
        return
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda line: file.write(f"{line}\n")
