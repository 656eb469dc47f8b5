"""The cost of finding each query in a document, for all queries at once, in SUPERB's settings.

s3prl aligns one query with one document at a time. Most of the time goes into the cosine of each pair of
frames, which SciPy computes frame by frame; here it is one matrix product for all queries. The alignment is
an asymmetric dynamic time warping with open ends: each frame of a query takes one frame of the document,
which is that of the query's frame before, the next, or the one after the next. A step's cost is

    (exp(1 - cosine) - 1, over the document brought to [0, 1])

and that of an alignment the mean over the query's frames. The sums are those of `dtw-python`, in the same
order; the matrix product rounds otherwise, by some 1e-15.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

LEAST_SPREAD = 1e-3  # of a frame's distances; below it, to divide by it enlarges the rounding


class Queries:
    """Queries made ready for being looked for.

    Args:
        queries: (frames, features) of each, at least one frame.
    """

    def __init__(self, queries: Sequence[Floats]):
        lengths = np.array([len(query) for query in queries])
        self.order = np.argsort(-lengths, kind="stable")  # so that the longer ones are in front
        self.lengths = lengths[self.order]
        self.frames = _unit(np.concatenate([queries[i] for i in self.order]))

    def costs_in(self, document: Floats) -> NDArray[np.float64]:
        """Compute the cost of the best alignment of each query with a part of the document.

        Args:
            document: (frames, features).

        Returns:
            The costs in the order in which the queries were given; NaN where they cannot be told exactly.
        """
        # In place: what is new to the memory costs as much as the arithmetic.
        distance = self.frames @ _unit(document).T  # (frames of all queries, frames of the document)
        np.clip(distance, -1.0, 1.0, out=distance)
        np.subtract(1.0, distance, out=distance)
        np.exp(distance, out=distance)
        distance -= 1.0
        least = distance.min(1, keepdims=True)
        spread = distance.max(1, keepdims=True) - least
        distance -= least
        distance /= np.where(spread > LEAST_SPREAD, spread, np.nan)
        starts = np.cumsum(self.lengths) - self.lengths
        found = np.empty(len(self.lengths))
        costs = distance[starts]  # (queries, frames of the document): of an alignment that ends there
        for frame in range(int(self.lengths[0])):
            going_on = int(np.count_nonzero(self.lengths > frame))
            if going_on < len(costs):
                found[going_on : len(costs)] = costs[going_on:].min(1) / self.lengths[going_on : len(costs)]
                costs = costs[:going_on]
            if frame:
                before = costs.copy()
                np.minimum(before[:, 1:], costs[:, :-1], out=before[:, 1:])
                np.minimum(before[:, 2:], costs[:, :-2], out=before[:, 2:])
                costs = before + distance[starts[:going_on] + frame]
        found[: len(costs)] = costs.min(1) / self.lengths[: len(costs)]
        ordered = np.empty_like(found)
        ordered[self.order] = found
        return ordered


def _unit(frames: Floats) -> NDArray[np.float64]:
    """The frames in float64, each of length 1; NaN for a frame of zeros."""
    exact = frames.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return exact / np.sqrt(np.einsum("fd,fd->f", exact, exact))[:, None]
