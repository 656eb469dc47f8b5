"""Checks of Python, of this package, and of the folder for downloads."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import s3prl_melhubert
from s3prl_melhubert.doctor.findings import Context, Finding
from s3prl_melhubert.doctor.mending import install_itself, is_checkout, pip, python
from s3prl_melhubert.doctor.requirements import DISTRIBUTION, OLDEST_PYTHON, installed_version


def check_python(context: Context) -> Iterator[Finding]:
    """Check the version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        yield Finding("ok", f"Python {version} ({sys.executable})")
    else:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield Finding(
            "problem",
            f"Python {version}, expected {oldest} or newer",
            "python3.11 -m venv melhubert-env && melhubert-env/bin/python -m pip install s3prl-melhubert",
        )


def check_package(context: Context) -> Iterator[Finding]:
    """Check how this package is installed, and that there is one copy of it."""
    used = Path(s3prl_melhubert.__file__).resolve().parent
    others = []
    for entry in sys.path:
        copy = (Path(entry or ".") / "s3prl_melhubert").resolve()
        if copy != used and copy not in others and (copy / "__init__.py").is_file():
            others.append(copy)
    installed = installed_version(DISTRIBUTION)
    how = f"editable, {used.parent}" if _is_editable() else str(used.parent)
    if installed is None:
        yield Finding(
            "problem",
            f"{DISTRIBUTION} runs from {used.parent}, but is not installed, so s3prl will not know it",
            install_itself(used),
        )
    elif others:
        checkout = next((copy for copy in (used, *others) if is_checkout(copy)), None)
        if checkout is not None:
            mend = install_itself(checkout)  # It takes the place of the installed one.
        else:
            mend = f"{python()} -m pip uninstall -y {DISTRIBUTION} && {pip(DISTRIBUTION)}"
        yield Finding(
            "problem", f"{DISTRIBUTION}: two copies, {used} (used) and {', '.join(map(str, others))}", mend
        )
    else:
        yield Finding("ok", f"{DISTRIBUTION} {installed} ({how})")


def check_cache(context: Context) -> Iterator[Finding]:
    """Check the folder where s3prl keeps downloaded checkpoints."""
    try:
        folder = Path.home() / ".cache" / "s3prl" / "download"
    except RuntimeError:
        yield Finding(
            "problem", "no home folder for s3prl's downloads: HOME is not set", "export HOME=FOLDER"
        )
        return
    place = next(path for path in (folder, *folder.parents) if path.exists())
    quoted = shlex.quote(str(place))
    if not place.is_dir():
        yield Finding(
            "problem",
            f"{place}: a file, where a folder for s3prl's downloads should be",
            f"mv {quoted} {quoted}.old",
        )
        return
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        mine = not hasattr(os, "getuid") or place.stat().st_uid == os.getuid()
        yield Finding(
            "problem",
            f"{place}: s3prl's downloads cannot be written there ({error.strerror or error})",
            f"chmod u+rwx {quoted}" if mine else f"sudo chown -R $USER {quoted}",
        )
        return
    free = shutil.disk_usage(place).free
    yield Finding("ok", f"downloads go to {folder} ({free / 1e9:.0f} GB free)")


def _is_editable() -> bool:
    """Tell whether pip installed the package as a link to a checkout."""
    try:
        origin = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        return bool(json.loads(origin or "{}").get("dir_info", {}).get("editable"))
    except (metadata.PackageNotFoundError, ValueError):
        return False
