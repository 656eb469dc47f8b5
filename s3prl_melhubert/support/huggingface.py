"""The Hugging Face Hub: files of a repository through huggingface_hub's cache, and a folder as a repository.

huggingface_hub does the transfer, and honours its own settings: HF_HOME, HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE. Only files of data are fetched; nothing that a repository holds is run.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from s3prl_melhubert.errors import MelHuBERTError, said, shown

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
WEIGHTS_IN_PARTS = "model.safetensors.index.json"  # which transformers writes beside several files of weights
REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w][\w./-]*))?", re.ASCII)
# What ends in one of these is the path of a file, although ORG/NAME may look the same.
SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".onnx", ".yaml", ".npz", ".npy")


ANSWER_SECONDS = 10  # to find the Hub, to connect to it and to get an answer


class Repository(NamedTuple):
    """A repository of models, at one of its revisions."""

    name: str  # ORG/NAME
    revision: str | None = None  # a branch, a tag or a commit; None for the main branch

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def repository_of(text: str) -> Repository:
    """Read `ORG/NAME` or `ORG/NAME@REVISION`.

    Raises:
        MelHuBERTError: it is neither.
    """
    match = REPOSITORY.fullmatch(text)
    if match is None:
        raise MelHuBERTError(
            f"{shown(text)}: is no repository of the Hugging Face Hub; expected ORG/NAME or ORG/NAME@REVISION"
        )
    return Repository(match["name"], match["revision"])


def names_repository(source: str | Path) -> bool:
    """Whether what stands where a file may stand is a repository: no file of that name, but ORG/NAME."""
    if not isinstance(source, str) or not REPOSITORY.fullmatch(source):
        return False
    return not source.lower().endswith(SUFFIXES) and not Path(source).exists()


def passed_over(source: str) -> str | None:
    """A line about what has the name of a repository here and is not read; None where nothing has it."""
    match = REPOSITORY.fullmatch(source)
    if match is None or not Path(match["name"]).exists():
        return None
    return (
        f"{source}: is fetched from the Hugging Face Hub; what has this name here "
        f"({Path(match['name']).absolute()}) is not read, for which there is -u melhubert_local"
    )


def checkpoint_file(path: Path, advice: str = "") -> Path:
    """The file that stands for a checkpoint: the path itself, or in a folder of transformers', its weights.

    Args:
        path: the file or the folder.
        advice: what the error says besides if nothing is there.

    Raises:
        MelHuBERTError: there is no such file.
    """
    try:
        if path.is_file():
            return path
        if (path / WEIGHTS).is_file():
            return path / WEIGHTS
        if (path / WEIGHTS_IN_PARTS).is_file():
            raise MelHuBERTError(
                f"{path}: its weights lie in several files, expected one {WEIGHTS}; load it with "
                'transformers, and write it anew with model.save_pretrained(FOLDER, max_shard_size="100GB")'
            )
        if path.is_dir():
            raise MelHuBERTError(f"{path}: is a folder without {WEIGHTS}, expected a checkpoint file")
    except OSError as error:  # The name is too long, or a folder of the path may not be entered.
        raise MelHuBERTError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise MelHuBERTError(f"{path}: no such checkpoint (looked for {path.absolute()}){advice}")


def fetch_model(repository: Repository, refresh: bool = False) -> Path:
    """Return the local copy of a repository's `model.safetensors`, with its `config.json` beside it.

    Args:
        repository: where it is.
        refresh: fetch it again, whatever the cache holds.

    Raises:
        MelHuBERTError: there is no such repository, revision or file, or it can be had neither from the
            network nor from the cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    # Without a network, huggingface_hub tries for a long time before it looks into its cache.
    here_only = not _is_reachable()
    if refresh and here_only:
        raise MelHuBERTError(
            f"{repository}: cannot be fetched again ({_why_unreachable()}); leave -r (in Python, refresh=) "
            "out to take what the cache holds"
        )
    with _one_line(repository):
        weights = Path(
            hf_hub_download(
                repository.name,
                WEIGHTS,
                revision=repository.revision,
                force_download=refresh,
                local_files_only=here_only,
            )
        )
    commit = weights.parent.name  # The two files are of one commit, whatever is pushed in between.
    # The weights may hold the settings, as those that `melhubert hub` writes do.
    with suppress(EntryNotFoundError), _one_line(repository, missing_is_fine=True):
        hf_hub_download(repository.name, SETTINGS, revision=commit, local_files_only=here_only)
    return weights


