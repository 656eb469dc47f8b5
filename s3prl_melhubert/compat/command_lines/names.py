"""The names of what s3prl has: downstream tasks and upstreams."""

from __future__ import annotations

import pkgutil
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.settings import nearest


def check_task(task: str | None) -> None:
    """Raise MelHuBERTError unless s3prl has code for the downstream task."""
    if task is None:
        raise MelHuBERTError("no -d: name the downstream task, such as -d ctc")
    folder = import_module("s3prl.downstream")
    module = f"{folder.__name__}.{task}.expert"
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError as error:
        found = not f"{module}.".startswith(f"{error.name}.")  # Otherwise, a library of the task is missing.
    except Exception:
        found = True  # s3prl fails in the same way, and its traceback shows where.
    if not found:
        known = [each.name for each in pkgutil.iter_modules(folder.__path__) if each.ispkg]
        raise MelHuBERTError(f"-d {task}: s3prl has no such downstream task ({nearest(task, known)})")


def check_upstream_name(upstream: str | None) -> None:
    """Raise MelHuBERTError unless s3prl has the upstream."""
    if upstream is None:
        raise MelHuBERTError("no -u: name the upstream, such as -u melhubert")
    hub = import_module("s3prl.hub")
    if hasattr(hub, upstream):
        return
    close = get_close_matches(upstream, [name for name in dir(hub) if not name.startswith("_")])
    raise MelHuBERTError(
        f"-u {upstream}: s3prl has no such upstream"
        + (f"; did you mean {', '.join(close)}?" if close else "")
    )
