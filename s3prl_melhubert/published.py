"""The published checkpoints: where they can be fetched, and the statistics that each was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s3prl_melhubert.support.files import sha256_of


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A checkpoint that the authors of MelHuBERT published on Google Drive."""

    name: str  # also the name of the s3prl upstream
    gdrive_id: str
    frame_period: int  # ms
    feature_stats: str  # the name of the statistics that it was trained with
    sha256: str | None = None  # of the file, if it is known

    @property
    def url(self) -> str:
        """The address of the file on Google Drive."""
        return f"https://drive.google.com/uc?id={self.gdrive_id}"


def _entry(name: str, gdrive_id: str) -> PublishedCheckpoint:
    _, period, hours, _ = name.split("_")  # melhubert_20ms_360h_stage1
    return PublishedCheckpoint(name, gdrive_id, int(period.removesuffix("ms")), f"librispeech-{hours}")


PUBLISHED = {
    entry.name: entry
    for entry in (
        _entry("melhubert_20ms_360h_stage1", "1mSR40Vdl2gT1rlZORleKPb2gcryQHW5m"),
        _entry("melhubert_20ms_360h_stage2", "11wzYf8u9pXPvQyQU2Wodx79W31Ka2e0Z"),
        _entry("melhubert_10ms_360h_stage1", "1YZP9nBSRaQ_Z2cFaFLmLkGilEYsEHb2b"),
        _entry("melhubert_20ms_100h_stage1", "1ppz5w5eTGOL81QjYqwxRwFFmq-hqInD6"),
        _entry("melhubert_10ms_960h_stage2", "18u2u-528uDh5T7R1bp1wvWJ2ygcrNlzx"),
        _entry("melhubert_20ms_960h_stage2", "1Fn_C5VoH5iV3LdvBEjvfAsbMPhWFFPdd"),
    )
}

DEFAULT = "melhubert_20ms_960h_stage2"  # what plain `melhubert` means


def advice_for_name(given: str) -> str:
    """How to get the file of an entry whose name was given in place of a file; empty for any other name.

    It is the end of an error. Only s3prl's upstreams have these names, and only they fetch a file.
    """
    if given not in ("melhubert", *PUBLISHED):
        return ""
    name = DEFAULT if given == "melhubert" else given
    return (
        f"; {given} is an upstream of s3prl, and not a file: fetch it with "
        f"`python -c 'import s3prl.hub; s3prl.hub.{given}()'`, and give ~/.cache/s3prl/download/{name}.ckpt"
    )


def recognize(path: str | Path) -> PublishedCheckpoint | None:
    """Find out which published checkpoint a local file is, from the file's name or its hash.

    The name tells it if it is the name of an entry (`melhubert_20ms_360h_stage1.ckpt`), or if it contains an
    entry's Google Drive id. The names in s3prl's download cache contain the id.
    """
    path = Path(path)
    for entry in PUBLISHED.values():
        if path.stem == entry.name or entry.gdrive_id in path.name:
            return entry
    known = {entry.sha256: entry for entry in PUBLISHED.values() if entry.sha256}
    return known.get(sha256_of(path)) if known else None
