"""What is called `unfinished` and no command made stays as it is; and what a complete set is held to.

Its hashes are those of the shards as they were written, whoever wrote them, and whenever.
"""

import shutil
from dataclasses import replace

import pytest
import soundfile
import yaml

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data import integrity
from s3prl_melhubert.pretrain.data.description import read_dataset_info, write_dataset_info
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.unfinished import Unfinished
from s3prl_melhubert.pretrain.data.workers import Workers
from s3prl_melhubert.support.files import sha256_of

SMALL = {"subsets": ["dev-clean"], "clusters": 4, "shard_files": 6, "workers": Workers(jobs=1)}


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that looks like the work of an interrupted command, down to the names of its files."""
    folder = tmp_path / "elsewhere"
    for name in ("recipe.json", "log-mel/00000.npy", "log-mel/00000.json", "labels/.00000.npy.0123abcd.npy"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"command": "prepare --audio"}')
    return folder


def test_a_set_is_made_in_the_home_folder_where_a_shell_left_it_to_the_command(corpus, tmp_path, monkeypatch):
    """As bash does of --out=~/set."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    data = prepare_audio([corpus], "~/set", **SMALL)
    assert data.folder == tmp_path / "home" / "set"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_link_called_unfinished_is_not_followed(corpus, tmp_path, elsewhere, folder_bytes):
    out, before = tmp_path / "out", folder_bytes(elsewhere)
    out.mkdir()
    (out / "unfinished").symlink_to(elsewhere)
    with pytest.raises(MelHuBERTError, match="not empty, and not begun by this command"):
        prepare_audio([corpus], out, **SMALL)
    assert [path.name for path in out.iterdir()] == ["unfinished"]
    assert (out / "unfinished").is_symlink()
    assert folder_bytes(elsewhere) == before


def test_a_link_in_a_complete_set_is_not_followed(corpus, tmp_path, elsewhere, folder_bytes):
    out, before = tmp_path / "out", folder_bytes(elsewhere)
    prepare_audio([corpus], out, **SMALL)
    (out / "unfinished").symlink_to(elsewhere)
    prepare_audio([corpus], out, **SMALL)  # complete: only read
    assert (out / "unfinished").is_symlink()
    assert folder_bytes(elsewhere) == before


def test_a_link_inside_unfinished_work_is_refused(corpus, tmp_path, elsewhere, folder_bytes, monkeypatch):
    from s3prl_melhubert.pretrain.data import prepare

    out, before = tmp_path / "out", folder_bytes(elsewhere)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_make_features", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_audio([corpus], out, **SMALL)
    (out / "unfinished" / "log-mel").symlink_to(elsewhere / "log-mel")
    with pytest.raises(
        MelHuBERTError, match="unfinished/log-mel: is a link, which this command did not make"
    ):
        prepare_audio([corpus], out, **SMALL)
    assert folder_bytes(elsewhere) == before
    (out / "unfinished" / "log-mel").unlink()
    assert prepare_audio([corpus], out, **SMALL).info.utterances == 12
    assert folder_bytes(elsewhere) == before


@pytest.mark.parametrize(
    "left",
    [".SHA256SUMS.melhubert-0123456789abcdef", ".manifest.csv.0123abcd.csv", ".manifest.csv.k3_xab0z.csv"],
)
def test_what_was_being_written_goes_with_the_unfinished_work(left, corpus, tmp_path, folder_bytes):
    """Also where a file system without locks has kept it, and what version 0.1.0 left."""
    out = tmp_path / "out"
    prepare_audio([corpus], out, **SMALL)
    whole = folder_bytes(out)
    work = out / "unfinished"
    work.mkdir()
    (work / "recipe.json").write_text('{"command": "prepare --audio"}')
    (work / left).write_text("half")
    prepare_audio([corpus], out, **SMALL)
    assert not work.exists()
    assert folder_bytes(out) == whole


def test_a_file_called_unfinished_stays(corpus, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "unfinished").write_text("symphony")
    with pytest.raises(MelHuBERTError, match="not empty, and not begun by this command"):
        prepare_audio([corpus], out, **SMALL)
    assert [path.read_text() for path in out.iterdir()] == ["symphony"]
    (out / "unfinished").unlink()
    prepare_audio([corpus], out, **SMALL)
    (out / "unfinished").write_text("symphony")
    prepare_audio([corpus], out, **SMALL)  # complete: only read
    assert (out / "unfinished").read_text() == "symphony"