def push_folder(folder: Path, name: str, message: str, private: bool | None = None) -> str:
    """Upload a folder as a repository of models, which is made where there is none; return its address.

    Args:
        folder: what to upload.
        name: ORG/NAME.
        message: what the history of the repository says of it.
        private: whether the repository is for its owners alone; if not given, a new one is what the account's
            own setting says.

    Raises:
        MelHuBERTError: the name is none, nobody is logged in, the Hub cannot be reached or refuses it, or the
            repository is there already and public, where a private one is asked for.
    """
    from huggingface_hub import HfApi

    repository = repository_of(name)
    if repository.revision is not None:
        raise MelHuBERTError(f"{name}: found with a revision, expected ORG/NAME; it goes to the main branch")
    if not _is_reachable():
        raise MelHuBERTError(f"{repository}: cannot be uploaded ({_why_unreachable()})")
    api = HfApi()
    with _one_line(repository, "uploaded"):
        url = api.create_repo(repository.name, private=private, exist_ok=True)
        if private and not api.model_info(repository.name).private:
            raise MelHuBERTError(
                f"{repository}: is on the Hub already and public, expected a private one; make it private in "
                "its settings there, or leave --private out"
            )
        api.upload_folder(repo_id=repository.name, folder_path=folder, commit_message=message)
    return str(url)


def _is_reachable() -> bool:
    """Whether the Hub can be asked: nobody forbids it, and it answers a request, whatever it says."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # Each generation of huggingface_hub has a library with errors of its own.
            get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
            answered.set()

    # No time limit covers the look-up of an address, so that it is left to a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answered.is_set()


def _why_unreachable() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"


@contextmanager
def _one_line(repository: Repository, done: str = "fetched", missing_is_fine: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises into a MelHuBERTError; a missing file may be left as it is."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError:
        raise MelHuBERTError(
            f"{repository}: asks for its owners' permission; request it on the repository's page, and log in "
            "with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise MelHuBERTError(
            f"{repository.name}: {_not_here(repository)}, and no such repository on the Hugging Face Hub (or "
            "a private one: log in with `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise MelHuBERTError(
            f"{repository}: the repository has no revision {repository.revision}; expected a branch, a tag "
            "or a commit"
        ) from None
    except errors.LocalEntryNotFoundError:
        if missing_is_fine:
            raise
        raise MelHuBERTError(
            f"{repository}: {_not_here(repository)}, not in the cache ({constants.HF_HUB_CACHE}), and "
            f"{_why_unreachable()}; fetch it where there is a network, with "
            f"`hf download {repository.name}`, and copy the cache"
        ) from None
    except errors.EntryNotFoundError:
        if missing_is_fine:
            raise
        raise MelHuBERTError(
            f"{repository}: the repository has no {WEIGHTS}, and a pickle from the Hub is not read; ask its "
            "owners for one (`melhubert hub` writes it)"
        ) from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise MelHuBERTError(
                f"{repository}: cannot be {done} (the Hub answers {status}; log in with `hf auth login` as "
                "somebody who may do this)"
            ) from None
        raise MelHuBERTError(f"{repository}: cannot be {done} ({said(error)})") from None
    except Exception as error:
        # The library under huggingface_hub, which is another in each of its generations, has its own errors.
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise MelHuBERTError(
            f"{repository}: cannot be {done} (the Hub cannot be reached: {said(error)})"
        ) from None


def _not_here(repository: Repository) -> str:
    """That there is no such file; with its full path where ORG is a folder here, which may hold it."""
    path = Path(str(repository)).absolute()
    is_in_a_folder = Path(repository.name).parent.is_dir()
    return f"no such file here (looked for {path})" if is_in_a_folder else "no such file here"
