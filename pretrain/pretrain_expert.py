"""MelHuBERT in s3prl's pre-training: what its unmodified run_pretrain.py asks of an upstream.

s3prl's runner accumulates gradients as a mean of means and starts an interrupted epoch anew;
`melhubert pretrain` does neither. The data, the model and the loss are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from s3prl_melhubert.checkpoint import check_state
from s3prl_melhubert.compression.stored import origin_in_training
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.loss import LossWeights, PredictionLoss
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.data.clusters import common_quantizer, labels_digest
from s3prl_melhubert.pretrain.training.dataset import Batch, PretrainingDataset
from s3prl_melhubert.pretrain.training.loading import (
    build_dataset,
    build_plan,
    feature_stats,
    settle_stats,
    shared,
)
from s3prl_melhubert.pretrain.training.sampler import BatchPlan, MicroBatch
from s3prl_melhubert.pretrain.training.settings import CROPS, DataSettings
from s3prl_melhubert.statistics import FeatureStats
from s3prl_melhubert.support.progress import say
from s3prl_melhubert.support.settings import read_section

LABEL_CLUSTERS = "Label_Clusters"  # the key of a checkpoint that says what its labels stood for


class UpstreamPretrainExpert(nn.Module):
    """A MelHuBERT that s3prl trains.

    Args:
        datarc: section `pretrain_expert.datarc` of the runner's YAML file; `DataSettings` has its keys.
        upstream_config: the model's YAML file; on resuming, the settings themselves.
        device: where to train.
        multi_gpu: spread a batch over all GPUs (DataParallel).

    Raises:
        MelHuBERTError: settings or data that cannot be used.
    """

    def __init__(
        self,
        datarc: Mapping[str, Any],
        upstream_config: str | Path | Mapping[str, Any],
        device: str = "cuda",
        multi_gpu: bool = False,
        **ignored: Any,
    ):
        super().__init__()
        self.device = device
        if isinstance(upstream_config, Mapping):
            config = MelHuBERTConfig.from_mapping(upstream_config, "the checkpoint's Upstream_Config")
        else:
            config = MelHuBERTConfig.from_yaml(upstream_config)
        where = "pretrain_expert.datarc"
        settings = read_section(DataSettings, datarc, where)
        if settings.frames_per_batch > 0:
            raise MelHuBERTError(
                f"{where}: frames_per_batch: {settings.frames_per_batch} found, but s3prl's runner "
                "accumulates a fixed number of micro-batches; use max_frames, or `melhubert pretrain`"
            )
        if settings.rows is True:
            raise MelHuBERTError(
                f"{where}: rows: True found, but s3prl's runner pads its batches; leave it out, or use "
                "`melhubert pretrain`"
            )
        if settings.valid_sets:
            say(f"{where}: s3prl's runner reads no valid_sets; `melhubert pretrain` validates")
        if settings.rows == "auto":
            say(f"{where}: s3prl's runner makes no rows and pads; `melhubert pretrain` makes them on a GPU")
        settings = settings.absolute()
        # Where a run goes on whose checkpoint does not say it, it was begun with DataSettings' own.
        if "sequence_length" not in datarc and not isinstance(upstream_config, Mapping):
            settings = replace(settings, sequence_length=CROPS[config.frame_period])
        if isinstance(datarc, dict):
            # s3prl saves this very mapping: made absolute, so that -e may be given in another folder.
            datarc["sets"], datarc["sequence_length"] = list(settings.sets), settings.sequence_length
            if settings.feature_stats is not None:
                datarc["feature_stats"] = settings.feature_stats
        seed = torch.initial_seed() % 2**32  # run_pretrain.py's --seed
        dataset = build_dataset(settings.sets, config, settings, seed=seed, where=where)
        self.dataset, self.data_stats = dataset, feature_stats(dataset, settings, where)
        self.origin: Mapping[str, Any] = {}  # the key ORIGIN of checkpoints, if they have it
        self.stats, _ = settle_stats([dataset], self.data_stats, None, "a new model")
        plan = build_plan(dataset, settings, accumulate=1, processes=1, seed=seed)
        assert isinstance(plan, BatchPlan)
        self.epochs = EpochSampler(plan)
        self.dataloader = DataLoader(
            MicroBatches(dataset, plan.steps_per_epoch),
            sampler=self.epochs,
            batch_size=None,  # an item is a batch
            num_workers=settings.num_workers,
            pin_memory=torch.device(device).type == "cuda",
        )
        self.objective: nn.Module = MaskedPrediction(MelHuBERT(config))
        if multi_gpu:
            self.objective = nn.DataParallel(self.objective)

    @property
    def model(self) -> MelHuBERT:
        """What s3prl takes the optimizer's parameters from."""
        wrapped = self.objective
        objective = wrapped.module if isinstance(wrapped, nn.DataParallel) else wrapped
        assert isinstance(objective, MaskedPrediction)
        return objective.model

    # What s3prl's runner calls -----------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        return self.dataloader

    def forward(
        self,
        data: Batch,
        records: dict[str, list],
        global_step: int = 0,
        log_step: int = 1000,
        **ignored: Any,
    ) -> tuple[Tensor, dict[str, list]]:
        """Compute the loss of a batch, and note in `records` what `log_records` needs."""
        batch = data.to(torch.device(self.device))
        sums = self.objective(batch.features, batch.labels, batch.mask, batch.padding_mask)  # (GPUs, 6)
        loss = self._loss(sums.sum(0)).loss
        records["sums"].append(sums.detach().sum(0))
        return loss, records

    def log_records(
        self, records: dict[str, list], logger: Any, prefix: str, global_step: int, **ignored: Any
    ) -> None:
        """Write loss and accuracies since the last call to TensorBoard."""
        if records["sums"]:
            total = self._loss(torch.stack(records["sums"]).double().sum(0))
            for name, value in total.means().items():
                logger.add_scalar(f"{prefix}{name}", value, global_step=global_step)

    def _loss(self, sums: Tensor) -> PredictionLoss:
        """The loss whose six sums stand in a tensor, (6)."""
        return PredictionLoss(*sums, weights=LossWeights.of(self.model.config))

    def on_before_zero_grad(self) -> None:
        """Nothing to do."""

    def loss_to_device(self) -> None:
        """Nothing to do: the loss has no parameters."""

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        """Make s3prl's checkpoint one of MelHuBERT's, too: an upstream, and a file for `melhubert`."""
        if "Step" in all_states:
            all_states["Step"] += 1  # s3prl saves before it counts the step that it has done
        config = self.model.config
        all_states["model"] = self.model.state_dict()
        all_states["Upstream_Config"] = {"melhubert": config.to_mapping()}
        all_states["Frame_Period"] = config.frame_period
        if self.stats is not None:
            all_states["Feature_Stats"] = self.stats.to_mapping()
        # The sets keep what was read of them at the beginning, because their files may have gone since.
        quantizer = common_quantizer(self.dataset.sets, self.stats)
        if quantizer is not None:
            all_states["Quantizer"] = quantizer.to_mapping()
        all_states[LABEL_CLUSTERS] = labels_digest(self.dataset.sets)
        all_states |= self.origin
        all_states["Data_Epoch"] = self.epochs.epoch
        return all_states

    def load_model(self, init_ckpt: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with the epoch after the one that was interrupted.

        Its statistics stay those of the model, whatever the data was normalized with, and so does what it
        says of a compressed model that it was made of.

        Raises:
            MelHuBERTError: its weights are another model's, or the labels are now of other clusters.
        """
        where = "the checkpoint to resume from"
        before, now = init_ckpt.get(LABEL_CLUSTERS), labels_digest(self.dataset.sets)
        if None not in (before, now) and before != now:
            folders = ", ".join(str(prepared.folder) for prepared in self.dataset.sets)
            raise MelHuBERTError(
                f"{folders}: the labels are of other clusters than those of {where}, so that a "
                "number means something else now; name the sets that it was trained on, or start a new run "
                "with `melhubert pretrain -i CKPT`"
            )
        check_state(init_ckpt["model"], self.model.state_dict(), where)
        if init_ckpt.get("Feature_Stats") is not None:
            stats = FeatureStats.from_mapping(init_ckpt["Feature_Stats"], f"in {where}")
            self.stats, lines = settle_stats([self.dataset], self.data_stats, stats, where)
            for line in lines:
                say(line)
        self.origin = origin_in_training(self.model.config, init_ckpt, None, where)
        self.model.load_state_dict(init_ckpt["model"])
        self.epochs.epoch = int(init_ckpt.get("Data_Epoch", 0))


class MaskedPrediction(nn.Module):
    """The model and its loss in one call that takes tensors and returns one, as DataParallel needs it."""

    def __init__(self, model: MelHuBERT):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, labels: Tensor, mask: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(1, 6) float32: the sums of a `PredictionLoss`, those of the loss with their gradient."""
        output = self.model(features, padding_mask, mask)
        prediction = self.model.prediction_loss(output.last_hidden_state, labels, mask, padding_mask)
        return torch.stack([value.float() for value in prediction.sums()])[None]


class MicroBatches(Dataset):
    """The dataset as s3prl's runner counts it, by the number of batches of an epoch."""

    def __init__(self, dataset: PretrainingDataset, batches: int):
        self.dataset = dataset
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, item: MicroBatch) -> Batch:
        return shared(self.dataset[item])


class EpochSampler:
    """The batches of one epoch each time it is asked, and of the next one the next time.

    torch's DataLoader with worker processes makes two iterators of an epoch and uses the second one. An epoch
    is therefore counted when its first batch is asked for, and not when an iterator is made.
    """

    def __init__(self, plan: BatchPlan):
        self.plan = plan
        self.epoch = 0  # the next one

    def __len__(self) -> int:
        return self.plan.steps_per_epoch

    def __iter__(self) -> Iterator[MicroBatch]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        for step in self.plan.epoch(epoch):
            yield from step
