"""Fetches checkpoints from URLs and Google Drive into s3prl's download cache.

gdown does the transfer. It knows Google Drive's confirmation page, checks that all announced bytes came,
and shows progress. This module does the rest: it chooses where the file goes, makes sure that a file
arrives whole or not at all and is the right one, and tells a user without a network what to do.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from s3prl.util import download as s3prl_download

from s3prl_melhubert.errors import MelHuBERTError, said, shown
from s3prl_melhubert.published import DEFAULT, PUBLISHED, PublishedCheckpoint
from s3prl_melhubert.support.files import sha256_of, temporary_folder
from s3prl_melhubert.support.huggingface import fetch_model, repository_of

CONNECT_SECONDS = 5  # to find a server and to connect to it
READ_SECONDS = 60  # the longest wait between two pieces of a running transfer
NEW_ENOUGH_SECONDS = 2  # as in s3prl: another process has just fetched a file that is so new
MAX_BYTES = 8 * 10**9  # a base model with its optimizer has 1.1 GB
LONGEST_NAME = 100  # bytes
GDRIVE_ID = re.compile(r"[A-Za-z0-9_-]{20,100}")


def cache_folder() -> Path:
    """s3prl's download cache, `~/.cache/s3prl/download` unless the program has set another."""
    return Path(s3prl_download.get_dir())


def fetch_published(entry: PublishedCheckpoint, refresh: bool = False) -> Path:
    """Return the local file of a published checkpoint. Fetch it if the cache does not hold it.

    In the cache the file is called NAME.ckpt, so that people can put it there by hand.

    Raises:
        MelHuBERTError: the file cannot be fetched, or it is not the published file.
    """
    return _fetch(entry.url, cache_folder() / f"{entry.name}.ckpt", refresh, entry.sha256)


def fetch_gdrive(gdrive_id: str, refresh: bool = False, sha256: str | None = None) -> Path:
    """Return the local copy of a file on Google Drive, which is named by its id."""
    if not GDRIVE_ID.fullmatch(gdrive_id):
        raise MelHuBERTError(
            f"{shown(gdrive_id)}: not a Google Drive id (the 33 characters in a file's link)"
        )
    for entry in PUBLISHED.values():
        if entry.gdrive_id == gdrive_id:
            return fetch_published(entry if sha256 is None else replace(entry, sha256=sha256), refresh)
    url = f"https://drive.google.com/uc?id={gdrive_id}"
    return _fetch(url, cache_folder() / f"{gdrive_id}.ckpt", refresh, sha256)


def fetch_url(url: str, refresh: bool = False, sha256: str | None = None) -> Path:
    """Return the local copy of a file on the web. It has the name that s3prl's own cache gives it."""
    try:
        last = Path(urlsplit(url).path).name
    except ValueError as error:
        raise MelHuBERTError(f"{shown(url)}: not a URL ({error})") from None
    # File systems allow names of 255 bytes. Of a long name the end is kept, because the suffix is there.
    last = os.fsencode(last)[-LONGEST_NAME:].decode("ascii", "replace")
    name = f"{hashlib.sha256(url.encode()).hexdigest()}.{last}"
    return _fetch(url, cache_folder() / name, refresh, sha256)


def seems_gdrive_id(source: str) -> bool:
    """Whether what may be a file or an id on Google Drive is the latter."""
    return GDRIVE_ID.fullmatch(source) is not None and not Path(source).exists()


def fetch_upstream(name: str, given: str | None) -> str | Path:
    """The file or folder that an upstream of `hubconf` reads, which is fetched if need be.

    Args:
        name: the upstream's.
        given: its `ckpt`, s3prl's `-k`.

    Raises:
        MelHuBERTError: there is no such upstream, or its file cannot be fetched.
    """
    name = DEFAULT if name == "melhubert" else name
    if name in PUBLISHED:
        return fetch_published(PUBLISHED[name])
    if given is None:
        raise MelHuBERTError(
            f"{shown(name)}: no upstream of MelHuBERT's, or one that needs a checkpoint (-k)"
        )
    if given.startswith(("http://", "https://")):
        return fetch_url(given)
    if name == "melhubert_gdriveid" or (name == "melhubert_custom" and seems_gdrive_id(given)):
        return fetch_gdrive(given)
    # On the Hub, also where a folder here has the name of the repository.
    return fetch_model(repository_of(given)) if name == "melhubert_hf" else given


