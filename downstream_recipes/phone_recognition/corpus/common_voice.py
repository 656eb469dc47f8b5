"""Tables of sentences, for s3prl's `ctc`: this stands in for `s3prl.downstream.ctc.corpus.common_voice`.

s3prl's out-of-domain ASR reads Common Voice and SBCSAE by it. A table is a TSV file whose first line is
`path<tab>sentence`, as s3prl's preparation of Common Voice writes it, with the longest recording first. Its
order is kept, so that neighbours are of similar length. It is loaded under s3prl's module name.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from s3prl_melhubert.downstream_recipes.corpora.buckets import BucketedDataset
from s3prl_melhubert.downstream_recipes.corpora.problems import Kind, Problems
from s3prl_melhubert.errors import MelHuBERTError, said

NO_AUDIO = Kind("sentences whose audio file is not there", "name the folder of the files as the corpus' path")
NO_SENTENCE = Kind("lines without a path and a sentence", "write them as path<tab>sentence, or take them out")


class CommonVoiceDataset(BucketedDataset):
    """Utterances of tables, in their order.

    Args:
        split: paths of tables.
        tokenizer: s3prl's, of any mode that encodes text.
        bucket_size: utterances per item; 1 for an utterance per item.
        path: the folder that the tables' paths are relative to.

    Raises:
        MelHuBERTError: a table that cannot be read or names nothing, or audio files that are not there.
    """

    def __init__(
        self,
        split: Sequence[str | Path],
        tokenizer: Any,
        bucket_size: int,
        path: str | Path,
        **_ignored: Any,  # s3prl passes the whole corpus section of its settings
    ) -> None:
        problems = Problems()
        found = [row for table in split for row in _rows(Path(table), Path(path), problems)]
        problems.raise_if_any(f"the tables {', '.join(map(str, split))}")
        if not found:
            raise MelHuBERTError(
                f"{', '.join(map(str, split))}: no utterance in them; expected path<tab>sentence"
            )
        super().__init__(
            ((file, tokenizer.encode(text)) for file, text in found), bucket_size, are_sorted=True
        )


def _rows(table: Path, folder: Path, problems: Problems) -> Iterator[tuple[Path, str]]:
    """The audio files and sentences of a table."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))[1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MelHuBERTError(f"{table}: cannot be read as a table ({said(error)}); give a TSV file") from None
    for number, row in enumerate(rows, 2):
        if len(row) < 2 or not row[1].strip():
            problems.add(NO_SENTENCE, f"{table}, row {number}")
        elif not (folder / row[0]).is_file():
            problems.add(NO_AUDIO, str(folder / row[0]))
        else:
            yield folder / row[0], row[1]
