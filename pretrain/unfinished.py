"""A folder that takes hours to fill: what is kept of an interrupted command, so that the same one continues.

While it works, a command keeps everything in `OUT/unfinished/`: what it was asked for (`recipe.json`), and
results of its parts. Finished parts move from there to their places in OUT by renaming, so that a kill leaves
nothing half-written outside `unfinished/`, and the last thing to be done is to remove it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.pretrain.layout import (
    DATASET,
    MANIFEST,
    DatasetInfo,
    Utterance,
    read_dataset_info,
    write_dataset_info,
    write_manifest,
)

FOLDER = "unfinished"
RECIPE = "recipe.json"
LOCK = "lock"


class Unfinished:
    """The `unfinished/` folder of an output folder, held by one process."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = out / FOLDER
        self.continued = False  # whether an earlier command was interrupted here

    def publish(self, name: str) -> None:
        """Move `unfinished/NAME` to `OUT/NAME`, over what may be there."""
        os.replace(self.folder / name, self.out / name)

    def subfolder(self, name: str) -> Path:
        """`unfinished/NAME/`."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def complete(self, utterances: Sequence[Utterance], info: DatasetInfo) -> None:
        """Write what describes the set, `dataset.yaml` last, because it says that all is there.

        Args:
            utterances: rows of the manifest, their paths relative to OUT.
            info: of which the counts are filled in here.
        """
        write_manifest(self.folder / MANIFEST, utterances)
        frames = sum(utterance.length for utterance in utterances)
        write_dataset_info(self.folder / DATASET, replace(info, utterances=len(utterances), frames=frames))
        self.publish(MANIFEST)
        self.publish(DATASET)
        self.remove()

    def remove(self) -> None:
        """Everything is in its place: remove `unfinished/`."""
        # A worker that outlived a killed command may still add a file to it.
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def unfinished_work(out: str | Path, recipe: Mapping[str, Any]) -> Iterator[Unfinished | None]:
    """Begin to fill a folder, or continue with it.

    Args:
        out: the folder; made if it is not there.
        recipe: everything that the result depends on, as JSON has it. Kept as `made_by` in `dataset.yaml`.

    Yields:
        The work; None if `out` is complete and was made from this recipe, so that nothing is to be done.

    Raises:
        MelHuBERTError: `out` was begun or made from another recipe, holds something else, cannot be
            written, or another process is at work on it.
    """
    out = Path(out)
    recipe = json.loads(json.dumps(recipe))  # tuples become lists, as they come back from a file
    work = Unfinished(out)
    try:
        if _is_complete(out, recipe):
            work.remove()
            yield None
            return
        if out.is_dir() and any(out.iterdir()) and not work.folder.is_dir():
            raise MelHuBERTError(
                f"{out}: not empty, and not begun by this command; give another --out, or empty it"
            )
        work.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work.folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise MelHuBERTError(
            f"{out}: another process is at work on this folder; wait for it, or end it"
        ) from None
    except OSError as error:
        raise MelHuBERTError(f"{out}: cannot be written ({error.strerror or error})") from None
    try:
        _check_recipe(work, recipe)
        yield work
    finally:
        lock.release()


def _is_complete(out: Path, recipe: Mapping[str, Any]) -> bool:
    if not (out / DATASET).is_file():
        return False
    made_by = read_dataset_info(out / DATASET).made_by
    if made_by != recipe:
        raise MelHuBERTError(
            f"{out}: holds a complete set that was made differently ({_difference(made_by, recipe)}); give "
            "another --out, or remove it"
        )
    return True


def _check_recipe(work: Unfinished, recipe: Mapping[str, Any]) -> None:
    path = work.folder / RECIPE
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if begun != recipe:
        raise MelHuBERTError(
            f"{work.out}: begun with other arguments ({_difference(begun, recipe)}); repeat those, give "
            "another --out, or remove the folder to begin anew"
        )
    work.continued = True
    _sweep(work.folder)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left of `atomic_path`."""
    for path in folder.rglob(".*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} {_short(before.get(key))} then, {_short(now.get(key))} now" for key in keys)


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
