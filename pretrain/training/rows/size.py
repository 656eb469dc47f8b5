"""How many rows, frames or utterances the batches of a run have, by section `datarc` of its settings."""

from __future__ import annotations

from s3prl_melhubert.errors import MelHuBERTError
from s3prl_melhubert.pretrain.training.settings import DataSettings


def rows_of_batch(settings: DataSettings) -> int:
    """Rows of a micro-batch at most, by section `datarc`.

    Raises:
        MelHuBERTError: they would be less than one.
    """
    if settings.max_frames <= 0:
        return settings.train_batch_size
    _refuse_less_than_a_row("max_frames", settings.max_frames, settings)
    return settings.max_frames // settings.sequence_length


def rows_of_step(settings: DataSettings, parts: int) -> int:
    """Rows of a step on all processes, by section `datarc`.

    Args:
        settings: the section.
        parts: micro-batches of a step on all processes, unless the section says how many frames it has.

    Raises:
        MelHuBERTError: they would be less than one.
    """
    if settings.frames_per_batch <= 0:
        return rows_of_batch(settings) * parts
    _refuse_less_than_a_row("frames_per_batch", settings.frames_per_batch, settings)
    return round(settings.frames_per_batch / settings.sequence_length)


def _refuse_less_than_a_row(name: str, frames: int, settings: DataSettings) -> None:
    if frames < settings.sequence_length:
        raise MelHuBERTError(
            f"{name}: {frames} found, but a row has sequence_length {settings.sequence_length} frames; raise "
            f"{name} or lower sequence_length"
        )


def step_in_words(settings: DataSettings, parts: int) -> str:
    """How much a step has on all processes; the arguments are those of `rows_of_step`."""
    if settings.rows is True:
        return f"{rows_of_step(settings, parts)} rows of {settings.sequence_length} frames"
    if settings.frames_per_batch > 0:
        return f"{settings.frames_per_batch} frames"
    if settings.max_frames > 0:
        return f"{parts} x {settings.max_frames} frames"
    return f"{parts * settings.train_batch_size} utterances"
