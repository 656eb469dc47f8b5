"""The commands that mend an environment, to be copied into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from s3prl_melhubert.doctor.requirements import DISTRIBUTION, NEWEST_PAIR, REQUIRED, in_range, minor


def python() -> str:
    """Return this Python, quoted for a shell."""
    return shlex.quote(sys.executable)


def pip(*arguments: str) -> str:
    """Return the command that has pip install something for this very Python."""
    return _pip_or_uv("install", arguments)


def reinstall(distribution: str) -> str:
    """Return the command that takes away what is installed of a distribution, and installs it anew."""
    yes = () if _is_for_uv() else ("-y",)  # uv does not ask.
    return f"{_pip_or_uv('uninstall', (*yes, distribution))} && {pip(distribution)}"


def _is_for_uv() -> bool:
    return find_spec("pip") is None and shutil.which("uv") is not None


def _pip_or_uv(command: str, arguments: Sequence[str]) -> str:
    quoted = " ".join(map(shlex.quote, arguments))
    if _is_for_uv():
        return f"uv pip {command} --python {python()} {quoted}"
    first = f"{python()} -m ensurepip && " if find_spec("pip") is None else ""
    return f"{first}{python()} -m pip {command} {quoted}"


def pair_command(torch: str | None, force: bool = False) -> str:
    """Return the command for a torchaudio that fits this torch, or for the newest pair of the two.

    Args:
        torch: the version that is there; None to replace it.
        force: whether to install both anew, because one of them is the wrong build of the right version.
    """
    keep = torch is not None and in_range(torch, REQUIRED["torch"][1])
    release = f"{minor(torch)}.*" if torch is not None and keep else NEWEST_PAIR
    if minor(release) == minor(NEWEST_PAIR):
        release = NEWEST_PAIR
    pair = [f"torch=={release}", f"torchaudio=={release}"]
    if force:
        return pip("--force-reinstall", *pair)
    return pip(*pair[1:]) if keep else pip(*pair)


def is_checkout(package: Path) -> bool:
    """Tell whether a copy of the package lies in a checkout."""
    return (package.parent / "pyproject.toml").is_file()


def install_itself(package: Path) -> str:
    """Return the command that installs the copy of the package that lies in this folder."""
    if is_checkout(package):
        return pip("-e", str(package.parent))
    return pip("--force-reinstall", "--no-deps", DISTRIBUTION)
