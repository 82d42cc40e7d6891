"""The law that what is asked can be learned."""

import numpy as np

from ptjax.check.result import Result, at_most, worst
from ptjax.check.subject import STEPS, Scan, Subject

HALF = 0.5


def learns(subject: Subject) -> Result:
    """One batch of few texts is learned by heart: the mean of each term that predicts falls below half of what it
    was."""
    results = []
    for scan, learner in zip(subject.adam, subject.stages):
        terms = list(learner.objective.predicted(subject.length))
        state, first, shares = scan.start(), None, {}
        rows = subject.packed(0, texts=4)
        for taken in range(Scan.CHUNK, STEPS + 1, Scan.CHUNK):
            state, history = scan.run(state, [rows] * Scan.CHUNK)
            first = first or _means(history[:5], terms)
            last = _means(history[-20:], terms)
            shares = {term: last[term] / first[term] for term in last}
            if all(share <= HALF for share in shares.values()):
                break
        for term, share in shares.items():
            note = f"{first[term]:.3f} to {last[term]:.3f} in {taken} steps"
            results.append((term, at_most(share, HALF, note)))
    return worst(results)


def _means(history: list[dict[str, float]], terms: list[str]) -> dict[str, float]:
    """The mean of each term; one term alone is the loss."""
    keys = {term: f"loss/{term}" if f"loss/{term}" in history[-1] else "loss" for term in terms}
    values = {term: [metrics[key] for metrics in history if key in metrics] for term, key in keys.items()}
    return {term: float(np.mean(found)) for term, found in values.items() if found}
