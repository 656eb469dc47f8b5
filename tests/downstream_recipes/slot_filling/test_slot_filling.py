"""Slot filling: the check of Audio SNIPS, and s3prl's own training and test on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.slot_filling.snips_dataset import SnipsDataset
from s3prl_melhubert.downstream_recipes.slot_filling.task import words_and_slots

SPEAKERS = {
    "train": ["Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"],
    "valid": ["Aditi", "Amy", "Geraint", "Nicole"],
    "test": ["Brian", "Emma", "Raveena", "Russell"],
}
SENTENCES = (
    ("PLAY JAZZ BY THE SEA'S BAND", "O genre O artist artist artist", "PlayMusic"),
    ("BOOK A TABLE FOR TWO & ME .", "O O O O party O party O", "BookRestaurant"),
)
SMALL = ",,".join(
    f"config.downstream_expert.{setting}"
    for setting in ("model.project_dim=8", "model.RNNs.dim=[8,8]", "corpus.batch_size=4")
)


@pytest.fixture
def audio_snips(tmp_path, write_audio) -> Path:
    """Two sentences by SUPERB's speakers, and by one in the training folder who belongs to another split."""
    root, lines = tmp_path / "SNIPS", []
    for split, speakers in SPEAKERS.items():
        for speaker in [*speakers, *(["Brian"] if split == "train" else [])]:
            for number, (words, slots, intent) in enumerate(SENTENCES):
                name = f"{speaker}-snips-{split}-{number}"
                write_audio(root / split / f"{name}.wav", samples=8000 + 2000 * number, seed=number)
                lines.append(f"{name} BOS {words} EOS\tO {slots} {intent}\n")
    (root / "all.iob.snips.txt").write_text("".join(lines))
    (root / "slots.txt").write_text("O\nartist\ngenre\nparty")
    return root


def change(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))


def without_slots(root: Path, split: str) -> None:
    """Leave the labels of a split as if nothing in it filled a slot."""
    labels = root / "all.iob.snips.txt"
    lines = labels.read_text().splitlines(keepends=True)
    found = [re.sub("genre|artist|party", "O", line) if f"-{split}-" in line else line for line in lines]
    labels.write_text("".join(found))


def test_it_trains_tests_is_reported_submitted_and_used(audio_snips, run_task, report_and_submit, predicted):
    experiment, printed = run_task("sf", ["--audio-snips", str(audio_snips)], SMALL)
    assert "train: 16 utterances" in printed
    assert "utterances of test 8 (SUPERB: 2800)" in printed
    result = read_result(experiment)
    log = (experiment / "log.txt").read_text()
    figures = dict(re.findall(r"^test (slot_type_f1|slot_value_cer): (\S+)$", log, re.MULTILINE))
    assert result.value == pytest.approx(100 * float(figures["slot_type_f1"]))
    assert result.further == {"CER": pytest.approx(100 * float(figures["slot_value_cer"]))}
    assert f"sf F1 {result.value:.2f} %, CER {result.further['CER']:.2f} % on test" in printed

    table, predict = report_and_submit("sf", experiment)
    head, _, row = ([cell.strip() for cell in line.split("|")] for line in table.splitlines()[:3])
    column = head.index("SF: F1 % ↑")
    assert head[column + 1] == "SF: CER % ↓"
    assert row[column + 1].startswith(f"{result.further['CER']:.2f}")
    lines = (predict / "sf_public/predict.ark").read_text().splitlines()
    said = {name: words for name, *words in map(str.split, lines)}
    assert len(said) == 8
    assert "Brian-snips-test-0" in said
    rows = predicted(experiment, audio_snips, "test/*.wav")
    assert {name: row["marked"].split() for name, row in rows.items()} == said


@pytest.mark.slow
def test_it_runs_in_s3prls_own_program(audio_snips, run_in_checkout, s3prl_checkout):
    assert not (s3prl_checkout / "downstream/ctc/corpus").exists()
    experiment = run_in_checkout("sf", "ctc", "test", ["--audio-snips", str(audio_snips)], SMALL)
    assert len((experiment / "test-hyp.ark").read_text().splitlines()) == 8


