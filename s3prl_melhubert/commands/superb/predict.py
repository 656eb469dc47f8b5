"""`melhubert superb predict`: the trained model of a finished experiment on new audio."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_melhubert.commands.superb.arguments import add_task_arguments, task_options
from s3prl_melhubert.errors import MelHuBERTError, printable
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.progress import say

if TYPE_CHECKING:
    import numpy as np

    from s3prl_melhubert.downstream_recipes.prediction import Prediction, Predictor
    from s3prl_melhubert.downstream_recipes.task import Argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXP", help="the folder of an experiment that has ended")
    parser.add_argument("paths", nargs="+", metavar="AUDIO", help="audio files, or folders of them")
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="a JSON object a line, with the duration")
    written.add_argument("--rttm", action="store_true", help="a line a turn in RTTM, of speaker diarization")
    parser.add_argument("--top", type=int, metavar="K", help="the K most probable classes (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the lines there, and none to stdout; of tasks that make sound, the folder for it",
    )
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
    """Let the trained model of an experiment label, transcribe, enhance or separate new audio, a line a file.

    Example: melhubert superb predict exp/sid recordings/ --top 3
    """
    from s3prl_melhubert.audio import find_audio
    from s3prl_melhubert.downstream_recipes.prediction import Predictor
    from s3prl_melhubert.downstream_recipes.prediction.files import predict_files
    from s3prl_melhubert.extraction.inputs import InputNotes, find_utterances

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
    _refuse_unused(args, predictor)
    if predictor.signals or args.rttm:
        utterances = find_utterances(args.paths)
        paths = [*utterances.values()]
        lines_of = _rttm(utterances) if args.rttm else _made(args, utterances, predictor.signals)
    elif predictor.compares:
        lines_of = _compared(paths[0], args.json)
    else:
        lines_of = _said(args.json)
    notes, predicted = InputNotes(), 0
    with _output(None if predictor.signals else args.out) as write:
        for path, prediction in predict_files(predictor, paths, notes, args.top or 1):
            for line in lines_of(path, prediction):
                write(line)
            predicted += 1
        notes.print(list(dict.fromkeys(paths)))  # A file may be given twice.
        if not predicted:
            raise MelHuBERTError("none of the files could be read; nothing was predicted")
    return 1 if notes.skipped else 0


def _refuse_unused(args: argparse.Namespace, predictor: Predictor) -> None:
    """Raise a MelHuBERTError for an option that the task has no use for, or one that it lacks."""
    task = f"{predictor.task.name} ({predictor.task.key})"
    if args.top is not None and not predictor.classifies:
        raise MelHuBERTError(f"--top {args.top}: {task} has no classes")
    if args.rttm and not predictor.marks_turns:
        raise MelHuBERTError(f"--rttm: {task} marks no turns of speakers")
    if args.out is None and predictor.signals:
        raise MelHuBERTError(f"{task} makes sound of a file; give a folder for it with --out")


Lines = Callable[[Path, "Prediction"], list[str]]  # what is written of a file


def _said(as_json: bool) -> Lines:
    def lines(path: Path, prediction: Prediction) -> list[str]:
        if as_json:
            return [_json(path, prediction.as_json())]
        return [f"{printable(str(path))}\t{prediction.line()}"]

    return lines


def _compared(first: Path, as_json: bool) -> Lines:
    """Lines with the cosine of each file's embedding and the first file's."""
    reference: list[np.ndarray] = []

    def lines(path: Path, prediction: Prediction) -> list[str]:
        assert prediction.embedding is not None
        if not reference:
            if path != first:
                raise MelHuBERTError(f"{first}: the others are compared with it, and it cannot be heard")
            reference.append(prediction.embedding)
        cosine = float(reference[0] @ prediction.embedding)
        if as_json:
            return [_json(path, {"cosine": round(cosine, 6), **prediction.as_json()})]
        return [f"{printable(str(path))}\t{cosine:.4f}"]

    return lines


def _rttm(utterances: Mapping[str, Path]) -> Lines:
    names = {path: name for name, path in utterances.items()}
    for path, name in names.items():
        if name.split() != [name]:
            raise MelHuBERTError(f"{path}: RTTM has no names with blanks; rename it, or leave out --rttm")
    return lambda path, prediction: prediction.rttm(names[path])


def _made(args: argparse.Namespace, utterances: Mapping[str, Path], signals: Sequence[str]) -> Lines:
    """Lines that name the files of the signals, which are written before."""
    from s3prl_melhubert.downstream_recipes.prediction.signal_files import SignalFiles

    files = SignalFiles(args.out, utterances, signals)

    def lines(path: Path, prediction: Prediction) -> list[str]:
        made = {signal: str(out) for signal, out in files.write(path, prediction).items()}
        if args.json:
            return [_json(path, {**prediction.as_json(), **made})]
        return ["\t".join(map(printable, [str(path), *made.values()]))]

    return lines


def _json(path: Path, content: Mapping[str, Any]) -> str:
    return json.dumps({"file": str(path), **content}, ensure_ascii=True)


@contextmanager
def _output(out: Path | None) -> Iterator[Callable[[str], object]]:
    """Give a function that writes a line: on stdout, or into a file that is there when all is well."""
    if out is None:
        yield say
        return
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda line: file.write(f"{line}\n")
