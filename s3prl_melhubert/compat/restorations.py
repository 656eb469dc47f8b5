"""The names that s3prl 0.4.18 expects of its libraries and that today's versions removed, put back.

    restore()            puts back the rows of RESTORERS one after the other, each only where it is missing
    allow_schedules()    lets checkpoints hold learning rate schedules, which needs a module of s3prl itself
    restore_iteritems()  puts back a method of pandas', which only the programs that read tables load
    name_user()          the row that every `melhubert` command needs, too, whether or not it imports s3prl

The longer replacements are in `torchaudio_files` (load, info, save), `sox_effects`, `catalyst_samplers`,
`huggingface` and `shared_memory`.

`finder` calls `restore` when a program imports s3prl; other programs see nothing of it. A name that a library
still has, and that works, is left alone: with torchaudio 2.8 or huggingface_hub 0.x nothing of theirs is
replaced. The heavy libraries are imported inside the functions, when s3prl is about to import them anyway.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass
class Outcome:
    """What `restore` did, by the names of the rows."""

    restored: list[str] = field(default_factory=list)  # rows of which something was missing and is there now
    failed: dict[str, Exception] = field(default_factory=dict)  # the errors of rows that could not be


class Restorer(NamedTuple):
    """A row of the table."""

    name: str  # what s3prl uses
    restore: Callable[[], bool]  # puts it back; true if it was missing


def restore(without: Collection[str] = ()) -> Outcome:
    """Put back what is missing, except the rows named in `without`; a row that fails stops no other."""
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
    """Accept any backend that torchaudio ever had and do nothing: files are read through soundfile now."""


def get_audio_backend() -> str | None:
    """Name the one backend there is."""
    return "soundfile"


def list_audio_backends() -> list[str]:
    """List the one backend there is."""
    return ["soundfile"]


def _restore_audio_backend() -> bool:
    import torchaudio

    functions = (set_audio_backend, get_audio_backend, list_audio_backends)
    return _add_missing(torchaudio, {function.__name__: function for function in functions})


# torchaudio.load, info and save ----------------------------------------------------------------------


def _restore_load_and_save() -> bool:
    import torchaudio

    from s3prl_melhubert.compat.torchaudio_files import load, save

    # Up to 2.8 these functions come from torchaudio's own backends; from 2.9 on from its __init__, and
    # need TorchCodec. A function from anywhere else was put there on purpose.
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
    except Exception:  # FFmpeg's libraries are not installed, or not those that it was built for.
        return False
    return True


def _restore_info() -> bool:
    import torchaudio

    from s3prl_melhubert.compat.torchaudio_files import AudioMetaData, info

    return _add_missing(torchaudio, {"info": info, "AudioMetaData": AudioMetaData})


class _RestoredModule(types.ModuleType):
    """A library with names put back, which are put back again in a process that unpickles the library.

    joblib sends s3prl's functions to its worker processes by value, and the modules that they use by
    name alone. A worker would import torchaudio, but never s3prl, and would find the names missing.
    """

    def __reduce__(self):
        return _import_restored, (self.__name__,)


def _import_restored(name: str) -> types.ModuleType:
    from importlib import import_module

    restore()
    return import_module(name)


def _restore_in_workers() -> bool:
    import torchaudio

    from s3prl_melhubert.compat.torchaudio_files import info, load, save

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

    from s3prl_melhubert.compat import sox_effects

    name = "torchaudio.sox_effects"
    try:
        module = importlib.import_module(name)
        with warnings.catch_warnings():  # torchaudio 2.8 announces the removal.
            warnings.simplefilter("ignore")
            module.effect_names()
        return False
    except ModuleNotFoundError:
        module = types.ModuleType(name, "SoX effects without SoX, from s3prl_melhubert.compat.sox_effects.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    except Exception:  # torchaudio up to 2.8 has the module, but the system lacks libsox.
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


# catalyst.data.sampler -------------------------------------------------------------------------------


def _restore_catalyst_samplers() -> bool:
    from s3prl_melhubert.compat import catalyst_samplers

    return catalyst_samplers.restore()


# sox, the Python package -----------------------------------------------------------------------------


class Transformer:
    """A stand-in for the class of the package sox; s3prl's speaker verification imports it, and no more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the Python package sox is not installed: pip install sox")


