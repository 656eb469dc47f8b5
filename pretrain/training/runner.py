"""`melhubert pretrain`: a run trains a model on prepared sets, on one device or many, and survives a kill.

Nothing random has a state to lose: the data of a step and its dropout are functions of the seed, the step
and the process. A run that was killed and resumed therefore ends with the same parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from signal import Signals

import torch

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.loss import LossWeights, PredictionLoss
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.data.clusters import check_same_labels, common_quantizer
from s3prl_melhubert.pretrain.training import checkpointing, loading, metrics
from s3prl_melhubert.pretrain.training.beginning.folder import (
    hold_folder,
    note_settings,
    refuse_used_folder,
    settle_rows,
)
from s3prl_melhubert.pretrain.training.beginning.identity import run_identity
from s3prl_melhubert.pretrain.training.beginning.introduction import introduction, refuse_giant
from s3prl_melhubert.pretrain.training.beginning.joining import launch
from s3prl_melhubert.pretrain.training.beginning.options import Options
from s3prl_melhubert.pretrain.training.beginning.start import Start, find_start
from s3prl_melhubert.pretrain.training.dataset import Batch, PretrainingDataset
from s3prl_melhubert.pretrain.training.micro_batches import MicroBatches
from s3prl_melhubert.pretrain.training.optimization import (
    LearningRate,
    build_optimizer,
    compile_encoder,
    load_optimizer_state,
    remember_initial_rates,
)
from s3prl_melhubert.pretrain.training.processes import Processes, one_line_of_lost_processes
from s3prl_melhubert.pretrain.training.sampler import PlanSampler
from s3prl_melhubert.pretrain.training.signals import StopSignals
from s3prl_melhubert.support.settings import errors_of


class Pretraining:
    """A run: its parts, and the loop over its steps.

    Raises:
        MelHuBERTError: settings, data or checkpoints cannot be used.
    """

    def __init__(self, options: Options):
        self.options = options
        self.settings = options.settings
        self.folder = options.expdir
        self.held = ExitStack()  # the lock of the folder
        try:
            with one_line_of_lost_processes():
                self._build()
        except BaseException:
            self.held.close()
            raise

    def _build(self) -> None:
        options, precision = self.options, self.settings.runner.precision
        self.processes = Processes(options.device, precision, self.settings.where("runner"))
        with self.processes.together():
            if not options.resume:
                refuse_used_folder(self.folder)
            refuse_giant(options.config)
            self._open_data()
            self._take_folder()
            self._plan_steps()
        start = self._make_model()
        self._make_checkpoints(start)

    def _open_data(self) -> None:
        options, datarc = self.options, self.settings.datarc
        where, seed = self.settings.where("datarc"), options.seed
        self.dataset = loading.build_dataset(datarc.sets, options.config, datarc, seed=seed, where=where)
        self.valid_dataset: PretrainingDataset | None = None
        if datarc.valid_sets:
            self.valid_dataset = loading.build_dataset(
                datarc.valid_sets, options.config, datarc, seed=seed, where=where, valid=True
            )
            check_same_labels([*self.dataset.sets, *self.valid_dataset.sets])
        self.data_stats = loading.feature_stats(self.dataset, datarc, where)

    def _take_folder(self) -> None:
        """Be the only run in the folder, which may settle settings, as the device may."""
        if self.processes.is_main:
            hold_folder(self.folder, self.held)
        resumed = self.folder if self.options.resume else None
        self.settings = settle_rows(self.settings, self.processes.device, resumed)

    def _plan_steps(self) -> None:
        settings, runner = self.settings, self.settings.runner
        accumulate, count, seed = runner.gradient_accumulate_steps, self.processes.count, self.options.seed
        with errors_of(settings.where("datarc")):
            self.plan = loading.build_plan(self.dataset, settings.datarc, accumulate, count, seed)
        self.steps_per_epoch = self.plan.steps_per_epoch
        self.total_steps = runner.steps(self.steps_per_epoch)
        with errors_of(settings.where("scheduler")):
            self.learning_rate = LearningRate(settings.scheduler, self.total_steps)
        data = self.dataset, seed, count, self.data_stats, self.valid_dataset, self.total_steps
        self.identity = run_identity(self.options.config, settings, *data)

    def _make_model(self) -> Start:
        """Make the model and its optimizer, with the weights and the state that the run begins with."""
        options, settings, processes = self.options, self.settings, self.processes
        self.weights = LossWeights.of(options.config)
        torch.manual_seed(options.seed)
        self.model = MelHuBERT(options.config)
        start = find_start(
            options, self.model, processes, identity=self.identity, steps_per_epoch=self.steps_per_epoch
        )
        processes.refuse_differences(
            {**start.known_by, **settings.in_common(), **self.identity, "steps": self.total_steps}
        )
        self.progress, before = start.progress, start.checkpoint
        # The step of last.ckpt, which is written anew where another one had to take its place.
        lost = start.resuming and before is not None and before.path.name != checkpointing.LAST
        self.saved = -1 if lost else self.progress.step
        self.model.to(processes.device).train()
        self.parameters = list(self.model.parameters())
        processes.share(self.model.state_dict().values())
        with errors_of(settings.where("optimizer")):
            optimizer = build_optimizer(self.parameters, settings.optimizer)
        remember_initial_rates(optimizer)
        if before is not None and (start.resuming or options.initial_optimizer):
            state = before.rest.get("Optimizer")
            load_optimizer_state(optimizer, state, str(before.path), required=not start.resuming)
        self.optimizer = processes.prepare(optimizer, start.scaler)
        self.micro_batches = MicroBatches(self.model, processes, settings.runner, options.seed)
        compile_encoder(self.model, settings.runner)
        return start

    def _make_checkpoints(self, start: Start) -> None:
        """Settle what every checkpoint holds beside the model, and note the settings in the folder."""
        options, settings, sets = self.options, self.settings, self.dataset.sets
        datasets = self.dataset, self.valid_dataset
        stats, lines = loading.settle_stats(datasets, self.data_stats, start.stats, start.name)
        self.introduction = [*start.lines, *lines]
        launches = self.processes.gather(launch() or "")
        if self.processes.is_main:
            note_settings(self.folder, options.config, settings, launches)
        self.checkpoints = checkpointing.Checkpoints(
            self.folder,
            stats=stats,
            max_keep=settings.runner.max_keep,
            steps_per_epoch=self.steps_per_epoch,
            rest={
                "Args": checkpointing.plain_arguments({**options.arguments, **start.begun_with}),
                "Runner": settings.to_mapping(),
                **start.origin,
            },
            identity=self.identity,
            quantizer=common_quantizer(sets, stats),
        )
        if self.checkpoints.quantizer is None and common_quantizer(sets) is not None:
            self.introduction.append(
                "quantizer: none; the clusters are of frames normalized with the data's statistics, which "
                "the checkpoints do not have (`melhubert prepare --stats CKPT` makes a set with the model's)"
            )

    def run(self) -> int:
        """Train to the last step, or to a signal.

        Returns:
            The exit status.

        Raises:
            MelHuBERTError: the training diverged, or a file cannot be read or written.
        """
        with self.held, one_line_of_lost_processes():
            return self._run()

    def _run(self) -> int:
        progress, processes, runner = self.progress, self.processes, self.settings.runner
        self._say_hello()
        self.log = metrics.Log(self.folder, self.total_steps, progress.step, processes.is_main)
        peak = metrics.measure_peak(processes.device, runner.precision) * processes.count
        self.speed = metrics.Speed(self.options.config, peak)
        stopped = None
        try:
            with StopSignals() as signals, self.checkpoints, self._batches() as batches:
                while progress.step < self.total_steps:
                    self.checkpoints.check()
                    step_batches = loading.next_step(batches)
                    wanted = processes.agree(signals.received, runner.save_minutes)
                    if wanted.stop is not None:
                        stopped = wanted.stop
                        break
                    self._step(step_batches)
                    self._after_step(wanted.save)
                if self.saved < progress.step:
                    self._save([])
                self.checkpoints.wait()
                processes.wait()
            if processes.is_main:
                metrics.draw_curves(self.folder)
            processes.wait()
        finally:
            self.log.close()
            processes.close()
        return self._verdict(stopped)

    def _say_hello(self) -> None:
        """Say what is trained, and where the run stands."""
        done, say = self.progress.step, self.processes.say
        opening = introduction(self.settings, self.options.config, self.dataset, self.processes)
        for line in [*opening, *self.introduction]:
            say(line)
        if self.plan.repeating_step:
            say(
                f"batch: a step has {self.plan.repeating_step} utterances, and the data {len(self.dataset)}: "
                "they come again in it, with other crops and masks; lower train_batch_size, max_frames or "
                "gradient_accumulate_steps to have each once"
            )
        say(
            f"steps: {self.total_steps}, of which an epoch has {self.steps_per_epoch}; "
            f"log: {self.folder / metrics.LOG}"
        )
        if done >= self.total_steps:
            what = "all steps are" if done == self.total_steps else f"step {done} is"
            say(f"{self.folder}: {what} done already; nothing is left to train")
        elif done:
            say(f"{self.folder}: continuing after step {done}")

    def _after_step(self, save: bool) -> None:
        """Write what is due after a step: figures for the log, and a checkpoint, which may be wanted now."""
        done, runner = self.progress.step, self.settings.runner
        names = checkpointing.numbered_names(done, runner, self.steps_per_epoch)
        last = done == self.total_steps
        if self.valid_dataset is not None and self._is_time_to_validate(done, bool(names)):
            self._log({**self._training_figures(), **self._validate(self.valid_dataset)})
        elif done % runner.log_step == 0 or last:
            self._log(self._training_figures())
        if names or last or save:
            self._save(names)
        self.speed.start()

    def _verdict(self, stopped: Signals | None) -> int:
        """Say how the run has ended; its exit status.

        Raises:
            MelHuBERTError: most of the steps were skipped.
        """
        progress, processes = self.progress, self.processes
        if stopped is not None:
            processes.warn(
                f"{self.options.command}: stopped by {stopped.name} after step {progress.step}; "
                f"{self.options.to_continue}"
            )
            # A shell reports a death by a signal in this way, so that what should follow a training does not.
            return 128 + stopped
        if 2 * progress.skipped >= progress.step:
            raise MelHuBERTError(
                f"{self.folder}: {progress.skipped} of {progress.step} steps were skipped, because their "
                f"gradients were not finite: {checkpointing.LAST} is hardly trained; lower optimizer.lr, or "
                "use more scheduler.warmup_steps"
            )
        skipped = f", {progress.skipped} of them skipped" if progress.skipped else ""
        processes.say(f"{self.folder / checkpointing.LAST}: trained for {progress.step} steps{skipped}")
        return 0

    def _batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """The micro-batches of this process, from the step where the run stands to the last."""
        sampler = PlanSampler(self.plan, self.processes.index, self.progress.step, self.total_steps)
        workers = self.settings.datarc.num_workers
        reader = loading.reader_of(self.dataset, self.plan)
        return loading.read_batches(reader, sampler, workers, self.processes.device)

    def _step(self, batches: list[Batch]) -> None:
        """Take one step of the optimizer, on this process's share of the batch."""
        progress, processes = self.progress, self.processes
        masked, unmasked = processes.sum(
            [sum(batch.masked_frames for batch in batches), sum(batch.unmasked_frames for batch in batches)]
        )
        learning_rate = self.learning_rate.apply(self.optimizer, progress.step)
        loss = self.micro_batches.gradient(batches, progress.step, int(masked), int(unmasked), self.log.say)
        norm = processes.clip(self.parameters, self.settings.runner.gradient_clipping)
        finite = processes.update(self.optimizer, norm)
        self.micro_batches.clear()

        progress.step += 1
        if finite:
            progress.skipped_in_row = 0
            progress.sums = (self._loss(progress.sums) + loss.on_host()).sums()
            progress.steps += 1
            progress.gradient_norm += norm
        else:
            self._skip(norm)
        flops = sum(metrics.training_flops(self.options.config, b.lengths, b.masked_frames) for b in batches)
        self.speed.add(int(masked + unmasked), flops * processes.count)
        self.log.advance({"lr": f"{learning_rate:.1e}", **metrics.short_figures(self._loss(progress.sums))})

    def _loss(self, sums: Sequence[float]) -> PredictionLoss:
        """A loss whose six sums were taken out to be saved, or to be added up over the processes."""
        return PredictionLoss(*sums, weights=self.weights)

    def _skip(self, norm: float) -> None:
        """Count a step that was skipped; many in a row end the run."""
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
        """The columns of the steps since the last line of the log, over all processes; a new line begins."""
        progress = self.progress
        figures = metrics.log_columns(self._loss(self.processes.sum(progress.sums)))
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
        """Loss and accuracies over the validation set, whose crops and masks are the same every time."""
        self.checkpoints.wait()  # Readers that are started in the middle of a write would hold its lock.
        batches = loading.batches_in_order(dataset, self.settings.datarc)
        mine = batches[self.processes.index :: self.processes.count]
        workers = min(2, self.settings.datarc.num_workers)
        total = PredictionLoss.zero(self.weights)
        self.model.eval()
        with torch.no_grad(), loading.read_batches(dataset, mine, workers, self.processes.device) as wholes:
            for whole in wholes:
                for piece in whole.split(self.micro_batches.parts):
                    batch = piece.to(self.processes.device)
                    with self.processes.autocast():
                        prediction = batch.loss(self.model)
                    total += prediction.detach().on_host()
        self.model.train()
        return metrics.log_columns(self._loss(self.processes.sum(total.sums())), "valid_")

    def _is_time_to_validate(self, done: int, saving: bool) -> bool:
        every = self.settings.runner.valid_step
        return done == self.total_steps or (done % every == 0 if every > 0 else saving)

    def _save(self, names: list[str]) -> None:
        # The sums for the log are those of this process, and the file is to hold those of all processes.
        progress = replace(self.progress, sums=self.processes.sum(self.progress.sums))
        if self.processes.is_main:
            self.checkpoints.save(names, self.model, self.optimizer, progress, self.processes.scaler_state())
        self.saved = progress.step
