"""Thin files in a checkout of s3prl, through which its unmodified programs find this package.

    pretrain/melhubert/     holds __init__.py, pretrain_expert.py and the YAML files for run_pretrain.py
    upstream/melhubert/     holds __init__.py, hubconf.py and expert.py

Each folder also holds a list of what was written into it, with hashes. `unlink` removes these files and
nothing else, and neither command touches a folder of somebody else's or a file that was changed since.

A folder is written under a hidden name beside its place and then renamed, and renamed before it is removed.
So it is whole or not there, and after a kill either command can be given again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.settings import config_folder
from s3prl_melhubert.support.locks import only_writer

LIST = ".written-by-melhubert-link.json"
# The hidden names beside a folder, while it is written and while it is removed.
NEW, OLD = ".melhubert-link.new", ".melhubert-link.old"

_NOTE = "# Written by `melhubert link`; `melhubert unlink` removes it.\n"


def _contents() -> dict[str, dict[str, bytes]]:
    """Return what to write: the content by folder and file name."""

    def imports(what: str) -> bytes:
        return f"{_NOTE}{what}  # noqa: F401, F403\n".encode()

    def yaml(name: str) -> bytes:
        return _NOTE.encode() + (config_folder() / name).read_bytes()

    return {
        "pretrain/melhubert": {
            "__init__.py": _NOTE.encode(),
            "pretrain_expert.py": imports(
                "from s3prl_melhubert.pretrain.pretrain_expert import UpstreamPretrainExpert"
            ),
            "config_model.yaml": yaml("config_model.yaml"),
            "config_model_10ms.yaml": yaml("config_model_10ms.yaml"),
            "config_runner.yaml": yaml("config_s3prl_runner.yaml"),
            "config_runner_10ms.yaml": yaml("config_s3prl_runner_10ms.yaml"),
        },
        "upstream/melhubert": {
            "__init__.py": _NOTE.encode(),
            "hubconf.py": imports("from s3prl_melhubert.upstream_expert.hubconf import *"),
            "expert.py": imports("from s3prl_melhubert.upstream_expert.expert import UpstreamExpert"),
        },
    }


def link(checkout: str | Path) -> list[Path]:
    """Write the files into a checkout, or renew them after an update of this package.

    Args:
        checkout: the root of the repository, or the folder `s3prl` inside it.

    Returns:
        The folders that were written.

    Raises:
        MelHuBERTError: this is no checkout of s3prl, a folder `melhubert` there is not ours, or the checkout
            cannot be written, or another process is at work on it.
    """
    with _faults_in_one_line(checkout):
        root = _s3prl_folder(checkout)
        folders = {root / name: files for name, files in _contents().items()}
        with only_writer(root):
            for folder, files in folders.items():
                _check_ours(folder, files)
            for folder, files in folders.items():
                _write(folder, files)
        return list(folders)


def unlink(checkout: str | Path) -> list[Path]:
    """Remove what `link` wrote, and the caches that Python made of it.

    Args:
        checkout: the root of the repository, or the folder `s3prl` inside it.

    Returns:
        The folders that were removed, if there were any.

    Raises:
        MelHuBERTError: this is no checkout of s3prl, or a folder `melhubert` there holds something else than
            was written. Then nothing is removed. Or the checkout cannot be written, or another process is at
            work on it.
    """
    with _faults_in_one_line(checkout):
        root = _s3prl_folder(checkout)
        contents = {root / name: files for name, files in _contents().items()}
        with only_writer(root):
            folders = [folder for folder in contents if folder.exists() or folder.is_symlink()]
            for folder in folders:
                _check_ours(folder, contents[folder])
            for folder in contents:
                _remove(folder)
        return folders


@contextmanager
def _faults_in_one_line(checkout: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MelHuBERTError(
            f"{error.filename or checkout}: cannot be written or removed ({error.strerror or error}); "
            "make it writable or make space, and give the same command again"
        ) from None


def _s3prl_folder(checkout: str | Path) -> Path:
    given = Path(checkout).expanduser()
    for folder in (given, given / "s3prl"):
        if all((folder / name).exists() for name in ("run_pretrain.py", "pretrain", "upstream")):
            return folder
    raise MelHuBERTError(
        f"{checkout}: not a checkout of s3prl: neither it nor its folder s3prl has run_pretrain.py, "
        "pretrain/ and upstream/; with s3prl from pip use `melhubert run-pretrain`, which needs no link"
    )


def _check_ours(folder: Path, files: dict[str, bytes]) -> None:
    """Raise a MelHuBERTError if the folder holds anything but what `link` wrote there.

    Args:
        folder: the folder, which need not be there.
        files: what is written there today. It tells what is ours where there is no list: earlier versions
            left such a folder, or an empty one, when they were killed.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    foreign = MelHuBERTError(f"{folder}: not written by `melhubert link`; move it away, it is left untouched")
    if folder.is_symlink() or not folder.is_dir():
        raise foreign
    listed = (folder / LIST).is_file()
    try:
        hashes = json.loads((folder / LIST).read_text()) if listed else _hashes(files)
    except ValueError:
        raise foreign from None
    for path in sorted(folder.iterdir()):
        if path.name in ("__pycache__", LIST) or _is_temporary(path.name, hashes):
            continue
        known = path.name in hashes
        if known and hashlib.sha256(path.read_bytes()).hexdigest() == hashes[path.name]:
            continue
        if not listed:
            raise foreign
        if not known:
            raise MelHuBERTError(
                f"{path}: not written by `melhubert link`; move it away, nothing was changed"
            )
        raise MelHuBERTError(
            f"{path}: changed since `melhubert link` wrote it; keep your version elsewhere "
            "(run_pretrain.py takes it with -c or -g) and delete this one, nothing was changed"
        )


def _hashes(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _is_temporary(name: str, hashes: dict[str, str]) -> bool:
    """Whether a file is one that version 0.1.0 was writing when it was killed."""
    match = re.fullmatch(r"\.(.+)\.\w{8}\.\w+", name)
    return match is not None and match[1] in (LIST, *hashes)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a folder with its list, in place of the one that may be there."""
    new = folder.with_name(NEW)
    _remove_hidden(folder)
    try:
        new.mkdir()
        for name, content in {LIST: json.dumps(_hashes(files), indent=1).encode(), **files}.items():
            with (new / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(folder.with_name(OLD))
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _remove_hidden(folder)


def _remove(folder: Path) -> None:
    _remove_hidden(folder)
    if folder.exists():
        folder.rename(folder.with_name(OLD))
    _remove_hidden(folder)


def _remove_hidden(folder: Path) -> None:
    """Remove what is beside a folder under the hidden names, also of a command that was killed."""
    for hidden in (folder.with_name(NEW), folder.with_name(OLD)):
        if hidden.exists():
            shutil.rmtree(hidden)
