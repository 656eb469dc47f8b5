"""Training: the frozen upstream once a batch, then each rate's turn."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from s3prl_melhubert.compat.experiments.saving import write_checkpoint
from s3prl_melhubert.downstream_recipes.running.one_pass.evaluation import evaluate
from s3prl_melhubert.downstream_recipes.running.one_pass.generators import Generators
from s3prl_melhubert.downstream_recipes.running.one_pass.position import Position, put_back, state_of
from s3prl_melhubert.downstream_recipes.running.one_pass.rate import Rate, Rates, begin
from s3prl_melhubert.downstream_recipes.running.trainings.checkpoints import saved_steps
from s3prl_melhubert.downstream_recipes.running.trainings.training import LEFT_OUT
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.progress import progress


class NotEnoughMemory(MelHuBERTError):
    """The device's memory does not hold what all rates of the pass need."""


class OnePass:
    """The training of some rates, from its start or from a position.

    Args:
        rates: built; from their checkpoints of the position's step, where there is one.
        place: the file of the position; it is replaced whenever checkpoints are saved.
        position: where training was cut off; None for its start.
    """

    def __init__(self, rates: Rates, place: Path, position: Position | None):
        self.rates, self.place = rates, place
        self.runner = rates.lead.runner
        self.split: str = self.runner.get("train_dataloader", "train")
        self.step = position.step if position else 0
        self.epoch = position.epoch if position else 0
        self.batches = position.batches if position else 0
        self.backwards = position.backwards if position else 0
        self.position = position

    def train(self, title: str) -> None:
        """Train to the last step.

        Args:
            title: for the display of progress.

        Raises:
            NotEnoughMemory: with more than one rate.
            MelHuBERTError: a rate drew other random numbers than the others.
        """
        try:
            self._train(title)
        except RuntimeError as error:
            if not out_of_memory(error) or len(self.rates) == 1:
                raise
            raise NotEnoughMemory(f"step {self.step}: {error}") from None
        finally:
            for rate in self.rates:
                rate.end()

    def _train(self, title: str) -> None:
        rates, position = self.rates, self.position
        for rate in rates:
            rate.begin(self.step)
        self.epoch_start = Generators.now(rates.device)
        if position is None:
            self._write_position()
        else:
            for rate, state in zip(rates, position.own, strict=True):
                put_back(rate, state)
        self._remove_old_states(position)
        total = self.runner["total_steps"]
        with progress(total=total, title=title, unit="steps", initial=self.step) as bar:
            while self.step < total:
                for batch in self._epoch():
                    if self.step >= total:
                        break
                    if self._learn(*batch):
                        bar.update()
                self.epoch, self.batches = self.epoch + 1, 0

    # -- the data ---------------------------------------------------------------------------------------

    def _epoch(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """What is left of an epoch's batches: audio, and what else the data loader gives."""
        position, self.position = self.position, None
        device = self.rates.device
        if position is not None:
            if self.epoch > 0:  # a dataset that the expert makes once and keeps was made in the first epoch
                self._loader(0)
            position.epoch_start.put_back(device)
        self.epoch_start = Generators.now(device)
        loader = self._loader(self.epoch)
        self.total_batches = len(loader)
        batches = begin(loader)
        if position is not None:
            skip(loader, batches, self.batches)
            if self.batches > 0:  # the data loader itself draws before its first batch
                position.now.put_back(device)
        for wavs, *others in batches:
            self.batches += 1
            yield wavs, others

    def _loader(self, epoch: int) -> DataLoader[Any]:
        def make(rate: Rate) -> DataLoader[Any]:
            expert = rate.downstream
            if takes_epoch(expert.get_dataloader):
                return expert.get_dataloader(self.split, epoch=epoch)
            return expert.get_dataloader(self.split)

        return self.rates.share_loader(make)

    # -- a batch ----------------------------------------------------------------------------------------

    def _learn(self, wavs: list[Any], others: list[Any]) -> bool:
        """Learn from a batch; return whether a step was made, which may take several batches."""
        rates, device = self.rates, self.rates.device
        accumulated = (self.backwards + 1) % self.runner["gradient_accumulate_steps"] == 0
        try:
            audio = [torch.FloatTensor(wav).to(device) for wav in wavs]
            with torch.cuda.amp.autocast(enabled=rates.lead.amp), torch.no_grad():
                states = rates.upstream(audio)
            rates.in_turn(partial(self._backward, audio=audio, states=states, others=others))
        except RuntimeError as error:
            if not out_of_memory(error) or len(rates) > 1:
                raise
            # Alone, a rate does as in s3prl: the batch is left out.
            with rates.lead.log.redirected():
                print(f"step {self.step + 1}: {LEFT_OUT}")
            torch.cuda.empty_cache()
            rates.lead.optimizer.zero_grad()
            return False
        self.backwards += 1
        if not accumulated:
            return False
        self.step += 1
        rates.in_turn(self._update)
        self._evaluate_and_save()
        return True

    def _backward(self, rate: Rate, audio: list[Tensor], states: dict[str, Any], others: list[Any]) -> None:
        rate.backward(self.split, audio, states, others, self.batches - 1)

    def _update(self, rate: Rate) -> None:
        rate.update(self.step)
        if self.step % self.runner["log_step"] == 0:
            rate.write_records(self.split, self.step, self.total_batches)

    # -- what is kept -----------------------------------------------------------------------------------

    def _evaluate_and_save(self) -> None:
        names: list[list[str]] = [[] for _ in self.rates]
        if self.step % self.runner["eval_step"] == 0:
            for split in self.runner["eval_dataloaders"]:
                for own, new in zip(names, evaluate(self.rates, split, self.step), strict=True):
                    own += new
        save = self.step % self.runner["save_step"] == 0
        for rate, own in zip(self.rates, names, strict=True):
            own += [f"states-{self.step}.ckpt"] if save else []
            if own:
                content = rate.checkpoint(self.step, self.epoch)
                for name in own:
                    write_checkpoint(rate.folder / name, content)
                with rate.log.redirected():
                    print(f"step {self.step}: saved {', '.join(own)}")
        if save:
            self._write_position()
            self._remove_old_states(None)

    def _write_position(self) -> None:
        Position(
            step=self.step,
            epoch=self.epoch,
            batches=self.batches,
            backwards=self.backwards,
            epoch_start=self.epoch_start,
            now=Generators.now(self.rates.device),
            rates=[rate.config["optimizer"]["lr"] for rate in self.rates],
            own=[state_of(rate) for rate in self.rates],
        ).write(self.place)

    def _remove_old_states(self, position: Position | None) -> None:
        """Leave as many checkpoints as s3prl does, and none that is later than where training goes on.

        s3prl removes the old before it writes the new; here the new ones and their position are there.
        """
        keep = max(1, self.runner["max_keep"])
        for rate in self.rates:
            saved = saved_steps(rate.folder)
            if position is not None:
                for step in [step for step in saved if step > position.step]:
                    saved.pop(step).unlink()
            for step in list(saved)[:-keep]:
                saved[step].unlink()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the GPU had too little memory; torch says so in words."""
    return "CUDA out of memory" in str(error)


def takes_epoch(get_dataloader: Any) -> bool:
    """Whether an expert's method wants the number of the epoch."""
    parameters = inspect.signature(get_dataloader).parameters
    return "epoch" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def skip(loader: DataLoader[Any], batches: Iterator[Any], number: int) -> None:
    """Go past the first batches of an epoch.

    Where the audio is read in this process, only their numbers are drawn, because all random numbers come
    from the generators whose states are known. Worker processes have generators of their own, so they read
    what they have read before.
    """
    here = loader.num_workers == 0 and not isinstance(loader.dataset, IterableDataset)
    with progress(total=number, title="going to where it was", unit="batches", enabled=not here) as bar:
        for _ in range(number):
            if here and hasattr(batches, "_next_index"):
                batches._next_index()
            else:
                next(batches)
            bar.update()
