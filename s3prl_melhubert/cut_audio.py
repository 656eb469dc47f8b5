"""Tells of audio files that end before they should, which libsndfile reads as far as they go."""

from __future__ import annotations

import re

import soundfile

# libsndfile's log alone tells of both sizes: those of the audio (WAV, AIFF, AU), or those of the whole file
# (RF64, W64). A number of more than 15 digits is no size.
_SIZES = re.compile(
    r"^ *(?:data|SSND|Data Size|Riff size|riff) *: (\d{1,15}) \(should be (\d+)\)$", re.MULTILINE | re.ASCII
)
# What programs write into a pipe as a size of 32 bits, which they cannot know: 2**32 - 1, or about 2**31.
UNKNOWN_SIZES = range(0x7F00_0000, 2**32)
# A size may be too large by this much, because some programs count the header, too. It is 4 ms of speech.
HEADER_BYTES = 128
# The bytes of a page of an Ogg stream at the most: its header, the sizes of its parts, their content.
OGG_PAGE = 27 + 255 + 255 * 255

_NIST = re.compile(rb"NIST_1A\s+(\d{1,9})\s")
_NIST_FIELD = re.compile(rb"^(channel_count|sample_count|sample_n_bytes) -i (\d{1,15})[ \r]*$", re.MULTILINE)

# The first frame of an MP3 file may hold no audio, but a tag of Xing's: flags, then what they announce.
_XING = re.compile(rb"(?:Xing|Info)\0\0\0(.)", re.DOTALL)
_XING_FRAMES, _XING_BYTES = 1, 2  # the flags of a number of frames and one of bytes, of 4 bytes each
# Bytes before the tag at the most: the header of the frame, its checksum, and its side information.
_XING_START = 4 + 2 + 32
# Programs count the bytes with or without tags, so a difference of a hundredth is none.
_XING_SLACK = 0.01


def cut_short(file: soundfile.SoundFile) -> str:
    """Say that an open file ends before it should; nothing if it does not, or if it cannot be told.

    It can be told of WAV, RF64, W64, AIFF, AU and NIST SPHERE files, of MP3 files with a tag of Xing's or
    LAME's, and of most Ogg files, of all without decoding them. libsndfile does not open a CAF file that was
    cut short, and decoding finds it out of FLAC.
    """
    kind = file.format
    if kind == "OGG":
        missing = _missing_of_ogg(file.name)
        return f"cut short: its last page lacks {missing} bytes; copy it again" if missing > 0 else ""
    if kind.startswith(("WAV", "RF64", "W64", "AIFF", "AU")):
        sizes = [(int(stated), int(there)) for stated, there in _SIZES.findall(file.extra_info)]
    elif kind == "NIST":
        sizes = _nist_sizes(file.name)
    elif kind == "MP3":
        sizes = _mp3_sizes(file.name)
    else:
        sizes = []
    for stated, there in sizes:
        if stated > there + HEADER_BYTES and stated not in UNKNOWN_SIZES:
            return f"cut short: its header tells of {stated} bytes, and {there} are there; copy it again"
    return ""


def _missing_of_ogg(path: str | bytes) -> int:
    """The bytes that the last page of an Ogg stream says it has, and which are not there.

    A stream that ends with a whole page may be whole, even where that page is not marked as the last one:
    programs that record from a network do not mark it.
    """
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - OGG_PAGE))
        end = file.read()
    page = end[max(0, end.rfind(b"OggS\0")) :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = 27 + page[26] + sum(sizes) if len(page) > 26 else 27
    return whole - len(page) if page.startswith(b"OggS") else 0


def _nist_sizes(path: str | bytes) -> list[tuple[int, int]]:
    """The bytes of audio that a NIST SPHERE file's header tells of, and those that are there."""
    with open(path, "rb") as file:
        start = _NIST.match(file.read(32))
        if start is None:
            return []
        file.seek(0)
        header = int(start[1])
        text = file.read(header).partition(b"end_head")[0]
        fields = {name: int(value) for name, value in _NIST_FIELD.findall(text)}
        there = file.seek(0, 2) - header
    stated = (
        fields.get(b"sample_count", 0) * fields.get(b"channel_count", 1) * fields.get(b"sample_n_bytes", 0)
    )
    return [(stated, there)]


def _mp3_sizes(path: str | bytes) -> list[tuple[int, int]]:
    """The bytes that an MP3 file's tag of Xing's tells of, and those that are there."""
    with open(path, "rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3":  # a tag of words and pictures before the audio, with a size of 4 x 7 bits
            start = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        file.seek(start)
        frame = file.read(_XING_START + 16)
        there = file.seek(0, 2) - start
    tag = _XING.search(frame)
    if tag is None or not tag[1][0] & _XING_BYTES:
        return []
    place = tag.end() + (4 if tag[1][0] & _XING_FRAMES else 0)
    stated = int.from_bytes(frame[place : place + 4], "big")
    return [(int(stated * (1 - _XING_SLACK)), there)]
