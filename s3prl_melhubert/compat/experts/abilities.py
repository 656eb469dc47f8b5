"""What s3prl's code for a downstream task cannot do, told before anything begins.

s3prl finds out late. It looks for the method `inference` when the upstream and the corpus have been loaded,
and for a split of `eval_dataloaders` after the first `eval_step` steps, which are lost then. Which splits
there are is read in the code of the task's `get_dataloader`, which in s3prl has one of three forms:

    a method for each      eval(f"self.get_{split}_dataloader")()
    a chain of comparisons `if split == "train": return ...`, which ends with nothing, or by raising
    the task's settings    `SETTINGS` says where

Of code in another form nothing is said, so that whatever it can do works.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from s3prl_melhubert.errors import MelHuBERTError, said

CLASS = "DownstreamExpert"
NEEDED = ("get_dataloader", "log_records")  # which s3prl's runner calls in every mode but inference
METHOD = re.compile(r"get_(\w+)_dataloader")
# The section of `downstream_expert` with a setting for each split, and how the setting is called.
SETTINGS = {
    "asr": ("datarc", "{}"),
    "ctc": ("corpus", "{}"),
    "diarization": ("loaderrc", "{}_dir"),
    "speech_translation": ("datarc", "{}"),
}
RATE = 16000  # Hz, of the file of an inference


def refuse_beyond(args: Any, config: Mapping[str, Any]) -> None:
    """Raise MelHuBERTError where run_downstream.py is asked for what the task's code cannot do.

    Args:
        args: s3prl's, with which it begins.
        config: the settings with which it begins.
    """
    expert = _expert(args.downstream)
    if expert is None:
        return
    code = f"s3prl's {args.downstream} ({sys.modules[expert.__module__].__file__})"
    lacking = [name for name in NEEDED if not hasattr(expert, name)]
    if lacking:
        raise MelHuBERTError(
            f"-d {args.downstream}: {code} has no {' and no '.join(lacking)}, without which s3prl's runner "
            "cannot use it; name another task"
        )
    if args.mode == "train":
        refuse_unknown_splits(args.downstream, config)
    elif args.mode == "evaluate":
        splits = Splits(args.downstream, expert, config)
        splits.check("-t", args.evaluate_split, "name one of its own with -t")
    elif not hasattr(expert, "inference"):
        raise MelHuBERTError(
            f"-m inference: {code} has no inference; test it with -m evaluate, or train the task with "
            "`melhubert superb`, whose `melhubert superb predict EXP FILE` predicts with it"
        )
    elif not hasattr(expert, "load_audio"):
        _check_audio(args.evaluate_split)


def refuse_unknown_splits(task: str, config: Mapping[str, Any]) -> None:
    """Raise MelHuBERTError where a training would come to a split that the task does not have.

    Args:
        task: s3prl's name of it.
        config: the settings with which it is trained.
    """
    expert, runner = _expert(task), config.get("runner")
    if expert is None:
        return
    splits = Splits(task, expert, config)
    for setting, names in _splits_of_training(runner if isinstance(runner, Mapping) else {}):
        for name in names:
            splits.check(f"runner.{setting}", name, f"-o config.runner.{setting}=... gives others")


def _expert(task: str) -> Any:
    """The class of a task's code, or None where it cannot be imported: s3prl's own traceback shows why."""
    try:
        return getattr(import_module(f"s3prl.downstream.{task}.expert"), CLASS)
    except Exception:
        return None


def _splits_of_training(runner: Mapping[str, Any]) -> list[tuple[str, Sequence[Any]]]:
    """The settings of s3prl's runner that name splits, and the splits that it comes to."""
    found: list[tuple[str, Sequence[Any]]] = [("train_dataloader", [runner.get("train_dataloader", "train")])]
    interval, total, names = (runner.get(name) for name in ("eval_step", "total_steps", "eval_dataloaders"))
    is_reached = isinstance(interval, int) and isinstance(total, int) and 0 < interval <= total
    if is_reached and isinstance(names, list | tuple):
        found.append(("eval_dataloaders", names))
    return found


def _check_audio(path: str) -> None:
    """Raise MelHuBERTError unless s3prl reads the file of an inference as one channel of 16 kHz.

    s3prl asserts the rate without a word, and would lay the channels of a file one behind the other.
    """
    import torchaudio

    if not os.path.isfile(path):
        raise MelHuBERTError(f"-t {path}: no regular file, which s3prl demands; give one")
    try:
        header = torchaudio.info(path)
    except Exception as error:  # Each library that reads audio has errors of its own.
        raise MelHuBERTError(
            f"-t {path}: cannot be read as audio ({said(error)}); give another file"
        ) from None
    if header.sample_rate != RATE or header.num_channels != 1:
        raise MelHuBERTError(
            f"-t {path}: {header.sample_rate} Hz and {header.num_channels} channels found, where s3prl's "
            f"inference takes {RATE} Hz and one; convert it, such as with: ffmpeg -i {shlex.quote(path)} "
            f"-ar {RATE} -ac 1 OUT.wav"
        )


