"""Thin files in a checkout of s3prl, through which its unmodified programs find this package.

    pretrain/melhubert/     holds __init__.py, pretrain_expert.py and the YAML files for run_pretrain.py
    upstream/melhubert/     holds __init__.py, hubconf.py and expert.py

Each folder also holds a list of what was written into it, with hashes. `unlink` removes these files and
nothing else, and neither command touches a folder of somebody else's or a file that was changed since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.settings import config_folder
from s3prl_melhubert.support.files import atomic_path

LIST = ".written-by-melhubert-link.json"

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
        MelHuBERTError: this is no checkout of s3prl, or a folder `melhubert` there is not ours.
    """
    root = _s3prl_folder(checkout)
    folders = {root / name: files for name, files in _contents().items()}
    for folder in folders:
        _check_ours(folder)
    for folder, files in folders.items():
        _remove(folder)
        folder.mkdir()
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        # The list comes first, so that a link that was cut short can be undone.
        _write(folder / LIST, json.dumps(hashes, indent=1).encode())
        for name, content in files.items():
            _write(folder / name, content)
    return list(folders)


def unlink(checkout: str | Path) -> list[Path]:
    """Remove what `link` wrote, and the caches that Python made of it.

    Args:
        checkout: the root of the repository, or the folder `s3prl` inside it.

    Returns:
        The folders that were removed, if there were any.

    Raises:
        MelHuBERTError: this is no checkout of s3prl, or a folder `melhubert` there holds something else than
            was written. Then nothing is removed.
    """
    root = _s3prl_folder(checkout)
    folders = [root / name for name in _contents() if (root / name).exists() or (root / name).is_symlink()]
    for folder in folders:
        _check_ours(folder)
    for folder in folders:
        _remove(folder)
    return folders


def _s3prl_folder(checkout: str | Path) -> Path:
    given = Path(checkout).expanduser()
    for folder in (given, given / "s3prl"):
        if all((folder / name).exists() for name in ("run_pretrain.py", "pretrain", "upstream")):
            return folder
    raise MelHuBERTError(
        f"{checkout}: not a checkout of s3prl: neither it nor its folder s3prl has run_pretrain.py, "
        "pretrain/ and upstream/; with s3prl from pip use `melhubert run-pretrain`, which needs no link"
    )


def _check_ours(folder: Path) -> None:
    """Raise a MelHuBERTError if the folder holds anything but what `link` wrote there."""
    if not folder.exists() and not folder.is_symlink():
        return
    try:
        if folder.is_symlink():
            raise ValueError
        hashes = json.loads((folder / LIST).read_text())
    except (OSError, ValueError):
        raise MelHuBERTError(
            f"{folder}: not written by `melhubert link`; move it away, it is left untouched"
        ) from None
    for path in sorted(folder.iterdir()):
        if path.name in ("__pycache__", LIST):
            continue
        if path.name not in hashes:
            raise MelHuBERTError(
                f"{path}: not written by `melhubert link`; move it away, nothing was changed"
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != hashes[path.name]:
            raise MelHuBERTError(
                f"{path}: changed since `melhubert link` wrote it; keep your version elsewhere "
                "(run_pretrain.py takes it with -c or -g) and delete this one, nothing was changed"
            )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
