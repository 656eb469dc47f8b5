"""What s3prl 0.4.18 expects of its libraries and today's versions removed, put back.

    restore()            one row after the other of RESTORERS, each only where something is missing
    allow_schedules()    the last one, which needs a module of s3prl's: its learning rate schedules

What is put back is in `torchaudio_files` (load, info, save) and `sox_effects`, where it is more than a line.

`s3prl_plugin` calls `restore` when a program imports s3prl, and no program that does not. Where a
library still has a name, in a state to work, it is left alone: with torchaudio 2.8 or huggingface_hub 0.x
nothing of theirs is replaced. The heavy libraries are imported inside the functions, when s3prl is
about to import them anyway.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


@dataclass
class Outcome:
    """What `restore` did, by the names of the rows."""

    restored: list[str] = field(default_factory=list)  # something was missing and is there now
    failed: dict[str, Exception] = field(default_factory=dict)


class Restorer(NamedTuple):
    name: str  # what s3prl uses
    restore: Callable[[], bool]  # true if it was missing


def restore(without: Collection[str] = ()) -> Outcome:
    """Put back what is missing, except the rows named in `without`; one that fails stops no other."""
    outcome = Outcome()
    for row in RESTORERS:
        if row.name in without:
            continue
        try:
            if row.restore():
                outcome.restored.append(row.name)
        except Exception as error:
            outcome.failed[row.name] = error
    return outcome


# torchaudio's choice of a backend --------------------------------------------------------------------


def set_audio_backend(backend: str | None) -> None:
    """Accept any backend that torchaudio ever had: there is one way to read files now, `load` below."""


def get_audio_backend() -> str | None:
    return "soundfile"


def list_audio_backends() -> list[str]:
    return ["soundfile"]


def _restore_audio_backend() -> bool:
    import torchaudio

    functions = (set_audio_backend, get_audio_backend, list_audio_backends)
    return _add_missing(torchaudio, {function.__name__: function for function in functions})


# torchaudio.load, info and save ----------------------------------------------------------------------


def _restore_load_and_save() -> bool:
    import torchaudio

    from s3prl_melhubert.torchaudio_files import load, save

    # Up to 2.8 these functions come from torchaudio's own backends; from 2.9 on from its __init__, and
    # need TorchCodec. Whatever else stands here, somebody put there on purpose.
    unusable = [
        function
        for function in (load, save)
        if getattr(getattr(torchaudio, function.__name__, None), "__module__", "torchaudio") == "torchaudio"
    ]
    if not unusable or _torchcodec_works():
        return False
    for function in unusable:
        setattr(torchaudio, function.__name__, function)
    return True


def _torchcodec_works() -> bool:
    from importlib.util import find_spec

    if find_spec("torchcodec") is None:
        return False
    try:
        import torchcodec.decoders
        import torchcodec.encoders  # noqa: F401
    except Exception:  # it is installed but FFmpeg's libraries are not, or not those it was built for
        return False
    return True


def _restore_info() -> bool:
    import torchaudio

    from s3prl_melhubert.torchaudio_files import AudioMetaData, info

    return _add_missing(torchaudio, {"info": info, "AudioMetaData": AudioMetaData})


class _RestoredModule(types.ModuleType):
    """A library with names put back, which is put right again wherever it is unpickled.

    joblib sends s3prl's functions to its worker processes by value, and the modules that they use by
    name alone: a worker would import torchaudio, never s3prl, and find the names missing.
    """

    def __reduce__(self):
        return _import_restored, (self.__name__,)


def _import_restored(name: str) -> types.ModuleType:
    from importlib import import_module

    restore()
    return import_module(name)


def _restore_in_workers() -> bool:
    import torchaudio

    from s3prl_melhubert.torchaudio_files import info, load, save

    ours = (set_audio_backend, load, save, info)
    if isinstance(torchaudio, _RestoredModule):
        return False
    if not any(getattr(torchaudio, function.__name__, None) is function for function in ours):
        return False
    torchaudio.__class__ = _RestoredModule
    return True


# torchaudio.sox_effects ------------------------------------------------------------------------------


def _restore_sox_effects() -> bool:
    import importlib
    import importlib.machinery
    import warnings

    import torchaudio

    from s3prl_melhubert import sox_effects

    name = "torchaudio.sox_effects"
    try:
        module = importlib.import_module(name)
        with warnings.catch_warnings():  # 2.8 announces the removal
            warnings.simplefilter("ignore")
            module.effect_names()
        return False
    except ModuleNotFoundError:
        module = types.ModuleType(name, "SoX effects without SoX, from s3prl_melhubert.sox_effects.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    except Exception:  # torchaudio up to 2.8 has the module, but the system lacks libsox
        module = sys.modules[name]
    for function in (
        sox_effects.apply_effects_file,
        sox_effects.apply_effects_tensor,
        sox_effects.effect_names,
        sox_effects.init_sox_effects,
        sox_effects.shutdown_sox_effects,
    ):
        setattr(module, function.__name__, function)
    sys.modules[name] = torchaudio.sox_effects = module
    return True


# huggingface_hub -------------------------------------------------------------------------------------


class HfFolder:
    """The token on this machine, as huggingface_hub before 1.0 gave access to it."""

    @staticmethod
    def get_token() -> str | None:
        import huggingface_hub

        return huggingface_hub.get_token()

    @staticmethod
    def save_token(token: str) -> None:
        path = HfFolder._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(token)

    @staticmethod
    def delete_token() -> None:
        HfFolder._path().unlink(missing_ok=True)

    @staticmethod
    def _path() -> Path:
        # huggingface_hub.login would do, but asks the Hub whether the token is good.
        from huggingface_hub import constants

        return Path(constants.HF_TOKEN_PATH)


class Repository:
    """In place of huggingface_hub's clone of a repository, which ended with version 1.0."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            "huggingface_hub 1.0 ended Repository, with which s3prl's --push_to_hf_hub uploads; the "
            "experiment is complete on disk: upload it with `hf upload USER/NAME EXPDIR`"
        )


