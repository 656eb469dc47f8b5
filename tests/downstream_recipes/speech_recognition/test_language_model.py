"""Speech recognition with a language model: a second score, and files that would decide nothing refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from s3prl_melhubert.cli import main
from s3prl_melhubert.downstream_recipes.report.results import read_result
from s3prl_melhubert.downstream_recipes.speech_recognition.language_model import decoding
from s3prl_melhubert.downstream_recipes.task import TaskOptions


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
    files = [str(part) for pair in language_model.items() for part in pair]
    rows = predicted(tmp_path / "EXP", librispeech, "test-clean/*/*/*.flac", *files)
    assert {name: row["words"].split() for name, row in rows.items()} == {
        name: words for name, *words in map(str.split, lines)
    }


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
