"""A small archive, as the published ones unpack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import kaldiio
import numpy as np
import pytest


@dataclass(frozen=True)
class SmallArchive:
    """The folder of an archive of three utterances, whose labels are the numbers of their frames."""

    folder: Path
    matrices: Mapping[str, np.ndarray]  # (F, 40) frames, by the utterance

    @property
    def lengths(self) -> dict[str, int]:
        return {key: len(matrix) for key, matrix in self.matrices.items()}

    @property
    def ark(self) -> Path:
        return self.folder / "feats.ark"

    @property
    def features(self) -> Path:
        return self.folder / "train-clean-360.scp"

    @property
    def labels(self) -> Path:
        return self.folder / "train-clean-360-k512-e10.bas.scp"

    @property
    def mean_var(self) -> Path:
        return self.folder / "train-clean-360.mean-var"

    def write_labels(self, ids: Mapping[str, Iterable], path: Path | None = None) -> None:
        """The text of a label list and its .scp, with byte offsets into a path of another machine."""
        path, lines = path or self.labels, []
        with path.with_suffix("").open("wb") as file:  # NAME.bas
            for key, values in ids.items():
                lines.append(f"{key} /home/somebody/kmeans/{path.stem}:{file.tell()}\n")
                file.write((" ".join(map(str, values)) + "\n").encode())
        path.write_text("".join(lines))


@pytest.fixture
def archive(tmp_path) -> SmallArchive:
    """A folder as the 360-hour archive unpacks."""
    random = np.random.default_rng(0)
    lengths = {"utt-a": 31, "utt-b": 40, "utt-c": 17}
    made = SmallArchive(
        tmp_path / "archive",
        {key: random.normal(8, 3, (n, 40)).astype(np.float32) for key, n in lengths.items()},
    )
    made.folder.mkdir()
    kaldiio.save_ark(str(made.ark), dict(made.matrices), scp=str(made.features))
    text = made.features.read_text().replace(str(made.ark), "/home/somebody/fbank/feats.ark")
    made.features.write_text(text)
    made.write_labels({key: range(n) for key, n in lengths.items()})
    frames = np.concatenate(list(made.matrices.values())).astype(np.float64)
    sums = [frames.sum(0).tolist(), np.square(frames).sum(0).tolist(), len(frames)]
    made.mean_var.write_text("\n".join(map(str, sums)) + "\n")
    return made
