"""The submission: `predict.zip`, laid out as SUPERB's leaderboard wants it.

Every prediction file is checked against the names of the test utterances before anything is written, so
that a fault is told here, by line and name, and not by a score that looks wrong.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.downstream_recipes.experiment_files import TEST_UTTERANCES
from s3prl_melhubert.downstream_recipes.prediction_files import (
    PredictionFile,
    UtteranceFiles,
    paths_of,
    sha256_of_predictions,
)
from s3prl_melhubert.downstream_recipes.report.results import Result, not_superbs, read_result, same_model
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError, MelHuBERTWarning
from s3prl_melhubert.support.files import atomic_path
from s3prl_melhubert.support.locks import only_writer
from s3prl_melhubert.support.writable import check_writable

ARCHIVE = "predict.zip"
AGAIN = "test again: `melhubert superb TASK ... --stage test`"


@dataclass(frozen=True)
class Predictions:
    """A file of predictions that was checked."""

    place: str  # its path in the archive
    content: bytes  # exactly what s3prl wrote
    utterances: int
    empty: int  # hypotheses without a phone or word
    metric: str  # its name, such as PER
    score: float
    written: str  # the score with its unit
    others: Mapping[str, bytes] = field(default_factory=dict)  # files of single utterances, by their places


def submit(experiments: Mapping[str, str | Path], out: str | Path) -> list[Predictions]:
    """Check the predictions of experiments, then write `predict.zip` and, beside it, the folder it holds.

    Warns where scores are not comparable (settings, test sets) and where experiments are of different models.

    Args:
        experiments: the folder of each task's experiment, by the task's key; at least one.
        out: made if needed; an earlier submission's files there are replaced, or removed with their task.

    Returns:
        The files in the archive, in its order.

    Raises:
        MelHuBERTError: a file is absent or faulty, `out` cannot be written, or another process is writing
            it; nothing is written then.
    """
    tasks = all_tasks()
    if not experiments:
        raise MelHuBERTError(f"nothing to submit: give the folder of one or more of --{', --'.join(tasks)}")
    folders = {task: Path(folder) for task, folder in experiments.items()}
    results = {task: read_result(folder) for task, folder in folders.items()}
    for task, result in results.items():
        if result.task != task:
            raise MelHuBERTError(
                f"--{task} {folders[task]}: is an experiment in {tasks[result.task].name}, "
                f"give it with --{result.task}"
            )
    problems = Problems()
    predictions: list[Predictions] = []
    for task, result in results.items():
        predictions += _check(folders[task], result, problems)
    problems.raise_if_any("submission")
    predictions.sort(key=lambda each: each.place)
    _warn(results)
    folder = check_writable(out)
    with only_writer(folder):
        _write(folder, predictions)
    return predictions


def _check(folder: Path, result: Result, problems: Problems) -> list[Predictions]:
    """Read an experiment's files of predictions; what is wrong with them goes to `problems`."""
    task = all_tasks()[result.task]
    groups = [(task.predictions, result.predictions, result.value, result.predictions_sha256, folder)]
    if task.parts:
        by_name = {each.name: each for each in result.parts}
        absent = [part.name for part in task.parts if part.name not in by_name]
        if absent:
            raise MelHuBERTError(f"{folder}: no result of {', '.join(absent)}; {AGAIN}")
        groups = [
            (part.predictions, each.predictions, each.value, each.predictions_sha256, folder / part.name)
            for part in task.parts
            if (each := by_name[part.name])
        ]
    if task.second_test is not None and result.with_language_model is not None:
        second = result.with_language_model
        sha256 = second.get("predictions_sha256")
        groups.append((task.second_test.predictions, second["predictions"], second["value"], sha256, folder))
    checked = []
    for files, first, score, sha256, tested in groups:
        _, names = _read_lines(tested / TEST_UTTERANCES)
        found = sha256_of_predictions(folder / first, files, names)
        if None not in (found, sha256) and found != sha256:
            others = Kind("predictions that are not those of the score, as results.json has it", AGAIN)
            problems.add(others, str(folder / first))
        for file, path in zip(files, paths_of(folder / first, files), strict=True):
            content, lines = _read_lines(path, file.lines_of)
            empty, each_alone = 0, {}
            if file.of_utterances:
                empty = _check_lines(path, file, lines, names, problems)
            else:
                _check_whole(path, file, lines, problems)
            if file.utterances is not None:
                each_alone = _check_utterances(path.parent, file.utterances, names, problems)
            place = file.archive_path
            figures = result.metric, score, result.written(score)
            checked.append(Predictions(place, content, len(names), empty, *figures, each_alone))
    return checked


