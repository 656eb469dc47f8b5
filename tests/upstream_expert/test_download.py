"""Downloads end to end, against a local server that also stands in for Google Drive."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from s3prl_melhubert import FeatureStats, MelHuBERTError
from s3prl_melhubert.published import DEFAULT, PUBLISHED
from s3prl_melhubert.upstream_expert import download, hubconf

ENTRY = PUBLISHED["melhubert_20ms_360h_stage1"]


@pytest.fixture
def content(reference) -> bytes:
    return (reference / "tiny-20ms.ckpt").read_bytes()


def leftovers(cache) -> list[str]:
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]


def message_of(function, *arguments, **keywords) -> str:
    with pytest.raises(MelHuBERTError) as error:
        function(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_url_is_fetched_once_and_again_on_refresh(web, cache, content, monkeypatch):
    web.files["/some/model.ckpt"] = content
    url = f"{web.url}/some/model.ckpt"
    file = download.fetch_url(url)
    assert file.read_bytes() == content
    # The name that s3prl's own cache would give it.
    assert file == cache / f"{hashlib.sha256(url.encode()).hexdigest()}.model.ckpt"
    assert download.fetch_url(url) == file
    assert web.hits["/some/model.ckpt"] == 1
    monkeypatch.setattr(download, "NEW_ENOUGH_SECONDS", 3600)
    download.fetch_url(url, refresh=True)  # new enough: another process may just have fetched it
    assert web.hits["/some/model.ckpt"] == 1
    os.utime(file, (time.time() - 7200,) * 2)
    download.fetch_url(url, refresh=True)
    assert web.hits["/some/model.ckpt"] == 2


def test_of_several_processes_one_fetches(web, tmp_path, content):
    web.files["/model.ckpt"] = content
    code = (
        "import sys; from s3prl.util import download as s; s.set_dir(sys.argv[1]);"
        "from s3prl_melhubert.upstream_expert.download import fetch_url; fetch_url(sys.argv[2])"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "cache"), f"{web.url}/model.ckpt"]
    processes = [subprocess.Popen(arguments, cwd=tmp_path) for _ in range(3)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0, 0]
    assert web.hits["/model.ckpt"] == 1


def test_the_next_fetch_removes_what_a_killed_one_has_got_so_far(web, cache, content):
    web.files["/model.ckpt"] = content
    killed = (
        "import gdown, os, sys; from s3prl.util import download as s; s.set_dir(sys.argv[1])\n"
        "from s3prl_melhubert.upstream_expert.download import fetch_url\n"
        "gdown.download = lambda url, to, **_: (open(to + '.part', 'w').write('half'), os._exit(9))\n"
        "fetch_url(sys.argv[2])"
    )
    arguments = [sys.executable, "-c", killed, str(cache), f"{web.url}/other.ckpt"]
    assert subprocess.run(arguments, check=False, timeout=240).returncode == 9
    assert list(cache.glob(".*/*.part"))
    file = download.fetch_url(f"{web.url}/model.ckpt")
    assert leftovers(cache) == [file.name]


def test_progress_is_shown(web, cache, content, capfd):
    web.files["/model.ckpt"] = content
    download.fetch_url(f"{web.url}/model.ckpt")
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("files", "cut", "words"),
    [
        ({}, 0, ["404", "save it as"]),
        ({"/model.ckpt": b"<html>Sign in</html>"}, 0, ["no checkpoint", "<html>", "save it as"]),
        ({"/model.ckpt": b""}, 0, ["no checkpoint"]),
        ({"/model.ckpt": b"PK" + bytes(100_000)}, 5_000, ["cannot be fetched", "save it as"]),
    ],
    ids=["absent", "web page", "empty", "broken connection"],
)
def test_what_is_no_checkpoint_never_enters_the_cache(web, cache, files, cut, words):
    web.files, web.cut = files, cut
    message = message_of(download.fetch_url, f"{web.url}/model.ckpt")
    for word in [f"{web.url}/model.ckpt", *words]:
        assert word in message
    assert leftovers(cache) == []


def test_safetensors_are_fetched_too(web, cache):
    """They begin with the length of their header, and then with the header."""
    web.files["/model.safetensors"] = content = b"\2" + bytes(7) + b"{}"
    assert download.fetch_url(f"{web.url}/model.safetensors").read_bytes() == content


def test_known_hash_is_checked(web, cache, content):
    web.files["/model.ckpt"] = content
    right = hashlib.sha256(content).hexdigest()
    message = message_of(download.fetch_url, f"{web.url}/model.ckpt", sha256="0" * 64)
    assert right in message
    assert "0" * 64 in message
    assert leftovers(cache) == []
    file = download.fetch_url(f"{web.url}/model.ckpt", sha256=right.upper())  # as Windows writes it
    file.write_bytes(content + b"damage")  # what lies in the cache is checked as well
    assert "delete it" in message_of(download.fetch_url, f"{web.url}/model.ckpt", sha256=right)


def test_published_entry_is_fetched_through_drives_confirmation_page(web, cache, content, monkeypatch):
    for name, value in web.as_drive.items():
        monkeypatch.setenv(name, value)
    web.files[ENTRY.gdrive_id] = content
    upstream = hubconf.melhubert_20ms_360h_stage1(ckpt=None, model_config=None, refresh=False)
    assert web.hits[ENTRY.gdrive_id] == 1
    assert leftovers(cache) == [f"{ENTRY.name}.ckpt"]
    assert upstream.frontend.mean[0].item() == pytest.approx(FeatureStats.load("librispeech-360h").mean[0])


def test_plain_melhubert_is_the_960_hour_stage_2_model(web, cache, content, monkeypatch):
    for name, value in web.as_drive.items():
        monkeypatch.setenv(name, value)
    web.files[PUBLISHED[DEFAULT].gdrive_id] = content
    upstream = hubconf.melhubert()
    assert upstream.frontend.mean[0].item() == pytest.approx(FeatureStats.load("librispeech-960h").mean[0])
    assert leftovers(cache) == ["melhubert_20ms_960h_stage2.ckpt"]


def test_published_entry_with_a_known_hash_is_checked(web, cache, content, monkeypatch):
    for name, value in web.as_drive.items():
        monkeypatch.setenv(name, value)
    web.files[ENTRY.gdrive_id] = content
    message = message_of(download.fetch_published, replace(ENTRY, sha256="f" * 64))
    assert "not the expected one" in message


@pytest.mark.parametrize("gdrive_id", [ENTRY.gdrive_id, "A" * 33], ids=["published", "another"])
def test_a_hash_that_is_asked_for_is_checked_by_every_entry(web, cache, content, monkeypatch, gdrive_id):
    """Of the id of a published checkpoint, it was passed over."""
    for name, value in web.as_drive.items():
        monkeypatch.setenv(name, value)
    web.files |= {gdrive_id: content, "/model.ckpt": content}
    for entry, source in (
        (hubconf.melhubert_gdriveid, gdrive_id),
        (hubconf.melhubert_custom, gdrive_id),
        (hubconf.melhubert_url, f"{web.url}/model.ckpt"),
        (hubconf.melhubert_custom, f"{web.url}/model.ckpt"),
    ):
        asked = {"feature_stats": "librispeech-360h", "sha256": "0" * 64}
        assert "not the expected one" in message_of(entry, source, **asked)
        assert leftovers(cache) == []
    assert "sha256 goes with a URL" in message_of(hubconf.melhubert_custom, "model.ckpt", **asked)


def test_any_id_is_fetched(web, cache, content, monkeypatch):
    for name, value in web.as_drive.items():
        monkeypatch.setenv(name, value)
    web.files["A" * 33] = content
    hubconf.melhubert_gdriveid("A" * 33, feature_stats="librispeech-100h")
    hubconf.melhubert_custom("A" * 33, feature_stats="librispeech-100h")
    assert web.hits["A" * 33] == 1
    assert "not a Google Drive id" in message_of(hubconf.melhubert_gdriveid, "too-short")
    assert "not a Google Drive id" in message_of(hubconf.melhubert_gdriveid, "too-long" * 40)
    assert "File name too long" in message_of(hubconf.melhubert_custom, "too-long" * 40)


def test_drives_quota_page_is_told(web, cache, monkeypatch):
    for name, value in web.as_drive.items():
        monkeypatch.setenv(name, value)
    web.over_quota = True
    message = message_of(download.fetch_published, ENTRY)
    for word in (ENTRY.url, "Too many users", str(cache / f"{ENTRY.name}.ckpt")):
        assert word in message
    assert leftovers(cache) == []


def test_without_a_network_an_entry_fails_at_once_and_says_where_to_put_the_file(cache, monkeypatch):
    with socket.socket() as closed:  # a port where nobody listens
        closed.bind(("127.0.0.1", 0))
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        pauses: list[float] = []  # before it is tried again
        monkeypatch.setattr(time, "sleep", pauses.append)
        message = message_of(hubconf.melhubert)
    assert sum(pauses) < 10
    for word in ("no connection", PUBLISHED[DEFAULT].url, str(cache / f"{DEFAULT}.ckpt")):
        assert word in message


def test_a_name_server_that_hangs_is_not_waited_for(cache, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.5)
    answer, answered = threading.Event(), threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: (answer.wait(200), answered.set()))
    message = message_of(download.fetch_published, ENTRY)
    assert not answered.is_set()
    answer.set()
    assert "drive.google.com is not found in 0.5 s" in message


@pytest.mark.parametrize("host", ["a..b", "a" * 64], ids=["empty label", "long label"])
def test_what_can_be_no_host_is_one_line(cache, monkeypatch, host):
    """The thread that looks it up ended in a traceback."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert f"the address of {host} is not found: " in message_of(download.fetch_url, f"http://{host}/m")


