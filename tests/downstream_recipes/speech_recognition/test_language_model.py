"""Speech recognition with a language model: a second score, and files that would decide nothing refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result, write_result
from s3prl_melhubert.downstream_recipes.running.trainings.training import Training
from s3prl_melhubert.downstream_recipes.speech_recognition.language_model import decoding
from s3prl_melhubert.downstream_recipes.task import TaskOptions
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.files import sha256_of


@pytest.fixture
def language_model(tmp_path) -> dict[str, Path]:
    """A bigram model of the corpus' words and their spellings."""
    words = ("A", "DOG", "BARKED", "THE", "BOY'S")
    lexicon = tmp_path / "words.lst"
    lexicon.write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in words))
    unigrams = ["-1\t<unk>", "0\t<s>\t-0.3", "-1\t</s>", *(f"-1\t{word}\t-0.3" for word in words)]
    counts = [f"ngram 1={len(unigrams)}", "ngram 2=1"]
    lines = [
        "\\data\\",
        *counts,
        "",
        "\\1-grams:",
        *unigrams,
        "",
        "\\2-grams:",
        "-0.2\tA DOG",
        "",
        "\\end\\",
        "",
    ]
    arpa = tmp_path / "lm.arpa"
    arpa.write_text("\n".join(lines))
    return {"--kenlm": arpa, "--kenlm-lexicon": lexicon}


@pytest.fixture
def command(corpus, short, small, tmp_path) -> Callable[[dict[str, Path]], list[str]]:
    """`command(files)`: a run of speech recognition with a language model of these files."""

    def arguments(files: dict[str, Path]) -> list[str]:
        run = ["superb", "asr", *corpus["asr"], "-u", "fbank", "-p", str(tmp_path / "EXP"), *short()]
        return [*run, *(str(part) for pair in files.items() for part in pair), "-o", small["asr"]]

    return arguments


def test_language_model_gives_a_second_score_and_predictions_on_new_audio_too(
    command, language_model, librispeech, predicted, tmp_path
):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    assert main(command(language_model)) == 0
    decoded = read_result(tmp_path / "EXP").with_language_model
    assert decoded is not None
    assert decoded["value"] > 0
    lines = (tmp_path / "EXP" / decoded["predictions"]).read_text().splitlines()
    assert len(lines) == 5
    assert decoded["predictions_sha256"] == sha256_of(tmp_path / "EXP" / decoded["predictions"])
    files = [str(part) for pair in language_model.items() for part in pair]
    rows = predicted(tmp_path / "EXP", librispeech, "test-clean/*/*/*.flac", *files)
    assert {name: row["words"].split() for name, row in rows.items()} == {
        name: words for name, *words in map(str.split, lines)
    }