def _restore_sox() -> bool:
    from importlib.machinery import ModuleSpec
    from importlib.util import find_spec

    if "sox" in sys.modules or find_spec("sox") is not None:
        return False
    module = types.ModuleType(
        "sox", "A stand-in for the package sox, from s3prl_melhubert.compat.restorations."
    )
    module.__spec__ = ModuleSpec("sox", loader=None)
    sys.modules["sox"] = module
    return _add_missing(module, {"Transformer": Transformer})


# huggingface_hub -------------------------------------------------------------------------------------


def _restore_huggingface_hub() -> bool:
    import huggingface_hub

    from s3prl_melhubert.compat.huggingface import HfFolder, Repository, restore

    former = restore(huggingface_hub)
    return _add_missing(huggingface_hub, {"HfFolder": HfFolder, "Repository": Repository}) or former


# torch.load of s3prl's own checkpoints ---------------------------------------------------------------


def _allow_arguments() -> bool:
    """Let checkpoints hold the command line's arguments, as s3prl's do: torch 2.6 began to refuse them."""
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
    if not hasattr(serialization, "add_safe_globals"):  # torch before 2.4 has no such list.
        return False
    new = [cls for cls in classes if cls not in serialization.get_safe_globals()]
    serialization.add_safe_globals(new)
    return bool(new)


# NumPy -----------------------------------------------------------------------------------------------


def _restore_numpy_aliases() -> bool:
    """Put back NumPy's former names of Python's types, used by the masking of WavLM and wav2vec 2.0."""
    import warnings

    import numpy

    with warnings.catch_warnings():  # NumPy 1.20 to 1.23 has the names, and warns.
        warnings.simplefilter("ignore")
        return _add_missing(numpy, {"int": int, "complex": complex})


# pandas ----------------------------------------------------------------------------------------------


def restore_iteritems() -> bool:
    """Put back `Series.iteritems`, which pandas 2.0 removed, for the corpora of s3prl-main."""
    import pandas

    return _add_missing(pandas.Series, {"iteritems": pandas.Series.items})


# distutils -------------------------------------------------------------------------------------------


def _restore_distutils() -> bool:
    """Put setuptools' copy of distutils where Python 3.12 ended its own, for s3prl's hub imports it.

    setuptools has a .pth line that does the same, but Python runs it in site-packages alone, not in a folder
    of PYTHONPATH or of another .pth file.
    """
    from importlib import import_module
    from importlib.util import find_spec

    name = "distutils"
    if name in sys.modules or find_spec(name) is not None:
        return False
    copy = import_module(f"setuptools._{name}")
    sys.modules.setdefault(name, copy)  # Importing setuptools for the first time has put it there already.
    return True


# The user --------------------------------------------------------------------------------------------


def name_user() -> bool:
    """Give the user a name in LOGNAME, and tell whether they had none.

    Of a container that was begun with some user's number (`docker run --user 1234`), the system knows no name
    for it. torch calls a folder after the user, and raises a KeyError when the first optimizer is made.
    """
    import getpass
    import os

    try:
        getpass.getuser()
    except (KeyError, OSError):  # the second since Python 3.13
        os.environ["LOGNAME"] = str(os.getuid())
        return True
    return False


def _restore_without_room() -> bool:
    from s3prl_melhubert.compat.shared_memory import restore_without_room

    return restore_without_room()


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
    Restorer("catalyst.data.sampler", _restore_catalyst_samplers),
    Restorer("sox", _restore_sox),
    Restorer("huggingface_hub.HfFolder", _restore_huggingface_hub),
    Restorer("torch.load", _allow_arguments),
    Restorer("numpy.int", _restore_numpy_aliases),
    Restorer("distutils", _restore_distutils),
    Restorer("the user's name", name_user),
    Restorer("batches without shared memory", _restore_without_room),
)
