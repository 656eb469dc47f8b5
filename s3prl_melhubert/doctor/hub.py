"""Checks of the .pth file, which announces this package to s3prl, and of s3prl with it."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import s3prl_melhubert
from s3prl_melhubert.compat.finder import AUTOLOAD
from s3prl_melhubert.doctor.findings import Context, Finding
from s3prl_melhubert.doctor.mending import install_itself, pip
from s3prl_melhubert.doctor.probes import run_probe
from s3prl_melhubert.doctor.requirements import DISTRIBUTION, REQUIRED, in_range

PTH = "s3prl_melhubert.pth"


def check_hook(context: Context) -> Iterator[Finding]:
    """Check the .pth line that announces the package to s3prl at every start of Python."""
    probe = run_probe("hook")
    if probe.told and probe.told[0]["active"]:
        yield Finding("ok", f"s3prl is told of MelHuBERT when it is imported ({PTH})")
        return
    context.broken.add("hook")
    mend = install_itself(Path(s3prl_melhubert.__file__).resolve().parent)
    if os.environ.get(AUTOLOAD) == "0":
        yield Finding("problem", f"{AUTOLOAD}=0 is set: s3prl is not told of MelHuBERT", f"unset {AUTOLOAD}")
        return
    site_folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    found = next(
        (f for f in map(Path, dict.fromkeys([*site_folders, *sys.path])) if os.path.isfile(f / PTH)), None
    )
    if found is None:
        text = f"no {PTH} in {' or '.join(site_folders)}: s3prl is not told of MelHuBERT"
    elif str(found) not in site_folders:
        text = (
            f"{found / PTH} is in a folder whose .pth files Python does not run (pip's --target, or "
            "PYTHONPATH): s3prl is not told of MelHuBERT"
        )
    else:
        text = f"{found / PTH} does not act: s3prl is not told of MelHuBERT"
    yield Finding("problem", text, mend)


def check_s3prl(context: Context) -> Iterator[Finding]:
    """Check that s3prl can be imported and has the upstream melhubert."""
    spec = REQUIRED["s3prl"][1]
    needs = sorted({"torch", "torchaudio", "hook"} & context.broken)
    if find_spec("s3prl") is None:
        yield Finding("problem", "s3prl is not installed", pip(f"s3prl{spec}"))
        return
    if needs:
        names = " and ".join("the .pth file" if name == "hook" else name for name in needs)
        yield Finding("skipped", f"s3prl: needs {names}")
        return
    probe = run_probe("s3prl")
    for told in probe.told:
        if "warning" in told:
            yield Finding("problem", told["warning"], pip("--upgrade", DISTRIBUTION))
        elif "version" in told and not in_range(told["version"], spec):
            yield Finding("problem", f"s3prl {told['version']} found, expected {spec}", pip(f"s3prl{spec}"))
    found = next((told for told in probe.told if "entries" in told), None)
    if found is None:
        if probe.missing and probe.missing != "s3prl":
            mend = pip(probe.missing.partition(".")[0])
        else:
            mend = pip("--force-reinstall", "--no-deps", f"s3prl{spec}")
        yield Finding("problem", f"`import s3prl.hub` fails ({probe.error})", mend)
    elif "melhubert" not in found["entries"]:
        mend = install_itself(Path(s3prl_melhubert.__file__).resolve().parent)
        yield Finding("problem", f"s3prl.hub ({found['file']}) does not have the upstream melhubert", mend)
    else:
        version = next(told["version"] for told in probe.told if "version" in told)
        yield Finding(
            "ok",
            # Beside a checkout that is not installed, it is not the checkout's.
            f"s3prl {version} ({Path(found['file']).parent}) has the upstream melhubert, with "
            f"{len(found['entries']) - 1} more of its kind",
        )
