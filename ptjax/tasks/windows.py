"""Texts that are longer than a row, as windows that overlap."""

from collections.abc import Sequence

import numpy as np


def windows(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """[start, stop) of each window of at most `room` of `count` tokens; two neighbours have `stride` in common, and the
    last one ends with the text. One empty window for no tokens. stride < room."""
    starts = range(0, max(count - stride, 1), room - stride)
    return [(start, min(start + room, count)) for start in starts]


def most_context(places: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """int[n]: of each token at `places` the window in which it has the most tokens on its nearer side; the first of
    equal ones."""
    start, stop = np.array(spans).T
    nearer = np.minimum(places[:, None] - start, stop - 1 - places[:, None])
    return nearer.argmax(axis=1)


def stacked(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """int32[N, L] of N rows, the longest of which has L."""
    array = np.full((len(rows), max(map(len, rows))), fill, np.int32)
    for row, values in zip(array, rows):
        row[: len(values)] = values
    return array
