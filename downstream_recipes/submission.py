"""`melhubert superb submit`: `predict.zip`, laid out as SUPERB's leaderboard wants it.

Every prediction file is checked against the names of the test utterances before anything is written, so
that a fault is told here, by line and name, and not by a score that looks wrong.
"""

from __future__ import annotations

import argparse
import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora import LIBRISPEECH, VOXCELEB1
from s3prl_melhubert.downstream_recipes.experiment import TEST_UTTERANCES
from s3prl_melhubert.downstream_recipes.lexicon import PHONEMES
from s3prl_melhubert.downstream_recipes.problems import Kind, Problems, check_writable
from s3prl_melhubert.downstream_recipes.results import METRICS, TASK_NAMES, Result, read_result
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path

ARCHIVE = "predict.zip"
PLACES = {
    "pr": "predict/pr_public/predict.ark",
    "sid": "predict/sid_public/predict.txt",
    "asr": "predict/asr_public/predict.ark",
    "asr_lm": "predict/asr_lm_public/predict.ark",
}
TEST_SIZES = {"pr": LIBRISPEECH["test-clean"], "sid": VOXCELEB1["test"], "asr": LIBRISPEECH["test-clean"]}
AGAIN = "test again: `melhubert superb TASK ... --stage test`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for task, name in TASK_NAMES.items():
        parser.add_argument(f"--{task}", metavar="EXP", help=f"the folder of an experiment in {name}")
    parser.add_argument("--out", required=True, metavar="DIR", help=f"where {ARCHIVE} goes")


def run(args: argparse.Namespace) -> int:
    experiments = {task: getattr(args, task) for task in METRICS if getattr(args, task) is not None}
    predictions = submit(experiments, args.out)
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


@dataclass(frozen=True)
class Predictions:
    """A checked prediction file."""

    place: str  # in the archive
    content: bytes  # as s3prl wrote it
    utterances: int
    empty: int  # hypotheses without a phone or word
    metric: str  # PER, ACC or WER
    score: float  # percent


def submit(experiments: Mapping[str, str | Path], out: str | Path) -> list[Predictions]:
    """Check the predictions of experiments, then write `predict.zip` and, beside it, the folder it holds.

    Warns where scores are not comparable (settings, test sets) and where experiments are of different models.

    Args:
        experiments: the folder of each task's experiment; at least one of pr, sid and asr.
        out: made if needed; an earlier submission's files there are replaced, or removed with their task.

    Returns:
        The files in the archive, in its order.

    Raises:
        MelHuBERTError: a file is absent or faulty, or `out` cannot be written; nothing is written then.
    """
    if not experiments:
        raise MelHuBERTError(f"nothing to submit: give the folder of one or more of --{', --'.join(METRICS)}")
    folders = {task: Path(folder) for task, folder in experiments.items()}
    results = {task: read_result(folder) for task, folder in folders.items()}
    for task, result in results.items():
        if result.task != task:
            raise MelHuBERTError(
                f"--{task} {folders[task]}: is an experiment in {TASK_NAMES[result.task]}, "
                f"give it with --{result.task}"
            )
    problems = Problems()
    predictions: list[Predictions] = []
    for task, result in results.items():
        predictions += _check(folders[task], result, problems)
    problems.raise_if_any("submission")
    predictions.sort(key=lambda each: each.place)
    _warn(results)
    _write(check_writable(out), predictions)
    return predictions


def _check(folder: Path, result: Result, problems: Problems) -> list[Predictions]:
    """Read an experiment's prediction files; what is wrong with them goes to `problems`."""
    _, names = _read_lines(folder / TEST_UTTERANCES)
    files = [(result.task, result.predictions, result.value)]
    if result.with_language_model is not None:
        with_lm = result.with_language_model
        files.append(("asr_lm", with_lm["predictions"], with_lm["value"]))
    checked = []
    for kind, file, score in files:
        content, lines = _read_lines(folder / file)
        empty = _check_lines(folder / file, result.task, lines, names, problems)
        checked.append(Predictions(PLACES[kind], content, len(names), empty, result.metric, score))
    return checked


