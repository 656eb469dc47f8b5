"""`melhubert doctor`: what is wrong with this environment, and the command that mends it.

Nothing here imports torch, or anything else that may be broken: each library is tried in a process of its
own (`doctor_probes`), so that a crash there is a finding here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import site
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import s3prl_melhubert
from s3prl_melhubert.commands.doctor_probes import DISTRIBUTION, NEEDS, run_probe
from s3prl_melhubert.s3prl_plugin import AUTOLOAD

PTH = "s3prl_melhubert.pth"
OLDEST_PYTHON = (3, 10)
NEWEST_PAIR = "2.11"  # the newest torch for which PyPI has a torchaudio

# What pyproject.toml asks for: distribution -> the module to import, the versions.
REQUIRED = {
    "torch": ("torch", ">=2.4,<2.12"),
    "torchaudio": ("torchaudio", ">=2.4,<2.12"),
    "s3prl": ("s3prl", ">=0.4.18,<0.5"),
    "numpy": ("numpy", ""),
    "pyyaml": ("yaml", ""),
    "tqdm": ("tqdm", ""),
    "soundfile": ("soundfile", ""),
    "soxr": ("soxr", ""),
    "safetensors": ("safetensors", ""),
    "filelock": ("filelock", ""),
    "joblib": ("joblib", ""),
    "scikit-learn": ("sklearn", ""),
    "threadpoolctl": ("threadpoolctl", ""),
    "kaldiio": ("kaldiio", ""),
    "accelerate": ("accelerate", ">=1"),
    "matplotlib": ("matplotlib", ""),
    "gdown": ("gdown", ">=6.4"),
    # What s3prl's runners import and its own wheel does not ask for.
    "huggingface_hub": ("huggingface_hub", ""),
    "tensorboardX": ("tensorboardX", ""),
    "pandas": ("pandas", ""),
    "librosa": ("librosa", ""),
    "editdistance": ("editdistance", ""),
    "packaging": ("packaging", ""),
    "setuptools": ("setuptools", ""),
}
# These have checks of their own; `import s3prl` pulls torch in.
CHECKED_APART = ("torch", "torchaudio", "s3prl")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str  # ok, note, skipped, problem
    text: str
    mend: str = ""  # of a problem: the command


@dataclass
class Context:
    """What earlier checks have learned, for later ones."""

    broken: set[str] = field(default_factory=set)  # modules that cannot be imported
    torch: dict[str, Any] = field(default_factory=dict)  # what `probe_torch` told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # no arguments but --help


def run(args: argparse.Namespace) -> int:
    del args
    context = Context()
    problems = 0
    for title, check in CHECKS:
        if sys.stderr.isatty():
            print(f"...      {title}", end="\r", file=sys.stderr, flush=True)
        for finding in check(context):
            if sys.stderr.isatty():
                print("\033[K", end="", file=sys.stderr, flush=True)
            print(f"{finding.status:8} {finding.text}", flush=True)
            if finding.mend:
                print(f"{'':8} mend: {finding.mend}", flush=True)
            problems += finding.status == "problem"
    if problems:
        print(f"\n{problems} problem{'s' * (problems > 1)}; mend from the top, then run it again")
        return 1
    print("\nall is well")
    return 0


# --- the checks, in the order in which their problems should be mended ---


def check_python(context: Context) -> Iterator[Finding]:
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
    """The package itself: installed how, and once."""
    used = Path(s3prl_melhubert.__file__).resolve().parent
    others = []
    for entry in sys.path:
        copy = (Path(entry or ".") / "s3prl_melhubert").resolve()
        if copy != used and copy not in others and (copy / "__init__.py").is_file():
            others.append(copy)
    installed = _version(DISTRIBUTION)
    how = f"editable, {used.parent}" if _is_editable() else str(used.parent)
    if installed is None:
        yield Finding(
            "problem",
            f"{DISTRIBUTION} runs from {used.parent}, but is not installed, so s3prl will not know it",
            _install_itself(used),
        )
    elif others:
        checkout = next((copy for copy in (used, *others) if _is_checkout(copy)), None)
        if checkout is not None:
            mend = _install_itself(checkout)  # takes the place of the installed one
        else:
            mend = f"{_python()} -m pip uninstall -y {DISTRIBUTION} && {_pip(DISTRIBUTION)}"
        yield Finding(
            "problem", f"{DISTRIBUTION}: two copies, {used} (used) and {', '.join(map(str, others))}", mend
        )
    else:
        yield Finding("ok", f"{DISTRIBUTION} {installed} ({how})")


def check_torch(context: Context) -> Iterator[Finding]:
    version = _version("torch")
    probe = run_probe("torch")
    if probe.error:
        context.broken.add("torch")
        missing = version is None and probe.missing == "torch"
        text = "torch is not installed" if missing else f"torch {version} cannot be imported ({probe.error})"
        yield Finding("problem", text, _pair_command(None, force=not missing))
        return
    context.torch = probe.told[0]
    version = context.torch["version"]
    if not _in_range(version, REQUIRED["torch"][1]):
        yield Finding(
            "problem", f"torch {version} found, expected {REQUIRED['torch'][1]}", _pair_command(None)
        )
        return
    built = f"for CUDA {context.torch['cuda']}" if context.torch["cuda"] else "for the CPU only"
    yield Finding("ok", f"torch {version}, built {built}")


def check_torchaudio(context: Context) -> Iterator[Finding]:
    if "torch" in context.broken:
        context.broken.add("torchaudio")
        yield Finding("skipped", "torchaudio: needs torch")
        return
    torch, torchaudio = context.torch["version"], _version("torchaudio")
    probe = run_probe("torchaudio")
    if not probe.error:
        version = probe.told[0]["version"]
        if _in_range(version, REQUIRED["torchaudio"][1]):
            yield Finding("ok", f"torchaudio {version}")
        else:
            expected = REQUIRED["torchaudio"][1]
            yield Finding("problem", f"torchaudio {version} found, expected {expected}", _pair_command(torch))
        return
    context.broken.add("torchaudio")
    if torchaudio is None and probe.missing == "torchaudio":
        yield Finding("problem", "torchaudio is not installed", _pair_command(torch))
        return
    beside = f"torchaudio {torchaudio} beside torch {torch}"
    if torchaudio and _minor(torchaudio) != _minor(torch):
        # For example 2.11, which stays the newest, beside a newer torch.
        why = f"it was built for torch {_minor(torchaudio)}"
        mend = _pair_command(torch, force="+" in torch)
    elif re.search(r"lib(c10_cuda|torch_cuda|cudart)", probe.error):
        why = "torchaudio was built for CUDA, this torch for the CPU only"
        mend = _pair_command(torch, force=True) + "  (or take both from PyTorch's CPU index)"
    elif "different CUDA versions" in probe.error:
        why = "the two were built for different versions of CUDA"
        mend = _pair_command(torch, force=True)
    else:
        why = "it cannot be imported"
        mend = _pair_command(torch, force=True)
    yield Finding("problem", f"{beside}: {why} ({probe.error})", mend)


def check_libraries(context: Context) -> Iterator[Finding]:
    """Everything else that pyproject.toml asks for."""
    wanted = {name: module for name, (module, _) in REQUIRED.items() if name not in CHECKED_APART}
    errors = _import_errors(list(wanted.values()), context)
    good = []
    for name, module in wanted.items():
        spec = REQUIRED[name][1]
        version, error = _version(name), errors[module]
        if error:
            context.broken.add(module)
            if error.startswith(NEEDS):
                yield Finding("skipped", f"{name}: {error}")
            elif version is None:
                yield Finding("problem", f"{name} is not installed", _pip(name + spec))
            else:
                text = f"{name} {version} cannot be imported ({error})"
                yield Finding("problem", text, _pip("--force-reinstall", name + spec))
        elif version is not None and not _in_range(version, spec):
            yield Finding("problem", f"{name} {version} found, expected {spec}", _pip(name + spec))
        else:
            good.append(name)
    if good:
        yield Finding("ok", f"libraries: {', '.join(good)}")


def _import_errors(modules: list[str], context: Context) -> dict[str, str]:
    """What importing each module fails of, empty if it works."""
    # Some of them use torch if it is there; its crash is not theirs.
    hidden = ",".join(context.broken & {"torch", "torchaudio"})
    errors: dict[str, str] = {}
    while waiting := [module for module in modules if module not in errors]:
        probe = run_probe("modules", hidden, *waiting)
        errors.update({told["module"]: told["error"] for told in probe.told})
        if len(probe.told) < len(waiting):  # the next one ended the process; go on behind it
            errors[waiting[len(probe.told)]] = probe.error or "its import ended the process"
    return errors


def check_audio(context: Context) -> Iterator[Finding]:
    needed = {"numpy", "soundfile", "soxr"} & context.broken
    if needed:
        yield Finding("skipped", f"audio files: needs {', '.join(sorted(needed))}")
        return
    with tempfile.TemporaryDirectory() as folder:
        probe = run_probe("audio", folder)
    if probe.error:
        yield Finding(
            "problem",
            f"audio files cannot be written and read back ({probe.error})",
            _pip("--force-reinstall", "soundfile", "soxr"),
        )
    else:
        told = probe.told[0]
        yield Finding(
            "ok", f"audio files: libsndfile {told['libsndfile']} reads {', '.join(told['formats'])}"
        )


def check_hook(context: Context) -> Iterator[Finding]:
    """The .pth line that announces the package to s3prl at every start of Python."""
    probe = run_probe("hook")
    if probe.told and probe.told[0]["active"]:
        yield Finding("ok", f"s3prl is told of MelHuBERT when it is imported ({PTH})")
        return
    context.broken.add("hook")
    mend = _install_itself(Path(s3prl_melhubert.__file__).resolve().parent)
    if os.environ.get(AUTOLOAD) == "0":
        yield Finding("problem", f"{AUTOLOAD}=0 is set: s3prl is not told of MelHuBERT", f"unset {AUTOLOAD}")
        return
    site_folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    found = next(
        (f for f in map(Path, dict.fromkeys([*site_folders, *sys.path])) if (f / PTH).is_file()), None
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
    spec = REQUIRED["s3prl"][1]
    needs = sorted({"torch", "torchaudio", "hook"} & context.broken)
    if find_spec("s3prl") is None:
        yield Finding("problem", "s3prl is not installed", _pip(f"s3prl{spec}"))
        return
    if needs:
        names = " and ".join("the .pth file" if name == "hook" else name for name in needs)
        yield Finding("skipped", f"s3prl: needs {names}")
        return
    probe = run_probe("s3prl")
    for told in probe.told:
        if "warning" in told:
            yield Finding("problem", told["warning"], _pip("--upgrade", DISTRIBUTION))
        elif "version" in told and not _in_range(told["version"], spec):
            yield Finding("problem", f"s3prl {told['version']} found, expected {spec}", _pip(f"s3prl{spec}"))
    found = next((told for told in probe.told if "entries" in told), None)
    if found is None:
        if probe.missing and probe.missing != "s3prl":
            mend = _pip(probe.missing.partition(".")[0])
        else:
            mend = _pip("--force-reinstall", "--no-deps", f"s3prl{spec}")
        yield Finding("problem", f"`import s3prl.hub` fails ({probe.error})", mend)
    elif "melhubert" not in found["entries"]:
        mend = _install_itself(Path(s3prl_melhubert.__file__).resolve().parent)
        yield Finding("problem", f"s3prl.hub ({found['file']}) does not have the upstream melhubert", mend)
    else:
        version = next(told["version"] for told in probe.told if "version" in told)
        yield Finding(
            "ok",
            f"s3prl {version} has the upstream melhubert, with {len(found['entries']) - 1} more of its kind",
        )


def check_cuda(context: Context) -> Iterator[Finding]:
    if not context.torch:
        yield Finding("skipped", "CUDA: needs torch")
    elif context.torch["devices"]:
        yield Finding("ok", f"CUDA devices: {', '.join(context.torch['devices'])}")
    else:
        why = f" ({context.torch['warning']})" if context.torch["warning"] else ""
        yield Finding("note", f"torch sees no CUDA device{why}: the CPU will do the work")


def check_cache(context: Context) -> Iterator[Finding]:
    """The folder where s3prl keeps downloaded checkpoints."""
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


CHECKS: list[tuple[str, Callable[[Context], Iterator[Finding]]]] = [
    ("Python", check_python),
    (DISTRIBUTION, check_package),
    ("torch", check_torch),
    ("torchaudio", check_torchaudio),
    ("libraries", check_libraries),
    ("audio files", check_audio),
    ("the .pth file", check_hook),
    ("s3prl", check_s3prl),
    ("CUDA", check_cuda),
    ("the download folder", check_cache),
]


# --- versions and commands ---


def _version(distribution: str) -> str | None:
    """Its installed version as the package manager knows it."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """2.11.0+cu130 -> (2, 11, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def _minor(version: str) -> str:
    """2.11.0+cu130 -> 2.11."""
    return ".".join(map(str, _release(version)[:2]))


def _in_range(version: str, spec: str) -> bool:
    """Whether a version satisfies a requirement made of `>=` and `<` alone."""
    for clause in filter(None, spec.split(",")):
        operator, bound = ("<", clause[1:]) if clause.startswith("<") else (">=", clause[2:])
        if (_release(version) < _release(bound)) is not (operator == "<"):
            return False
    return True


def _python() -> str:
    return shlex.quote(sys.executable)


def _pip(*arguments: str) -> str:
    """The command that has pip install something for this very Python."""
    quoted = " ".join(map(shlex.quote, arguments))
    if find_spec("pip") is None:
        if shutil.which("uv"):
            return f"uv pip install --python {_python()} {quoted}"
        return f"{_python()} -m ensurepip && {_python()} -m pip install {quoted}"
    return f"{_python()} -m pip install {quoted}"


def _pair_command(torch: str | None, force: bool = False) -> str:
    """The command for a torchaudio that fits this torch, or for the newest pair of the two.

    Args:
        torch: the version that is there; None to replace it.
        force: install both anew, because one of them is the wrong build of the right version.
    """
    keep = torch is not None and _in_range(torch, REQUIRED["torch"][1])
    minor = _minor(torch) if torch is not None and keep else NEWEST_PAIR
    pair = [f"torch=={minor}.*", f"torchaudio=={minor}.*"]
    if force:
        return _pip("--force-reinstall", *pair)
    return _pip(*pair[1:]) if keep else _pip(*pair)


def _is_checkout(package: Path) -> bool:
    return (package.parent / "pyproject.toml").is_file()


def _install_itself(package: Path) -> str:
    if _is_checkout(package):
        return _pip("-e", str(package.parent))
    return _pip("--force-reinstall", "--no-deps", DISTRIBUTION)


def _is_editable() -> bool:
    try:
        origin = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        return bool(json.loads(origin or "{}").get("dir_info", {}).get("editable"))
    except (metadata.PackageNotFoundError, ValueError):
        return False
