"""What s3prl calls in huggingface_hub, as it was before version 1.0.

Its runner imports two classes that are gone. With `--hub huggingface`, it logs in with a user's name and
password, which the Hub ended in 2021, and fetches an upstream with arguments that `snapshot_download` no
longer has.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "takes_former_arguments"  # an attribute of the function that was put in the other's place


class HfFolder:
    """The token on this machine, as huggingface_hub before 1.0 gave access to it."""

    @staticmethod
    def get_token() -> str | None:
        """Return the token, or None if there is none."""
        import huggingface_hub

        return huggingface_hub.get_token()

    @staticmethod
    def save_token(token: str | None) -> None:
        """Keep a token, if there is one, where huggingface_hub looks for it, readable for the user alone."""
        if token is None:
            return
        path = HfFolder._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(token)

    @staticmethod
    def delete_token() -> None:
        """Remove the token, if there is one."""
        HfFolder._path().unlink(missing_ok=True)

    @staticmethod
    def _path() -> Path:
        # huggingface_hub.login would save a token, too, but asks the Hub whether it is good.
        from huggingface_hub import constants

        return Path(constants.HF_TOKEN_PATH)


class Repository:
    """A stand-in for huggingface_hub's clone of a repository, which ended with version 1.0."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            "huggingface_hub 1.0 ended Repository, with which s3prl's --push_to_hf_hub uploads; the "
            "experiment is complete on disk: upload it with `hf upload USER/NAME EXPDIR`"
        )


def login(self: Any, username: str | None = None, password: str | None = None) -> str | None:
    """Return the token of this machine, or None: names and passwords are no way to log in any more."""
    import huggingface_hub

    return huggingface_hub.get_token()


def with_former_arguments(snapshot_download: Callable[..., Any]) -> Callable[..., Any]:
    """Let `snapshot_download` take the revision by its place, and `use_auth_token`.

    The token is used where there is one, so that public repositories need none.
    """

    @functools.wraps(snapshot_download)
    def former(repo_id: str, revision: str | None = None, **others: Any) -> Any:
        token = others.pop("use_auth_token", None)
        if isinstance(token, str):
            others.setdefault("token", token)
        return snapshot_download(repo_id, revision=revision, **others)

    setattr(former, MARK, True)
    return former


def restore(huggingface_hub: Any) -> bool:
    """Put back what is missing; true if anything was."""
    missing = False
    if not hasattr(huggingface_hub.HfApi, "login"):
        huggingface_hub.HfApi.login = login
        missing = True
    present = huggingface_hub.snapshot_download
    revision = inspect.signature(present).parameters.get("revision")
    if hasattr(present, MARK):
        revision = None
    if revision is not None and revision.kind is inspect.Parameter.KEYWORD_ONLY:
        huggingface_hub.snapshot_download = with_former_arguments(present)
        missing = True
    return missing
