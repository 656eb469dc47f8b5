"""What a run is asked to do: by the command line, its YAML files, `-i`, and the run that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.beginning.folder import (
    MODEL_YAML,
    RUNNER_YAML,
    is_of_this_launch,
    noted_of_data,
)
from s3prl_melhubert.pretrain.training.beginning.initial import MODEL, Initial
from s3prl_melhubert.pretrain.training.settings import Settings, default_yaml
from s3prl_melhubert.support.files import full_path, full_path_of_file
from s3prl_melhubert.support.settings import check_seed


@dataclass(frozen=True)
class Options:
    """What a run is asked to do."""

    expdir: Path
    config: MelHuBERTConfig
    settings: Settings
    initial: Initial | None = None  # a checkpoint to start from
    initial_optimizer: bool = False  # whether to take the state of its optimizer, too
    seed: int = 1337
    device: str | None = None  # cpu, cuda or cuda:N; None for the best there is
    resume: bool = False  # whether to go on where the run in `expdir` stands
    arguments: Mapping[str, Any] = field(default_factory=dict)  # the command line, for checkpoints
    command: str = "melhubert pretrain"  # what was called, for the word on a stop
    to_continue: str = "the same command with --resume continues"

    @classmethod
    def from_command(cls, arguments: Mapping[str, Any]) -> Options:
        """What a command line asks for, with what its YAML files, `-i` and the run that goes on say.

        Args:
            arguments: the command line, by the published names of its options.

        Raises:
            MelHuBERTError: options that do not go together, or a file that cannot be used.
        """
        check_seed(arguments["seed"])
        expdir, frame_period = arguments["expdir"], arguments["frame_period"]
        initial = _initial_of(arguments)
        model_yaml, runner_yaml = arguments["upstream_config"], arguments["runner_config"]
        resume = arguments["resume"] or is_of_this_launch(expdir)
        if resume:  # A run keeps its settings beside its checkpoints.
            model_yaml = model_yaml or _existing(expdir / MODEL_YAML)
            runner_yaml = runner_yaml or _existing(expdir / RUNNER_YAML)
        settings = Settings.from_yaml(runner_yaml) if runner_yaml else None
        # The paths become absolute, so that --resume may be given in another folder.
        sets = tuple(map(full_path, arguments["data"] or (settings.datarc.sets if settings else ())))
        if initial is not None and model_yaml is None:
            config = initial.settings(frame_period, sets)
        else:
            config = MelHuBERTConfig.from_yaml(model_yaml or default_yaml("model", frame_period))
        if frame_period not in (None, config.frame_period):
            raise MelHuBERTError(
                f"-f {frame_period}: {model_yaml} has feat_emb_dim {config.feat_emb_dim}, which is "
                f"{config.frame_period} ms; give -f {config.frame_period}, or set it to {4 * frame_period}"
            )
        settings = settings or Settings.from_yaml(default_yaml("runner", config.frame_period))
        crops = noted_of_data(expdir, "sequence_length") if resume and not settings.crops_given else None
        settings = settings.of_period(config.frame_period, crops)
        valid_sets = tuple(arguments["valid"] or settings.datarc.valid_sets)
        datarc = replace(settings.datarc, sets=sets, valid_sets=valid_sets).absolute()
        if initial is not None:
            arguments = {**arguments, "initial_weight": full_path_of_file(arguments["initial_weight"])}
        return cls(
            expdir=expdir,
            config=config,
            settings=replace(settings, datarc=datarc),
            initial=initial,
            initial_optimizer=arguments["init_optimizer_from_initial_weight"],
            seed=arguments["seed"],
            device=arguments["device"],
            resume=resume,
            arguments=arguments,
        )


def _initial_of(arguments: Mapping[str, Any]) -> Initial | None:
    """The checkpoint of `-i`, if it is given; the options about it are of no use without it."""
    source = arguments["initial_weight"]
    if source is not None:
        return Initial(source, arguments["init_layers"], arguments["init_stats"] or MODEL)
    for name in ("init_optimizer_from_initial_weight", "init_layers", "init_stats"):
        if arguments[name]:
            raise MelHuBERTError(f"--{name}: needs a checkpoint, -i CKPT")
    return None


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
