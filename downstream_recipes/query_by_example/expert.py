"""s3prl's expert for QUESST, with features on the disk instead of in memory, and kept alignments.

What it normalizes, scores and writes is s3prl's own code. s3prl keeps the features of all audio in memory:
of QUESST's four and a half hours of English some 2.5 GB for one layer of a base-size model, 33 GB for all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import s3prl.downstream.quesst14_dtw.expert as theirs
import soundfile
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from s3prl_melhubert.downstream_recipes.query_by_example.alignments import Alignments, without_display
from s3prl_melhubert.downstream_recipes.query_by_example.kept_features import KeptFeatures
from s3prl_melhubert.downstream_recipes.running.s3prl_run import replaced

ALIGNMENTS = "alignments.jsonl"
RATE, BYTES = 16_000, 4  # of s3prl's audio, and of a feature


TheirExpert = theirs.DownstreamExpert


class QuesstExpert(theirs.DownstreamExpert):
    """s3prl's expert; `one_pass/layers.py` asks for what is more here.

    Args:
        upstream_dim: features of a frame.
        upstream_rate: samples of a frame.
        expdir: where the detections go, and what is kept until they are written.
        options: further arguments of s3prl's expert.
    """

    def __init__(self, upstream_dim: int, upstream_rate: int, expdir: str, **options: Any):
        with replaced(theirs, "DownstreamExpert", TheirExpert):  # their class looks itself up by its name
            super().__init__(upstream_dim=upstream_dim, expdir=expdir, **options)
        self.upstream_rate = upstream_rate
        self.first = 0
        self.kept: KeptFeatures | None = None

    # -- what `one_pass/layers.py` asks for -----------------------------------------------------------------

    def prepare(self, split: str) -> tuple[int, int]:
        dataset = super().get_dataloader(split).dataset
        names = [path.with_suffix("").name for path in dataset.data]
        self.kept = KeptFeatures(self.expdir, names)
        seconds = sum(_seconds(path) for path in dataset.data[len(self.kept) :])
        return len(self.kept), int(seconds * RATE / self.upstream_rate * self.upstream_dim * BYTES)

    def go_on_from(self, first: int) -> None:
        self.first = first

    def forget(self) -> None:
        self._kept().remove()
        (self.expdir / ALIGNMENTS).unlink(missing_ok=True)

    # -- what s3prl's loop asks for -------------------------------------------------------------------------

    def get_dataloader(self, mode: str) -> DataLoader[Any]:
        loader = super().get_dataloader(mode)
        left = range(self.first, len(loader.dataset))
        return DataLoader(
            Subset(loader.dataset, left),
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )

    def forward(
        self,
        mode: str,
        features: Sequence[Tensor],
        audio_names: Sequence[str],
        records: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        kept = self._kept()
        found: dict[str, Any] = defaultdict(list)
        super().forward(mode, features, audio_names, found, **kwargs)
        there = set(kept.names) if self.first < len(kept) else ()
        for name, feature in zip(found["audio_names"], found["features"], strict=True):
            if name not in there:
                kept.append(name, feature)

    def log_records(self, mode: str, records: dict[str, Any], **kwargs: Any) -> None:
        kept = self._kept()
        alignments = Alignments(self.expdir / ALIGNMENTS, "alignments")
        records = {"features": kept.features(), "audio_names": kept.names}
        with (
            replaced(theirs, "ProcessPoolExecutor", alignments),
            replaced(theirs, "as_completed", alignments.as_completed),
            replaced(theirs, "tqdm", without_display),
        ):
            super().log_records(mode, records=records, **kwargs)

    def _kept(self) -> KeptFeatures:
        assert self.kept is not None, "prepare comes first"
        return self.kept


def _seconds(path: Path) -> float:
    return float(soundfile.info(str(path)).duration)
