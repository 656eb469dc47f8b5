"""`melhubert units`: of the audio, the labels that `prepare` and `relabel` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_melhubert import load_checkpoint, save_checkpoint
from s3prl_melhubert.cli import main
from s3prl_melhubert.extraction import long_files
from s3prl_melhubert.pretrain.data.description import read_prepared
from s3prl_melhubert.pretrain.data.label_quality import LabelQuality, label_quality
from s3prl_melhubert.pretrain.data.manifest import utterance_labels
from s3prl_melhubert.pretrain.data.prepare import prepare_audio
from s3prl_melhubert.pretrain.data.relabel import relabel
from s3prl_melhubert.pretrain.data.workers import Workers
from s3prl_melhubert.units import output
from s3prl_melhubert.units.nearest import NearestCentroid


def make_sets(audio: Path, subset: str, folder: Path, reference: Path, clusters: int) -> Path:
    """Sets of stage 1 and 2, and a checkpoint with the quantizer of each."""
    first = prepare_audio(
        [audio], folder / "set1", subsets=[subset], clusters=clusters, workers=Workers(jobs=1)
    )
    tiny = load_checkpoint(reference / "tiny-20ms.ckpt")
    save_checkpoint(folder / "plain.ckpt", tiny.config, tiny.state, first.info.stats)
    relabel(first.folder, folder / "plain.ckpt", 2, folder / "set2", clusters=clusters, device="cpu")
    for name, data in (("stage1.ckpt", "set1"), ("stage2.safetensors", "set2")):
        arguments = [str(folder / "plain.ckpt"), str(folder / name), "--quantizer", str(folder / data)]
        assert main(["convert", *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def stages(corpus, tmp_path_factory, reference):
    """Both stages over synthesized audio. Not to be changed."""
    return make_sets(corpus, "train-clean-100", tmp_path_factory.mktemp("stages"), reference, 12)


@pytest.fixture
def units(capsys, tmp_path):
    """`units(CKPT, AUDIO, NAME, ...)`: status, stdout, stderr of the command that writes tmp_path / NAME."""

    def run(checkpoint: Path, audio: Path, name: str, *more: object) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = ["-c", checkpoint, audio, "--out", tmp_path / name, "--device", "cpu", *more]
        return main(["units", *map(str, arguments)]), *capsys.readouterr()

    return run


def by_id(path: Path) -> dict[str, np.ndarray]:
    arrays = np.load(path)
    return {name.rpartition("/")[2]: arrays[name] for name in arrays.files}


@pytest.mark.parametrize(("name", "data"), [("stage1.ckpt", "set1"), ("stage2.safetensors", "set2")])
def test_units_of_the_audio_are_the_labels_of_the_set(name, data, stages, corpus, units, tmp_path):
    status, printed, _ = units(stages / name, corpus / "train-clean-100", "u.npz")
    assert status == 0
    assert "of 12 in use; one every " in printed
    assert main(["info", str(stages / name)]) == 0
    prepared, found = read_prepared(stages / data), by_id(tmp_path / "u.npz")
    assert f"one every {prepared.label_period_ms} ms" in printed
    assert len(found) == len(prepared.utterances) == 12
    for utterance in prepared.utterances:
        labels = np.array(utterance_labels(utterance, prepared.label_period_ms))
        np.testing.assert_array_equal(found[utterance.id], labels)


def test_an_utterance_has_the_same_units_alone_and_in_a_batch(stages, corpus, units, tmp_path):
    checkpoint, audio = stages / "stage2.safetensors", corpus / "train-clean-100"
    units(checkpoint, audio, "batch.txt")
    units(checkpoint, audio, "alone.txt", "--max-frames", 1)
    assert (tmp_path / "batch.txt").read_bytes() == (tmp_path / "alone.txt").read_bytes()


def test_text_npz_and_manifest_say_the_same_with_and_without_runs(stages, corpus, units, tmp_path):
    checkpoint, audio = stages / "stage1.ckpt", corpus / "train-clean-100"
    _, printed, _ = units(checkpoint, audio, "all.npz")
    for name in ("u.txt", "u.npz", "u.jsonl"):
        status, collapsed, _ = units(checkpoint, audio, name, "--collapse")
        assert status == 0
    whole, pairs = np.load(tmp_path / "all.npz"), np.load(tmp_path / "u.npz")
    assert whole[whole.files[0]].dtype == np.int16
    text = dict(line.split(maxsplit=1) for line in (tmp_path / "u.txt").read_text().splitlines())
    durations = dict(line.split(maxsplit=1) for line in (tmp_path / "u.durations").read_text().splitlines())
    rows = [json.loads(line) for line in (tmp_path / "u.jsonl").read_text().splitlines()]
    assert whole.files == pairs.files == list(text) == list(durations) == [row["id"] for row in rows]
    for row in rows:
        name, (runs, frames) = row["id"], pairs[row["id"]].tolist()
        assert (row["units"], row["durations"]) == (runs, frames)
        assert ([*map(int, text[name].split())], [*map(int, durations[name].split())]) == (runs, frames)
        np.testing.assert_array_equal(np.repeat(runs, frames), whole[name])
        assert all(one != two for one, two in pairwise(runs))
        assert row["seconds"] == pytest.approx(len(whole[name]) / 100, abs=0.03)
        assert Path(row["audio"]).is_file()

    def rate(printed):
        return float(printed.split("unit_rate")[1].split()[0])

    assert rate(printed) > rate(collapsed) > 0


@contextmanager
def interrupted_after(monkeypatch: pytest.MonkeyPatch, utterances: int) -> Iterator[None]:
    """Commands in this block are interrupted when so many utterances are done."""
    add = output.Unfinished.add

    def add_or_stop(self, *arguments):
        if len(self.done) == utterances:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(output.Unfinished, "add", add_or_stop)
        yield


def test_an_interrupted_command_continues_and_writes_the_same(stages, corpus, units, tmp_path, monkeypatch):
    checkpoint, audio = stages / "stage2.safetensors", corpus / "train-clean-100"
    units(checkpoint, audio, "whole.txt")
    with interrupted_after(monkeypatch, 5):
        assert units(checkpoint, audio, "part.txt")[0] == 130
    assert not (tmp_path / "part.txt").exists()
    with (tmp_path / "part.txt.unfinished").open("ab") as file:
        file.write(b'["cut by a kill", 160')
    status, _, error = units(stages / "stage1.ckpt", audio, "part.txt")
    assert (status, error.count("\n")) == (2, 1)
    assert "was begun with checkpoint " in error
    status, printed, _ = units(checkpoint, audio, "part.txt")
    assert status == 0
    assert "12 utterances (5 of them done before)" in printed
    assert (tmp_path / "part.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.txt", "whole.txt"]


def test_an_interrupted_command_takes_up_only_what_is_of_the_same_files(
    stages, units, tmp_path, monkeypatch, sweep
):
    checkpoint, here, other = stages / "stage1.ckpt", tmp_path / "here", tmp_path / "other"
    for folder, seed in ((here, 0), (other, 50)):
        folder.mkdir()
        for i in range(6):
            soundfile.write(folder / f"{i}.wav", sweep(seed + i, 0.5), 16_000)
    units(checkpoint, other, "other.txt")

    with interrupted_after(monkeypatch, 4):
        assert units(checkpoint, here, "part.txt")[0] == 130
    (tmp_path / "kept").write_bytes((tmp_path / "part.txt.unfinished").read_bytes())
    status, printed, _ = units(checkpoint, other, "part.txt")  # the same ids, and the same sizes
    assert (status, "done before" in printed) == (0, False)
    assert (tmp_path / "part.txt").read_bytes() == (tmp_path / "other.txt").read_bytes()
    (tmp_path / "part.txt").unlink()

    (tmp_path / "kept").rename(tmp_path / "part.txt.unfinished")
    soundfile.write(here / "1.wav", sweep(90, 0.5), 16_000)
    (here / "2.wav").write_bytes(b"no longer audio")
    soundfile.write(here / "added.wav", sweep(91, 0.5), 16_000)
    units(checkpoint, here, "here.txt")
    status, printed, error = units(checkpoint, here, "part.txt")
    assert status == 1
    assert "6 utterances (2 of them done before)" in printed
    assert "skipped 1 of 7 files" in error
    assert (tmp_path / "part.txt").read_bytes() == (tmp_path / "here.txt").read_bytes()


def test_a_file_of_the_unfinished_ones_name_that_somebody_made_stops_the_command_and_stays(
    stages, corpus, units, tmp_path
):
    given = (stages / "stage1.ckpt", corpus / "dev-clean", "n.txt")
    unfinished, notes = tmp_path / "n.txt.unfinished", tmp_path / "notes"
    for text in ("my precious notes", "line 1\nline 2\n"):
        unfinished.write_text(text)
        status, _, error = units(*given)
        assert (status, error.count("\n")) == (2, 1)
        assert "n.txt.unfinished: is there, and is no file of unfinished units; move it away" in error
        assert unfinished.read_text() == text
    unfinished.unlink()
    for text in ("", "my precious notes"):
        notes.write_text(text)
        unfinished.symlink_to(notes)
        status, _, error = units(*given)
        assert (status, "is a link, which this command did not make" in error) == (2, True)
        assert notes.read_text() == text
        unfinished.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes"]


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_command_killed_in_the_first_line_begins_anew(cut, stages, corpus, units, tmp_path, monkeypatch):
    given = (stages / "stage1.ckpt", corpus / "dev-clean", "u.txt")
    with interrupted_after(monkeypatch, 0):
        assert units(*given)[0] == 130
    unfinished = tmp_path / "u.txt.unfinished"
    unfinished.write_bytes(unfinished.read_bytes()[:cut])
    with interrupted_after(monkeypatch, 1):
        assert units(*given)[0] == 130
    status, printed, _ = units(*given)
    assert (status, "(1 of them done before)" in printed) == (0, True)
    assert not unfinished.exists()


def test_an_output_that_another_command_wrote_meanwhile_is_not_overwritten(
    stages, corpus, units, tmp_path, monkeypatch
):
    out, lock = tmp_path / "u.txt", output.only_writer_of

    def lock_late(path):
        out.write_text("of the command that had the lock before")
        return lock(path)

    monkeypatch.setattr(output, "only_writer_of", lock_late)
    status, _, error = units(stages / "stage1.ckpt", corpus / "dev-clean", "u.txt")
    assert (status, "u.txt: exists already" in error) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["u.txt"]
    assert out.read_text() == "of the command that had the lock before"


@contextmanager
def stopped_after(monkeypatch: pytest.MonkeyPatch, renames: int) -> Iterator[None]:
    """Commands in this block are interrupted when so many files have got their names."""
    replace, named = os.replace, []

    def replace_and_stop(source, target):
        replace(source, target)
        named.append(target)
        if len(named) == renames:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_and_stop)
        yield


@pytest.mark.parametrize(("name", "renames"), [("u.txt", 1), ("u.txt", 2), ("u.jsonl", 1)])
def test_a_command_killed_while_its_output_gets_its_name_continues(
    name, renames, stages, corpus, units, tmp_path, monkeypatch
):
    given = (stages / "stage1.ckpt", corpus / "dev-clean", name, "--collapse")
    assert units(*given)[0] == 0
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for written in whole:
        (tmp_path / written).unlink()
    with stopped_after(monkeypatch, renames):
        assert units(*given)[0] == 130
    there = {path.name for path in tmp_path.iterdir()}
    assert f"{name}.unfinished" in there
    if name in there:
        assert there >= set(whole)  # Units are never there without their durations.
        assert "exists already" in units(*given[:3])[2]  # They would be others, not collapsed.
    status, printed, _ = units(*given)
    assert (status, "of them done before)" in printed) == (0, True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_an_interrupted_command_does_not_overwrite_what_another_one_wrote(
    stages, corpus, units, tmp_path, monkeypatch
):
    given = (stages / "stage1.ckpt", corpus / "dev-clean", "u.txt")
    with interrupted_after(monkeypatch, 1):
        assert units(*given)[0] == 130
    (tmp_path / "u.txt").write_text("of another command")
    status, _, error = units(*given)
    assert (status, "u.txt: exists already" in error) == (2, True)
    assert (tmp_path / "u.txt").read_text() == "of another command"
    (tmp_path / "u.txt").unlink()
    assert "(1 of them done before)" in units(*given)[1]


@pytest.fixture
def longer(sweep, tmp_path_factory) -> Path:
    """Four files, three of which are longer than the shortest window."""
    folder = tmp_path_factory.mktemp("longer")
    for i, seconds in enumerate((3.1, 0.7, 2.3, 4.0)):
        soundfile.write(folder / f"{i}.wav", sweep(i, seconds), 16_000)
    return folder


def test_units_in_windows_are_those_of_the_hidden_states_in_windows(
    stages, longer, units, tmp_path, monkeypatch
):
    checkpoint, audio, cut = stages / "stage2.safetensors", longer, ("--window", 1)
    units(checkpoint, audio, "whole.npz")
    with interrupted_after(monkeypatch, 2):
        assert units(checkpoint, audio, "u.npz", *cut)[0] == 130
    status, _, error = units(checkpoint, audio, "u.npz")
    assert (status, "begun with window [50, 12], now absent" in error) == (2, True)
    status, printed, _ = units(checkpoint, audio, "u.npz", *cut)
    assert (status, "4 utterances (2 of them done before)" in printed) == (0, True)

    arguments = ["-c", checkpoint, audio, "--out", tmp_path / "h.npz", "--layer", 2, *cut, "--device", "cpu"]
    assert main(["extract", *map(str, arguments)]) == 0
    hidden, found, whole = (np.load(tmp_path / name) for name in ("h.npz", "u.npz", "whole.npz"))
    nearest = NearestCentroid(load_checkpoint(checkpoint).quantizer.centroids)
    assert sorted(found.files) == sorted(hidden.files)
    for name in found.files:
        np.testing.assert_array_equal(found[name], nearest(hidden[name]))
        assert len(found[name]) == len(whole[name])
    assert any(not np.array_equal(found[name], whole[name]) for name in found.files)


def test_a_long_recording_is_told_before_it_is_read(stages, longer, units, tmp_path, monkeypatch):
    audio = longer / "0.wav"
    given = (stages / "stage2.safetensors", audio, "u.txt")
    monkeypatch.setattr(long_files, "LONG", 0.1)
    with monkeypatch.context() as small:
        small.setattr(long_files, "available_memory", lambda: 1000)
        status, _, error = units(*given)
        assert (status, "are available; read it in windows: --window" in error) == (2, True), error
        assert list(tmp_path.iterdir()) == []
        assert units(*given, "--window", 1)[0] == 0
        assert units(stages / "stage1.ckpt", audio, "log-mel.txt")[0] == 0  # no attention there
    (tmp_path / "u.txt").unlink()
    status, _, error = units(*given)
    assert (status, "attention grows with the square of the length; for windows" in error) == (0, True)


def test_what_cannot_make_units_is_one_clear_line(stages, corpus, units, tmp_path, reference):
    audio, plain = corpus / "dev-clean", stages / "plain.ckpt"
    np.save(tmp_path / "narrow.npy", np.zeros((3, 7), np.float32))
    (tmp_path / "there.txt").write_text("")
    (tmp_path / "in two words").mkdir()
    spaced = tmp_path / "in two words" / "a b.flac"
    spaced.write_bytes(next(audio.rglob("*.flac")).read_bytes())
    other = reference / "tiny-10ms.ckpt"
    stats = ("--stats", "librispeech-100h")
    for given, message in (
        ((plain, audio, "u.txt"), "holds no quantizer; store one with `melhubert convert"),
        ((stages / "stage1.ckpt", audio, "there.txt"), "there.txt: exists already; remove it"),
        (
            (plain, audio, "u.txt", "--kmeans", tmp_path / "narrow.npy", "--layer", 1),
            "7 wide found, expected 48",
        ),
        ((plain, audio, "u.txt", "--kmeans", tmp_path / "narrow.npy"), "give --layer, too"),
        ((plain, audio, "u.txt", "--layer", 1), "know their layer"),
        ((other, audio, "u.txt", "--kmeans", stages / "set2", *stats), "holds other weights; give that"),
        ((other, audio, "u.txt", "--kmeans", stages / "set1", *stats), "normalized with other statistics"),
        ((plain, audio, "u.txt", "--kmeans", corpus), "no dataset.yaml with a kmeans.npy"),
        ((stages / "stage1.ckpt", spaced.parent, "u.txt"), "at the first space, but there is 'a b'"),
        ((stages / "stage1.ckpt", audio, "no/u.txt"), "no such folder"),
        ((stages / "stage1.ckpt", audio, "u.txt", "--overlap", 1), "found without a window; give --window"),
        ((stages / "stage1.ckpt", audio, "u.durations", "--collapse"), "is the name of the durations"),
    ):
        status, printed, error = units(*given)
        assert (status, printed, error.count("\n")) == (2, "", 1), error
        assert message in error
    assert units(stages / "stage1.ckpt", spaced.parent, "u.npz")[0] == 0


def test_units_of_real_speech_agree_with_phones_as_the_labels_do(speech, units, tmp_path, reference):
    audio = speech / "digits" / "LibriSpeech" if (speech / "digits").is_dir() else speech / "LibriSpeech"
    lexicon = dict(
        line.split(maxsplit=1) for line in (audio.parent / "lexicon.txt").read_text().splitlines() if line
    )
    make_sets(audio, "dev-clean", tmp_path, reference, 40)
    lengths = {utterance.id: utterance.length for utterance in read_prepared(tmp_path / "set1").utterances}
    alignment = {}
    for path in (audio / "dev-clean").rglob("*.trans.txt"):
        for name, *words in map(str.split, path.read_text().splitlines()):
            # There is no alignment of these recordings; one that spreads phones evenly compares as well.
            phones = " ".join(lexicon.get(word) or lexicon[word.lower()] for word in words).split()
            places = np.arange(lengths[name]) * len(phones) // lengths[name]
            alignment[name] = [phones[place] for place in places]
    text = "".join(f"{name} {' '.join(phones)}\n" for name, phones in alignment.items())
    (tmp_path / "phones.txt").write_text(text)
    numbers = {
        phone: i for i, phone in enumerate(sorted({p for phones in alignment.values() for p in phones}))
    }
    for name, data in (("stage1.ckpt", "set1"), ("stage2.safetensors", "set2")):
        assert units(tmp_path / name, audio / "dev-clean", f"{data}.npz")[0] == 0
        expected, _ = label_quality(read_prepared(tmp_path / data), [tmp_path / "phones.txt"])
        counts = np.zeros((len(numbers), 40), np.int64)
        for utterance, found in by_id(tmp_path / f"{data}.npz").items():
            phones = alignment[utterance][:: 1 if data == "set1" else 2]
            np.add.at(counts, ([numbers[phone] for phone in phones], found), 1)
        quality = LabelQuality.from_counts(counts)
        # The labels of single frames may be ties that rounding decides.
        assert quality.phone_purity == pytest.approx(expected.phone_purity, abs=1e-3)
        assert quality.pnmi == pytest.approx(expected.pnmi, abs=1e-3)
        assert 0.05 < quality.pnmi < 1