def test_targets_are_spelled_with_marks_around_what_fills_a_slot(audio_snips, tmp_path, capsys):
    """Written and read back by s3prl's own encoder, from the vocabularies that are written for it."""
    from s3prl.downstream.ctc.text import load_text_encoder

    (audio_snips / "slots.txt").unlink()
    assert main(["superb", "config", "sf", "--audio-snips", str(audio_snips), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "slots.txt").read_text().split("\n") == ["O", "artist", "genre", "party"]
    encoder = load_text_encoder(
        "character-slot", str(tmp_path / "characters.txt"), str(tmp_path / "slots.txt")
    )
    assert encoder.vocab_size == 3 + 28 + 6
    dataset = SnipsDataset(
        ["train"], encoder, 1, audio_snips, train_speakers=SPEAKERS["train"], name="snips", num_workers=0
    )
    assert len(dataset) == 16
    lengths = [len(symbols) for _, symbols in (dataset[index] for index in range(len(dataset)))]
    assert lengths == sorted(lengths, reverse=True)
    spelled = {path.stem: encoder.decode(symbols) for path, symbols in (dataset[i] for i in range(16))}
    assert spelled["Ivy-snips-train-0"] == ("PLAY B-genre JAZZ E-genre BY B-artist THE SEA'S BAND E-artist")
    assert spelled["Ivy-snips-train-1"].strip() == (
        "BOOK A TABLE FOR B-party TWO E-party AND B-party ME E-party"
    )


def test_unknown_letters_of_the_corpus_are_counted_as_s3prls_encoder_takes_them(
    audio_snips, tmp_path, capsys
):
    """The corpus has some; the fixture's & and . are none."""
    from s3prl.downstream.ctc.text import load_text_encoder

    labels = audio_snips / "all.iob.snips.txt"
    labels.write_text(
        labels.read_text().replace("JAZZ", "B\u00c9B\u00c9 2").replace("O genre", "O genre genre")
    )
    assert main(["superb", "config", "sf", "--audio-snips", str(audio_snips), "--out", str(tmp_path)]) == 0
    said = "letters that are one unknown character to s3prl: 48 of 704 (\u00c9 2)"
    assert said in capsys.readouterr().err
    encoder = load_text_encoder(
        "character-slot", str(tmp_path / "characters.txt"), str(audio_snips / "slots.txt")
    )
    encoded = [
        encoder.encode(line.partition(" ")[2])
        for line in labels.read_text().splitlines()
        if not line.startswith("Brian-snips-train")
    ]
    assert sum(symbols.count(encoder.unk_idx) for symbols in encoded) == 48
    # The rest of what it writes are marks, blanks, and the end.
    letters = [s for symbols in encoded for s in symbols if s == encoder.unk_idx or 3 < s < 3 + 28]
    assert len(letters) == 704


def test_a_line_of_the_labels_ends_where_s3prl_ends_it(audio_snips, tmp_path):
    """A letter that was encoded twice may hold U+0085, at which `str.splitlines` ends a line."""
    change(audio_snips, "all.iob.snips.txt", "JAZZ", "\u00c3\u0085NGSTR\u00d6M")
    command = ["superb", "config", "sf", "--audio-snips", str(audio_snips), "--out", str(tmp_path / "out")]
    assert main(command) == 0


def test_files_without_labels_are_left_out_on_request(audio_snips, tmp_path, capsys):
    labels = audio_snips / "all.iob.snips.txt"
    lines = labels.read_text().splitlines(keepends=True)
    labels.write_text("".join(line for line in lines if not line.startswith("Amy-snips-valid-1 ")))
    command = ["superb", "config", "sf", "--audio-snips", str(audio_snips), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "does not have: 1 (valid/Amy-snips-valid-1)" in capsys.readouterr().err
    assert main([*command, "--skip-untranscribed"]) == 0
    assert "files without a transcript, left out 1 (SUPERB: 0)" in capsys.readouterr().err
    links = tmp_path / "out/transcribed"
    assert f"path: {links}\n" in (tmp_path / "out/sf.yaml").read_text()
    assert (links / labels.name).read_text() == labels.read_text()
    assert not (links / "valid/Amy-snips-valid-1.wav").exists()
    assert (links / "valid/Amy-snips-valid-0.wav").read_bytes()[:4] == b"RIFF"


def test_model_has_the_outputs_of_the_corpus_own_list(audio_snips, run_task):
    """s3prl makes the end of the last line a slot, too; SUPERB's models have what the corpus' list makes."""
    (audio_snips / "slots.txt").write_text("O\nartist\ngenre\nparty\nyear\n")
    experiment, _ = run_task("sf", ["--audio-snips", str(audio_snips)], SMALL, steps=1)
    [states] = experiment.glob("states-*.ckpt")
    downstream = torch.load(states, weights_only=True)["Downstream"]
    [outputs] = {value.shape[0] for name, value in downstream.items() if "linear.bias" in name}
    assert outputs == 3 + 28 + 2 * 5


@pytest.mark.parametrize(
    ("said", "words", "slots"),
    [
        (
            "PLAY  B-genre JAZZ E-genre BY B-artist THE SEA'S BAND E-artist ",
            "PLAY JAZZ BY THE SEA'S BAND",
            [("genre", "JAZZ"), ("artist", "THE SEA'S BAND")],
        ),
        ("B-party TWO E-party AND B-party ME E-party", "TWO AND ME", [("party", "TWO"), ("party", "ME")]),
        ("PLAY B-genre JAZZ BY E-artist ME", "PLAY JAZZ BY ME", []),
        ("B-genre JAZZ B-artist BY E-genre ME", "JAZZ BY ME", [("genre", "JAZZ BY")]),
        ("", "", []),
    ],
    ids=["two", "one twice", "marks alone", "a mark within", "nothing said"],
)
def test_words_and_slots_of_a_transcript_are_those_that_s3prl_scores(said, words, slots):
    from s3prl.downstream.ctc.metric import parse

    found = words_and_slots(said)
    assert found == {"marked": " ".join(said.split()), "words": words, "slots": slots}
    _, _, _, theirs = parse(found["marked"], "")
    assert theirs == ";".join(f"{value}:{slot}" for slot, value in slots)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda root: (root / "valid/Amy-snips-valid-1.wav").unlink(),
            "labels but without a WAV file: 1 (valid/Amy-snips-valid-1)",
        ),
        (
            lambda root: change(root, "all.iob.snips.txt", "Amy-snips-valid-1 ", "Amy-snips-valid-7 "),
            "does not have: 1 (valid/Amy-snips-valid-1)",
        ),
        (
            lambda root: (root / "test/Emma-snips-test-0.wav").write_bytes(b"RIFF"),
            "cannot be read to their end: 1 (test/Emma-snips-test-0.wav",
        ),
        (
            lambda root: change(root, "all.iob.snips.txt", "EOS\tO", "EOS O"),
            "1 (line 1: 'Ivy-snips-train-0 BOS",
        ),
        (
            lambda root: change(root, "all.iob.snips.txt", "artist PlayMusic", "PlayMusic"),
            "SLOT ... INTENT`: 1",
        ),
        (
            lambda root: change(root, "all.iob.snips.txt", "BOS PLAY JAZZ BY THE", "BOS play jazz by the"),
            "than A-Z and the apostrophe: 1 (Ivy-snips-train-0: playjazzby)",
        ),
        (
            lambda root: change(
                root, "all.iob.snips.txt", f"BOS {SENTENCES[1][0]} EOS\tO {SENTENCES[1][1]}", "BOS . EOS\tO O"
            ),
            "utterances without a word: 1 (Ivy-snips-train-1)",
        ),
        (
            lambda root: change(root, "slots.txt", "O\nartist", "artist"),
            "which s3prl passes over: 1 (artist)",
        ),
        (
            lambda root: (root / "all.iob.snips.txt").unlink(),
            "all.iob.snips.txt: cannot be read (No such file",
        ),
        (
            lambda root: (root / "test").rename(root / "eval"),
            "no folder test here, found all.iob.snips.txt, eval",
        ),
        (
            lambda root: (
                [path.unlink() for path in root.glob("valid/*")]
                + [change(root, "all.iob.snips.txt", "-valid-", "-dev-") for _ in range(8)]
            ),
            "splits without an utterance of SUPERB's speakers: 1 (valid)",
        ),
        (lambda root: without_slots(root, "valid"), "splits without a slot: 1 (valid)"),
        (lambda root: root.rename(root.with_name("elsewhere")), "no such folder"),
    ],
)
def test_each_fault_is_named(audio_snips, tmp_path, capsys, short, spoil, told):
    spoil(audio_snips)
    command = ["superb", "sf", "--audio-snips", str(audio_snips), "-u", "fbank", *short()]
    assert main([*command, "-p", str(tmp_path / "EXP")]) == 2
    assert told in capsys.readouterr().err