def _read_lines(path: Path) -> tuple[bytes, list[str]]:
    """A text file as it is, and its lines."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MelHuBERTError(f"{path}: cannot be read ({reason}); {AGAIN}") from None
    if not lines:
        raise MelHuBERTError(f"{path}: is empty; {AGAIN}")
    return content, lines


def _check_lines(
    path: Path, task: str, lines: Sequence[str], names: Sequence[str], problems: Problems
) -> int:
    """Compare a prediction file with the test utterances; return how many hypotheses are empty."""
    what, fault_of = _FORMATS[task]
    malformed = Kind(f"{path}: lines that are not {what}", AGAIN)
    found: Counter[str] = Counter()
    empty = 0
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition(" ")
        prediction = rest.split()
        empty += not prediction
        found[name] += 1
        fault = fault_of(prediction) if name else "no name"
        if fault is not None:
            problems.add(malformed, f"line {number}: {fault}")
    expected = set(names)
    for what, at_fault in (
        ("test utterances that are missing", [name for name in names if name not in found]),
        ("names that are no test utterance's", [name for name in found if name and name not in expected]),
        ("names that are there more than once", [name for name in found if name and found[name] > 1]),
    ):
        for name in at_fault:
            problems.add(Kind(f"{path}: {what}", AGAIN), name)
    return empty


@lru_cache(maxsize=1)
def _phones() -> frozenset[str]:
    # s3prl's vocabulary has a symbol for the unknown, too, which a model may say that is hardly trained.
    return frozenset([*PHONEMES.read_text(encoding="utf-8").split(), "<unk>"])


def _fault_in_phones(symbols: Sequence[str]) -> str | None:
    return next((repr(symbol) for symbol in symbols if symbol not in _phones()), None)


def _fault_in_words(words: Sequence[str]) -> str | None:
    return next((repr(word) for word in words if not re.fullmatch("[A-Z']+", word)), None)


def _fault_in_speaker(ids: Sequence[str]) -> str | None:
    if len(ids) == 1 and re.fullmatch("id[0-9]{5}", ids[0]) and 10001 <= int(ids[0][2:]) <= 11251:
        return None
    return repr(" ".join(ids))


# What a line is, and what finds a fault in what follows the utterance's name.
_FORMATS: dict[str, tuple[str, Callable[[Sequence[str]], str | None]]] = {
    "pr": ("`UTTERANCE PHONE PHONE ...` (the 71 phones of phoneme.txt)", _fault_in_phones),
    "sid": ("`UTTERANCE SPEAKER` (one of id10001 to id11251)", _fault_in_speaker),
    "asr": ("`UTTERANCE WORD WORD ...` (A-Z and the apostrophe)", _fault_in_words),
}


def _warn(results: Mapping[str, Result]) -> None:
    """Say what keeps the scores from being one model's, comparable with others'."""
    models = {(each.upstream, each.checkpoint_sha256 or each.checkpoint) for each in results.values()}
    if len(models) > 1:
        named = [
            f"{task} {result.label}"
            + (f", SHA-256 {result.checkpoint_sha256[:12]}" if result.checkpoint_sha256 else "")
            for task, result in results.items()
        ]
        warnings.warn(
            f"a submission is of one model, these differ: {'; '.join(named)}", UserWarning, stacklevel=3
        )
    for task, result in results.items():
        if not result.comparable:
            different = "; ".join(map(str, result.differences))
            warnings.warn(f"{task}: not SUPERB's settings or corpus: {different}", UserWarning, stacklevel=3)
        if result.test_utterances != TEST_SIZES[task]:
            warnings.warn(
                f"{task}: {result.test_utterances} test utterances, where the leaderboard expects "
                f"SUPERB's {TEST_SIZES[task]}",
                UserWarning,
                stacklevel=3,
            )


def _write(out: Path, predictions: Sequence[Predictions]) -> None:
    """Write the archive and its files, and remove those that only an earlier submission had."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in predictions:
            # The same predictions make the same bytes, whenever and wherever they are packed.
            entry = zipfile.ZipInfo(each.place, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, each.content)
    for each in predictions:
        path = check_writable((out / each.place).parent) / Path(each.place).name
        with atomic_path(path) as temporary:
            temporary.write_bytes(each.content)
    with atomic_path(out / ARCHIVE) as temporary:
        temporary.write_bytes(buffer.getvalue())
    for place in PLACES.values():
        if place not in [each.place for each in predictions]:
            (out / place).unlink(missing_ok=True)
            with suppress(OSError):  # not there, or something of the user's is in it
                (out / place).parent.rmdir()
