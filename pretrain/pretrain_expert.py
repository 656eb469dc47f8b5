"""MelHuBERT in s3prl's pre-training: what its unmodified run_pretrain.py asks of an upstream.

s3prl's runner accumulates gradients as a mean of means and starts an interrupted epoch anew;
`melhubert pretrain` does neither. The data, the model and the loss are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from s3prl_melhubert.checkpoint import check_state
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.dataset import Batch, PretrainingDataset
from s3prl_melhubert.pretrain.loading import build_dataset, feature_stats
from s3prl_melhubert.pretrain.metrics import Sums
from s3prl_melhubert.pretrain.sampler import BatchPlan, MicroBatch
from s3prl_melhubert.pretrain.settings import DataSettings, read_section


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
        settings = read_section(DataSettings, datarc, "pretrain_expert.datarc")
        if isinstance(datarc, dict):
            # s3prl saves this very mapping: made absolute, so that -e may be given in another folder.
            datarc["sets"] = [str(Path(path).expanduser().absolute()) for path in settings.sets]
        seed = torch.initial_seed() % 2**32  # run_pretrain.py's --seed
        dataset = build_dataset(settings.sets, config, settings, seed)
        self.stats = feature_stats(dataset, settings)
        plan = BatchPlan(
            dataset.lengths,
            settings.train_batch_size,
            accumulate=1,
            processes=1,
            seed=seed,
            max_frames=settings.max_frames if settings.max_frames > 0 else None,
        )
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
        """The loss of a batch; notes in `records` what `log_records` wants to know."""
        batch = data.to(torch.device(self.device))
        sums = self.objective(batch.features, batch.labels, batch.mask, batch.padding_mask)  # (GPUs, 6)
        total = Sums(*sums.sum(0))
        config = self.model.config
        loss = total.masked_loss.new_zeros(())
        if not config.skip_masked:
            loss = loss + config.pred_masked_weight * total.masked_loss / total.masked_frames.clamp(min=1)
        if not config.skip_nomask:
            loss = loss + config.pred_nomask_weight * total.unmasked_loss / total.unmasked_frames.clamp(min=1)
        records["sums"].append(sums.detach().sum(0))
        return loss, records

    def log_records(
        self, records: dict[str, list], logger: Any, prefix: str, global_step: int, **ignored: Any
    ) -> None:
        """Write loss and accuracies since the last call to TensorBoard."""
        if records["sums"]:
            means = Sums(*torch.stack(records["sums"]).double().sum(0)).means()
            means["masked_loss"] = means.pop("loss")  # `loss` is s3prl's
            for name, value in means.items():
                logger.add_scalar(f"{prefix}{name}", value, global_step=global_step)

    def on_before_zero_grad(self) -> None:
        """Nothing to do."""

    def loss_to_device(self) -> None:
        """Nothing to do: the loss has no parameters."""

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        """Make s3prl's checkpoint one of MelHuBERT's, too: an upstream, and a file for `melhubert`."""
        config = self.model.config
        all_states["model"] = self.model.state_dict()
        all_states["Upstream_Config"] = {"melhubert": config.to_mapping()}
        all_states["Frame_Period"] = config.frame_period
        if self.stats is not None:
            all_states["Feature_Stats"] = self.stats.to_mapping()
        all_states["Data_Epoch"] = self.epochs.epoch
        return all_states

    def load_model(self, init_ckpt: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with the epoch after the one that was interrupted."""
        check_state(init_ckpt["model"], self.model.state_dict(), "the checkpoint to resume from")
        self.model.load_state_dict(init_ckpt["model"])
        self.epochs.epoch = int(init_ckpt.get("Data_Epoch", 0))


class MaskedPrediction(nn.Module):
    """The model and its loss in one call, for DataParallel: tensors in, one tensor out."""

    def __init__(self, model: MelHuBERT):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, labels: Tensor, mask: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(1, 6): the sums of `metrics.Sums`, those of the loss with their gradient."""
        output = self.model(features, padding_mask, mask)
        prediction = self.model.prediction_loss(output.last_hidden_state, labels, mask, padding_mask)
        return torch.stack(Sums.of(prediction, detach=False).values())[None]


class MicroBatches(Dataset):
    """The dataset as s3prl's runner counts it: its length is the number of batches of an epoch."""

    def __init__(self, dataset: PretrainingDataset, batches: int):
        self.dataset = dataset
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, item: MicroBatch) -> Batch:
        return self.dataset[item]


class EpochSampler:
    """The batches of one epoch each time it is asked, and of the next one the next time."""

    def __init__(self, plan: BatchPlan):
        self.plan = plan
        self.epoch = 0  # the next one

    def __len__(self) -> int:
        return self.plan.steps_per_epoch

    def __iter__(self) -> Iterator[MicroBatch]:
        steps = self.plan.epoch(self.epoch)
        self.epoch += 1
        return iter([micro_batch for step in steps for micro_batch in step])
