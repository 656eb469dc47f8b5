"""One learning rate: s3prl's featurizer and downstream model over an upstream that all rates share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from s3prl.downstream.runner import ModelEntry, Runner
from s3prl.downstream.specaug import SpecAug
from s3prl.utility.helper import get_model_state
from tensorboardX import SummaryWriter
from torch import Tensor

from s3prl_melhubert.downstream_recipes.running.one_pass.frozen import KeptStates, Upstream
from s3prl_melhubert.downstream_recipes.running.one_pass.generators import Generators
from s3prl_melhubert.downstream_recipes.running.s3prl_run import Log
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.support.interruption import ctrl_c_for_this_thread_alone


class Models(Runner):
    """s3prl's upstream, featurizer and downstream model, built by its own code.

    Args:
        args: s3prl's arguments.
        config: s3prl's settings.
        upstream: the one that all rates share.
        states: a checkpoint to take the weights from; empty for new ones.
    """

    def __init__(self, args: Any, config: dict[str, Any], upstream: ModelEntry, states: dict[str, Any]):
        self.args, self.config, self.init_ckpt = args, config, states
        self.upstream = upstream
        self.featurizer = self._get_featurizer()
        self.downstream = self._get_downstream()
        self.all_entries = [self.upstream, self.featurizer, self.downstream]

    @classmethod
    def upstream_of(cls, args: Any) -> ModelEntry:
        """Load the upstream that the arguments name, in evaluation mode."""
        loader = cls.__new__(cls)
        loader.args, loader.init_ckpt = args, {}
        entry = loader._get_upstream()
        entry.model.eval()
        return entry


class Rate:
    """The models of one learning rate, what they have recorded, and what trains them.

    Args:
        models: built by s3prl's code.
        log: gets all that s3prl prints for this rate.
        alone: whether there is no other rate that sees the same tensors.
    """

    def __init__(self, models: Models, log: Log, alone: bool):
        self.models, self.log, self.alone = models, log, alone
        self.args, self.config = models.args, models.config
        self.folder = Path(models.args.expdir)
        self.runner: dict[str, Any] = models.config["runner"]
        self.featurizer, self.downstream = models.featurizer.model, models.downstream.model
        self.entries = [models.featurizer, models.downstream]
        self.records: defaultdict[str, list[Any]] = defaultdict(list)
        self.batch_ids: list[int] = []
        self.writer: SummaryWriter | None = None

    # -- training ---------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """Make the optimizer, the schedule and the writer for TensorBoard.

        Args:
            step: after which training goes on; 0 for its start.
        """
        self.learn_mode()
        self.amp = bool(self.runner.get("fp16", False))
        self.scaler = torch.cuda.amp.GradScaler(enabled=self.amp)
        self.parameters = [parameter for entry in self.entries for parameter in entry.model.parameters()]
        models = self.models
        self.optimizer = models._get_optimizer([entry.model for entry in self.entries])
        self.scheduler = models._get_scheduler(self.optimizer) if self.config.get("scheduler") else None
        if self.scheduler is not None and models.init_ckpt:
            # The making of a schedule sets the learning rate of step 0.
            self.optimizer.load_state_dict(models.init_ckpt["Optimizer"])
        models.init_ckpt = {}
        self.specaug = SpecAug(**self.config["specaug"]) if self.config.get("specaug") else None
        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def end(self) -> None:
        """Close TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()

    def learn_mode(self) -> None:
        for entry in self.entries:
            entry.model.train().to(self.args.device)

    def features(self, wavs: Sequence[Tensor], states: Mapping[str, Any]) -> list[Tensor]:
        """The featurizer's output of a batch, (T, C) for each waveform."""
        features = self.featurizer(wavs, states)
        if not self.alone and not hasattr(self.featurizer, "weights"):
            # Of one hidden state, s3prl hands out parts of the tensor itself, which a model may write into.
            features = [feature.clone() for feature in features]
        return features

    def own(self, others: Sequence[Any]) -> Sequence[Any]:
        """What a data loader gave besides audio, as no other rate has changed it."""
        return others if self.alone else deepcopy(others)

    def backward(
        self, split: str, wavs: Sequence[Tensor], states: Mapping[str, Any], others: Sequence[Any], batch: int
    ) -> None:
        """Add the gradients of a batch.

        Args:
            split: s3prl's name of it.
            wavs: 1-D waveforms on the device.
            states: the upstream's output.
            others: what else the data loader gave.
            batch: its number in the epoch.
        """
        with torch.cuda.amp.autocast(enabled=self.amp):
            features = self.features(wavs, states)
            if self.specaug is not None:
                features, _ = self.specaug(features)
            loss = self.downstream(split, features, *self.own(others), records=self.records)
        self.batch_ids.append(batch)
        self.scaler.scale(loss / self.runner["gradient_accumulate_steps"]).backward()

    def update(self, step: int) -> None:
        """Clip the gradients and change the weights, unless the gradients are no numbers."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.runner["gradient_clipping"])
        if self.amp:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif math.isnan(norm):
            print(f"step {step}: the norm of the gradients is NaN; the weights stay as they are")
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()

    def write_records(self, split: str, step: int, batches: int) -> list[str]:
        """Let s3prl's expert score and log what was recorded, and name the checkpoints that it wants."""
        names = self.downstream.log_records(
            split,
            records=self.records,
            logger=self.writer,
            global_step=step,
            batch_ids=self.batch_ids,
            total_batch_num=batches,
        )
        self.records, self.batch_ids = defaultdict(list), []
        return names if isinstance(names, list) else []

    def checkpoint(self, step: int, epoch: int) -> dict[str, Any]:
        """The content of s3prl's checkpoint."""
        content = {
            "Optimizer": self.optimizer.state_dict(),
            "Step": step,
            "Epoch": epoch,
            "Args": self.args,
            "Config": self.config,
        }
        content.update({entry.name: get_model_state(entry.model) for entry in self.entries})
        if self.scheduler is not None:
            content["Scheduler"] = self.scheduler.state_dict()
        return content