def test_what_an_error_of_the_look_up_says_is_told(cache, monkeypatch):
    """An OSError has a number and its words, or words alone."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for error, words in ((OSError(-2, "unknown"), "unknown"), (OSError("no resolver"), "no resolver")):
        monkeypatch.setattr(download.socket, "getaddrinfo", lambda *args, error=error: _raise(error))
        says = message_of(download.fetch_url, "http://example.org/m")
        assert f"the address of example.org is not found: {words}" in says


def _raise(error: Exception) -> None:
    raise error


def test_a_file_put_there_by_hand_is_used(cache, content):
    cache.mkdir()
    (cache / f"{ENTRY.name}.ckpt").write_bytes(content)
    hubconf.melhubert_20ms_360h_stage1()
    hubconf.melhubert_gdriveid(ENTRY.gdrive_id)


def test_cache_that_may_only_be_read_serves_what_it_holds(web, cache, content, monkeypatch):
    url = f"{web.url}/model.ckpt"
    web.files["/model.ckpt"] = content
    file = download.fetch_url(url)

    # An administrator may write anywhere, so that the folder's mode would say nothing.
    def refuse(lock, *arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.FileLock, "acquire", refuse)
    assert download.fetch_url(url) == file
    assert "make it writable" in message_of(download.fetch_url, f"{web.url}/other.ckpt")


def test_url_with_a_long_name_is_kept_under_a_shorter_one(web, cache, content):
    path = f"/{'x' * 400}.ckpt"
    web.files[path] = content
    file = download.fetch_url(web.url + path)
    assert file.read_bytes() == content
    assert file.name.endswith("xxx.ckpt")


def test_download_larger_than_any_checkpoint_is_refused(web, cache, content, monkeypatch):
    web.files["/model.ckpt"] = content
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    assert "no MelHuBERT checkpoint" in message_of(download.fetch_url, f"{web.url}/model.ckpt")
    assert leftovers(cache) == []


def test_error_names_no_file_that_is_gone(web, cache, content):
    web.files, web.cut = {"/model.ckpt": content}, 100
    assert ".part" not in message_of(download.fetch_url, f"{web.url}/model.ckpt")


def test_the_file_of_an_upstream_is_found_by_what_s3prl_knows_of_it(web, cache, content, tmp_path):
    cache.mkdir()
    for name in (DEFAULT, ENTRY.name):
        (cache / f"{name}.ckpt").write_bytes(content)
    web.files["/model.ckpt"] = content
    url, file = f"{web.url}/model.ckpt", str(tmp_path / "model.ckpt")
    assert download.fetch_upstream("melhubert", None) == cache / f"{DEFAULT}.ckpt"
    assert download.fetch_upstream(ENTRY.name, None) == cache / f"{ENTRY.name}.ckpt"
    assert download.fetch_upstream("melhubert_gdriveid", ENTRY.gdrive_id) == cache / f"{ENTRY.name}.ckpt"
    assert download.fetch_upstream("melhubert_url", url) == download.fetch_url(url)
    for name in ("melhubert_local", "melhubert_custom"):
        assert download.fetch_upstream(name, file) == file
    assert "needs a checkpoint (-k)" in message_of(download.fetch_upstream, "melhubert_local", None)
