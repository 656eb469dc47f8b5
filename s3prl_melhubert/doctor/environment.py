"""Checks of Python, of this package, and of the folder for downloads."""

from __future__ import annotations

import errno
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
from s3prl_melhubert.doctor.findings import TEMPORARY, Context, Finding
from s3prl_melhubert.doctor.mending import install_itself, is_checkout, reinstall
from s3prl_melhubert.doctor.requirements import DISTRIBUTION, OLDEST_PYTHON, installed_version
from s3prl_melhubert.support.writable import try_to_write


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
        # Unlike `Path.is_file`, this is also answered where a folder above may not be looked into.
        if copy != used and copy not in others and os.path.isfile(copy / "__init__.py"):
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
            # pip leaves alone what lies in folders of PYTHONPATH.
            entries = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
            of_variable = {Path(entry).resolve() for entry in entries}
            named = [copy.parent for copy in (used, *others) if copy.parent in of_variable]
            mend = f"unset PYTHONPATH  # or take {named[0]} out of it" if named else reinstall(DISTRIBUTION)
        yield Finding(
            "problem", f"{DISTRIBUTION}: two copies, {used} (used) and {', '.join(map(str, others))}", mend
        )
    else:
        yield Finding("ok", f"{DISTRIBUTION} {installed} ({how})")


def check_cache(context: Context) -> Iterator[Finding]:
    """Check the folder where s3prl keeps downloaded checkpoints."""
    try:
        home = Path.home()
    except RuntimeError:
        yield Finding(
            "problem", "no home folder for s3prl's downloads: HOME is not set", "export HOME=FOLDER"
        )
        return
    folder = home / ".cache" / "s3prl" / "download"
    place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    quoted = shlex.quote(str(place))
    if place.is_symlink() and not os.path.exists(place):
        target = os.path.realpath(place)
        yield Finding(
            "problem",
            f"{place}: a link to {target}, which is not there: no folder for s3prl's downloads",
            f"mkdir -p {shlex.quote(target)}  # or mount the disk that should be there",
        )
        return
    if not place.is_dir():
        yield Finding(
            "problem",
            f"{place}: a file, where a folder for s3prl's downloads should be",
            f"mv {quoted} {quoted}.old",
        )
        return
    try:
        try_to_write(place)
    except OSError as error:
        told = f"{place}: s3prl's downloads cannot be written there ({error.strerror or error})"
        yield Finding("problem", told, _way_to_write(place, home, error))
        return
    free = shutil.disk_usage(place).free
    yield Finding("ok", f"downloads go to {folder} ({free / 1e9:.0f} GB free)")


def _way_to_write(place: Path, home: Path, error: OSError) -> str:
    """The command that makes a folder writable; of folders above the home folder, nothing is changed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"df -h {shlex.quote(str(place))}  # and make space there"
    if error.errno not in (errno.EACCES, errno.EPERM) or home not in (place, *place.parents):
        return "export HOME=FOLDER"
    mine = not hasattr(os, "getuid") or place.stat().st_uid == os.getuid()
    quoted = shlex.quote(str(place))
    return f"chmod u+rwx {quoted}" if mine else f"sudo chown -R $USER {quoted}"


def check_temporary(context: Context) -> Iterator[Finding]:
    """Check the folder for temporary files."""
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:
        yield Finding("problem", str(error.strerror), "export TMPDIR=FOLDER")
        context.broken.add(TEMPORARY)
        return
    yield Finding("ok", f"temporary files go to {place} ({shutil.disk_usage(place).free / 1e9:.0f} GB free)")


def _is_editable() -> bool:
    """Tell whether pip installed the package as a link to a checkout."""
    try:
        origin = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        return bool(json.loads(origin or "{}").get("dir_info", {}).get("editable"))
    except (metadata.PackageNotFoundError, ValueError):
        return False
