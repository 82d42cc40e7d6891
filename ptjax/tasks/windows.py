"""Texts that are longer than a row, as windows that overlap."""

from collections.abc import Sequence

import numpy as np


def windows(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """[start, stop) of each window of at most `room` of `count` tokens; two neighbours have `stride` in common, and the
    last one ends with the text. One empty window for no tokens. stride < room."""
    starts = range(0, max(count - stride, 1), room - stride)
    return [(start, min(start + room, count)) for start in starts]


def most_context(spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """int32[count]: of each token the window in which it has the most tokens on its nearer side; the first of equal
    ones. spans: of `windows`."""
    chosen, most = np.zeros(spans[-1][1], np.int32), np.full(spans[-1][1], -1)
    for window, (start, stop) in enumerate(spans):
        nearer = np.minimum(np.arange(stop - start), np.arange(stop - start)[::-1])
        better = nearer > most[start:stop]
        chosen[start:stop][better], most[start:stop][better] = window, nearer[better]
    return chosen


def stacked(rows: Sequence[np.ndarray], fill: int, dtype: type = np.int32) -> np.ndarray:
    """[N, L] of N rows, the longest of which has L."""
    array = np.full((len(rows), max(map(len, rows))), fill, dtype)
    for row, values in zip(array, rows):
        row[: len(values)] = values
    return array
