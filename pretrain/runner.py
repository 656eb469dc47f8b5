"""`melhubert pretrain`: trains a model on prepared sets, on one device or many, and survives being killed.

The parts are elsewhere: settings.py (the YAML file), sampler.py and dataset.py (batches), optimization.py
(gradients and rates), metrics.py (figures), checkpointing.py (files). This file puts them together.

Nothing random has a state to lose: the data of a step and its dropout are functions of the seed, the step
and the process. A run that was killed and resumed therefore ends with the same parameters.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from s3prl_melhubert.checkpoint import Checkpoint, load_checkpoint
from s3prl_melhubert.config import MelHuBERTConfig
from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.files import atomic_path
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain import checkpointing, metrics
from s3prl_melhubert.pretrain.dataset import Batch, PretrainingDataset
from s3prl_melhubert.pretrain.loading import build_dataset, feature_stats, read_batches
from s3prl_melhubert.pretrain.optimization import (
    LearningRate,
    accumulate_gradients,
    build_optimizer,
    load_optimizer_state,
    remember_initial_rates,
    sum_gradients,
)
from s3prl_melhubert.pretrain.processes import Processes
from s3prl_melhubert.pretrain.sampler import BatchPlan, PlanSampler, in_order
from s3prl_melhubert.pretrain.seeds import DROPOUT, seed_of
from s3prl_melhubert.pretrain.settings import Settings
from s3prl_melhubert.pretrain.signals import StopSignals
from s3prl_melhubert.statistics import FeatureStats


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    expdir: Path
    config: MelHuBERTConfig
    settings: Settings
    initial_weight: Path | None = None  # a checkpoint to start from
    initial_optimizer: bool = False  # its optimizer's state, too
    seed: int = 1337
    device: str | None = None
    resume: bool = False
    arguments: argparse.Namespace | None = None  # for the checkpoint's `Args`


class Pretraining:
    """A run: the parts, and the loop over the steps.

    Raises:
        MelHuBERTError: settings, data or checkpoints that cannot be used.
    """

    def __init__(self, options: Options):
        self.options = options
        self.settings = settings = options.settings
        runner, datarc = settings.runner, settings.datarc
        self.folder = options.expdir
        if not options.resume:
            checkpointing.refuse_used_folder(self.folder)

        self.dataset = build_dataset(datarc.sets, options.config, datarc, options.seed)
        self.valid_dataset: PretrainingDataset | None = None
        if datarc.valid_sets:
            self.valid_dataset = build_dataset(datarc.valid_sets, options.config, datarc, options.seed, True)
        stats = feature_stats(self.dataset, datarc)

        self.processes = processes = Processes(options.device, runner.precision)
        self.plan = BatchPlan(
            self.dataset.lengths,
            datarc.train_batch_size,
            runner.gradient_accumulate_steps,
            processes.count,
            options.seed,
            datarc.max_frames if datarc.max_frames > 0 else None,
        )
        self.steps_per_epoch = self.plan.steps_per_epoch
        self.total_steps = total_steps(runner.n_epochs, runner.total_steps, self.steps_per_epoch)
        self.learning_rate = LearningRate(settings.scheduler, self.total_steps)

        torch.manual_seed(options.seed)  # the same parameters in every process
        self.model = MelHuBERT(options.config)
        self.parameters = list(self.model.parameters())
        identity = self._identity()
        initial, scaler = self._load(identity, stats)  # sets the progress, too
        self.model.to(processes.device).train()
        optimizer = build_optimizer(self.parameters, settings.optimizer)
        remember_initial_rates(optimizer)
        if initial is not None and (self.resuming or options.initial_optimizer):
            load_optimizer_state(optimizer, initial.rest.get("Optimizer"), str(initial.path))
        self.optimizer = processes.prepare(optimizer, scaler)
        if runner.compile:
            self.model.encoder.compile()

        self.micro_batch_parts = 1  # into how many pieces a micro-batch is cut to fit the memory
        if processes.is_main:
            self._prepare_folder()
        self.checkpoints = checkpointing.Checkpoints(
            self.folder,
            stats,
            runner.max_keep,
            self.steps_per_epoch,
            rest={
                "Args": checkpointing.plain_arguments(options.arguments or argparse.Namespace()),
                "Runner": settings.to_mapping(),
            },
            identity=identity,
        )

    def _load(
        self, identity: dict[str, Any], stats: FeatureStats | None
    ) -> tuple[Checkpoint | None, dict[str, Any]]:
        """Load the weights of last.ckpt or `-i`, if there are any; return the file and fp16's scaling."""
        options, last = self.options, self.folder / checkpointing.LAST
        self.progress = checkpointing.Progress()
        scaler: dict[str, Any] = {}
        self.resuming = options.resume and last.is_file()
        if not self.processes.all(self.resuming) and self.processes.any(self.resuming):
            raise MelHuBERTError(f"{last}: not every machine sees it; put -n on a file system that all share")
        if self.resuming:
            checkpoint, self.progress, scaler = checkpointing.load_for_resume(last, identity)
            if not self.processes.is_main:
                self.progress.sums = [0.0] * 6  # the file holds those of all processes
        elif options.initial_weight is not None:
            checkpoint = load_checkpoint(options.initial_weight)
            if checkpoint.stats is not None and stats is not None and checkpoint.stats != stats:
                warnings.warn(
                    f"{checkpoint.path}: was trained on features of other statistics than this data's",
                    stacklevel=2,
                )
        else:
            return None, scaler
        checkpointing.load_weights(self.model, checkpoint)
        return checkpoint, scaler

    def run(self) -> int:
        """Train to the last step, or to a signal; return the exit status."""
        runner, progress, processes = self.settings.runner, self.progress, self.processes
        if progress.step:
            processes.say(f"{self.folder}: continuing after step {progress.step}")
        self.log = metrics.Log(self.folder, self.total_steps, progress.step, processes.is_main)
        peak = metrics.measure_peak(processes.device, runner.precision) * processes.count
        self.speed = metrics.Speed(self.options.config, peak)
        saved = progress.step
        stopped = None
        try:
            with StopSignals() as signals, self._batches() as batches:
                while progress.step < self.total_steps:
                    step_batches = [next(batches) for _ in range(runner.gradient_accumulate_steps)]
                    wanted = processes.agree(signals.received, runner.save_minutes)
                    if wanted.stop is not None:
                        stopped = wanted.stop
                        break
                    self._step(step_batches)

                    done = progress.step
                    names = self._checkpoint_names(done)
                    last = done == self.total_steps
                    if self.valid_dataset is not None and self._is_time_to_validate(done, bool(names)):
                        self._log({**self._training_figures(), **self._validate(self.valid_dataset)})
                    elif done % runner.log_step == 0 or last:
                        self._log(self._training_figures())
                    if names or last or wanted.save:
                        self._save(names)
                        saved = done
                    self.speed.start()
                if saved < progress.step:
                    self._save([])
            if processes.is_main:
                metrics.draw_curves(self.folder)
            processes.wait()
        finally:
            self.log.close()
            processes.close()
        if stopped is None:
            processes.say(f"{self.folder / checkpointing.LAST}: trained for {progress.step} steps")
            return 0
        processes.say(
            f"melhubert pretrain: stopped by {stopped.name} after step {progress.step}; the same command "
            "with --resume continues",
            sys.stderr,
        )
        # As a shell reports a death by this signal: what was to follow a finished training must not.
        return 128 + stopped

    def _batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """The micro-batches of this process, from the step where the run stands to the last."""
        sampler = PlanSampler(self.plan, self.processes.index, self.progress.step, self.total_steps)
        workers = self.settings.datarc.num_workers
        return read_batches(self.dataset, sampler, workers, self.processes.device)

    def _step(self, batches: list[Batch]) -> None:
        """One step of the optimizer on this process's share of the batch."""
        progress, processes = self.progress, self.processes
        masked, unmasked = processes.sum(
            [sum(batch.masked_frames for batch in batches), sum(batch.unmasked_frames for batch in batches)]
        )
        learning_rate = self.learning_rate.apply(self.optimizer, progress.step)
        sums = self._gradients(batches, masked, unmasked)
        sum_gradients(self.parameters)
        norm = processes.clip(self.parameters, self.settings.runner.gradient_clipping)
        finite = processes.update(self.optimizer, norm)
        self.optimizer.zero_grad()

        progress.step += 1
        if finite:
            progress.skipped_in_row = 0
            progress.sums = [a + b for a, b in zip(progress.sums, sums.on_host().values(), strict=True)]
            progress.steps += 1
            progress.gradient_norm += norm
        else:
            self._skip(norm)
        flops = sum(metrics.training_flops(self.options.config, b.lengths, b.masked_frames) for b in batches)
        self.speed.add(int(masked + unmasked), flops * processes.count)
        self.log.bar.update()
        self.log.progress({"lr": f"{learning_rate:.1e}", **short_figures(progress)})

    def _gradients(self, batches: list[Batch], masked: float, unmasked: float) -> metrics.Sums:
        """The gradient of the share; out of memory, again in smaller pieces."""
        progress, processes = self.progress, self.processes
        while True:
            # Dropout's, and so made anew: a state that goes on from step to step would have to be saved.
            torch.manual_seed(seed_of(DROPOUT, self.options.seed, progress.step, processes.index))
            pieces = (
                piece.to(processes.device)
                for batch in batches
                for piece in batch.split(self.micro_batch_parts)
            )
            try:
                sums = accumulate_gradients(
                    self.model, pieces, int(masked), int(unmasked), processes.autocast, processes.backward
                )
            except torch.cuda.OutOfMemoryError:
                sums = None  # the rest waits: as long as the exception lives, so do its tensors
            if not processes.any(sums is None):
                assert sums is not None
                return sums
            largest = max(len(batch.lengths) for batch in batches)
            if processes.all(self.micro_batch_parts >= largest):
                raise MelHuBERTError(
                    f"out of memory with a single utterance ({max(max(b.lengths) for b in batches)} frames "
                    "is the longest); lower datarc.sequence_length"
                )
            self.optimizer.zero_grad()
            processes.free_memory()
            self.micro_batch_parts *= 2
            self.log.say(
                f"step {progress.step + 1}: out of memory; going on with micro-batches in "
                f"{self.micro_batch_parts} pieces, which changes nothing but the speed"
            )

    def _skip(self, norm: float) -> None:
        progress, limit = self.progress, self.settings.runner.max_skipped_steps
        progress.skipped += 1
        progress.skipped_in_row += 1
        self.log.say(f"step {progress.step}: skipped, its gradient is not finite (norm {norm})")
        if progress.skipped_in_row >= limit:
            raise MelHuBERTError(
                f"{limit} steps in a row, up to step {progress.step}, had a loss or gradient that is not "
                "finite: the training has diverged; lower optimizer.lr, use more scheduler.warmup_steps, or "
                "runner.precision bf16 or fp32, and start from an earlier checkpoint with -i"
            )

    def _training_figures(self) -> dict[str, float]:
        """Of the steps since the last line of the log, over all processes; begins a new line."""
        progress = self.progress
        figures = metrics.Sums(*self.processes.sum(progress.sums)).means()
        if progress.steps:
            figures["gradient_norm"] = progress.gradient_norm / progress.steps
        figures["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        figures["skipped_steps"] = progress.skipped
        figures.update(self.speed.figures())
        progress.sums, progress.steps, progress.gradient_norm = [0.0] * 6, 0, 0.0
        self.speed.reset()
        return figures

    def _log(self, figures: dict[str, float]) -> None:
        step = self.progress.step
        self.log.write(step, (step - 1) // self.steps_per_epoch + 1, figures)

    def _validate(self, dataset: PretrainingDataset) -> dict[str, float]:
        """Loss and accuracies over the validation set: the same crops and masks every time."""
        plan = in_order(dataset.lengths, self.plan)
        mine = plan[self.processes.index :: self.processes.count]
        workers = min(2, self.settings.datarc.num_workers)
        total = metrics.Sums()
        self.model.eval()
        with torch.no_grad(), read_batches(dataset, mine, workers, self.processes.device) as batches:
            for whole in batches:
                for piece in whole.split(self.micro_batch_parts):
                    batch = piece.to(self.processes.device)
                    with self.processes.autocast():
                        output = self.model(batch.features, batch.padding_mask, batch.mask)
                        prediction = self.model.prediction_loss(
                            output.last_hidden_state, batch.labels, batch.mask, batch.padding_mask
                        )
                    total += metrics.Sums.of(prediction).on_host()
        self.model.train()
        return metrics.Sums(*self.processes.sum(total.values())).means("valid_")

    def _is_time_to_validate(self, done: int, saving: bool) -> bool:
        every = self.settings.runner.valid_step
        return done == self.total_steps or (done % every == 0 if every > 0 else saving)

    def _checkpoint_names(self, done: int) -> list[str]:
        runner = self.settings.runner
        names = []
        if runner.save_step > 0 and done % runner.save_step == 0:
            names.append(f"step-{done}.ckpt")
        if runner.save_every_x_epochs > 0 and done % (runner.save_every_x_epochs * self.steps_per_epoch) == 0:
            names.append(f"epoch-{done // self.steps_per_epoch}.ckpt")
        return names

    def _save(self, names: list[str]) -> None:
        # The sums for the log are of this process; the file is to hold those of all.
        progress = replace(self.progress, sums=self.processes.sum(self.progress.sums))
        if self.processes.is_main:
            self.checkpoints.save(names, self.model, self.optimizer, progress, self.processes.scaler_state())
        self.processes.wait()

    def _prepare_folder(self) -> None:
        """Make the folder and note the settings there, where --resume finds them."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MelHuBERTError(f"{self.folder}: cannot be made ({error.strerror or error})") from None
        for leftover in self.folder.glob(".*.ckpt.*.ckpt"):  # of a save that was killed
            leftover.unlink(missing_ok=True)
        files = {
            MODEL_YAML: {"melhubert": self.options.config.to_mapping()},
            RUNNER_YAML: self.settings.to_mapping(),
        }
        for name, content in files.items():
            with atomic_path(self.folder / name) as temporary:
                temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def _identity(self) -> dict[str, Any]:
        settings, datarc = self.settings, self.settings.datarc
        parts = settings.runner.gradient_accumulate_steps * self.processes.count
        if datarc.max_frames > 0:
            size = f"{parts} x {datarc.max_frames} frames"
        else:
            size = f"{parts * datarc.train_batch_size} utterances"
        return checkpointing.run_identity(
            {
                **{f"model {name}": value for name, value in asdict(self.options.config).items()},
                "optimizer": {"name": settings.optimizer.name, **settings.optimizer.arguments},
                "scheduler": asdict(settings.scheduler),
                "gradient_clipping": settings.runner.gradient_clipping,
                "sequence_length": datarc.sequence_length,
            },
            self.dataset.utterances,
            self.options.seed,
            size,
        )


# Names of the settings in the experiment's folder, the same as s3prl's.
MODEL_YAML, RUNNER_YAML = "config_model.yaml", "config_runner.yaml"


def total_steps(n_epochs: int, steps: int, steps_per_epoch: int) -> int:
    """Length of a run of so many epochs or steps (-1: not given); of both, the shorter one."""
    limits = [n_epochs * steps_per_epoch] * (n_epochs > 0) + [steps] * (steps > 0)
    return min(limits)


def short_figures(progress: checkpointing.Progress) -> dict[str, str]:
    """For the progress bar: this process's means since the last line of the log."""
    means = metrics.Sums(*progress.sums).means()
    shown = {"loss": means.get("loss"), "accuracy": means.get("masked_accuracy")}
    return {name: f"{value:.3f}" for name, value in shown.items() if value is not None}
