"""A corpus in QUESST's layout, and runs of the task on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_melhubert.cli import main


def write_quesst(
    root: Path,
    documents: Mapping[str, np.ndarray],
    queries: Mapping[str, Mapping[str, np.ndarray]],
    held: Mapping[str, Sequence[str]],
    rate: int,
) -> Path:
    """Write the layout of quesst14Database: English files, and one more, Basque, that is absent."""
    scoring = root / "scoring"
    folders = {"utterances": ("Audio", documents), **{q: (f"{q}_queries", queries[q]) for q in queries}}
    for name, (folder, files) in folders.items():
        (root / folder).mkdir(parents=True)
        scoring.mkdir(exist_ok=True)
        lines = [f"quesst14Database/{folder}/{file}.wav nnenglish\n" for file in files]
        lines.append(f"quesst14Database/{folder}/elsewhere.wav basque\n")
        (scoring / f"language_key_{name}.lst").write_text("".join(lines))
        for file, wave in files.items():
            soundfile.write(root / folder / f"{file}.wav", wave, rate)
    for name, files in queries.items():
        folder = scoring / f"groundtruth_quesst14_{name}"
        folder.mkdir()
        terms = "".join(f'<term termid="{q}"><termtext>{q}</termtext></term>' for q in [*files, "elsewhere"])
        (folder / f"quesst14_{name}.tlist.xml").write_text(f"<termlist>{terms}</termlist>")
        excerpts = "".join(f'<excerpt audio_filename="Audio/{d}.wav" channel="1"/>' for d in documents)
        (folder / "quesst14.ecf.xml").write_text(f"<ecf>{excerpts}</ecf>")
        lines = ["SPKR-INFO quesst14_00001 1 <NA> <NA> <NA> unknown S <NA>\n"]
        lines += [f"LEXEME {d} 1 0.00 1.00 {q} lex S 0.5\n" for q in files for d in held[q]]
        (folder / f"quesst14_{name}.rttm").write_text("".join(lines))
    return root


def word(number: int, rate: int = 8000, speed: float = 1.0) -> np.ndarray:
    """0.4 s of two tones and a third that follows them, another combination for each number."""
    time = np.arange(int(0.2 * rate / speed)) / rate
    low, high = 300 + 250 * number, 3300 - 300 * number
    noise = np.random.default_rng(number).normal(0, 0.01, 2 * len(time))
    tones = [np.sin(2 * np.pi * low * time), np.sin(2 * np.pi * high * time)]
    return (0.3 * np.concatenate(tones) + noise).astype(np.float32)


@pytest.fixture(name="write_quesst")
def write_quesst_() -> Callable[..., Path]:
    """`write_quesst(root, documents, queries, held, rate)`; what is said in it."""
    return write_quesst


@pytest.fixture
def quesst(tmp_path) -> Path:
    """Eight documents of three of five words, and queries of one, said faster; at 8 kHz, as QUESST is."""
    order = [(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 0), (4, 0, 1), (0, 2, 4), (1, 3, 0), (2, 4, 1)]
    documents = {
        f"quesst14_{i:05d}": np.concatenate([word(n, speed=0.9) for n in words])
        for i, words in enumerate(order)
    }
    queries = {
        name: {f"quesst14_{name}_{n:04d}": word(n, speed=1.1) for n in numbers}
        for name, numbers in (("dev", (0, 1, 2)), ("eval", (2, 3, 4)))
    }
    held = {
        query: [f"quesst14_{i:05d}" for i, words in enumerate(order) if int(query[-4:]) in words]
        for files in queries.values()
        for query in files
    }
    return write_quesst(tmp_path / "quesst14Database", documents, queries, held, 8000)


@pytest.fixture
def run(quesst, tmp_path, upstream) -> Callable[..., int]:
    """Run the task with that upstream."""
    pytest.importorskip("dtw")
    pytest.importorskip("lxml")

    def run_it(*arguments: str, corpus: Path = quesst) -> int:
        command = ["superb", "qbe", "--quesst", str(corpus), *upstream, "-p", str(tmp_path / "EXP")]
        return main([*command, "--device", "cpu", "--workers", "0", *arguments])

    return run_it
