"""What tests of several folders need: reference outputs, small models, real speech, an s3prl checkout."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # its modules are no part of the package

REFERENCE = Path(__file__).parent / "reference"
MOST_PROCESSES = 4  # each takes up to 3 GB


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in a process for each core, and a choice of files in this one, as -s needs it.

    Most tests wait for one process that they have started, so that a second core would have nothing to do.
    """
    if config.option.file_or_dir or config.option.capture == "no":
        return 0
    processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    return processes if processes > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several processes its share of the cores, also where their number was given with -n.

    Torch's threads in one process would take the cores from the others. What the tests start inherits this.
    It hears Ctrl-C, too, which a shell has a program ignore that it starts in the background.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if processes := config.getoption("numprocesses", None):
        share = len(os.sched_getaffinity(0)) // processes
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with outputs of the published implementation; see its README.md."""
    return REFERENCE


@pytest.fixture(scope="session", params=["tiny-20ms", "tiny-10ms"])
def published(request) -> dict:
    """One published checkpoint and its outputs: the arrays of the .npz, `ckpt` and `stats`."""
    arrays = dict(np.load(REFERENCE / f"{request.param}.npz"))
    arrays["ckpt"] = REFERENCE / f"{request.param}.ckpt"
    arrays["stats"] = f"librispeech-{int(arrays['stats_hours'])}h"
    return arrays


@pytest.fixture
def tiny_settings() -> dict[str, Any]:
    """The settings of a 20 ms model that is small enough for any test; the test may change them."""
    return {
        "feat_emb_dim": 80,
        "encoder_layers": 2,
        "encoder_embed_dim": 48,
        "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 4,
        "conv_pos": 16,
        "conv_pos_groups": 4,
        "num_cluster": 16,
    }


@pytest.fixture
def tiny_model(tiny_settings) -> Callable[..., Any]:
    """`tiny_model(name=value, ...)`: the small model with these settings changed, in evaluation mode."""
    import torch

    from s3prl_melhubert import MelHuBERT, MelHuBERTConfig

    def build(**settings: object) -> MelHuBERT:
        torch.manual_seed(0)
        return MelHuBERT(MelHuBERTConfig(**{**tiny_settings, **settings})).eval()

    return build


@pytest.fixture(autouse=True)
def _gpu_or_skip(request) -> Iterator[None]:
    """Skip a test that is marked `gpu` where there is none, unless one in name will do for it."""
    marker = request.node.get_closest_marker("gpu")
    if marker is None:
        yield
        return
    import torch
    from pretended_gpu import pretended_gpu

    if torch.cuda.is_available():
        yield
    elif marker.kwargs.get("or_pretended"):
        with pretended_gpu():
            yield
    else:
        pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def compressed(tmp_path_factory) -> Callable[[str], Any]:
    """`compressed(kind)`: a compressed checkpoint in its authors' format; see compressed_checkpoints.py."""
    from compressed_checkpoints import make

    folder = tmp_path_factory.mktemp("compressed")
    return functools.cache(lambda kind: make(kind, folder))


@pytest.fixture(scope="session")
def speech() -> Path:
    """Real speech, laid out as SUPERB's corpora; absent on most machines."""
    folder = os.environ.get("MELHUBERT_SPEECH")
    if not folder:
        pytest.skip("MELHUBERT_SPEECH names no folder of real speech")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def change_a_byte() -> Callable[[Path], None]:
    """`change_a_byte(path)`: a bit of the largest tensor in a file of torch's becomes another one."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            assert "/data/" in largest.filename
            tensor = archive.read(largest)
        content = bytearray(path.read_bytes())
        content[content.index(tensor) + len(tensor) // 2] ^= 1
        before = path.stat()
        path.write_bytes(content)
        # A file system may give two writes of one moment the same time.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))

    return change


@pytest.fixture
def run_python(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Run `python ARGUMENTS` outside the checkout, so that the installed package is what is tested."""

    def run(*arguments: object, cwd: Path = tmp_path, timeout: float = 240, **environment: str):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def run_with_full_event_files(run_python) -> Callable[..., subprocess.CompletedProcess]:
    """Run `melhubert ARGUMENTS` where no event file of TensorBoard's has room for anything."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code = """
import sys
from tensorboardX import record_writer
record_writer.open_file = lambda path: open("/dev/full", "wb")
from s3prl_melhubert.cli import main
sys.exit(main(sys.argv[1:]))
"""
    # Before it was told of the disk, such a program waited for ever.
    return lambda *arguments: run_python("-c", code, *arguments, timeout=120)


@pytest.fixture(scope="session")
def installed_s3prl() -> Path:
    """The folder of the installed s3prl package, found without importing it."""
    from importlib.util import find_spec

    return Path(find_spec("s3prl").origin).parent


@pytest.fixture
def s3prl_checkout(tmp_path, installed_s3prl) -> Path:
    """A folder `s3prl/s3prl` as in a checkout: what pip installs holds the runners, too."""
    root = tmp_path / "checkout" / "s3prl"
    # With the compiled modules, whose times the copies keep: compiling all of s3prl takes seconds.
    shutil.copytree(installed_s3prl, root / "s3prl", ignore=shutil.ignore_patterns(".cache"))
    return root / "s3prl"
