"""The columns of a manifest: what they hold is what manifest.csv holds, and they are never stale."""

from __future__ import annotations

import mmap
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.cli import main
from s3prl_melhubert.pretrain.data.description import check_set, read_prepared
from s3prl_melhubert.pretrain.data.manifest import (
    Selection,
    Utterance,
    columns,
    columns_fault,
    columns_folder,
    listing,
    read_manifest,
    selection,
    stored,
    utterance_features,
    utterance_labels,
    write_columns,
)
from s3prl_melhubert.pretrain.data.manifest.rows import write_manifest

ODD = ["plain", "línea", "a,b", 'quo"te', "line\nbreak", "latin-\udce9", "tab\t"]
STALE = "another manifest.csv"


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared.folder, tmp_path / "set"))


@pytest.fixture
def odd(tmp_path) -> Path:
    """A manifest of odd names, in more files than one, not in their order."""
    shards = [(Path(f"features/{i}.npy"), Path(f"labels/{i}.npy")) for i in range(3)]
    rows = [Utterance(name, *shards[(i * 2) % 3], 7 + i, 100 * i, 50 * i) for i, name in enumerate(ODD)]
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def test_prepare_writes_columns_and_they_are_what_is_opened(prepared):
    utterances = prepared.utterances
    assert utterances.source == prepared.manifest
    assert isinstance(utterances.lengths.base, np.memmap | mmap.mmap)
    assert list(prepared.folder.glob("columns/*.npy"))
    assert "columns" not in (prepared.folder / "SHA256SUMS").read_text()


def test_columns_hold_what_the_csv_holds(odd):
    from_csv = list(read_manifest(odd))
    assert [utterance.id for utterance in from_csv] == ODD
    assert from_csv[1].features == odd.parent / "features" / "2.npy"
    columns = write_columns(odd)
    assert list(columns) == list(read_manifest(odd)) == from_csv
    assert columns[2:4] == from_csv[2:4]
    assert columns[-1] == from_csv[-1]
    assert columns.frames == sum(utterance.length for utterance in from_csv)
    with pytest.raises(IndexError):
        columns[len(ODD)]


@pytest.fixture(params=[1, 3])
def small_blocks(request, monkeypatch) -> None:
    """As a manifest of millions of rows is worked on, of which this one is a small image."""
    for module in (columns, listing, selection):
        monkeypatch.setattr(module, "BLOCK", request.param)


def test_a_manifest_of_many_blocks_of_rows_is_that_of_one(odd, small_blocks):
    utterances = write_columns(odd)
    for each in (utterances, columns.columns_of_csv(odd)):
        assert [u.id for u in each] == list(each.ids) == ODD
        assert [(u.features.stem, u.length, u.start) for u in each] == [
            (str(i * 2 % 3), 7 + i, 100 * i) for i in range(len(ODD))
        ]
    assert columns_fault(odd) is None

    encoded = [name.encode(errors="surrogateescape") for name in ODD]
    chosen = Selection.of([utterances], lambda lengths: (lengths == 8) | (lengths > 10))
    assert chosen.lengths.tolist() == [8, 11, 12, 13]
    pairs = [pair for ids, lengths in chosen.named_lengths() for pair in zip(ids, lengths, strict=True)]
    assert pairs == [(encoded[i], 7 + i) for i in (1, 4, 5, 6)]
    assert [u.id for u in chosen] == [ODD[i] for i in (1, 4, 5, 6)]
    both = Selection.of([utterances, utterances], lambda lengths: (lengths == 8) | (lengths > 10))
    assert [u.id for u in both] == [ODD[i] for i in (1, 4, 5, 6)] * 2
    assert both.lengths.tolist() == [8, 11, 12, 13] * 2
    assert (both.amount.frames, both.left_out.utterances, both.left_out.frames) == (88, 6, 52)
    whole = Selection.of([utterances, utterances], lambda lengths: lengths > 0)
    assert [u.id for u in whole] == ODD * 2
    assert whole.left_out.utterances == 0
    choice = listing.Choice(("*e*", "t*"), least_seconds=0.08)
    assert choice.rows(utterances).tolist() == [1, 3, 4, 6]


def test_what_is_wrong_in_a_later_block_of_columns_is_found(odd, small_blocks):
    write_columns(odd)
    path = odd.parent / "columns" / "starts.npy"
    starts = np.load(path)
    starts[4] += 1
    np.save(path, starts)
    assert "are not those of manifest.csv" in columns_fault(odd)


