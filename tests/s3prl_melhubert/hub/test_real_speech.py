"""Real speech in transformers' Trainer: MelHuBERTForCTC learns words, and is the same after it was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

transformers = pytest.importorskip("transformers")
import s3prl_melhubert.hub  # noqa: E402, F401  # this tells transformers of MelHuBERT

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")  # 0 is CTC's blank


class Spoken(torch.utils.data.Dataset):
    """Utterances of a LibriSpeech split whose transcripts have the ten digits alone."""

    def __init__(self, split: Path, extractor: Any, most: int):
        self.rows = []
        for transcripts in sorted(split.rglob("*.trans.txt")):
            for line in transcripts.read_text().splitlines()[: most // 6]:
                name, *words = line.split()
                waveform, rate = soundfile.read(transcripts.with_name(f"{name}.flac"), dtype="float32")
                features = extractor(waveform, sampling_rate=rate, return_tensors="pt")["input_features"][0]
                self.rows.append((features, torch.tensor([1 + WORDS.index(word) for word in words])))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.rows[i]


def collate(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    features = pad([features for features, _ in rows], batch_first=True)
    lengths = torch.tensor([len(features) for features, _ in rows])
    return {
        "input_features": features,
        "attention_mask": (torch.arange(features.shape[1]) < lengths[:, None]).long(),
        "labels": pad([labels for _, labels in rows], batch_first=True, padding_value=-100),
    }


@pytest.mark.slow
def test_ctc_learns_the_digits_and_is_saved_whole(speech, all_exported, tmp_path, train):
    folder = all_exported[20].folder
    data = Spoken(
        speech / "digits/LibriSpeech/train-clean-100",
        transformers.AutoFeatureExtractor.from_pretrained(folder),
        most=96,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCTC.from_pretrained(
        folder, vocab_size=1 + len(WORDS), use_weighted_layer_sum=True
    )
    trainer = train(model, data, collate, steps=50, batch=4)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 50
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])

    trainer.save_model(str(tmp_path / "saved"))
    again = transformers.AutoModelForCTC.from_pretrained(tmp_path / "saved").eval()
    batch = collate([data[0], data[1]])
    del batch["labels"]
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, again(**batch).logits)
