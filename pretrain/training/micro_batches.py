"""The gradient of a step, micro-batch by micro-batch, in smaller pieces where the memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.loss import PredictionLoss
from s3prl_melhubert.model import MelHuBERT
from s3prl_melhubert.pretrain.training.dataset import Batch
from s3prl_melhubert.pretrain.training.gradients import GradientSums
from s3prl_melhubert.pretrain.training.optimization import accumulate_gradients
from s3prl_melhubert.pretrain.training.processes import Processes
from s3prl_melhubert.pretrain.training.seeds import DROPOUT, seed_of
from s3prl_melhubert.pretrain.training.settings import RunnerSettings


class MicroBatches:
    """Computes gradients of the model's parameters, summed over the processes.

    Args:
        model: in training mode, on the device.
        processes: the processes that train together.
        settings: how gradients are summed, and whether their memory stays theirs.
        seed: of the run; dropout follows it, the step and the process.
    """

    def __init__(self, model: MelHuBERT, processes: Processes, settings: RunnerSettings, seed: int):
        self.model = model
        self.processes = processes
        self.seed = seed
        self.parts = 1  # into how many pieces a micro-batch is cut to fit the memory
        self._sums = GradientSums(model.parameters(), settings.gradient_sum)
        self._release = not settings.cuda_graphs  # a recorded graph writes to the same memory each time

    def gradient(
        self,
        batches: Sequence[Batch],
        step: int,
        masked_frames: int,
        unmasked_frames: int,
        say: Callable[[str], None],
    ) -> PredictionLoss:
        """Add the gradient of a step to that of the parameters; where memory runs out, in smaller pieces.

        Args:
            batches: the micro-batches of this process.
            step: how many steps are done.
            masked_frames, unmasked_frames: of the whole step, over all micro-batches and processes.
            say: is told that the pieces have become smaller.

        Returns:
            The loss over these batches, without its gradient.

        Raises:
            MelHuBERTError: a single utterance does not fit the memory.
        """
        processes = self.processes
        while True:
            # Dropout has a seed for each step, because a state that went on would have to be saved.
            torch.manual_seed(seed_of(DROPOUT, self.seed, step, processes.index))
            self._sums.begin()
            try:
                loss = accumulate_gradients(
                    self.model,
                    self._pieces(batches, step),
                    masked_frames,
                    unmasked_frames,
                    processes.autocast,
                    processes.backward,
                )
            except torch.cuda.OutOfMemoryError:
                loss = None  # the rest waits: as long as the exception lives, so do its tensors
            self._sums.finish()
            if not processes.any(loss is None):
                assert loss is not None
                return loss
            largest = max(len(batch.lengths) for batch in batches)
            if processes.all(self.parts >= largest):
                raise MelHuBERTError(
                    f"out of memory with a single utterance ({max(max(b.lengths) for b in batches)} frames "
                    "is the longest); lower datarc.sequence_length"
                )
            self.clear()
            processes.free_memory()
            self.parts *= 2
            say(
                f"step {step + 1}: out of memory; going on with micro-batches in {self.parts} pieces, which "
                "changes nothing but the speed"
            )

    def clear(self) -> None:
        """Let the gradient of the last step go."""
        self.model.zero_grad(set_to_none=self._release)

    def _pieces(self, batches: Sequence[Batch], step: int) -> Iterator[Batch]:
        """The micro-batches on the device, in as many pieces as fit the memory."""
        processes = self.processes
        for number, batch in enumerate(batches):
            place = number * processes.count + processes.index  # among the micro-batches of the whole step
            pieces = batch.split(self.parts)
            for piece in pieces:
                if batch is batches[-1] and piece is pieces[-1]:
                    self._sums.send_with_next_backward()
                if self.model.config.encoder_layerdrop > 0:
                    # Which layers a micro-batch leaves out must not depend on who trains on it, or on how it
                    # was cut; so each has a seed of its own.
                    torch.manual_seed(seed_of(DROPOUT, self.seed, step, place, 1))
                yield piece.to(processes.device)
