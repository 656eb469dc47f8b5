"""What s3prl's run_downstream.py does before it trains: arguments, settings, the libraries' switches."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchaudio
import yaml
from s3prl import run_downstream
from s3prl.utility.helper import backup, get_time_tag

from s3prl_melhubert.downstream_recipes.running.s3prl_run import replaced
from s3prl_melhubert.support.memory import keep_freed_memory


def read_arguments(arguments: Sequence[str]) -> tuple[Any, dict[str, Any], list[str]]:
    """s3prl's arguments and settings for its command line, read by its own code.

    Returns:
        The arguments, the settings, and files of which s3prl keeps a copy in the experiment's folder.
    """
    with replaced(sys, "argv", ["run_downstream.py", *arguments]):
        return run_downstream.get_downstream_args()


def write_arguments(args: Any, config: dict[str, Any], files: Sequence[str]) -> None:
    """Write the arguments and the settings with the time into the experiment's folder, as s3prl does."""
    for name, content in (("args", vars(args)), ("config", config)):
        path = Path(args.expdir) / f"{name}_{get_time_tag()}.yaml"
        path.write_text(yaml.dump(content), encoding="utf-8")
    for file in files:
        backup(file, args.expdir)


def prepare_libraries(args: Any) -> None:
    """Set torch's and torchaudio's switches as s3prl does."""
    torch.multiprocessing.set_sharing_strategy("file_system")
    if hasattr(torchaudio, "set_audio_backend"):
        torchaudio.set_audio_backend("sox_io")
    if args.cache_dir is not None:
        torch.hub.set_dir(os.fspath(args.cache_dir))
    cudnn = torch.backends.cudnn
    cudnn.enabled = not args.disable_cudnn
    if cudnn.enabled:
        cudnn.deterministic, cudnn.benchmark = True, False
    if torch.device(args.device).type == "cpu":
        keep_freed_memory()


def fits(args: Any) -> bool:
    """Whether our loop can do what these arguments ask for; the rest is for s3prl's own program."""
    return (
        not args.upstream_trainable
        and args.local_rank is None
        and args.hub == "torch"
        and not args.push_to_hf_hub
        and not args.auto_resume
        and not args.past_exp
        and not getattr(args, "init_ckpt", None)
    )
