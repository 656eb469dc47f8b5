"""A finished experiment on new audio: what its test said, without the corpus, of any file, one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s3prl_melhubert.audio import read_audio
from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.prediction import Predictor
from s3prl_melhubert.downstream_recipes.prediction.experiment import (
    Trained,
    upstream_checkpoint,
    upstream_settings,
)
from s3prl_melhubert.downstream_recipes.prediction.files import predict_files
from s3prl_melhubert.downstream_recipes.prediction.prediction import Choice, Prediction
from s3prl_melhubert.downstream_recipes.report.results import Result, read_result, write_result
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.extraction.inputs import InputNotes


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder of what the tests share: an upstream, and a corpus with what was trained on it."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def upstream(place, reference) -> list[str]:
    """Arguments of a tiny MelHuBERT."""
    (place / "g.yaml").write_text("feature_stats: librispeech-360h\n")
    checkpoint = shutil.copy(reference / "tiny-20ms.ckpt", place / "up.ckpt")
    return ["-u", "melhubert_local", "-k", str(checkpoint), "-g", str(place / "g.yaml")]


@pytest.fixture(scope="module")
def trained(place, upstream, write_voxceleb, short, small) -> Path:
    """An experiment in speaker identification, of two learning rates."""
    corpus = ["--voxceleb", str(write_voxceleb(place)[0])]
    command = ["superb", "sid", *corpus, *upstream, "-p", str(place / "EXP"), *short(8)]
    assert main([*command, "--lr", "1e-1,1e-9", "--precision", "bf16", "-o", small["sid"]]) == 0
    return place / "EXP"


@pytest.fixture
def speakers(trained, tmp_path) -> Path:
    """The same experiment elsewhere, for a test of its own."""
    return shutil.copytree(trained, tmp_path / "elsewhere")


@contextmanager
def moved(path: Path) -> Iterator[Path]:
    """Something is elsewhere while the block runs."""
    elsewhere = path.rename(path.with_name(f"moved-{path.name}"))
    try:
        yield elsewhere
    finally:
        elsewhere.rename(path)


@pytest.fixture
def predict(capsys) -> Callable[..., tuple[int, str, str]]:
    """`predict(experiment, *arguments)`: the exit status, stdout and stderr."""

    def run(experiment: Path, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["superb", "predict", str(experiment), *map(str, arguments), "--device", "cpu"])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("task", "predictions"), [("pr", "test-hyp.ark"), ("asr", "test-clean-noLM-hyp.ark")]
)
def test_transcripts_are_those_of_s3prls_test(
    task, predictions, corpus, upstream, librispeech, predicted, predict, tmp_path, short, small
):
    experiment = tmp_path / "EXP"
    command = ["superb", task, *corpus[task], *upstream, "-p", str(experiment), *short(12)]
    assert main([*command, "--lr", "1e-1", "-o", small[task]]) == 0
    lines = (experiment / predictions).read_text().splitlines()
    said = {name: words for name, *words in map(str.split, lines)}
    rows = predicted(experiment, librispeech, "test-clean/*/*/*.flac")
    another = tmp_path / "another.yaml"
    another.write_text("feature_stats: librispeech-960h\n")
    status, _, told = predict(experiment, librispeech, "-g", another)
    assert status == 2
    assert "is not the settings of the upstream that" in told
    assert {name: row["phones" if task == "pr" else "words"].split() for name, row in rows.items()} == said


def test_speakers_are_those_of_s3prls_test_whatever_else_is_heard(speakers, trained, place, predict):
    """The best learning rate counts; corpus and experiment are elsewhere; each file is heard by itself."""
    assert read_result(speakers).precision == "bf16"
    lines = (speakers / read_result(speakers).predictions).read_text().splitlines()
    with moved(place / "VoxCeleb1") as corpus, moved(trained):
        files = sorted(map(str, corpus.glob("*/wav/*/*/00005.wav")))
        status, together, _ = predict(speakers, *files, "--top", 3)
        # An utterance's line does not depend on the others.
        alone = [predict(speakers, file, "--top", 3)[1] for file in reversed(files)]
    assert status == 0
    assert "".join(reversed(alone)) == together
    rows = [line.split("\t") for line in together.splitlines()]
    assert [path for path, _ in rows] == files
    names = ["-".join(Path(path).parts[-3:]).removesuffix(".wav") for path in files]
    assert lines == [f"{name} {said.split()[0]}" for name, (_, said) in zip(names, rows, strict=True)]
    for _, said in rows:
        probabilities = [float(choice.split()[1]) for choice in said.split(", ")]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.slow
def test_upstream_that_was_trained_too_is_the_trained_one(
    corpus, upstream, voxceleb, short, small, tmp_path, predict
):
    experiment = tmp_path / "EXP"
    command = ["superb", "sid", *corpus["sid"], *upstream, "-p", str(experiment), *short(4), "--lr", "1e-2"]
    assert main([*command, "-o", f"args.upstream_trainable=True,,{small['sid']}"]) == 0
    files = sorted(map(str, voxceleb[0].glob("*/wav/*/*/00005.wav")))
    _, printed, _ = predict(experiment, *files, "--json")
    said = [json.loads(line)["speaker"][0]["label"] for line in printed.splitlines()]
    lines = (experiment / "test_predict.txt").read_text().splitlines()
    assert said == [line.split()[1] for line in lines]
    content = torch.load(experiment / "dev-best.ckpt", weights_only=True)["Upstream"]
    used = Predictor(experiment, device="cpu")._models[0].upstream.model.state_dict()
    assert all(torch.equal(used[name], content[name]) for name in content)


def test_any_audio_is_taken_and_what_cannot_be_read_is_told(speakers, predict, tmp_path, write_audio):
    folder = tmp_path / "new"
    write_audio(folder / "a/ogg stereo.ogg", samples=22050, rate=22050, channels=2)
    write_audio(folder / "short.wav", samples=1)
    (folder / "broken.flac").write_bytes(b"fLaC")
    (folder / "empty.wav").touch()
    out = tmp_path / "said.jsonl"
    status, printed, told = predict(speakers, folder, "--json", "--out", out)
    assert status == 1
    assert printed == ""
    assert "skipped 2 of 4 files" in told
    assert "empty.wav: an empty file (0 bytes)" in told
    assert "resampled to 16000 Hz: 1 of 4 files" in told
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(Path(row["file"]).name, row["seconds"]) for row in rows] == [
        ("ogg stereo.ogg", 1.0),
        ("short.wav", 0.0001),
    ]
    assert all(set(choice) == {"label", "probability"} for row in rows for choice in row["speaker"])
    # Where nothing could be read, what was there stays; also where a file is given twice.
    before, empty = out.read_text(), folder / "empty.wav"
    status, _, told = predict(speakers, empty, empty, "--out", out)
    assert status == 2
    assert told.count("\n") == 3
    assert "none of the files could be read" in told
    assert out.read_text() == before


def test_upstream_that_was_moved_is_given_and_another_is_refused(
    speakers, trained, place, predict, write_audio, tmp_path, reference
):
    audio = write_audio(tmp_path / "new.wav")
    _, expected, _ = predict(speakers, audio)
    with moved(place / "up.ckpt") as now, moved(trained):
        status, _, told = predict(speakers, audio)
        assert (status, told.count("\n")) == (2, 1)
        assert f"{place / 'up.ckpt'}: no such file" in told
        assert "give it with -k" in told
        assert predict(speakers, audio, "-k", now)[1] == expected
        status, _, told = predict(speakers, audio, "-k", reference / "tiny-10ms.ckpt")
        assert (status, told.count("\n")) == (2, 1)
        assert "is not the upstream's checkpoint that" in told
        # The settings are the experiment's own; where it has lost them, they are asked for.
        own = (speakers / "upstream.yaml").rename(tmp_path / "own.yaml")
        status, _, told = predict(speakers, audio, "-k", now)
        assert (status, told.count("\n")) == (2, 1)
        assert "give them with -g" in told
        assert predict(speakers, audio, "-k", now, "-g", own)[1] == expected


def test_files_that_the_experiment_was_not_trained_with_are_refused(result: Callable[..., Result], tmp_path):
    args = SimpleNamespace(upstream_ckpt=None, upstream_model_config=None)
    trained = Trained(tmp_path, result("sid", 50.0), {"Args": args})
    (tmp_path / "there.ckpt").touch()
    for find, argument in ((upstream_checkpoint, "-k"), (upstream_settings, "-g")):
        assert find(trained, None) is None
        with pytest.raises(
            MelHuBERTError, match=f"^{argument} .*was trained without {argument}; leave it out"
        ):
            find(trained, str(tmp_path / "there.ckpt"))
    args.upstream_ckpt = "https://somewhere/a.ckpt"
    assert upstream_checkpoint(trained, None) == args.upstream_ckpt
    with pytest.raises(MelHuBERTError, match=r"^-k /nothere/x\.ckpt: no such file"):
        upstream_checkpoint(trained, "/nothere/x.ckpt")


def test_predictor_takes_waveforms(speakers, write_audio, tmp_path):
    predictor = Predictor(speakers, device="cpu")
    assert len(predictor.labels["speaker"]) == 1251
    waveform = read_audio(write_audio(tmp_path / "new.wav")).waveform
    prediction = predictor(waveform, top=2)
    assert prediction == predictor(torch.from_numpy(waveform), top=2)
    assert len(prediction.classes["speaker"]) == 2
    assert prediction.seconds == 0.5
    assert prediction == predictor(waveform.astype(np.float64), top=2)

    for wrong, told in (
        (np.zeros((1, 800)), r"shape \(1, 800\) found"),
        (np.zeros(0), "empty"),
        (np.ones(800, np.int16), "int16 samples found"),
        (np.full(800, np.nan), "^waveform: NaN or infinite samples found"),
    ):
        with pytest.raises(MelHuBERTError, match=told):
            predictor(wrong)


def test_what_an_experiment_has_no_use_for_and_labels_of_another_are_refused(speakers, write_audio, tmp_path):
    with pytest.raises(MelHuBERTError, match=r"^--lexicon: not an option of speaker identification \(sid\)"):
        Predictor(speakers, device="cpu", options=TaskOptions({"lexicon": "words.txt"}))
    labels = json.loads((speakers / "labels.json").read_text())
    del labels["speaker"][3]
    (speakers / "labels.json").write_text(json.dumps(labels))
    waveform = read_audio(write_audio(tmp_path / "new.wav")).waveform
    with pytest.raises(MelHuBERTError, match=r"1251 outputs, its experiment's labels\.json names 1250"):
        Predictor(speakers, device="cpu")(waveform)


def test_a_file_that_the_model_cannot_take_is_left_out_and_the_next_one_is_not(write_audio, tmp_path):
    """Other upstreams fail with errors of their own where a file is too short."""

    def predictor(waveform: np.ndarray, top: int) -> Prediction:
        if len(waveform) < 400:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        if len(waveform) == 600:
            raise MelHuBERTError("too little is left without pauses")
        return Prediction(len(waveform) / 16000)

    silent = write_audio(tmp_path / "silent.wav", samples=600)
    short = write_audio(tmp_path / "short.wav", samples=100)
    long = write_audio(tmp_path / "long.wav", samples=800)
    notes = InputNotes()
    assert [*predict_files(predictor, [short, silent, long], notes)] == [(long, Prediction(0.05))]
    assert list(notes.skipped) == [short, silent]
    assert notes.skipped[silent] == f"{silent}: too little is left without pauses"
    assert "short.wav: the model cannot take it (RuntimeError: Kernel size" in notes.skipped[short]


def test_a_line_has_what_the_json_has():
    choices = {
        "action": [Choice("bring", 0.75), Choice("activate", 0.1249999)],
        "object": [Choice("shoes", 0.5), Choice("socks", 0.4)],
    }
    intent = Prediction(1.00004, classes=choices)
    assert intent.line() == "bring 0.7500, activate 0.1250\tshoes 0.5000, socks 0.4000"
    assert intent.as_json() == {
        "seconds": 1.0,
        "action": [{"label": "bring", "probability": 0.75}, {"label": "activate", "probability": 0.125}],
        "object": [{"label": "shoes", "probability": 0.5}, {"label": "socks", "probability": 0.4}],
    }
    said = {"words": "PLAY JAZZ BY ME", "slots": [("genre", "JAZZ"), ("artist", "ME")]}
    filled = Prediction(2.0, transcript=said)
    assert filled.line() == "PLAY JAZZ BY ME\tgenre=JAZZ; artist=ME"
    assert filled.as_json() == {
        "seconds": 2.0,
        "words": "PLAY JAZZ BY ME",
        "slots": [{"slot": "genre", "value": "JAZZ"}, {"slot": "artist", "value": "ME"}],
    }


def test_experiment_without_labels_takes_them_from_its_corpus(speakers, predict, write_audio, tmp_path):
    """Experiments of before have no labels.json."""
    audio = write_audio(tmp_path / "new.wav")
    _, expected, _ = predict(speakers, audio)
    labels = speakers / "labels.json"
    names = json.loads(labels.read_text())
    labels.unlink()
    assert predict(speakers, audio)[1] == expected
    for wrong, complaint in (
        ("{", "cannot be read as JSON"),
        ('{"speaker": [1]}', "is damaged; expected a list of labels"),
        (json.dumps({"speaker": names["speaker"][:9]}), "names 9"),
        (json.dumps({"person": names["speaker"]}), "for each of speaker"),
    ):
        labels.write_text(wrong)
        status, _, told = predict(speakers, audio)
        assert status == 2
        assert complaint in told


def test_a_checkpoint_that_was_trained_on_since_is_refused(speakers, predict, write_audio, tmp_path):
    audio, result = write_audio(tmp_path / "new.wav"), read_result(speakers)
    path = speakers / result.tested_checkpoint
    content = torch.load(path, weights_only=True)
    content["Args"].expdir = "elsewhere"  # an experiment that is moved is the same one
    torch.save(content, path)
    assert predict(speakers, audio)[0] == 0
    next(iter(content["Featurizer"].values())).add_(1)
    torch.save(content, path)
    status, _, told = predict(speakers, audio)
    assert (status, told.count("\n")) == (2, 1)
    assert f"{path}: has other weights than when it was tested" in told
    write_result(speakers, replace(result, tested_weights_sha256=None))  # as before there was the hash
    assert predict(speakers, audio)[0] == 0


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda checkpoint: checkpoint.unlink(), "not found; it is what was tested"),
        (lambda checkpoint: checkpoint.write_bytes(b"no"), "cannot be read as s3prl's checkpoint"),
        (lambda checkpoint: torch.save({"Config": {}}, checkpoint), "is not a checkpoint of s3prl's"),
        (lambda checkpoint: (checkpoint.parents[1] / "results.json").unlink(), "results.json: not found"),
    ],
)
def test_experiment_that_is_damaged_is_refused_in_a_line(
    speakers, predict, write_audio, tmp_path, spoil, complaint
):
    spoil(speakers / read_result(speakers).tested_checkpoint)
    status, _, told = predict(speakers, write_audio(tmp_path / "new.wav"))
    assert (status, told.count("\n")) == (2, 1)
    assert complaint in told


def test_tasks_that_say_nothing_of_an_utterance_are_refused(
    result: Callable[..., Result], predict, write_audio, tmp_path
):
    write_result(tmp_path, result("qbe", 5.0))
    status, _, told = predict(tmp_path, write_audio(tmp_path / "new.wav"))
    assert status == 2
    assert "query-by-example spoken term detection (qbe) says nothing of a single utterance" in told
    assert "predict serves pr, ks, ic, sid, er, asr, sf, asv, sd, se, ss" in told
