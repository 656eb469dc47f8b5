"""s3prl's checkpoints of a downstream experiment: read as data, found by their steps."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from s3prl_melhubert.compat.experiments.saving import STATES
from s3prl_melhubert.downstream_recipes.running.digests import sha256_of_file, statistics_digest
from s3prl_melhubert.downstream_recipes.running.settings import WORKERS, flat
from s3prl_melhubert.errors import MelHuBERTError, named
from s3prl_melhubert.support.made_from import changes
from s3prl_melhubert.support.settings import read_yaml_mapping

SETTINGS = "upstream_model_config"  # s3prl's name of its -g
NUMBERED = re.compile(r"states-(\d+)\.ckpt")
POSITION = "position.pt"  # beside the checkpoints: what goes on from them as if nothing had happened


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint, all tensors to the CPU; one that holds more than tensors and settings is refused.

    A file of which the tensors are read is held against its checksums.

    Args:
        path: the file.
        mapped: whether the tensors stay on the disk, for who wants what is beside them.

    Raises:
        FileNotFoundError: there is none.
        MelHuBERTError: it cannot be read.
    """
    import torch

    from s3prl_melhubert.support.tensor_files import damage_in

    try:
        if not mapped and (damage := damage_in(path)):
            raise ValueError(damage)
        mapped = mapped and zipfile.is_zipfile(path)  # torch maps no files of its first format
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise MelHuBERTError(
            f"{path}: cannot be read as s3prl's checkpoint ({named(error)}); put a whole copy there, "
            "or train anew in another folder"
        ) from None


def refuse_of_another(
    path: Path,
    arguments: Mapping[str, Any],
    files: Mapping[str, str | None],
    settings: Mapping[str, Any],
    places: Collection[str],
) -> bool:
    """Look whether a checkpoint is of a training with these arguments and settings.

    s3prl's own program can write into any folder, also into that of an experiment. Of the settings of a
    downstream model only those that both have are compared, because some of s3prl's models take settings out
    while they read them; the number of processes is free.

    Args:
        path: of the checkpoint. One that cannot be read is named when it is used.
        arguments: s3prl's, by its names of them.
        files: those of its arguments that name files. They may have been moved, and are known by content.
        settings: s3prl's configuration, by its places.
        places: of the settings that hold paths. What lies there is known by other means: the corpus by its
            content, and a file of this package may be in another environment.

    Returns:
        Whether the checkpoint has other paths.

    Raises:
        MelHuBERTError: it is of another one.
    """
    try:
        content = read_checkpoint(path, mapped=True)
        given, configured = vars(content["Args"]), dict(flat(content["Config"]))
    except (MelHuBERTError, KeyError, TypeError, AttributeError):
        return False
    before = {f"args.{name}": given[name] for name in arguments if name in given}
    other = {name: given[name] for name in files if name in given and given[name] != files[name]}
    for name, there in other.items():
        is_same = _are_same_settings if name == SETTINGS else _is_same
        before |= {} if is_same(there, files[name]) else {f"args.{name}": there}
    for place, value in configured.items():
        if place in places:
            continue
        if place in settings or not place.startswith("downstream_expert."):
            before |= {} if place.endswith(WORKERS) else {f"config.{place}": value}
    now = {f"args.{name}": value for name, value in {**arguments, **files}.items()}
    now |= {f"config.{place}": value for place, value in settings.items()}
    for change in changes(before, {name: now.get(name) for name in before}):
        raise MelHuBERTError(
            f"{path}: is of another training than this experiment's ({change}); give another folder with -p, "
            "or put the experiment's own checkpoint back"
        )
    return bool(other) or any(
        configured[place] != settings.get(place) for place in places if place in configured
    )


def _is_same(before: str | None, now: str | None) -> bool:
    """Whether two paths may be of one file or folder; one that is gone may have been moved."""
    if before is None or now is None or not Path(now).exists():
        return before == now
    return not Path(before).exists() or sha256_of_file(before) == sha256_of_file(now)


def _are_same_settings(before: str | None, now: str | None) -> bool:
    """The same of an upstream's settings, which may name the same statistics by another path.

    Those that the recipe writes for `--precision` name them from the root on, and so differ in a copy.
    """
    same = _is_same(before, now)
    if same or before is None or now is None:
        return same
    try:
        one, other = read_yaml_mapping(before), read_yaml_mapping(now)
    except MelHuBERTError:
        return False
    if (one.pop("feature_stats", None) is None) != (other.pop("feature_stats", None) is None):
        return False
    digests = statistics_digest(before), statistics_digest(now)
    return one == other and (None in digests or digests[0] == digests[1])


def layer_weights(checkpoint: Mapping[str, Any]) -> list[float]:
    """The learned weights of the upstream's hidden states (their sum is 1); none where s3prl took one."""
    weights = checkpoint["Featurizer"].get("weights")
    return [] if weights is None else [round(weight, 6) for weight in weights.softmax(0).tolist()]


def weights_digest(path: Path, content: Mapping[str, Any] | None = None) -> str | None:
    """A SHA-256 of what is trained: the same also where the experiment, and so the paths in it, was moved.

    Args:
        path: a checkpoint's file.
        content: of the file, for who has read it already.

    Returns:
        None where there is no such file: of a layer's folder, where nothing is trained.
    """
    from s3prl_melhubert.support.tensor_files import content_hash

    if content is None and not path.is_file():
        return None
    content, tensors = content or read_checkpoint(path), {}
    for part in ("Featurizer", "Downstream", "Upstream"):
        for name, value in content.get(part, {}).items():
            if hasattr(value, "numel"):
                tensors[f"{part}.{name}"] = value
    return content_hash(tensors, {})


def refuse_changed(path: Path, tested: str | None, content: Mapping[str, Any] | None = None) -> None:
    """Raise MelHuBERTError where a checkpoint is not any more the one whose score a result has.

    Args:
        path: its file; where there is none, whoever needs it says so.
        tested: the `weights_digest` of the one that was tested; None in results of older versions.
        content: as in `weights_digest`.
    """
    if tested is not None and weights_digest(path, content) not in (None, tested):
        raise MelHuBERTError(
            f"{path}: has other weights than when it was tested, so that the score in results.json is not "
            "its; test again: `melhubert superb TASK ... --stage test`, or put the checkpoint back"
        )


def saved_steps(folder: Path) -> dict[int, Path]:
    """The checkpoints `states-STEP.ckpt` of a folder by their steps, the earliest first.

    Copies under longer names, such as `states-100-copy.ckpt`, are the user's: they are not used, nor removed.
    """
    named = ((NUMBERED.fullmatch(path.name), path) for path in folder.glob(STATES))
    return dict(sorted((int(match[1]), path) for match, path in named if match))
