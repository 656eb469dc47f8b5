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
    if settings.max_frames < settings.sequence_length:
        raise MelHuBERTError(
            f"max_frames: {settings.max_frames} found, but a row has sequence_length "
            f"{settings.sequence_length} frames; raise max_frames or lower sequence_length"
        )
    return settings.max_frames // settings.sequence_length


def rows_of_step(settings: DataSettings, parts: int) -> int:
    """Rows of a step on all processes, by section `datarc`.

    Args:
        settings: the section.
        parts: micro-batches of a step on all processes, unless the section says how many frames it has.
    """
    if settings.frames_per_batch > 0:
        return max(1, round(settings.frames_per_batch / settings.sequence_length))
    return rows_of_batch(settings) * parts


def step_in_words(settings: DataSettings, parts: int) -> str:
    """How much a step has on all processes; the arguments are those of `rows_of_step`."""
    if settings.rows is True:
        return f"{rows_of_step(settings, parts)} rows of {settings.sequence_length} frames"
    if settings.frames_per_batch > 0:
        return f"{settings.frames_per_batch} frames"
    if settings.max_frames > 0:
        return f"{parts} x {settings.max_frames} frames"
    return f"{parts * settings.train_batch_size} utterances"