class Splits:
    """The splits of a task's corpus that s3prl's code knows.

    Args:
        task: s3prl's name of it.
        expert: the class `DownstreamExpert` of the task.
        config: the settings of the experiment.
    """

    def __init__(self, task: str, expert: type, config: Mapping[str, Any]):
        self.task, self.section = task, ""
        self.known = splits_in_code(expert)  # None where nobody can say
        if task not in SETTINGS:
            return
        section, self.setting = SETTINGS[task]
        settings = config.get("downstream_expert", {})
        self.known = settings.get(section) if isinstance(settings, Mapping) else None
        self.section = f"downstream_expert.{section}"

    def check(self, argument: str, name: Any, remedy: str) -> None:
        """Raise MelHuBERTError where the task certainly has no split of this name.

        Args:
            argument: that names it, in words.
            name: of the split.
            remedy: what to do, which ends the error.
        """
        if self.section and isinstance(self.known, Mapping):
            setting = self.setting.format(name)
            if setting not in self.known:
                raise MelHuBERTError(
                    f"{argument} {name}: {self.task} has no such split, because there is no setting "
                    f"{self.section}.{setting} (it has {', '.join(self._like_train(self.known))}); add it, "
                    f"or {remedy}"
                )
        elif not self.section and self.known is not None and name not in self.known:
            raise MelHuBERTError(
                f"{argument} {name}: s3prl's {self.task} has no such split (it has {', '.join(self.known)}); "
                f"{remedy}"
            )

    def _like_train(self, settings: Mapping[str, Any]) -> list[str]:
        """The settings that are written as that of the split `train` is, and most likely name splits, too."""
        train = self.setting.format("train")
        ending = self.setting.format("")
        return [
            str(name)
            for name, value in settings.items()
            if str(name).endswith(ending) and isinstance(value, type(settings.get(train)))
        ] or list(map(str, settings))


def splits_in_code(expert: type) -> list[str] | None:
    """The splits for which the code of a task has something, or None where it is in another form.

    Args:
        expert: the class `DownstreamExpert` of a task.
    """
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(expert.get_dataloader))).body  # type: ignore[attr-defined]
    except Exception:  # There is no source, or what s3prl calls is no function.
        return None
    if not isinstance(function, ast.FunctionDef) or len(function.args.args) < 2:
        return None
    if any(isinstance(node, ast.JoinedStr) and _names_method(node) for node in ast.walk(function)):
        return [match[1] for match in map(METHOD.fullmatch, dir(expert)) if match]
    return _compared(function.body, function.args.args[1].arg)


def _names_method(text: ast.JoinedStr) -> bool:
    """Whether an f-string is `self.get_{split}_dataloader`."""
    fixed = [part.value for part in text.values if isinstance(part, ast.Constant)]
    return fixed == ["self.get_", "_dataloader"]


def _compared(body: Sequence[ast.stmt], name: str) -> list[str] | None:
    """The texts with which a function compares a variable before it returns something.

    Args:
        body: its statements.
        name: of the variable.

    Returns:
        None where it does anything else, or returns something for every text.
    """
    found: list[str] = []
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):  # its docstring
            continue
        if isinstance(statement, ast.Raise):
            return found
        if not isinstance(statement, ast.If) or not isinstance(statement.body[-1], ast.Return):
            return None
        texts = _texts(statement.test, name)
        others = _compared(statement.orelse, name)
        if texts is None or others is None:
            return None
        found += [*texts, *others]
    return found


def _texts(test: ast.expr, name: str) -> list[str] | None:
    """The texts with which `name == TEXT` or `name in [TEXT, ...]` compares; None of another expression."""
    if (
        not isinstance(test, ast.Compare)
        or len(test.ops) != 1
        or not isinstance(test.ops[0], ast.Eq | ast.In)
    ):
        return None
    try:
        value = ast.literal_eval(test.comparators[0])
    except (ValueError, TypeError):
        return None
    if not isinstance(test.left, ast.Name) or test.left.id != name:
        return None
    if isinstance(test.ops[0], ast.Eq):
        value = [value]
    # A text after `in` has parts, of which any may be meant.
    if not isinstance(value, list | tuple | set) or not all(isinstance(text, str) for text in value):
        return None
    return list(value)
