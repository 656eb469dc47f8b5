"""Checks of torch, torchaudio and the other libraries: each is imported in a process of its own."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator

from s3prl_melhubert.doctor.findings import TEMPORARY, Context, Finding
from s3prl_melhubert.doctor.mending import pair_command, pip
from s3prl_melhubert.doctor.probes import NEEDS, run_probe
from s3prl_melhubert.doctor.requirements import (
    CHECKED_APART,
    KENLM,
    NO_KENLM_WHEEL,
    REQUIRED,
    in_range,
    installed_version,
    minor,
)


def check_torch(context: Context) -> Iterator[Finding]:
    """Check that torch can be imported, and its version."""
    version = installed_version("torch")
    probe = run_probe("torch")
    if probe.error:
        context.broken.add("torch")
        missing = version is None and probe.missing == "torch"
        text = "torch is not installed" if missing else f"torch {version} cannot be imported ({probe.error})"
        yield Finding("problem", text, pair_command(None, force=not missing))
        return
    context.torch = probe.told[0]
    version = context.torch["version"]
    if not in_range(version, REQUIRED["torch"][1]):
        yield Finding(
            "problem", f"torch {version} found, expected {REQUIRED['torch'][1]}", pair_command(None)
        )
        return
    built = f"for CUDA {context.torch['cuda']}" if context.torch["cuda"] else "for the CPU only"
    yield Finding("ok", f"torch {version}, built {built}")


def check_torchaudio(context: Context) -> Iterator[Finding]:
    """Check that torchaudio can be imported beside this torch, and why not."""
    if "torch" in context.broken:
        context.broken.add("torchaudio")
        yield Finding("skipped", "torchaudio: needs torch")
        return
    torch, torchaudio = context.torch["version"], installed_version("torchaudio")
    probe = run_probe("torchaudio")
    if not probe.error:
        version = probe.told[0]["version"]
        if in_range(version, REQUIRED["torchaudio"][1]):
            yield Finding("ok", f"torchaudio {version}")
        else:
            expected = REQUIRED["torchaudio"][1]
            yield Finding("problem", f"torchaudio {version} found, expected {expected}", pair_command(torch))
        return
    context.broken.add("torchaudio")
    if torchaudio is None and probe.missing == "torchaudio":
        yield Finding("problem", "torchaudio is not installed", pair_command(torch))
        return
    beside = f"torchaudio {torchaudio} beside torch {torch}"
    if torchaudio and minor(torchaudio) != minor(torch):
        # PyPI's newest torchaudio is 2.11, so it often stands beside a newer torch.
        why = f"it was built for torch {minor(torchaudio)}"
        mend = pair_command(torch, force="+" in torch)
    elif torchaudio and not in_range(torchaudio, REQUIRED["torchaudio"][1]):
        why = f"expected {REQUIRED['torchaudio'][1]}"
        mend = pair_command(torch)
    elif re.search(r"lib(c10_cuda|torch_cuda|cudart)", probe.error):
        why = "torchaudio was built for CUDA, this torch for the CPU only"
        mend = pair_command(torch, force=True) + "  (or take both from PyTorch's CPU index)"
    elif "different CUDA versions" in probe.error:
        why = "the two were built for different versions of CUDA"
        mend = pair_command(torch, force=True)
    else:
        why = "it cannot be imported"
        mend = pair_command(torch, force=True)
    yield Finding("problem", f"{beside}: {why} ({probe.error})", mend)


def check_libraries(context: Context) -> Iterator[Finding]:
    """Check everything else that pyproject.toml asks for."""
    wanted = {name: module for name, (module, _) in REQUIRED.items() if name not in CHECKED_APART}
    errors = _import_errors(list(wanted.values()), context)
    good = []
    for name, module in wanted.items():
        spec = REQUIRED[name][1]
        version, error = installed_version(name), errors[module]
        if error:
            context.broken.add(module)
            if error.startswith(NEEDS):
                yield Finding("skipped", f"{name}: {error}")
            elif version is None:
                yield Finding("problem", f"{name} is not installed", pip(name + spec))
            else:
                text = f"{name} {version} cannot be imported ({error})"
                yield Finding("problem", text, pip("--force-reinstall", name + spec))
        elif version is not None and not in_range(version, spec):
            yield Finding("problem", f"{name} {version} found, expected {spec}", pip(name + spec))
        else:
            good.append(name)
    if good:
        yield Finding("ok", f"libraries: {', '.join(good)}")


def check_language_model(context: Context) -> Iterator[Finding]:
    """Note where s3prl's ASR cannot decode with a language model, which no other work needs."""
    name = "flashlight-text"
    error = _import_errors([KENLM], context)[KENLM]
    version = installed_version(name)
    if not error:
        yield Finding("ok", f"{name} {version} decodes speech recognition with a language model")
    elif sys.version_info >= NO_KENLM_WHEEL:
        found = ".".join(map(str, sys.version_info[:2]))
        yield Finding(
            "note",
            f"{name} has no wheel for Python {found}: a language model needs Python 3.10 to 3.12",
        )
    elif version is None:
        yield Finding("note", f"{name} is not installed: decoding with a language model needs `{pip(name)}`")
    else:
        again = pip("--force-reinstall", name)
        yield Finding("problem", f"{name} {version} cannot be imported ({error})", again)


def _import_errors(modules: list[str], context: Context) -> dict[str, str]:
    """Return the error with which importing each module fails, empty where it works."""
    # Some of the modules use torch if it is there; they are not to blame for its crash.
    hidden = ",".join(context.broken & {"torch", "torchaudio"})
    errors: dict[str, str] = {}
    while waiting := [module for module in modules if module not in errors]:
        probe = run_probe("modules", hidden, *waiting)
        errors.update({told["module"]: told["error"] for told in probe.told})
        if len(probe.told) < len(waiting):  # The next module ended the process; go on behind it.
            errors[waiting[len(probe.told)]] = probe.error or "its import ended the process"
    return errors


def check_audio(context: Context) -> Iterator[Finding]:
    """Check that audio files can be written and read back."""
    needed = {"numpy", "soundfile", "soxr", TEMPORARY} & context.broken
    if needed:
        yield Finding("skipped", f"audio files: needs {', '.join(sorted(needed))}")
        return
    with tempfile.TemporaryDirectory() as folder:
        probe = run_probe("audio", folder)
    if probe.error:
        yield Finding(
            "problem",
            f"audio files cannot be written and read back ({probe.error})",
            pip("--force-reinstall", "soundfile", "soxr"),
        )
    else:
        told = probe.told[0]
        yield Finding(
            "ok", f"audio files: libsndfile {told['libsndfile']} reads {', '.join(told['formats'])}"
        )


def check_cuda(context: Context) -> Iterator[Finding]:
    """Tell the CUDA devices that torch sees."""
    if not context.torch:
        yield Finding("skipped", "CUDA: needs torch")
    elif context.torch["devices"]:
        yield Finding("ok", f"CUDA devices: {', '.join(context.torch['devices'])}")
    else:
        why = f" ({context.torch['warning']})" if context.torch["warning"] else ""
        yield Finding("note", f"torch sees no CUDA device{why}: the CPU will do the work")
