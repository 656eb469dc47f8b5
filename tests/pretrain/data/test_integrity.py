"""A prepared set proves that it is whole: when it is opened, and file by file with `melhubert check`."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data import integrity, unfinished
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.data.integrity import set_files, write_sums
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.relabel import relabel
from s3prl_melhubert.pretrain.data.workers import Workers

ONE = Workers(jobs=1)


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared.folder, tmp_path / "set"))


def change_yaml(folder: Path, **values) -> None:
    """As a damaged set of an earlier version, whose file does not prove itself."""
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    content.pop("sha256", None)
    (folder / "dataset.yaml").write_text(yaml.safe_dump({**content, **values}))


def cut_manifest(folder: Path) -> None:
    lines = (folder / "manifest.csv").read_text().splitlines(keepends=True)
    (folder / "manifest.csv").write_text("".join(lines[:-2]))


def double_manifest(folder: Path) -> None:
    head, *lines = (folder / "manifest.csv").read_text().splitlines(keepends=True)
    (folder / "manifest.csv").write_text("".join([head, *lines, *lines]))


def edit_manifest(folder: Path) -> None:
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace(",0,0,", ",1,0,", 1))


def forget_proofs(folder: Path) -> None:
    """As a set of an earlier version, which has no hashes."""
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    del content["proofs"], content["sha256"]
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))


def cut_shard(folder: Path) -> None:
    path = folder / "features" / "00001.npy"
    path.write_bytes(path.read_bytes()[:-4000])


def shorten_shard(folder: Path) -> None:
    np.save(folder / "features" / "00001.npy", np.load(folder / "features" / "00001.npy")[:-9])


def change_a_mean(folder: Path) -> None:
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    content["statistics"]["mean"][3] += 1
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))


CHANGES = {
    "changed statistics": (change_a_mean, "changed since the set was made"),
    "cut manifest": (cut_manifest, "SHA-256"),
    "doubled manifest": (double_manifest, "SHA-256"),
    "edited manifest": (edit_manifest, "SHA-256"),
    "fewer clusters": (lambda folder: change_yaml(folder, clusters=2), "labels up to 5"),
    "wrong label period": (lambda folder: change_yaml(folder, label_period_ms=20), "label_period_ms"),
    "cut shard": (cut_shard, "cut short"),
    "shorter shard": (shorten_shard, "cut short"),
    "proofs that are none": (lambda folder: change_yaml(folder, proofs=3), "proofs"),
    "statistics that are none": (lambda folder: change_yaml(folder, statistics=[1]), "statistics"),
    "versions that are none": (lambda folder: change_yaml(folder, versions=[1]), "versions"),
}
WITHOUT_PROOFS = {
    "doubled manifest": (double_manifest, "overlap"),
    "edited manifest": (edit_manifest, "overlap"),
    "wrong label period": (lambda folder: change_yaml(folder, label_period_ms=20), "label_period_ms"),
    "shorter shard": (shorten_shard, "cut short"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_damaged_set_is_refused_when_it_is_opened(case, copy):
    change, words = CHANGES[case]
    change(copy)
    with pytest.raises(MelHuBERTError, match=words):
        read_prepared(copy)


def test_a_file_may_be_a_frame_shorter_than_its_utterances_and_no_more(copy):
    """As lengths in published lists are sometimes off by one."""
    path = copy / "features" / "00001.npy"
    np.save(path, np.load(path)[:-1])
    assert len(read_prepared(copy).utterances) == 12
    np.save(path, np.load(path)[:-1])
    with pytest.raises(MelHuBERTError, match=r"features/00001\.npy: .*cut short"):
        read_prepared(copy)


@pytest.mark.parametrize("rows", [1, 5, integrity.ROWS])  # that are looked at at a time, as of a large set
@pytest.mark.parametrize("case", WITHOUT_PROOFS)
def test_set_of_an_earlier_version_is_checked_by_what_it_has(case, rows, copy, monkeypatch):
    monkeypatch.setattr(integrity, "ROWS", rows)
    forget_proofs(copy)
    assert len(read_prepared(copy).utterances) == 12
    change, words = WITHOUT_PROOFS[case]
    change(copy)
    with pytest.raises(MelHuBERTError, match=words):
        read_prepared(copy)


@pytest.mark.parametrize(
    "name", ["features/00000.npy", "labels/00001.npy", "kmeans.npy", "rejected.csv", "SHA256SUMS"]
)
def test_check_names_the_file_with_a_flipped_bit(name, copy, capsys):
    assert main(["check", str(copy)]) == 0
    assert "every file is what was written" in capsys.readouterr().out
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    assert main(["check", str(copy)]) == 2
    said = capsys.readouterr()
    assert name in said.out + said.err


def test_check_looks_at_the_values_of_a_set_without_hashes(copy, capsys, monkeypatch):
    monkeypatch.setattr(integrity, "BLOCK", 400)  # so that these are large files
    forget_proofs(copy)
    assert main(["check", str(copy)]) == 0
    for name, place, value in (
        ("labels/00000", 5, -3),
        ("labels/00001", -1, 77),
        ("features/00002", -1, np.inf),
    ):
        values = np.load(copy / f"{name}.npy")
        values[place] = value
        np.save(copy / f"{name}.npy", values)
    capsys.readouterr()
    assert main(["check", str(copy)]) == 2
    said = capsys.readouterr().out
    assert "labels/00000.npy: label -3 found, expected 0 to 5" in said
    assert "labels/00001.npy: label 77 found, expected 0 to 5" in said
    assert "features/00002.npy: NaN or infinite features found" in said


@pytest.fixture
def stage2(copy, reference, tmp_path) -> Path:
    """New labels over the features of `copy`, which stay in its folder."""
    settings = {"clusters": 5, "stats": "librispeech-360h", "device": "cpu"}
    return relabel(copy, reference / "tiny-20ms.ckpt", 1, tmp_path / "stage2", **settings).folder


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_check_holds_features_in_another_set_to_the_hashes_there(stage2, copy, capsys):
    assert main(["check", str(stage2)]) == 0
    said = capsys.readouterr().out
    assert "every file is what was written" in said
    assert f"3 of the files lie in {copy}, and are as its SHA256SUMS has them" in said
    flip_bit(copy / "features" / "00001.npy")
    assert main(["check", str(stage2)]) == 2
    assert "00001.npy: its content is not what was written" in capsys.readouterr().out
    flip_bit(copy / "features" / "00001.npy")
    flip_bit(copy / "SHA256SUMS")
    assert main(["check", str(stage2)]) == 2
    assert f"{copy / 'SHA256SUMS'}: changed since the set was made" in capsys.readouterr().out


def test_check_says_that_features_of_no_set_were_not_compared(stage2, copy, capsys):
    (copy / "dataset.yaml").unlink()
    assert main(["check", str(stage2)]) == 0
    said = capsys.readouterr().out
    assert "every file" not in said
    assert "3 files are what was written" in said  # manifest.csv, kmeans.npy and one of labels
    assert "3 files have no hash to be compared with: they were looked at" in said


def test_check_knows_files_of_the_set_by_whatever_path_its_list_names_them(copy, capsys):
    """As in a manifest that was made by other means."""
    text = (copy / "manifest.csv").read_text()
    (copy / "manifest.csv").write_text(text.replace("features/", "../set/features/"))
    shutil.rmtree(copy / "columns")
    proofs = write_sums(copy, set_files(copy, "kmeans.npy", "rejected.csv"), copy / "SHA256SUMS")
    change_yaml(copy, proofs=asdict(proofs))
    assert main(["check", str(copy)]) == 0
    said = capsys.readouterr().out
    assert said.endswith("every file is what was written\n")


def test_hashes_are_those_of_sha256sum(prepared):
    import subprocess

    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=prepared.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_foreign_folder_called_unfinished_is_left_alone(corpus, tmp_path, capsys):
    mine = tmp_path / "out" / "unfinished" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    arguments = [
        "prepare",
        "--audio",
        str(corpus),
        "--clusters",
        "4",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 2
    assert "not begun by this command" in capsys.readouterr().err
    assert mine.read_text() == "years of work"


@pytest.mark.parametrize("argument", [("--seed", "-1"), ("--seed", str(2**64)), ("--sample-frames", "3")])
def test_what_kmeans_cannot_use_is_refused_before_the_first_pass(argument, corpus, tmp_path, capsys):
    arguments = [
        "prepare",
        "--audio",
        str(corpus),
        "--clusters",
        "4",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, *argument]) == 2
    assert argument[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_clusters_can_be_corrected_without_losing_the_features(corpus, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["prepare", "--audio", str(corpus), "--jobs", "1", "--out", str(out), "--clusters"]
    assert main([*arguments, "100000", "--sample-frames", "100000"]) == 2
    assert "fewer --clusters" in capsys.readouterr().err
    made = {path: path.stat().st_mtime_ns for path in (out / "unfinished" / "log-mel").glob("*.npy")}
    assert made
    calls = []
    real = unfinished.Unfinished.complete
    monkeypatch.setattr(
        unfinished.Unfinished,
        "complete",
        lambda self, *rest: (calls.append(list((out / "unfinished").iterdir())), real(self, *rest)),
    )
    assert main([*arguments, "4"]) == 0
    assert read_prepared(out).info.clusters == 4
    assert calls


def test_damaged_record_of_an_interrupted_command_is_named(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["prepare", "--audio", str(corpus), "--jobs", "1", "--out", str(out), "--clusters"]
    assert main([*arguments, "100000", "--sample-frames", "100000"]) == 2
    record = next((out / "unfinished" / "log-mel").glob("*.json"))
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "lengths": [1, 2]}))
    capsys.readouterr()
    assert main([*arguments, "4"]) == 2
    assert record.name in capsys.readouterr().err


def test_prepare_says_what_was_done_to_the_audio_and_rejects_what_is_absurd(tmp_path, capsys):
    random = np.random.default_rng(0)
    audio = tmp_path / "audio"
    audio.mkdir()
    for name, rate, channels in (("a", 16_000, 1), ("b", 8_000, 1), ("c", 44_100, 2), ("d", 16_000, 2)):
        noise = random.normal(0, 0.1, (rate, channels)).astype(np.float32)
        soundfile.write(audio / f"{name}.wav", noise, rate)
    loud = random.normal(0, 1e20, 16_000).astype(np.float32)
    soundfile.write(audio / "loud.wav", loud, 16_000, subtype="FLOAT")
    first = ["--audio", str(audio), "--clusters", "4", "--jobs", "1", "--max-rejected", "0.5"]
    assert main(["prepare", *first, "--out", str(tmp_path / "one")]) == 0
    said = capsys.readouterr().err
    for words in ("2 of 4 files resampled", "1 of 4 files were narrow-band", "2 of 4 files mixed down"):
        assert words in said
    second = [
        "--audio",
        str(audio),
        "--kmeans",
        str(tmp_path / "one"),
        "--jobs",
        "1",
        "--max-rejected",
        "0.5",
    ]
    assert main(["prepare", *second, "--out", str(tmp_path / "two")]) == 0
    for name in ("one", "two"):
        assert "loud.wav" in (tmp_path / name / "rejected.csv").read_text()


@pytest.mark.parametrize("name", ["line\rbreak.wav", "latin-\udce9.wav", "comma, quote.wav"])
def test_odd_names_come_back_from_a_finished_manifest(name, tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    shutil.move(tmp_path / "x.wav", audio / name)
    (audio / f"bad {name}").write_bytes(b"RIFF")
    prepared = prepare_audio([audio], tmp_path / "out", clusters=2, max_rejected=0.5, workers=ONE)
    assert [u.id for u in prepared.utterances] == [name.removesuffix(".wav")]
    with (prepared.folder / "rejected.csv").open(newline="", errors="surrogateescape") as file:
        assert [row["file_path"] for row in csv.DictReader(file)] == [str(audio / f"bad {name}")]
