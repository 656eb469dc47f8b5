"""The relative paths of an experiment, which name other files when it goes on in another folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from s3prl_melhubert.support.files import PATHS_AS_TYPED, full_path_of_file
from s3prl_melhubert.support.progress import say

# The arguments of run_downstream.py that may name a file or folder to read, as they are typed.
READ = {"upstream_ckpt": "-k", "upstream_model_config": "-g"}
# The upstreams whose `-k` is a repository, a URL or an id, even where there is a folder of that name.
NO_FILES = ("melhubert_hf", "melhubert_url", "melhubert_gdriveid")
# What the names of settings have in them that hold paths; others may hold the name of a split, say.
OF_PATHS = ("path", "root", "file", "dir")


def make_absolute(args: Any) -> None:
    """Have a new experiment's arguments name its upstream's files from the root on; the others stay.

    What was typed is kept beside them, for an experiment that is moved together with these files.
    """
    typed = {}
    for name in READ:
        path = getattr(args, name)
        if isinstance(path, str) and (name != "upstream_ckpt" or args.upstream not in NO_FILES):
            setattr(args, name, full_path_of_file(path))
            if getattr(args, name) != path:
                typed[name] = path
    if typed:
        setattr(args, PATHS_AS_TYPED, typed)


def find_moved(argument: str, args: Any) -> None:
    """Take the upstream's files by the paths that were typed, where those from the root on lead nowhere.

    Args:
        argument: that names the experiment, in words.
        args: with which s3prl goes on.
    """
    for name, typed in getattr(args, PATHS_AS_TYPED, {}).items():
        path = getattr(args, name, None)
        if isinstance(path, str) and not os.path.exists(path) and os.path.exists(typed):
            setattr(args, name, full_path_of_file(typed))
            say(f"{argument}: {READ[name]} {path} is not there any more; {typed} is taken in its place")


def same_folder(recorded: str, holds: str) -> bool:
    """Whether an experiment certainly began in this folder: it names its own by a path that is right here.

    Args:
        recorded: the folder that the checkpoint names.
        holds: the folder of the checkpoint.
    """
    return not os.path.isabs(recorded) and os.path.realpath(recorded) == os.path.realpath(holds)


def tell(argument: str, args: Any, config: Mapping[str, Any]) -> None:
    """Tell which relative paths of an experiment lead to something from this folder.

    Args:
        argument: that names the experiment, in words.
        args: with which s3prl goes on.
        config: the settings with which it goes on, of which any may be a path.
    """
    given = [(option, getattr(args, name, None)) for name, option in READ.items()]
    settings = [
        (name, value)
        for name, value in _settings(config)
        if "/" in str(value) or any(part in name.rpartition(".")[2] for part in OF_PATHS)
    ]
    found = [f"{name} {value}" for name, value in [*given, *settings] if _leads_somewhere(value)]
    if found:
        say(
            f"{argument}: {', '.join(found)}: looked for in {os.getcwd()}, where the experiment may not have "
            "begun; go on in its folder, or name others with -o args.upstream_ckpt=FILE,,config.KEY=FILE"
        )


def _settings(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{above}{name}.")
        else:
            for each in value if isinstance(value, list) else [value]:
                yield f"{above}{name}", each


def _leads_somewhere(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not os.path.isabs(value) and os.path.exists(value)
