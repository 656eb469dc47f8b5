"""How well a frozen model's features tell phones: a small phone recognizer on each of several upstreams.

    python -m benchmarks.phone_recognition --librispeech DIR --lexicon FILE fbank EXP/last.ckpt

DIR holds train-clean-100 and dev-clean in LibriSpeech's layout; FILE has lines `WORD<tab>PHONES`. The
recognizer is that of SUPERB's phone recognition (a learned weighted sum of the layers, linear to 256, linear
to phones, CTC) with few steps. Features are extracted once, so that it trains in seconds: for comparing
checkpoints while pre-training is being developed, not for the leaderboard. An upstream is a name of s3prl's
or a MelHuBERT checkpoint; with --untrained, each checkpoint's model is also tried with new weights. So short
a training depends on the recognizer's own initial weights and order: the median over several seeds is
printed, with the best and the worst.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path

import editdistance
import s3prl.hub as hub
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from s3prl_melhubert import MelHuBERT, load_checkpoint
from s3prl_melhubert.audio import read_audio

BATCH = 16
EXTRACTED_AT_ONCE = 8


@dataclass
class Utterance:
    waveform: Tensor  # (n,) at 16 kHz
    phones: list[int]  # from 1 on; 0 is CTC's blank
    layers: Tensor | None = None  # (L, T, C) features


def read_split(folder: Path, lexicon: dict[str, list[str]], phones: dict[str, int]) -> list[Utterance]:
    """The utterances of a split, with the phones of their words."""
    utterances = []
    for transcript in sorted(folder.glob("*/*/*.trans.txt")):
        for line in transcript.read_text().splitlines():
            name, *words = line.split()
            audio = read_audio(transcript.with_name(f"{name}.flac"))
            spoken = [phones[phone] for word in words for phone in lexicon[word]]
            utterances.append(Utterance(torch.from_numpy(audio.waveform), spoken))
    return utterances


@torch.no_grad()
def extract(upstream: nn.Module, utterances: list[Utterance], name: str) -> None:
    """Set the features of all utterances."""
    rate = upstream.get_downsample_rates("hidden_states")
    order = sorted(utterances, key=lambda utterance: len(utterance.waveform))
    for i in tqdm(range(0, len(order), EXTRACTED_AT_ONCE), desc=name, leave=False):
        batch = order[i : i + EXTRACTED_AT_ONCE]
        layers = torch.stack(list(upstream([u.waveform for u in batch])["hidden_states"]))  # (L, B, T, C)
        for j, utterance in enumerate(batch):
            utterance.layers = layers[:, j, : max(1, round(len(utterance.waveform) / rate))].clone()


class Recognizer(nn.Module):
    def __init__(self, layers: int, width: int, phones: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.project = nn.Linear(width, 256)
        self.classify = nn.Linear(256, phones)

    def forward(self, layers: Tensor) -> Tensor:
        """(L, ..., C) -> (..., phones) log-probabilities."""
        mixed = torch.tensordot(self.weights.softmax(0), layers, dims=1)
        return self.classify(self.project(mixed)).log_softmax(-1)


def train(utterances: list[Utterance], phones: int, steps: int, lr: float, seed: int) -> Recognizer:
    torch.manual_seed(seed)
    first = utterances[0].layers
    model = Recognizer(first.shape[0], first.shape[2], phones)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    order: list[int] = []
    for _ in tqdm(range(steps), desc="train", leave=False):
        if len(order) < BATCH:
            order += torch.randperm(len(utterances)).tolist()
        batch, order = [utterances[i] for i in order[:BATCH]], order[BATCH:]
        lengths = torch.tensor([u.layers.shape[1] for u in batch])
        padded = nn.utils.rnn.pad_sequence([u.layers.transpose(0, 1) for u in batch], batch_first=True)
        scores = model(padded.permute(2, 0, 1, 3))  # (B, T, phones)
        targets = [torch.tensor(u.phones) for u in batch]
        loss = F.ctc_loss(
            scores.transpose(0, 1),
            torch.cat(targets),
            lengths,
            torch.tensor([len(target) for target in targets]),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.no_grad()
def phone_error_rate(model: Recognizer, utterances: list[Utterance]) -> float:
    """Edits over phones, in percent, of the best path."""
    edits = total = 0
    for utterance in utterances:
        best = model(utterance.layers).argmax(-1).unique_consecutive()
        edits += editdistance.eval([int(p) for p in best if p], utterance.phones)
        total += len(utterance.phones)
    return 100 * edits / total


def upstreams(names: list[str], untrained: bool, stats: str | None):
    """Name and frozen upstream, one after the other."""
    for name in names:
        if not Path(name).is_file():
            yield name, getattr(hub, name)()
            continue
        yield name, hub.melhubert_local(name, feature_stats=stats)
        if untrained:
            fresh = hub.melhubert_local(name, feature_stats=stats)
            torch.manual_seed(0)
            fresh.model = MelHuBERT(load_checkpoint(name).config)
            yield f"{name} (untrained)", fresh


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("upstreams", nargs="+", help="names of s3prl's, or MelHuBERT checkpoints")
    parser.add_argument("--librispeech", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("--stats", help="statistics of checkpoints that hold none")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, default=5, help="recognizers trained on each upstream")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)

    lines = [line.split("\t") for line in args.lexicon.read_text().splitlines() if line.strip()]
    lexicon = {word: spoken.split() for word, spoken in lines}
    inventory = sorted({phone for spoken in lexicon.values() for phone in spoken})
    phones = {phone: i + 1 for i, phone in enumerate(inventory)}
    splits = [read_split(args.librispeech / s, lexicon, phones) for s in ("train-clean-100", "dev-clean")]
    figures = {}
    for name, upstream in upstreams(args.upstreams, args.untrained, args.stats):
        for split in splits:
            extract(upstream.eval(), split, name)
        rates, weights = [], []
        for seed in range(args.seeds):
            model = train(splits[0], len(phones) + 1, args.steps, args.lr, seed)
            rates.append(round(phone_error_rate(model, splits[1]), 2))
            weights.append(model.weights.detach().softmax(0))
        layers = [round(w, 3) for w in torch.stack(weights).mean(0).tolist()]
        figures[name] = {"dev_per": rates, "layer_weights": layers}
        median, best, worst = statistics.median(rates), min(rates), max(rates)
        print(f"{median:6.2f} % PER ({best:.2f} to {worst:.2f})  {name}  layers {layers}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
