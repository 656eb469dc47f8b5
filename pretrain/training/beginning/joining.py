"""How the processes of one run find each other, whoever started them: torchrun, Accelerate, or a script."""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from s3prl_melhubert.errors import MelHuBERTError, shown

PROC = Path("/proc")  # what Linux tells of processes; other systems have none
MEETING = timedelta(minutes=30)  # for which a process waits for the others, as torch does
TOLD_EVERY_S = 20.0  # how often it is told meanwhile
DEFAULT_PORT = 29500  # torch's launchers and Accelerate have the same
# By which a process knows its number; the others are those of MPI's launchers, which Accelerate reads.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
TORCH_DEVICE = "ACCELERATE_TORCH_DEVICE"  # the variable of the device that Accelerate is to take
# How the variables begin that Accelerate reads when it begins.
READ_BY_ACCELERATE = (
    "ACCELERATE_",
    "FORK_LAUNCHED",
    "LOCAL_",
    "MV2_COMM_WORLD_",
    "OMPI_COMM_WORLD_",
    "PMI_",
    "RANK",
    "WORLD_SIZE",
)


def launch() -> str | None:
    """What tells this call of torchrun from others, also in processes that it restarted; None without it.

    The number of restarts does not tell it: where a process dies on one machine, those on the others start
    again, too, and count none.
    """
    identity = os.environ.get("TORCHELASTIC_RUN_ID")
    if identity == "none":  # as it is without --rdzv_id; then the parent, which is torchrun, tells it
        identity = f"{socket.gethostname()} {_parent()}"
    return identity


def _parent() -> str:
    """What tells the parent of this process from others that have had its number.

    In a container, torchrun has the same number each time, and the host may have the same name.
    """
    number = os.getppid()
    try:
        began = (PROC / f"{number}/stat").read_text().rpartition(")")[2].split()[19]  # ticks since the boot
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except (OSError, IndexError):
        return str(number)
    return f"{number} {began} {boot}"


def process_count() -> int:
    """How many processes the environment says that there are.

    Raises:
        MelHuBERTError: it says something else than a number.
    """
    return _number("WORLD_SIZE", 1)


def are_several(device: torch.device) -> bool:
    """Whether this process is one of several of a run, as its environment says.

    Args:
        device: that it trains on.

    Raises:
        MelHuBERTError: the environment says so, but not all that is needed.
    """
    count = process_count()
    if count <= 1:
        return False
    needed = {"RANK": any(os.environ.get(name) for name in RANKS)}
    if "RANK" in os.environ:
        needed["MASTER_ADDR"] = bool(os.environ.get("MASTER_ADDR"))
    if device.type == "cuda":  # Accelerate takes a process without it for one that trains alone
        needed["LOCAL_RANK"] = _number("LOCAL_RANK", -1) >= 0
    missing = ", ".join(name for name, there in needed.items() if not there)
    if missing:
        raise MelHuBERTError(
            f"WORLD_SIZE is {count}, and {missing} is not set; start the processes with torchrun, which sets "
            "all of them, or unset WORLD_SIZE for a single one"
        )
    if _number("RANK", 0) not in range(count):
        raise MelHuBERTError(f"RANK: {os.environ['RANK']} found, expected 0 to {count - 1}, by WORLD_SIZE")
    if _number("MASTER_PORT", DEFAULT_PORT) not in range(1, 65_536):
        raise MelHuBERTError(f"MASTER_PORT: {os.environ['MASTER_PORT']} found, expected 1 to 65535")
    return True


def _number(name: str, default: int) -> int:
    """A whole number of the environment."""
    value = os.environ.get(name) or str(default)
    try:
        return int(value)
    except ValueError:
        raise MelHuBERTError(f"{name}: {shown(value)} found, expected a number") from None