def _read_lines(path: Path, lines_of: Callable[[str], list[str]] = str.splitlines) -> tuple[bytes, list[str]]:
    """Read a text file; return its content as it is, and its lines."""
    try:
        content = path.read_bytes()
        lines = lines_of(content.decode("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MelHuBERTError(f"{path}: cannot be read ({reason}); {AGAIN}") from None
    if not lines:
        raise MelHuBERTError(f"{path}: is empty; {AGAIN}")
    return content, lines


def _check_lines(
    path: Path, file: PredictionFile, lines: Sequence[str], names: Sequence[str], problems: Problems
) -> int:
    """Compare a file of predictions with the test utterances; return how many hypotheses are empty."""
    malformed = Kind(f"{path}: lines that are not {file.lines.description}", AGAIN)
    found: Counter[str] = Counter()
    order: list[str] = []
    empty = 0
    for number, line in enumerate(lines, 1):
        name, prediction = file.lines.split(line)
        empty += not prediction
        found[name] += 1
        order.append(name)
        fault = file.lines.fault(prediction) if name else "no name"
        if fault is not None:
            problems.add(malformed, f"line {number}: {fault}")
    expected = Counter(names)  # a list of trials may hold a pair twice
    for what, at_fault in (
        ("test utterances that are missing", [name for name in names if name not in found]),
        ("names that are no test utterance's", [name for name in found if name and name not in expected]),
        (
            "names that are there more than once",
            [name for name in found if name and found[name] > max(1, expected[name])],
        ),
    ):
        for name in at_fault:
            problems.add(Kind(f"{path}: {what}", AGAIN), name)
    if file.in_order and found == expected and order != list(names):
        number = next(i for i, (here, there) in enumerate(zip(order, names, strict=True), 1) if here != there)
        moved = Kind(f"{path}: lines in another order than the corpus' test list", AGAIN)
        problems.add(moved, f"line {number}: {order[number - 1]}, expected {names[number - 1]}")
    return empty


def _check_whole(path: Path, file: PredictionFile, lines: Sequence[str], problems: Problems) -> None:
    """Check a file whose lines are not of single utterances."""
    fault = file.lines.fault(lines)
    if fault is not None:
        problems.add(Kind(f"{path}: is not {file.lines.description}", AGAIN), fault)


def _check_utterances(
    tested: Path, files: UtteranceFiles, names: Sequence[str], problems: Problems
) -> dict[str, bytes]:
    """Check files of single utterances; return their content by their places in the archive."""
    folder = tested / files.folder
    found: dict[str, bytes] = {}
    for name in names:
        try:
            content = (folder / f"{name}{files.suffix}").read_bytes()
        except OSError:
            problems.add(Kind(f"{folder}: test utterances that are missing", AGAIN), name)
            continue
        fault = files.fault(content)
        if fault is not None:
            problems.add(Kind(f"{folder}: files that are no predictions", AGAIN), f"{name}: {fault}")
        found[f"{files.archive_path}/{name}{files.suffix}"] = content
    return found


def _warn(results: Mapping[str, Result]) -> None:
    """Say what keeps the scores from being one model's, comparable with others'."""
    if not all(same_model(one, other) for one, other in combinations(results.values(), 2)):
        named = "; ".join(f"{task} {_model_in_words(result)}" for task, result in results.items())
        warnings.warn(f"a submission is of one model, these differ: {named}", MelHuBERTWarning, stacklevel=3)
    for task, result in results.items():
        if not result.comparable:
            warnings.warn(
                f"{task}: " + "\n".join(not_superbs(result.differences)), MelHuBERTWarning, stacklevel=3
            )
        test_size = all_tasks()[task].test_size
        if result.test_utterances != test_size:
            warnings.warn(
                f"{task}: {result.test_utterances} test utterances, where the leaderboard expects "
                f"SUPERB's {test_size}",
                MelHuBERTWarning,
                stacklevel=3,
            )


def _model_in_words(result: Result) -> str:
    """The model with all that tells it from another."""
    words = [result.label]
    if result.checkpoint_sha256:
        words.append(f"SHA-256 {result.checkpoint_sha256[:12]}")
    if result.upstream_config:
        words.append(f"-g {result.upstream_config}")
    if result.statistics:
        words.append(result.statistics)
    if result.precision:
        words.append(result.precision)
    return ", ".join(words)


def _write(out: Path, predictions: Sequence[Predictions]) -> None:
    """Write the archive and its files, and remove those that only an earlier submission had."""
    contents = {each.place: each.content for each in predictions}
    for each in predictions:
        contents.update(each.others)
    for folder in {(out / place).parent for place in contents}:
        check_writable(folder)
    for place, content in {**contents, ARCHIVE: _archive(contents)}.items():
        with atomic_path(out / place) as temporary:
            temporary.write_bytes(content)
    _remove_earlier(out, contents)


def _archive(contents: Mapping[str, bytes]) -> bytes:
    """A zip file; the same predictions make the same bytes, whenever and wherever they are packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, content in contents.items():
            entry = zipfile.ZipInfo(place, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def _remove_earlier(out: Path, contents: Mapping[str, bytes]) -> None:
    """Remove the files that an earlier submission had and this one has not, and folders that this empties."""
    for file in (file for task in all_tasks().values() for file in task.all_predictions):
        folder = (out / file.archive_path).parent
        earlier = [out / file.archive_path]
        if file.utterances is not None:
            folder = out / file.utterances.archive_path
            earlier += folder.glob(f"*{file.utterances.suffix}")
        for path in earlier:
            if path.relative_to(out).as_posix() not in contents:
                path.unlink(missing_ok=True)
        if file.archive_path not in contents:
            # It ends at one that is not there, or is not empty: the top one holds this submission's files.
            with suppress(OSError):
                for emptied in (folder, *folder.parents):
                    emptied.rmdir()