def test_language_model_is_tested_with_when_all_else_has_ended_and_its_score_is_kept(
    command, language_model, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    experiment = tmp_path / "EXP"
    assert main(command({})) == 0
    first, trained = read_result(experiment), (experiment / "states-2.ckpt").stat().st_mtime_ns
    assert first.with_language_model is None

    # What cannot be used is refused, and a second test that fails takes nothing from the first.
    assert main(command({**language_model, "--kenlm": tmp_path / "nothere.arpa"})) == 2
    assert "nothere.arpa: no such file" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(Training, "test_again", fail)
        (experiment / "results.json").unlink()
        assert main(command(language_model)) == 2
        assert read_result(experiment).value == first.value

    assert main(command(language_model)) == 0
    printed = capsys.readouterr().out
    decoded = read_result(experiment).with_language_model
    assert decoded is not None
    assert decoded["kenlm"] == str(language_model["--kenlm"])
    assert f"asr WER {decoded['value']:.2f} % on test-clean with a language model" in printed
    assert (experiment / "states-2.ckpt").stat().st_mtime_ns == trained

    # It has ended with this model, and not with another, in the same place or elsewhere. Older results say
    # nothing of the content.
    with monkeypatch.context() as patch:
        patch.setattr(Training, "test_again", fail)
        assert main(command(language_model)) == 0
        before = language_model["--kenlm"].read_text()
        language_model["--kenlm"].write_text(before.replace("-0.2\tA DOG", "-0.1\tA DOG"))
        assert main(command(language_model)) == 2
        result = read_result(experiment)
        of_paths = {name: value for name, value in decoded.items() if not name.endswith("_sha256")}
        write_result(experiment, replace(result, with_language_model=of_paths))
        assert main(command(language_model)) == 0
        write_result(experiment, result)
        language_model["--kenlm"].write_text(before)
        another = language_model["--kenlm"].with_name("another.arpa")
        another.write_bytes(language_model["--kenlm"].read_bytes())
        assert main(command({**language_model, "--kenlm": another})) == 2

    # With another model the score would be of weights that have none without.
    tested = experiment / first.tested_checkpoint
    content, before = torch.load(tested, weights_only=True), tested.read_bytes()
    next(iter(content["Downstream"].values())).add_(1)
    torch.save(content, tested)
    capsys.readouterr()
    assert main(command({**language_model, "--kenlm": another})) == 2
    assert f"{tested}: has other weights than when it was tested" in capsys.readouterr().err
    tested.write_bytes(before)

    # Tested again without it, the checkpoint is the same, and the score is kept; of another, it is not.
    assert main([*command({}), "--stage", "test"]) == 0
    result = read_result(experiment)
    assert result.with_language_model == decoded
    write_result(experiment, replace(result, value=result.value + 1))
    capsys.readouterr()
    assert main([*command({}), "--stage", "test"]) == 0
    assert read_result(experiment).with_language_model is None
    assert "score with a language model was of another test, and is left out" in capsys.readouterr().out


def fail(*_: object) -> None:
    raise MelHuBERTError("the second test has failed")


@pytest.mark.parametrize("name", ["a=b.arpa", "lm.arpa "])
def test_language_model_whose_path_s3prl_could_not_take_is_refused(name, language_model, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    model = language_model["--kenlm"].rename(tmp_path / name)
    given = {"kenlm": str(model), "kenlm-lexicon": str(language_model["--kenlm-lexicon"])}
    with pytest.raises(MelHuBERTError, match="cannot pass a path"):
        decoding(TaskOptions(given))


def test_decoder_has_the_settings_of_s3prls_own_configuration(language_model):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    files = {option.removeprefix("--"): str(path) for option, path in language_model.items()}
    testing = decoding(TaskOptions(files))
    assert testing is not None
    assert {name.rsplit(".", 1)[1]: value for name, value in testing.override.items()} == {
        "decoder_type": "kenlm",
        "nbest": 1,
        "criterion": "ctc",
        "beam": 5,
        "beam_threshold": 25,
        "lm_weight": 2,
        "word_score": -1,
        "unk_weight": "-math.inf",
        "sil_weight": 0,
        "kenlm_model": files["kenlm"],
        "lexicon": files["kenlm-lexicon"],
    }


def cut(path: Path, number: int) -> None:
    path.write_bytes(path.read_bytes()[:-number])


def pack(files: dict[str, Path]) -> Path:
    """Take a compressed language model instead; the words of it come before anything is missing."""
    packed = files["--kenlm"].with_name("lm.arpa.gz")
    filler = b"".join(b"-0.2\tA DOG%d\n" % number for number in range(20_000))
    whole = files["--kenlm"].read_bytes().replace(b"-0.2\tA DOG\n", b"-0.2\tA DOG\n" + filler)
    packed.write_bytes(gzip.compress(whole))
    files["--kenlm"] = packed
    return packed


@pytest.mark.parametrize("packed", [False, True])
def test_whole_language_models_are_taken(packed, language_model):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    if packed:
        pack(language_model)
    assert decoding(
        TaskOptions({name.removeprefix("--"): str(path) for name, path in language_model.items()})
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.pop("--kenlm"), "one needs the other"),
        (lambda files: files["--kenlm"].unlink(), "no such file"),
        (lambda files: files["--kenlm"].write_text("hello"), "expected an ARPA file"),
        (lambda files: cut(files["--kenlm"], 12), "does not end with \\end\\ as an ARPA file does"),
        (lambda files: cut(pack(files), 12), "cannot be read to its end"),
        (lambda files: (cut(files["--kenlm"], 12), pack(files)), "does not end with \\end\\ as an ARPA"),
        (lambda files: files["--kenlm-lexicon"].write_text("DOG\n"), "line 1"),
        (lambda files: files["--kenlm-lexicon"].write_text("dog\tD O G |\n"), "knows none of the words"),
    ],
)
def test_language_model_that_would_decide_nothing_is_refused(spoil, said, command, language_model, capsys):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    spoil(language_model)
    assert main(command(language_model)) == 2
    assert said in capsys.readouterr().err