def join_group(device: torch.device) -> None:
    """Join the processes of this run, apart from those that torchrun started before a restart.

    torchrun's store outlives a restart (that of torch 2.11 has no other for the next group), and a process
    that finds there the address of one that died would wait for it for ever. So the first process makes a
    name for the group, under which all meet, and tells it to each of the others in answer to a word that
    only this process can have said.
    """
    count, index = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    store = _store(count, index)
    word = uuid.uuid4().hex
    if index:
        store.set(f"melhubert/asks/{index}", word)
        answer = f"melhubert/answer/{word}"
        _wait_for(lambda: set() if store.check([answer]) else {0})
        name = store.get(answer).decode()
        store.set(f"melhubert/{name}/came/{index}", "")
    else:
        name, missing = word, set(range(1, count))

        def still_missing() -> set[int]:
            for other in tuple(missing):
                if store.check([f"melhubert/asks/{other}"]):  # perhaps what was asked before the restart
                    store.set(f"melhubert/answer/{store.get(f'melhubert/asks/{other}').decode()}", name)
                if store.check([f"melhubert/{name}/came/{other}"]):
                    missing.discard(other)
            return missing

        _wait_for(still_missing)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(name, store),
        rank=index,
        world_size=count,
    )


def _store(count: int, index: int) -> dist.Store:
    """Where the processes leave words for each other: torchrun's, or that which the first process opens."""
    address, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", DEFAULT_PORT)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return dist.TCPStore(address, port, count, is_master=False, timeout=MEETING)
    if index == 0:
        try:
            return dist.TCPStore(
                address, port, count, is_master=True, timeout=MEETING, wait_for_workers=False
            )
        except RuntimeError:  # from torch 2.5 on one of its own, DistNetworkError
            raise MelHuBERTError(
                f"MASTER_PORT {port} cannot be opened here; is it another run's, or is RANK 0 for another "
                "process of this one, too?"
            ) from None

    def first_is_missing() -> set[int]:
        """By a connection of its own, because the store's says where it was called, each time it fails."""
        with suppress(OSError):
            socket.create_connection((address, port), timeout=1).close()
            return set()
        return {0}

    _wait_for(first_is_missing)
    return dist.TCPStore(address, port, count, is_master=False, timeout=MEETING)


def _wait_for(missing: Callable[[], set[int]]) -> None:
    """Wait until no process is missing, and say now and then which ones are.

    Raises:
        MelHuBERTError: some have not come in time.
    """
    begin, told = time.monotonic(), 1
    while names := ", ".join(map(str, sorted(missing()))):
        waited = time.monotonic() - begin
        if waited > MEETING.total_seconds():
            raise MelHuBERTError(
                f"process {names} of this run has not come in {waited / 60:.0f} minutes; see what it said, "
                "and whether it was started on its machine"
            )
        if waited > TOLD_EVERY_S * told:
            print(f"melhubert: waiting for process {names} of this run", file=sys.stderr, flush=True)
            told += 1
        time.sleep(0.05)


def refuse_split_models() -> None:
    """Raise a MelHuBERTError where `accelerate launch` was told to split the model over the processes."""
    for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1", "yes"):
            raise MelHuBERTError(
                f"`accelerate launch` asks for {name}, which splits a model over the GPUs; here each GPU has "
                "a whole one: leave it out of Accelerate's settings, or use torchrun"
            )


def unused_settings(precision: str) -> list[str]:
    """What of the settings of `accelerate launch` is not used, a line each.

    Args:
        precision: that of the run's own settings.
    """
    ours = {
        "ACCELERATE_MIXED_PRECISION": ("no", "fp32", precision),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
        "ACCELERATE_DYNAMO_BACKEND": ("no",),
        TORCH_DEVICE: ("",),
    }
    instead = (
        f"runner.precision, which is {precision}",
        "runner.gradient_accumulate_steps",
        "runner.compile",
        "--device",
    )
    lines = []
    for (variable, same), setting in zip(ours.items(), instead, strict=True):
        asked = os.environ.get(variable) or same[0]
        # Accelerate's own `no` is what its settings hold when nobody has chosen any.
        if asked.lower() not in same:
            name = variable.removeprefix("ACCELERATE_").lower()
            lines.append(f"{name} {asked} of Accelerate's settings is not used; the run goes by {setting}")
    return lines


def asked_of_accelerate() -> str:
    """The variables of the environment that Accelerate reads when it begins, as they are set."""
    asked = {name: value for name, value in os.environ.items() if name.startswith(READ_BY_ACCELERATE)}
    return ", ".join(f"{name}={shown(value)}" for name, value in sorted(asked.items()))