def _restore_huggingface_hub() -> bool:
    import huggingface_hub

    return _add_missing(huggingface_hub, {"HfFolder": HfFolder, "Repository": Repository})


# torch.load of s3prl's own checkpoints ---------------------------------------------------------------


def _allow_arguments() -> bool:
    """s3prl's checkpoints hold the command line's arguments; torch.load refuses the type since 2.6."""
    from argparse import Namespace

    return _add_safe_globals([Namespace])


def allow_schedules(optimizers: types.ModuleType | None) -> bool:
    """Let torch.load accept the schedules of s3prl's `optimizers`, loaded under either of its names.

    BertAdam and Lamb keep theirs in the optimizer's state, so it is part of every checkpoint.
    """
    schedule = getattr(optimizers, "_LRSchedule", None)
    if schedule is None:
        return False
    classes = [
        value
        for value in vars(optimizers).values()
        if isinstance(value, type) and issubclass(value, schedule)
    ]
    return _add_safe_globals(classes)


def _add_safe_globals(classes: list[Any]) -> bool:
    import torch

    serialization = torch.serialization
    if not hasattr(serialization, "add_safe_globals"):  # before 2.4
        return False
    new = [cls for cls in classes if cls not in serialization.get_safe_globals()]
    serialization.add_safe_globals(new)
    return bool(new)


# NumPy -----------------------------------------------------------------------------------------------


def _restore_numpy_aliases() -> bool:
    """The masking of WavLM, wav2vec 2.0 and LightHuBERT calls Python's int by NumPy's former name."""
    import warnings

    import numpy

    with warnings.catch_warnings():  # 1.20 to 1.23 have the names, and warn
        warnings.simplefilter("ignore")
        return _add_missing(numpy, {"int": int, "complex": complex})


def _add_missing(module: Any, values: dict[str, Any]) -> bool:
    """Set the attributes that `module` lacks; true if there were any."""
    missing = [name for name in values if not hasattr(module, name)]
    for name in missing:
        setattr(module, name, values[name])
    return bool(missing)


RESTORERS: tuple[Restorer, ...] = (
    Restorer("torchaudio.set_audio_backend", _restore_audio_backend),
    Restorer("torchaudio.load", _restore_load_and_save),
    Restorer("torchaudio.info", _restore_info),
    Restorer("torchaudio in worker processes", _restore_in_workers),
    Restorer("torchaudio.sox_effects", _restore_sox_effects),
    Restorer("huggingface_hub.HfFolder", _restore_huggingface_hub),
    Restorer("torch.load", _allow_arguments),
    Restorer("numpy.int", _restore_numpy_aliases),
)
