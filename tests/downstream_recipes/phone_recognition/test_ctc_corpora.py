"""What stands in for the corpora of s3prl's `ctc`, beside phones: LibriSpeech's characters, and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s3prl_melhubert.downstream_recipes.phone_recognition.corpus.common_voice import CommonVoiceDataset
from s3prl_melhubert.downstream_recipes.phone_recognition.corpus.librispeech import LibriDataset
from s3prl_melhubert.errors import MelHuBERTError


class Characters:
    """Encodes as s3prl's tokenizers do, but legibly."""

    def encode(self, text: str) -> list[str]:
        return [*text, "<eos>"]


@pytest.fixture
def table(tmp_path, write_audio) -> Callable[..., Path]:
    """`table(name, *sentences)`: a table, and an audio file for each sentence."""

    def write(name: str, *sentences: str) -> Path:
        lines = ["path\tsentence"]
        for i, sentence in enumerate(sentences):
            lines.append(f"{name}{i}.wav\t{sentence}")
            write_audio(tmp_path / f"clips/{name}{i}.wav", samples=1000)
        path = tmp_path / f"{name}.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def texts(dataset) -> list[str]:
    return ["".join(item[1]).removesuffix("<eos>") for item in dataset]


def test_characters_of_librispeech_are_those_of_the_transcripts(librispeech):
    dataset = LibriDataset(["dev-clean"], Characters(), 1, librispeech, ratio=1.0)
    longest_first = [
        "THE BOY LAUGHED AT THE DOG",
        "THE BOY'S DOG BARKED",
        "A DOG BARKED",
        "O A BOY",
        "BARKED",
    ]
    assert texts(dataset) == longest_first
    assert [path.stem for path, _ in dataset] == [f"2{i % 2}-7-{i:04d}" for i in (2, 0, 1, 3, 4)]


def test_tables_are_read_in_their_order_one_behind_the_other(table, tmp_path):
    tables = [table("one", "SÍ", "BUENOS DÍAS"), table("two", "NO")]
    dataset = CommonVoiceDataset(list(map(str, tables)), Characters(), 1, str(tmp_path / "clips"), offset=0)
    assert texts(dataset) == ["SÍ", "BUENOS DÍAS", "NO"]
    assert [path.name for path, _ in dataset] == ["one0.wav", "one1.wav", "two0.wav"]
    buckets = CommonVoiceDataset(tables, Characters(), 2, tmp_path / "clips")
    assert [len(buckets[i]) for i in range(3)] == [2, 2, 2]


def test_what_is_wrong_with_a_table_is_told(table, tmp_path):
    def read(path: Path) -> None:
        CommonVoiceDataset([path], Characters(), 1, tmp_path / "clips")

    with pytest.raises(MelHuBERTError, match=r"no\.tsv: cannot be read as a table"):
        read(tmp_path / "no.tsv")
    with pytest.raises(MelHuBERTError, match=r"empty\.tsv: no utterance in them"):
        read(table("empty"))
    lacking = table("lacking", "A", " ", "B")
    (tmp_path / "clips/lacking2.wav").unlink()
    with pytest.raises(MelHuBERTError) as error:
        read(lacking)
    assert "sentences whose audio file is not there: 1 (" in str(error.value)
    assert "lacking2.wav" in str(error.value)
    assert "lacking.tsv, row 3" in str(error.value)
