"""A small corpus of synthesized speech, laid out as LibriSpeech and VoxCeleb1 are.

    corpus/
      LibriSpeech/{train-clean-100,dev-clean,test-clean}/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac
                                                                         SPEAKER-CHAPTER.trans.txt
      VoxCeleb1/{dev,test}/wav/idNNNNN/VIDEO/NNNNN.wav
      VoxCeleb1/iden_split.txt
      lexicon.txt
      corpus.yaml               seed and counts

As in LibriSpeech, its splits have no speaker and no sentence in common; as in VoxCeleb1's identification
split, every speaker is in all of its parts, but no video is. A chapter or video is a recording with a
loudness and a background noise of its own. A seed gives the same bytes whenever it is used.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import yaml
from tqdm import tqdm

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.espeak import Espeak, Voice
from s3prl_melhubert.downstream_recipes.quickstart.sentences import LEXICON, sentences
from s3prl_melhubert.support.progress import progress

LIBRISPEECH, VOXCELEB, SPLIT_FILE = "LibriSpeech", "VoxCeleb1", "iden_split.txt"
ABOUT = "corpus.yaml"

# Variants of eSpeak's voices that sound like people, women and men, by LibriSpeech's splits. Only those that
# give the same samples every time (caleb, for one, does not).
SPEAKERS = {
    "train-clean-100": (
        *("m1", "f1", "m3", "f2", "m5", "f4", "m7", "Annie", "m8", "linda", "Alex", "Alicia"),
        *("max", "paul", "robert", "ed"),
    ),
    "dev-clean": ("f3", "m4"),
    "test-clean": ("f5", "m2"),
}
# VoxCeleb1 keeps some of its speakers in a folder `test`, which its identification split uses like the rest.
TEST_FOLDER_SPEAKERS = ("linda", "paul")
VIDEO_PARTS = {"train": 1, "dev": 2, "test": 3}  # as iden_split.txt numbers them


@dataclass(frozen=True)
class Size:
    """How much a corpus holds. The default is what `melhubert quickstart` makes."""

    chapters: int = 3  # of each LibriSpeech speaker
    train_chapters: int = 6  # and of each one in train-clean-100
    chapter_utterances: int = 15
    videos: int = 6  # of each VoxCeleb1 speaker: the last for testing, the one before for development
    video_utterances: int = 6

    def chapters_of(self, split: str) -> int:
        """Return the number of chapters of each LibriSpeech speaker in a split."""
        return self.train_chapters if split.startswith("train") else self.chapters


@dataclass(frozen=True)
class Recording:
    """The place that a chapter or video was recorded in."""

    gain: float  # in dB, of the speech over its own level
    noise: float  # in dB, how far the noise lies below the speech
    color: float  # of the noise: 0 is white, 1 loses 6 dB an octave

    @staticmethod
    def draw(rng: np.random.Generator) -> Recording:
        return Recording(rng.uniform(-6, 0), rng.uniform(15, 35), rng.uniform(0, 1))

    def of(self, speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Give (n,) speech this recording's loudness and noise; the result is in [-1, 1]."""
        n = 1 << len(speech).bit_length()  # a power of two, for the sake of the transform's speed
        white = np.fft.rfft(rng.standard_normal(n))
        frequency = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
        noise = np.fft.irfft(white / np.maximum(frequency, 50) ** self.color, n)[: len(speech)]
        noise *= _level(speech) / _level(noise) * 10 ** (-self.noise / 20)
        recorded = (speech + noise) * 10 ** (self.gain / 20)
        return np.clip(recorded, -1, 1).astype(np.float32)


def _level(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform)))) + 1e-9


def make_corpus(folder: Path, seed: int, size: Size | None = None) -> None:
    """Make a corpus in `folder`, which must not exist; it does only when it is complete."""
    size = size or Size()
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed; the whole takes seconds
    rng = np.random.default_rng(seed)
    texts = sentences(seed)
    voices = {variant: _voice(variant, rng) for variants in SPEAKERS.values() for variant in variants}
    chapters = sum(size.chapters_of(split) * len(variants) for split, variants in SPEAKERS.items())
    utterances = chapters * size.chapter_utterances
    utterances += size.videos * size.video_utterances * len(SPEAKERS["train-clean-100"])
    with (
        Espeak() as espeak,
        progress(total=utterances, title="synthesis", unit="utterances") as bar,
    ):
        studio = _Studio(espeak, texts, rng, bar)
        _make_librispeech(unfinished / LIBRISPEECH, studio, voices, size)
        _make_voxceleb(unfinished / VOXCELEB, studio, voices, size)
    shutil.copyfile(LEXICON, unfinished / "lexicon.txt")
    about = {"seed": seed, "utterances": utterances, "hours": round(studio.seconds / 3600, 3)}
    (unfinished / ABOUT).write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
    unfinished.rename(folder)


def _voice(variant: str, rng: np.random.Generator) -> Voice:
    return Voice(
        f"en-us+{variant}",
        rate=int(rng.integers(165, 215)),
        pitch=int(rng.integers(35, 65)),
        pitch_range=int(rng.integers(30, 70)),
    )


class _Studio:
    """The place where one sentence after the other is spoken, and what was spoken is counted."""

    def __init__(self, espeak: Espeak, texts: Iterator[str], rng: np.random.Generator, bar: tqdm):
        self.espeak = espeak
        self.texts = texts
        self.rng = rng
        self.bar = bar
        self.seconds = 0.0

    def record(self, path: Path, voice: Voice, recording: Recording) -> str:
        """Write an utterance as 16-bit audio; return its text."""
        text = next(self.texts)
        speech = recording.of(self.espeak.speak(text, voice), self.rng)
        soundfile.write(path, speech, SAMPLE_RATE, subtype="PCM_16")
        self.seconds += len(speech) / SAMPLE_RATE
        self.bar.update()
        return text


def _make_librispeech(root: Path, studio: _Studio, voices: dict[str, Voice], size: Size) -> None:
    speaker = 100
    for split, variants in SPEAKERS.items():
        for variant in variants:
            speaker += 1
            for chapter in range(1, size.chapters_of(split) + 1):
                folder = root / split / str(speaker) / str(chapter)
                folder.mkdir(parents=True)
                recording = Recording.draw(studio.rng)
                lines = []
                for index in range(size.chapter_utterances):
                    name = f"{speaker}-{chapter}-{index:04d}"
                    text = studio.record(folder / f"{name}.flac", voices[variant], recording)
                    lines.append(f"{name} {text.upper()}\n")
                transcript = folder / f"{speaker}-{chapter}.trans.txt"
                transcript.write_text("".join(lines), encoding="utf-8")


def _make_voxceleb(root: Path, studio: _Studio, voices: dict[str, Voice], size: Size) -> None:
    lines = []
    for index, variant in enumerate(SPEAKERS["train-clean-100"]):
        speaker = f"id{10001 + index}"
        part = "test" if variant in TEST_FOLDER_SPEAKERS else "dev"
        for video in range(1, size.videos + 1):
            use = {size.videos - 1: "dev", size.videos: "test"}.get(video, "train")
            folder = root / part / "wav" / speaker / f"video{video:02d}"
            folder.mkdir(parents=True)
            recording = Recording.draw(studio.rng)
            for number in range(1, size.video_utterances + 1):
                name = f"{number:05d}.wav"
                studio.record(folder / name, voices[variant], recording)
                lines.append(f"{VIDEO_PARTS[use]} {speaker}/{folder.name}/{name}\n")
    (root / SPLIT_FILE).write_text("".join(lines), encoding="utf-8")
