"""The folder of a run: one run is at work there, and it notes its settings there for --resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.beginning.joining import launch
from s3prl_melhubert.pretrain.training.checkpointing import LAST, NUMBERED
from s3prl_melhubert.pretrain.training.settings import Settings
from s3prl_melhubert.support.files import write_text
from s3prl_melhubert.support.locks import only_writer
from s3prl_melhubert.support.settings import read_yaml_mapping
from s3prl_melhubert.support.writable import write_faults

# The settings have these names in the experiment's folder, as s3prl's have.
MODEL_YAML, RUNNER_YAML = "config_model.yaml", "config_runner.yaml"
LAUNCH = ".launch"  # which call of torchrun began the run in the folder, or went on with it


def refuse_used_folder(folder: Path) -> None:
    """Raise a MelHuBERTError if the folder holds the files of a run."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name in (LAST, "log.csv") or NUMBERED.fullmatch(path.name):
            raise MelHuBERTError(
                f"{folder}: holds a run already ({path.name}); --resume continues it, another -n starts anew"
            )


def hold_folder(folder: Path, held: ExitStack) -> None:
    """Be the only run in the folder, which is made if it is not there.

    Args:
        folder: the experiment's folder.
        held: keeps the lock until it is closed.

    Raises:
        MelHuBERTError: another run is at work there, or the folder cannot be written.
    """
    with write_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(only_writer(folder))


def is_of_this_launch(folder: Path) -> bool:
    """Whether the same call of torchrun began the run in a folder, and then restarted its processes."""
    own = launch()
    try:
        return own is not None and own in (folder / LAUNCH).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False


def noted_of_data(folder: Path, name: str) -> Any:
    """What the settings that a run has noted in its folder have under `datarc`; None if there is nothing."""
    path = folder / RUNNER_YAML
    datarc = read_yaml_mapping(path).get("datarc") if path.is_file() else None
    return datarc.get(name) if isinstance(datarc, Mapping) else None


def settle_rows(settings: Settings, device: torch.device, resumed: Path | None) -> Settings:
    """The settings, in which `datarc.rows` is no longer `auto`.

    Args:
        settings: of the run.
        device: that it trains on.
        resumed: the folder of the run, if it is one to continue: it stays what it was, also where it began on
            another device, or before there were rows.
    """
    datarc = settings.datarc
    if isinstance(datarc.rows, bool):
        return settings
    if resumed is not None and (resumed / RUNNER_YAML).is_file():
        rows = noted_of_data(resumed, "rows") is True
    else:
        rows = device.type == "cuda" and datarc.sequence_length > 0
    return replace(settings, datarc=replace(datarc, rows=rows))


def note_settings(
    folder: Path, config: MelHuBERTConfig, settings: Settings, launches: Sequence[str] = ()
) -> None:
    """Write the settings into the folder, where --resume finds them, and which calls of torchrun train there.

    Each machine has a call of its own.
    """
    files: dict[str, dict[str, Any]] = {
        MODEL_YAML: {"melhubert": config.to_mapping()},
        RUNNER_YAML: settings.to_mapping(),
    }
    write_text(folder / LAUNCH, "\n".join(sorted(set(launches))))
    for name, content in files.items():
        write_text(folder / name, yaml.safe_dump(content, sort_keys=False))