def _fetch(url: str, target: Path, refresh: bool, sha256: str | None) -> Path:
    lock = FileLock(f"{target}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # one of several processes fetches the file, and the others wait
    except OSError as error:
        # The cache may lie on a disk that can only be read. The files that it holds can still be used.
        if target.is_file() and not refresh:
            _check_content(target, url, sha256, f"have it fetched again: {target}")
            return target
        raise MelHuBERTError(
            f"{url}: cannot be kept in {target.parent} ({error.strerror or error}); make it writable, "
            f"or save the file as {target}"
        ) from None
    try:
        fresh = target.is_file() and not (
            refresh and time.time() - target.stat().st_mtime > NEW_ENOUGH_SECONDS
        )
        if fresh:
            _check_content(target, url, sha256, f"delete it, or fetch it again (s3prl's -r): {target}")
            return target
        # gdown keeps partial files in this folder. It lies beside the target, so that the rename is atomic.
        with temporary_folder(target.parent, target.name) as folder:
            arrived = folder / target.name
            _transfer(url, arrived, target)
            _check_content(arrived, url, sha256, f"fetch it in a browser and save it as {target}")
            arrived.touch()  # gdown keeps the server's date, but `refresh` needs to know when the file came
            arrived.replace(target)
    finally:
        lock.release()
    return target


def _transfer(url: str, arrived: Path, target: Path) -> None:
    import gdown
    from gdown.exceptions import DownloadError

    try:
        _find_host(url)
        gdown.download(
            url,
            str(arrived),
            use_cookies=False,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            retries=2,
            progress=partial(_refuse_endless, url),
        )
    except (OSError, requests.RequestException, DownloadError) as error:
        raise MelHuBERTError(
            f"{url}: cannot be fetched ({_reason(error)}); fetch it on a machine with a network and save it "
            f"as {target}"
        ) from None


def _refuse_endless(url: str, so_far: int, total: int | None) -> None:
    """Raise a MelHuBERTError when a transfer is longer than any checkpoint can be."""
    if max(so_far, total or 0) > MAX_BYTES:
        raise MelHuBERTError(
            f"{url}: over {MAX_BYTES / 1e9:.0f} GB, which is no MelHuBERT checkpoint; nothing was kept"
        )


def _reason(error: Exception) -> str:
    """Say in a few words of one line what went wrong."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ProxyError):
        return "no connection to the proxy"
    if isinstance(error, requests.ConnectionError) and not isinstance(error, requests.exceptions.SSLError):
        return "no connection"
    # gdown names its partial file, but that file is deleted together with its temporary folder.
    words = " ".join(str(error).split()).split(". ")
    return said(". ".join(part for part in words if ".part" not in part) or type(error).__name__)


def _find_host(url: str) -> None:
    """Look up the server's address, for a few seconds at most.

    A socket's time limit does not cover this step, which can hang for minutes without a network.
    """
    if requests.utils.get_environ_proxies(url):
        return  # the proxy will look it up
    host = urlsplit(url).hostname or ""
    failure: list[OSError] = [OSError(f"the address of {host} is not found in {CONNECT_SECONDS} s")]

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, None)
            failure.clear()
        except (OSError, UnicodeError) as error:  # the second of `http://a..b`, which can be no name
            reason = getattr(error, "strerror", None) or error
            failure[:] = [OSError(f"the address of {host} is not found: {reason}")]

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if failure:
        raise failure[0]


def _check_content(path: Path, url: str, sha256: str | None, remedy: str) -> None:
    """Check that the file is a checkpoint, not a web page, and has the expected hash if there is one."""
    with path.open("rb") as file:
        head = file.read(9)
    # torch writes zip archives or bare pickles. A .safetensors file starts with a length and a JSON header.
    if not (head.startswith((b"PK", b"\x80")) or head[8:] == b"{"):
        raise MelHuBERTError(f"{url}: what came is no checkpoint (starts with {shown(head)}); {remedy}")
    if sha256 is not None:
        found = sha256_of(path)
        if found != sha256.lower():
            raise MelHuBERTError(
                f"{url}: the file is not the expected one (SHA-256 {found}, expected {sha256}); {remedy}"
            )