@pytest.fixture
def two_corpora(sweep, tmp_path):
    """Folders `a` and `b` with other speech in `wav/`, of the same names, sizes and times."""
    for folder, first in (("a", 0), ("b", 10)):
        (tmp_path / folder / "wav").mkdir(parents=True)
        for i in range(3):
            path = tmp_path / folder / "wav" / f"{i}.wav"
            soundfile.write(path, sweep(first + i, 0.5), 16_000)
            shutil.copystat(tmp_path / "a" / "wav" / "0.wav", path)
    return tmp_path


def test_a_complete_set_says_that_nothing_was_done(two_corpora, monkeypatch, capsys, folder_bytes):
    monkeypatch.chdir(two_corpora / "a")
    more = {"clusters": 4, "workers": Workers(jobs=1), "features": "none"}
    out = two_corpora / "out"
    prepare_audio(["wav"], out, **more)
    whole = folder_bytes(out)

    def lines() -> list[str]:
        capsys.readouterr()
        prepare_audio(["wav"], out, **more)
        assert folder_bytes(out) == whole
        return capsys.readouterr().err.splitlines()

    done = f"{out}: complete already; nothing was done"
    assert lines() == [done]
    (two_corpora / "a" / "wav" / "1.wav").touch()
    other = "if it is to be made of these, give another --out"
    assert lines() == [f"{done}. It was made of files with other times; {other}"]
    monkeypatch.chdir(two_corpora / "b")
    assert lines() == [f"{done}. It was made of files in {two_corpora}/a/wav; {other}"]

    info = read_dataset_info(out / "dataset.yaml")
    write_dataset_info(out / "dataset.yaml", replace(info, made_from={}))  # as an earlier version wrote it
    assert "made_from" not in yaml.safe_load((out / "dataset.yaml").read_text())
    whole = folder_bytes(out)
    assert lines() == [done]


@pytest.fixture
def before_the_hashes(corpus, tmp_path, monkeypatch):
    """A set of which all shards are written, and nothing else is."""

    def stop(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "complete", stop)
        with pytest.raises(MelHuBERTError, match="the same command continues"):
            prepare_audio([corpus], tmp_path / "out", **SMALL)
    return tmp_path / "out"


def test_shards_are_not_read_again_for_their_hashes(corpus, before_the_hashes, monkeypatch, tmp_path):
    """A set of 60 000 hours has 3.5 TB of features, which one process would read for an hour."""
    read = []
    monkeypatch.setattr(integrity, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    prepare_audio([corpus], before_the_hashes, **SMALL)
    assert sorted(read[:3]) == ["kmeans.npy", "manifest.csv", "rejected.csv"]
    assert not [name for name in read if name[0].isdecimal()]
    assert main(["check", str(before_the_hashes)]) == 0


def test_a_shard_that_changed_before_the_set_was_complete_is_found(corpus, before_the_hashes, capsys):
    shard = next((before_the_hashes / "features").glob("*.npy"))
    *whole, last = shard.read_bytes()
    shard.write_bytes(bytes([*whole, last ^ 1]))
    prepare_audio([corpus], before_the_hashes, **SMALL)
    assert main(["check", str(before_the_hashes)]) == 2
    assert f"{shard}: its content is not what was written" in capsys.readouterr().out


@pytest.mark.parametrize("note", [None, b"", b"[]", b'{"sha256": "0", "older": 1}'])
def test_shards_without_a_note_are_read(note, corpus, before_the_hashes, tmp_path, folder_bytes):
    """An earlier version made none, and a loss of power may take what is in them."""
    notes = [*(before_the_hashes / "unfinished").glob("[fl]*s/*.json")]
    assert len(notes) == 2 * len([*(before_the_hashes / "labels").iterdir()])
    for path in notes:
        path.unlink() if note is None else path.write_bytes(note)
    prepare_audio([corpus], before_the_hashes, **SMALL)
    prepare_audio([corpus], tmp_path / "whole", **SMALL)
    assert folder_bytes(before_the_hashes) == folder_bytes(tmp_path / "whole")
