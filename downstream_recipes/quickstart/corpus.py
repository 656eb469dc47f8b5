"""A small corpus of synthesized speech, laid out as LibriSpeech, VoxCeleb1 and Speech Commands are.

    corpus/
      LibriSpeech/{train-clean-360,train-clean-100,dev-clean,test-clean}/SPEAKER/CHAPTER/
          SPEAKER-CHAPTER-NNNN.flac, SPEAKER-CHAPTER.trans.txt
      VoxCeleb1/{dev,test}/wav/idNNNNN/VIDEO/NNNNN.wav
      VoxCeleb1/iden_split.txt
      speech_commands_v0.01/WORD/HASH_nohash_0.wav
      speech_commands_test_set_v0.01/CLASS/HASH_nohash_0.wav
      lexicon.txt
      corpus.yaml               seed and counts

As in LibriSpeech, its splits have no speaker and no sentence in common; as in VoxCeleb1's identification
split, every speaker is in all of its parts, but no video is. Keywords for training are said by the speakers
of train-clean-100, those for testing by the speakers of test-clean. A speaker is one of eSpeak's variants
with a rate, a pitch and a vocal tract of his or her own: a few dozen voices alone are too far apart for what
was learned from some to hold for another. A chapter, a video or a clip is a recording with a loudness and a
background noise of its own. A seed gives the same bytes whenever it is used.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from threading import Event, Lock

import numpy as np
import soundfile
import yaml
from tqdm import tqdm

from s3prl_melhubert.config import SAMPLE_RATE
from s3prl_melhubert.downstream_recipes.espeak import Espeak, Voice
from s3prl_melhubert.downstream_recipes.keyword_spotting.speech_commands import (
    KEYWORDS,
    NOISE,
    SILENCE,
    TEST_SET,
    UNKNOWN,
    split_of,
)
from s3prl_melhubert.downstream_recipes.quickstart.sentences import LEXICON, sentences
from s3prl_melhubert.support.progress import progress

LIBRISPEECH, VOXCELEB, SPLIT_FILE = "LibriSpeech", "VoxCeleb1", "iden_split.txt"
COMMANDS = "speech_commands_v0.01"
ABOUT = "corpus.yaml"
THREADS = 2  # that speak at a time

# Variants of eSpeak's voices that sound like people, women and men, by LibriSpeech's splits. Only those that
# give the same samples every time (caleb, for one, does not).
PRETRAINING = (
    *("m1", "f1", "m3", "f2", "m5", "f4", "m7", "Annie", "m8", "linda", "Alex", "Alicia"),
    *("max", "paul", "robert", "ed", "Andy", "Andrea", "Denis", "belinda", "Michael", "anika"),
    *("Mike", "steph", "Gene", "steph2", "Lee", "shelby", "Marco", "aunty", "rob", "travis"),
)
VARIANTS = {
    "train-clean-360": PRETRAINING,
    # Variants of the first split are other speakers here.
    "train-clean-100": (
        *PRETRAINING[:22],
        *("quincy", "steph3", "david", "grandma", "edward", "victor", "sandro", "miguel"),
    ),
    "dev-clean": ("f3", "m4", "john", "Jacky"),
    "test-clean": ("f5", "m2", "adam", "benjamin", "michel", "Mario"),
}
TRACT = 1.1  # A speaker's vocal tract is longer or shorter than the variant's by this factor, at most.
IDENTIFIED = PRETRAINING[:20]  # VoxCeleb1's speakers are some of the first split's, one of each variant
# It keeps some of its speakers in a folder `test`, which its identification split uses like the rest.
TEST_FOLDER_SPEAKERS = ("linda", "paul")
# Who says Speech Commands' words, by its splits.
KEYWORD_SPEAKERS = {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}


@dataclass(frozen=True)
class Size:
    """How much a corpus holds. The default is what `melhubert quickstart` makes."""

    speakers: tuple[int, int, int, int] = (3, 2, 2, 3)  # of each variant, by LibriSpeech's splits
    utterances: int = 15  # of each of them, in one chapter
    videos: tuple[int, int, int] = (8, 2, 6)  # of each of VoxCeleb1's speakers: train, dev, test
    video_utterances: tuple[int, int, int] = (3, 3, 2)  # of each video of these parts
    clips: tuple[int, int, int] = (16, 6, 40)  # of each of Speech Commands' words: train, dev, test


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
    voices = {
        split: [_voice(variant, rng) for _ in range(speakers) for variant in variants]
        for speakers, (split, variants) in zip(size.speakers, VARIANTS.items(), strict=True)
    }
    utterances = size.utterances * sum(map(len, voices.values()))
    utterances += len(IDENTIFIED) * sum(map(math.prod, zip(size.videos, size.video_utterances, strict=True)))
    utterances += (len(KEYWORDS) + 1) * sum(size.clips)
    parts = [
        (_make_librispeech, LIBRISPEECH),
        (_make_voxceleb, VOXCELEB),
        (_make_speech_commands, COMMANDS),
    ]
    with (
        ExitStack() as stack,
        progress(total=utterances, title="synthesis", unit="utterances") as bar,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        closed = Event()
        # Each has a studio of its own, so that it does not matter which of them is ready first.
        studios = [
            _Studio(stack.enter_context(Espeak()), sentences(seed), random, bar, closed)
            for random in rng.spawn(len(parts))
        ]
        made = [
            threads.submit(make, unfinished / name, studio, voices, size)
            for (make, name), studio in zip(parts, studios, strict=True)
        ]
        try:
            for part in as_completed(made):
                part.result()
        finally:
            closed.set()  # The block waits for its threads, which would go on to the end of their parts.
    shutil.copyfile(LEXICON, unfinished / "lexicon.txt")
    hours = round(sum(studio.seconds for studio in studios) / 3600, 3)
    about = {"seed": seed, "utterances": utterances, "hours": hours}
    (unfinished / ABOUT).write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
    unfinished.rename(folder)


def _voice(variant: str, rng: np.random.Generator) -> Voice:
    return Voice(
        f"en-us+{variant}",
        rate=int(rng.integers(165, 215)),
        pitch=int(rng.integers(35, 65)),
        pitch_range=int(rng.integers(30, 70)),
        tract=float(rng.uniform(1 / TRACT, TRACT)),
    )


class _Studio:
    """The place where one sentence after the other is spoken, and what was spoken is counted."""

    counting = Lock()  # of the bar, which all studios share

    def __init__(
        self, espeak: Espeak, texts: Iterator[str], rng: np.random.Generator, bar: tqdm, closed: Event
    ):
        self.espeak = espeak
        self.texts = texts
        self.rng = rng
        self.bar = bar
        self.closed = closed
        self.seconds = 0.0

    def record(self, path: Path, voice: Voice, recording: Recording, text: str = "") -> str:
        """Write an utterance as 16-bit audio; return its text, the next sentence if none was given.

        Raises:
            CancelledError: the studio was closed, because nobody wants the corpus any more.
        """
        if self.closed.is_set():
            raise CancelledError
        text = text or next(self.texts)
        speech = recording.of(self.espeak.speak(text, voice), self.rng)
        soundfile.write(path, speech, SAMPLE_RATE, subtype="PCM_16")
        self.seconds += len(speech) / SAMPLE_RATE
        with self.counting:
            self.bar.update()
        return text


def _make_librispeech(root: Path, studio: _Studio, voices: dict[str, list[Voice]], size: Size) -> None:
    speaker = 100
    for split, speakers in voices.items():
        for voice in speakers:
            speaker += 1
            folder = root / split / str(speaker) / "1"  # the chapter
            folder.mkdir(parents=True)
            recording = Recording.draw(studio.rng)
            lines = []
            for index in range(size.utterances):
                name = f"{speaker}-1-{index:04d}"
                text = studio.record(folder / f"{name}.flac", voice, recording)
                lines.append(f"{name} {text.upper()}\n")
            (folder / f"{speaker}-1.trans.txt").write_text("".join(lines), encoding="utf-8")


def _make_voxceleb(root: Path, studio: _Studio, voices: dict[str, list[Voice]], size: Size) -> None:
    lines = []
    for index, variant in enumerate(IDENTIFIED):
        speaker = f"id{10001 + index}"
        part = "test" if variant in TEST_FOLDER_SPEAKERS else "dev"
        videos = count(1)
        # The split's file numbers its parts: 1 for training, 2 for development, 3 for testing.
        for use, (n, utterances) in enumerate(zip(size.videos, size.video_utterances, strict=True), 1):
            for video in islice(videos, n):
                folder = root / part / "wav" / speaker / f"video{video:02d}"
                folder.mkdir(parents=True)
                recording = Recording.draw(studio.rng)
                for number in range(1, utterances + 1):
                    name = f"{number:05d}.wav"
                    studio.record(folder / name, voices["train-clean-360"][index], recording)
                    lines.append(f"{use} {speaker}/{folder.name}/{name}\n")
    (root / SPLIT_FILE).write_text("".join(lines), encoding="utf-8")


def _make_speech_commands(root: Path, studio: _Studio, voices: dict[str, list[Voice]], size: Size) -> None:
    """Keywords and other words; the voices of LibriSpeech's splits say those of train, dev and test."""
    for (split, said_by), clips in zip(KEYWORD_SPEAKERS.items(), size.clips, strict=True):
        names, speakers = _clip_names(split), cycle(voices[said_by])
        for word in (*KEYWORDS, UNKNOWN):
            for _ in range(clips):
                text = max(next(studio.texts).split(), key=len) if word == UNKNOWN else word
                folder = root.parent / TEST_SET / word if split == "test" else root / text
                folder.mkdir(parents=True, exist_ok=True)
                studio.record(folder / next(names), next(speakers), Recording.draw(studio.rng), text)
    _write_noises(root / NOISE, studio.rng, number=4, seconds=8)
    _write_noises(root.parent / TEST_SET / SILENCE, studio.rng, number=size.clips[-1], seconds=1)


def _write_noises(folder: Path, rng: np.random.Generator, number: int, seconds: int) -> None:
    """Write recordings in which nothing is said."""
    folder.mkdir()
    for index in range(number):
        noise = rng.standard_normal(seconds * SAMPLE_RATE) * 10 ** rng.uniform(-3, -1.5)
        path = folder / f"noise_{index:02d}.wav"
        soundfile.write(path, np.clip(noise, -1, 1), SAMPLE_RATE, subtype="PCM_16")


def _clip_names(split: str) -> Iterator[str]:
    """Names of clips that belong to a split: the corpus' own rule goes by a hash of the speaker's name.

    Clips of its own test split are not used; SUPERB's test set, which is another folder, has such.
    """
    wanted = "unused" if split == "test" else split
    return (name for n in count() if split_of(name := f"{n:08x}_nohash_0.wav") == wanted)