@pytest.mark.parametrize("frames", [7, 29, 435, 1114])
def test_an_utterance_of_exactly_so_many_seconds_is_chosen(frames, tmp_path):
    rows = [f"x.npy,y.npy,{length}\n" for length in (frames - 1, frames, frames + 1)]
    (tmp_path / "train.csv").write_text("".join(["file_path,label_path,length\n", *rows]))
    utterances = read_manifest(tmp_path / "train.csv")
    assert listing.summary(utterances, np.array([1])) == (
        f"1 utterances, {frames / 360_000:.4g} h, of {frames / 100:.2f} to {frames / 100:.2f} s "
        f"(mean {frames / 100:.2f}, median {frames / 100:.2f})"
    )
    seconds = float(f"{frames / 100:.2f}")
    assert listing.Choice(least_seconds=seconds).rows(utterances).tolist() == [1, 2]
    assert listing.Choice(most_seconds=seconds).rows(utterances).tolist() == [0, 1]


def test_published_csv_has_columns_under_its_own_name(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("file_path,label_path,length\n/a/x.npy,/a/x.lab.npy,7\ny.npy,/a/y.lab.npy,8.0\n")
    expected = list(read_manifest(path))
    assert expected[0] == Utterance("x", Path("/a/x.npy"), Path("/a/x.lab.npy"), 7)
    assert main(["manifest", str(path), "--columns"]) == 0
    found = read_manifest(path)
    assert found.source == path
    assert columns_folder(path).name == "train.columns"
    assert list(found) == expected


def append_row(manifest: Path) -> None:
    with manifest.open("a") as file:
        file.write("features/00000.npy,labels/00000.npy,3,9000,9000,new\n")


def change_a_digit_and_keep_the_time(manifest: Path) -> None:
    """As large as before, and by its time as old."""
    status = manifest.stat()
    text = manifest.read_text()
    place = text.rindex("-000") + 1
    manifest.write_text(text[:place] + "9" + text[place + 1 :])
    os.utime(manifest, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert manifest.stat().st_size == status.st_size


@pytest.mark.parametrize("change", [append_row, change_a_digit_and_keep_the_time])
def test_changed_csv_is_read_itself_and_a_word_is_said(change, copy):
    manifest = copy / "manifest.csv"
    change(manifest)
    with pytest.warns(UserWarning, match=STALE):
        utterances = read_manifest(manifest)
    assert utterances.source is None
    last = manifest.read_text().splitlines()[-1].rpartition(",")[2]
    assert utterances[-1].id == last
    with (
        pytest.raises(MelHuBERTError, match="changed since the set was made"),
        pytest.warns(UserWarning, match=STALE),
    ):
        read_prepared(copy)
    assert write_columns(manifest)[-1].id == last


def test_a_stale_copy_is_not_believed(copy, tmp_path):
    """Columns that were stale before they were copied are younger than the manifest afterwards."""
    change_a_digit_and_keep_the_time(copy / "manifest.csv")
    again = tmp_path / "again"
    again.mkdir()
    for name in ("manifest.csv", "columns"):  # in this order
        copier = shutil.copytree if (copy / name).is_dir() else shutil.copyfile
        copier(copy / name, again / name)
    with pytest.warns(UserWarning, match=STALE):
        assert read_manifest(again / "manifest.csv").source is None


def test_a_copy_is_hashed_once_and_believed_afterwards(copy, monkeypatch):
    hashed = []
    real = stored.sha256_of
    monkeypatch.setattr(stored, "sha256_of", lambda path: hashed.append(path) or real(path))
    for _ in range(3):
        assert read_manifest(copy / "manifest.csv").source is not None
    assert hashed == [copy / "manifest.csv"]


DAMAGE = {
    "no lengths": lambda folder: (folder / "lengths.npy").unlink(),
    "cut lengths": lambda folder: os.truncate(folder / "lengths.npy", 140),
    "fewer rows": lambda folder: np.save(folder / "starts.npy", np.load(folder / "starts.npy")[:-1]),
    "other type": lambda folder: np.save(folder / "starts.npy", np.load(folder / "starts.npy") + 0.5),
    "cut names": lambda folder: np.save(folder / "ids.npy", np.load(folder / "ids.npy")[:-1]),
    "no such file": lambda folder: np.save(folder / "labels.npy", np.load(folder / "labels.npy") + 1),
    "no JSON": lambda folder: (folder / "columns.json").write_text("{"),
    "no mapping": lambda folder: (folder / "columns.json").write_text("[]"),
    "future": lambda folder: (folder / "columns.json").write_text('{"version": 99}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_columns_are_not_used(damage, copy, prepared):
    damage(copy / "columns")
    words = rf"columns: .*manifest\.csv itself is read.*`melhubert manifest {re.escape(str(copy))} --columns`"
    with pytest.warns(UserWarning, match=words):
        opened = read_prepared(copy)
    assert [u.id for u in opened.utterances] == [u.id for u in prepared.utterances]
    with pytest.warns(UserWarning, match=words):
        [fault] = check_set(copy)[1].faults
    assert fault.startswith(f"{copy / 'columns'}: ")


@pytest.mark.parametrize(("column", "found"), [("ids", "rows 1 to 12"), ("files", "its rows or files")])
def test_check_finds_a_flipped_bit_in_columns_and_they_can_be_made_anew(column, found, copy, capsys):
    path = copy / "columns" / f"{column}.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert main(["check", str(copy)]) == 2
    assert f"columns: {found} are not those of manifest.csv" in capsys.readouterr().out
    assert main(["manifest", str(copy), "--columns", "--head", "0"]) == 0
    assert check_set(copy)[1].faults == []


def test_columns_with_a_changed_figure_are_named_and_not_the_manifest(copy):
    path = copy / "columns" / "lengths.npy"
    lengths = np.load(path)
    lengths[3] += 1
    np.save(path, lengths)
    with pytest.raises(MelHuBERTError, match=r"columns: rows 1 to 12 are not those of manifest\.csv; remove"):
        read_prepared(copy)


def test_columns_without_their_last_file_are_not_there(copy):
    """As a command leaves them that is killed while it writes them."""
    (copy / "columns" / "columns.json").unlink()
    opened = read_prepared(copy)
    assert opened.utterances.source is None
    assert len(opened.utterances) == 12
    assert "they were not finished" in check_set(copy)[1].faults[0]


def test_a_manifest_that_changes_while_its_columns_are_made_is_refused(copy, monkeypatch):
    """They would be of neither."""
    write = stored._write_arrays
    monkeypatch.setattr(stored, "_write_arrays", lambda *given: (write(*given), append_row(given[0]))[0])
    with pytest.raises(MelHuBERTError, match=r"manifest\.csv: was changed while its columns were made"):
        write_columns(copy / "manifest.csv")
    assert read_manifest(copy / "manifest.csv").source is None


def test_only_who_reads_very_many_rows_is_told_of_columns(odd, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_manifest(odd)
    monkeypatch.setattr(stored, "MANY_ROWS", len(ODD))
    with pytest.warns(UserWarning, match=rf"{len(ODD)} rows.*`melhubert manifest {odd.parent} --columns`"):
        read_manifest(odd)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_process_that_is_started_anew_gets_the_same_utterances(mapped, copy):
    if not mapped:
        shutil.rmtree(copy / "columns")
    utterances = read_manifest(copy / "manifest.csv")
    sent = pickle.dumps(utterances)
    assert list(pickle.loads(sent)) == list(utterances)
    if mapped:
        assert len(sent) < 500, "the path alone is sent"


# `melhubert manifest` -----------------------------------------------------------------------------------


def test_manifest_prints_what_is_in_a_set(copy, capsys):
    assert main(["manifest", str(copy), "--head", "2"]) == 0
    said = capsys.readouterr()
    assert "12 utterances" in said.err
    assert said.out.splitlines() == (copy / "manifest.csv").read_text().splitlines()[:3]


def test_manifest_chooses_by_name_and_length(copy, capsys):
    everything = read_prepared(copy).utterances
    arguments = [
        "--id",
        "100-*",
        "--id",
        "101-*",
        "--min-seconds",
        "0.4",
        "--max-seconds",
        "0.8",
        "--head",
        "-1",
    ]
    assert main(["manifest", str(copy), *arguments]) == 0
    said = capsys.readouterr()
    wanted = [u.id for u in everything if u.id[:4] in ("100-", "101-") and 40 <= u.length <= 80]
    assert 0 < len(wanted) < 8
    assert [line.rpartition(",")[2] for line in said.out.splitlines()[1:]] == wanted
    assert f"chosen: {len(wanted)} utterances" in said.err


@pytest.mark.parametrize("place", ["set", "elsewhere"])
def test_a_choice_is_a_set_to_train_on(place, copy, tmp_path, capsys):
    out = copy / "long.csv" if place == "set" else tmp_path / "long.csv"
    assert main(["manifest", str(copy), "--min-seconds", "0.6", "--csv", str(out)]) == 0
    chosen = read_prepared(out)
    everything = read_prepared(copy).utterances
    assert [u.id for u in chosen.utterances] == [u.id for u in everything if u.length >= 60]
    assert chosen.utterances[0].features.resolve() == next(u for u in everything if u.length >= 60).features
    assert (chosen.info is None) == (place == "elsewhere")
    assert ("no dataset.yaml beside it" in capsys.readouterr().err) == (place == "elsewhere")


def test_manifest_refuses_to_write_nothing(copy, capsys):
    assert main(["manifest", str(copy), "--id", "nobody", "--csv", str(copy / "none.csv")]) == 2
    assert "nothing to write" in capsys.readouterr().err
    assert not (copy / "none.csv").exists()


@pytest.mark.parametrize("source", ["set", "list"])
def test_a_choice_is_not_written_beside_the_statistics_of_another_set(source, copy, tmp_path, capsys):
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    data = copy
    if source == "list":  # A published CSV, which has no set of its own.
        data = tmp_path / "train.csv"
        assert main(["manifest", str(copy), "--csv", str(data)]) == 0
    assert main(["manifest", str(data), "--csv", str(other / "a.csv")]) == 2
    said = capsys.readouterr().err
    assert f"{other} holds another set" in said
    assert "folder without a dataset.yaml" in said
    assert not (other / "a.csv").exists()


OWN_FILES = ["dataset.yaml", "manifest.csv", "kmeans.npy", "rejected.csv", "SHA256SUMS"]


@pytest.mark.parametrize("name", [*OWN_FILES, "features/00000.npy", "labels/00001.npy", "columns/ids.npy"])
def test_a_choice_replaces_no_file_of_its_set(name, copy, folder_bytes, capsys):
    before = folder_bytes(copy)
    assert main(["manifest", str(copy), "--min-seconds", "0.6", "--csv", str(copy / name)]) == 2
    assert "another" in capsys.readouterr().err
    assert folder_bytes(copy) == before


def test_a_choice_replaces_only_lists_that_the_command_wrote(copy, tmp_path, capsys):
    command = ["manifest", str(copy), "--csv"]
    short, published, whole = copy / "short.csv", tmp_path / "train.csv", tmp_path / "manifest.csv"
    assert main([*command, str(short)]) == 0
    assert main([*command, str(short), "--max-seconds", "0.6"]) == 0  # with another choice
    rows = len(read_prepared(short).utterances)
    assert 0 < rows < 12
    published.write_text(f"file_path,label_path,length\n{tmp_path}/x.npy,{tmp_path}/y.npy,41\n")
    assert main([*command, str(published)]) == 2
    assert "no list that this command wrote" in capsys.readouterr().err
    assert main(["manifest", str(short), "--max-seconds", "0.1", "--csv", str(short)]) == 2
    assert "chosen from" in capsys.readouterr().err
    assert len(read_prepared(short).utterances) == rows
    for _ in range(2):  # A folder that is no set may have a list of this name.
        assert main([*command, str(whole)]) == 0
    assert len(read_prepared(tmp_path).utterances) == 12


def test_a_choice_may_be_written_into_its_set_by_way_of_a_link(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    assert main(["manifest", str(copy), "--csv", str(tmp_path / "link" / "a.csv")]) == 0
    assert main(["manifest", str(tmp_path / "link"), "--csv", str(copy / "b.csv")]) == 0
    for name in ("a.csv", "b.csv"):
        assert (copy / name).read_text() == (copy / "manifest.csv").read_text()


def test_a_choice_of_a_set_in_hugging_faces_cache_names_the_links(cached, prepared, tmp_path):
    assert main(["manifest", str(cached), "--head", "0", "--csv", str(tmp_path / "all.csv")]) == 0
    everything = read_prepared(tmp_path / "all.csv").utterances
    for chosen, known in zip(everything, prepared.utterances, strict=True):
        assert not chosen.is_audio
        assert (chosen.features.name, chosen.labels.name) == (known.features.name, known.labels.name)
        np.testing.assert_array_equal(utterance_features(chosen), utterance_features(known))
        np.testing.assert_array_equal(utterance_labels(chosen), utterance_labels(known))
