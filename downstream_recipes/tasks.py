"""The tasks that there are: every folder of this package whose `task.py` has a `TASK`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from s3prl_melhubert import downstream_recipes
from s3prl_melhubert.downstream_recipes.task import Task


def all_tasks() -> dict[str, Task[Any]]:
    """The tasks by key, in SUPERB's order."""
    files = [file for place in downstream_recipes.__path__ for file in Path(place).glob("*/task.py")]
    modules = [import_module(f"{downstream_recipes.__name__}.{file.parent.name}.task") for file in files]
    found: list[Task[Any]] = [module.TASK for module in modules]
    return {task.key: task for task in sorted(found, key=lambda task: task.column)}
