"""TensorBoard's event files, of which a full disk is told where the figures come from.

tensorboardX writes in a thread of its own. Where the disk is full, that thread ends with a traceback on the
terminal. Then nobody empties its queue, so that the program waits for ever when it has added ten more events;
and one that ends before that gets another traceback from what tensorboardX does when Python ends.

This module imports tensorboardX, and so is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tensorboardX import writer
from tensorboardX.event_file_writer import EventFileWriter
from tensorboardX.writer import FileWriter


@contextmanager
def faults_told() -> Iterator[None]:
    """Have the writers that are made while the block runs raise what their files cannot be written for.

    `add_scalar`, `flush` and `close` raise it, as an OSError that names the file, once; the writer loses what
    it is given after that. Nothing is raised when Python ends.
    """
    plain = writer.EventFileWriter, writer.FileWriter
    writer.EventFileWriter, writer.FileWriter = _TellingEventFileWriter, _TellingFileWriter
    try:
        yield
    finally:
        writer.EventFileWriter, writer.FileWriter = plain


class _Events:
    """The file of a writer, as both threads use it: its first fault is kept, and nothing is written after it.

    Args:
        file: tensorboardX's EventsWriter.
    """

    def __init__(self, file: Any):
        self.file = file
        self.fault: OSError | None = None
        self.told = False

    def write_event(self, event: Any) -> None:
        self._unless_faulty(self.file.write_event, event)

    def flush(self) -> None:
        self._unless_faulty(self.file.flush)

    def close(self) -> None:
        self._unless_faulty(self.file.close)

    def _unless_faulty(self, write: Callable[..., object], *arguments: Any) -> None:
        if self.fault is None:
            try:
                write(*arguments)
            except OSError as fault:
                self.fault = fault
                self._forget_unwritten()
            except ValueError:  # The other thread has closed the file meanwhile, because of its fault.
                if self.fault is None:
                    raise

    def _forget_unwritten(self) -> None:
        """Close the file below its buffer: Python writes that again when it ends, and 3.13 tells of it."""
        buffer = getattr(getattr(self.file, "_py_recordio_writer", None), "_writer", None)
        if (unbuffered := getattr(buffer, "raw", None)) is not None:
            unbuffered.close()

    def tell(self) -> None:
        """Raise the fault, unless that was done before."""
        if self.fault is not None and not self.told:
            self.told = True
            name = getattr(self.file, "_file_name", None)
            raise OSError(self.fault.errno, self.fault.strerror, name) from self.fault


class _TellingEventFileWriter(EventFileWriter):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        # The thread has begun, but nobody has given it an event.
        self.events = _Events(vars(self)["_ev_writer"])
        self._ev_writer = self._worker._record_writer = self.events
        # The queue begins a thread with the first event, or, where there was none, with the mark of its end.
        # Python from 3.12 on begins no thread any more while it ends, and tells so in a traceback.
        self._event_queue._start_thread()

    def add_event(self, event: Any) -> None:
        self.events.tell()
        super().add_event(event)


class _TellingFileWriter(FileWriter):  # type: ignore[misc]
    # What tensorboardX does when Python ends passes these by, and so raises nothing.
    def flush(self) -> None:
        super().flush()
        self.event_writer.events.tell()

    def close(self) -> None:
        super().close()
        self.event_writer.events.tell()