class Rates(list[Rate]):
    """Several rates that take turns, each with the generators as they were before the first one's turn.

    Args:
        rates: one or more, of the same upstream.
        device: where they are.
        keep_states: whether an utterance's hidden states are kept for the next time.

    Attributes:
        upstream: what all of them learn from.
    """

    def __init__(self, rates: Sequence[Rate], device: torch.device, keep_states: bool = False):
        super().__init__(rates)
        self.device = device
        model = self.lead.models.upstream.model
        self.upstream: Upstream = KeptStates(model) if keep_states else model

    @property
    def lead(self) -> Rate:
        """The rate whose data loaders serve all."""
        return self[0]

    def in_turn(self, work: Callable[[Rate], None]) -> None:
        """Let each rate do the same; all draw the same random numbers, so that they end where one would.

        Raises:
            MelHuBERTError: one of them drew other numbers.
        """
        if len(self) == 1:
            with self.lead.log.redirected():
                work(self.lead)
            return
        before, after = Generators.now(self.device), None
        for rate in self:
            before.put_back(self.device)
            with rate.log.redirected():
                work(rate)
            drawn = Generators.now(self.device)
            after = after or drawn
            if not drawn.equals(after):
                raise MelHuBERTError(
                    f"{rate.folder}: draws other random numbers than {self.lead.folder}, so that one pass "
                    "would not give what each gives alone; run every learning rate in a folder of its own"
                )

    def share_loader(self, make: Callable[[Rate], Any]) -> Any:
        """Make a data loader with the lead's expert; what the expert kept of it, the others get, too."""
        with self.lead.log.redirected():
            loader = make(self.lead)
        kept = vars(self.lead.downstream)
        for rate in self[1:]:
            own = vars(rate.downstream)
            own.update({name: value for name, value in kept.items() if own.get(name) is None})
        return loader


def begin(loader: Iterable[Any]) -> Iterator[Any]:
    """Begin to go over a data loader, whose processes leave Ctrl-C to this one, which ends them."""
    with ctrl_c_for_this_thread_alone():
        return iter(loader)
