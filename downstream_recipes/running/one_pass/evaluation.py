"""One pass over a split for all rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from s3prl_melhubert.downstream_recipes.running.one_pass.generators import seed_everything
from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Rate, Rates, begin
from s3prl_melhubert.support.progress import progress


def evaluate(rates: Rates, split: str, step: int = 0) -> list[list[str]]:
    """Score every rate on a split, as s3prl does: seeded, so that each evaluation is alike.

    Args:
        rates: with a writer for TensorBoard.
        split: s3prl's name of it.
        step: of training, for the logs.

    Returns:
        For each rate, the names of the checkpoints that s3prl's expert wants saved.
    """
    device = rates.device
    before = [[entry.model.training for entry in rate.entries] for rate in rates]
    kept = [(rate.records, rate.batch_ids) for rate in rates]
    for rate in rates:
        rate.records, rate.batch_ids = type(rate.records)(list), []
    batches = hear(rates, split)
    names: list[list[str]] = []
    rates.in_turn(lambda rate: names.append(rate.write_records(split, step, batches)))
    _empty_cache(device)
    for rate, training, (records, batch_ids) in zip(rates, before, kept, strict=True):
        rate.records, rate.batch_ids = records, batch_ids
        for entry, learned in zip(rate.entries, training, strict=True):
            if learned:
                entry.model.train().to(device)
    return names


def hear(rates: Rates, split: str) -> int:
    """Run the upstream over a split once, and let every rate's expert record what it makes of it.

    The models are in evaluation mode then.

    Returns:
        The number of batches in the split.
    """
    lead, device = rates.lead, rates.device
    seed_everything(lead.args.seed)
    _empty_cache(device)
    for rate in rates:
        for entry in rate.entries:
            entry.model.eval()
    loader = rates.share_loader(lambda rate: rate.downstream.get_dataloader(split))
    last = round(len(loader) * float(lead.runner.get("evaluate_ratio", 1)))
    with progress(total=last, title=split, unit="batches") as bar:
        for number, (wavs, *others) in enumerate(begin(loader)):
            if number > last:  # one more than its share, as in s3prl
                break
            wavs = [torch.FloatTensor(wav).to(device) for wav in wavs]
            with torch.no_grad():
                states = rates.upstream(wavs)
                rates.in_turn(
                    partial(_forward, split=split, wavs=wavs, states=states, others=others, number=number)
                )
            bar.update()
    return len(loader)


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()


def _forward(
    rate: Rate,
    split: str,
    wavs: Sequence[Tensor],
    states: Mapping[str, Any],
    others: Sequence[Any],
    number: int,
) -> None:
    features = rate.features(wavs, states)
    rate.downstream(split, features, *rate.own(others), records=rate.records, batch_id=number)
    rate.batch_ids.append(number)
