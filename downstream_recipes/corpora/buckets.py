"""Utterances as s3prl's `ctc` wants them: one, or a bucket of similar ones, at each index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch.utils.data import Dataset

Item = tuple[Path, list[int]]  # an audio file, and its symbols' indices in the vocabulary, <eos> at the end


class BucketedDataset(Dataset):
    """Utterances with the most symbols first, so that neighbours are of similar length; buckets overlap.

    Args:
        items: in any order, or in one that is kept.
        bucket_size: utterances at an index; 1 for an utterance at each.
        are_sorted: keep their order.
    """

    def __init__(self, items: Iterable[Item], bucket_size: int, are_sorted: bool = False) -> None:
        self.items = list(items)
        if not are_sorted:
            self.items.sort(key=lambda item: len(item[1]), reverse=True)
        self.bucket_size = bucket_size

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item | list[Item]:
        """Return an utterance; or, with a bucket size above 1, the bucket that begins with it.

        Where too few utterances come behind it, that is the last full bucket.
        """
        if self.bucket_size == 1:
            return self.items[index]
        start = max(0, min(index, len(self.items) - self.bucket_size))
        return self.items[start : start + self.bucket_size]
