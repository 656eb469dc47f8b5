"""The old name of `s3prl_melhubert.compat.restorations`, kept because the pages once named it."""

from s3prl_melhubert.compat.restorations import restore

__all__ = ["restore"]
