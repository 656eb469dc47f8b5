"""The one exception that callers may want to tell apart from a bug."""


class MelHuBERTError(ValueError):
    """Bad input: a file, a setting or a waveform that cannot be used.

    Its message is complete on one line (what was found, where, what to do), so that the command line
    prints it and exits with status 2, and nothing else.
    """
