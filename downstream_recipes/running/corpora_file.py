"""`corpora.yaml`: where the corpora of several tasks are, and what of a task is not as for the others.

At the top stand arguments of tasks, without dashes; each is given to every task that has it. Under the key of
a task stand its own: they go before those at the top, and `lr`, `steps` and `override` before those of the
command line. A task is run where all arguments are there that it needs; `TASK: no` leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.running.options import read_rates
from s3prl_melhubert.downstream_recipes.task import Argument, Task, TaskOptions
from s3prl_melhubert.downstream_recipes.tasks import all_tasks
from s3prl_melhubert.errors import MelHuBERTError, shown
from s3prl_melhubert.support.settings import errors_of, read_yaml_mapping, refuse_unknown, typed

EXAMPLE = """\
# Arguments of tasks, for all that have them. Relative paths start at the folder of this file.
librispeech: LibriSpeech               # pr, asr
voxceleb: /data/VoxCeleb1              # sid, asv
fluent-commands: fluent_speech_commands_dataset

# A task's own. Its lr, steps and override go before those of the command line.
pr:
  lexicon: [librispeech-lexicon-200k.txt, librispeech-lexicon-allothers-g2p.txt]
sid:
  lr: [1e-1, 1e-2]
ks:
  speech-commands: speech_commands_v0.01
  override: config.runner.save_step=5000
asv: no                                # not this one, though its corpus is there
"""

OPTIONS = ("lr", "steps", "override")


@dataclass(frozen=True)
class CorpusOfTask:
    """What the file says of one task.

    Attributes:
        task: it is to be run.
        options: the values of its own arguments; paths are seen from the file's folder.
        rates: learning rates; None for those of the command line. So the next two.
        steps: of training.
        override: of s3prl's settings, after that of the command line.
    """

    task: Task[Any]
    options: TaskOptions
    rates: tuple[float, ...] | None = None
    steps: int | None = None
    override: str | None = None


def read_corpora(path: str | Path) -> list[CorpusOfTask]:
    """Read the file: the tasks that are to be run, in SUPERB's order.

    Raises:
        MelHuBERTError: it cannot be read, has an unknown key or a value that cannot be, lacks what a task
            that it names needs, or has no task's corpus.
    """
    path = Path(path).expanduser()
    content = read_yaml_mapping(path)
    tasks = all_tasks()
    shared = {argument.name: argument for task in tasks.values() for argument in task.all_arguments}
    refuse_unknown(content, [*tasks, *shared], str(path))
    with errors_of(str(path)):
        at_the_top = {
            name: _value(shared[name], value, path.parent)
            for name, value in content.items()
            if name in shared
        }
    found = []
    for key, task in tasks.items():
        section = content.get(key)
        if section is False:
            continue
        if section is not None and not isinstance(section, dict):
            raise MelHuBERTError(f"{path}, {key}: {shown(section)} found, expected its arguments, or no")
        own = _read(section or {}, task, path.parent, f"{path}, {key}")
        values = {each.name: at_the_top.get(each.name) for each in task.all_arguments} | dict(
            own.options.values
        )
        lacks = [each.name for each in task.all_arguments if each.required and values[each.name] is None]
        if lacks and section is not None:
            raise MelHuBERTError(
                f"{path}, {key}: no {', '.join(lacks)}, which {task.name} needs; give it here or at the top"
            )
        if not lacks:
            found.append(CorpusOfTask(task, TaskOptions(values), own.rates, own.steps, own.override))
    if not found:
        needed = sorted(name for name, argument in shared.items() if argument.required)
        raise MelHuBERTError(
            f"{path}: no task has its corpus here; give {', '.join(needed)}, or some of them"
        )
    return found


def _read(section: Mapping[str, Any], task: Task[Any], folder: Path, where: str) -> CorpusOfTask:
    arguments = {argument.name: argument for argument in task.all_arguments}
    refuse_unknown(section, [*arguments, *OPTIONS], where)
    given = {name: value for name, value in section.items() if value is not None}
    with errors_of(where):
        options = {
            name: _value(argument, given[name], folder)
            for name, argument in arguments.items()
            if name in given
        }
        return CorpusOfTask(
            task,
            TaskOptions(options),
            _rates(given["lr"]) if "lr" in given else None,
            typed("steps", given["steps"], "int") if "steps" in given else None,
            typed("override", given["override"], "str") if "override" in given else None,
        )


def _value(argument: Argument, value: Any, folder: Path) -> str | list[str] | bool | None:
    """Return the value of an argument as the command line would have it: a path, several, or yes and no."""
    if value is None:
        return None
    if argument.flag:
        return bool(typed(argument.name, value, "bool"))
    if argument.several:
        return [_seen_from(folder, each) for each in typed(argument.name, value, "tuple[str, ...]")]
    return _seen_from(folder, typed(argument.name, value, "str"))


def _seen_from(folder: Path, path: str) -> str:
    return str(folder / Path(path).expanduser())


def _rates(value: Any) -> tuple[float, ...]:
    """Return learning rates that are written as one number, as a list, or as on the command line."""
    words = value if isinstance(value, list) else [value]
    with errors_of("lr"):
        return read_rates(",".join(map(str, words)))
