"""Laws of the question: what `corrupt`, `inputs`, `weights` and `predicted` say of each other. None trains."""

import jax
import numpy as np

from ptjax.check.result import Result, at_most, failed, of_each_part, worst
from ptjax.check.subject import ROWS, Subject
from ptjax.data.tokenizers import VocabSpec
from ptjax.types import PairInput, PyTree, TextInput, TrainState

BATCHES = 64


def rows(subject: Subject) -> Result:
    """What a row is asked does not depend on the other rows: another text in one, and all others stay bitwise."""
    number, compared = 0.0, 0
    for stage in range(len(subject.stages)):
        host, elsewhere = subject.packed(0), subject.packed(1)
        for row in (0, ROWS // 2, ROWS - 1):
            # All that the host made of the row, such as its sentence pair; the index is what it is drawn from.
            replaced = lambda key: np.where(np.arange(ROWS) == row, elsewhere[key].T, host[key].T).T
            changed = {key: x if key == "index" else replaced(key) for key, x in host.items()}
            one, other = (subject.corrupted(x, stage=stage) for x in (host, changed))
            keep = set(host["index"].tolist()) - {int(host["index"][row])}
            one, other = (by_index(question, keep) for question in (one, other))
            number = max(number, apart(one, other))
            compared += len(one)
    if not compared:
        return failed("corrupt drops 'index' and every other array: nothing can be compared")
    return at_most(number, 0.0, "rows of arrays that changed with another row")


def replay(subject: Subject) -> Result:
    """The question is a function of (seed, step, index): the same in a batch of another order, and (unless nothing is
    drawn, or once for all steps) another one at another step."""
    notes, changes = [], "rows of arrays that another order of the batch changes"
    for stage in range(len(subject.stages)):
        host = subject.packed(0)
        order = np.random.default_rng(0).permutation(ROWS)
        keep = set(host["index"].tolist())
        ask = lambda rows, step=0, seed=0: by_index(subject.corrupted(rows, step, seed, stage), keep)
        first = ask(host)
        gap = apart(first, ask({key: x[order] for key, x in host.items()}))
        if not gap == 0:
            return at_most(gap, 0.0, changes)
        if apart(first, ask(host, step=1)) == 0:
            drawn = apart(first, ask(host, seed=1)) > 0
            notes.append("the same at every step: drawn once" if drawn else "nothing is drawn")
    return at_most(0.0, 0.0, "; ".join(dict.fromkeys(notes)) or changes)


@of_each_part
def specials(subject: Subject) -> Result:
    """Special tokens stay what and where they are, and none appears but the mask and the objective's own."""
    vocab, host = subject.vocab, subject.packed(0)
    own = {vocab.mask_id, *vocab.extra_ids}
    special = np.array(sorted(set(vocab.special_ids) - own))
    frame = {vocab.pad_id, vocab.boundary_id, vocab.bos_id, vocab.eos_id}  # with which an objective may set its rows
    asked = [subject.inputs(subject.corrupted(host, step)) for step in range(16)]
    if all(aligned(inputs, host["tokens"], vocab) for inputs in asked):
        number = sum(_moved(host["tokens"], inputs.tokens, special) for inputs in asked)
        return at_most(number, 0, "special tokens changed, moved or put in")
    if subject.objective.transforms():
        sides = [texts(inputs) for inputs in asked]
        number = sum(_moved(a.tokens, b.tokens, special) for side in sides for a, b in zip(sides[0], side))
        return at_most(number, 0, "special tokens of the host's rows that differ from step to step")
    if isinstance(asked[0], PairInput):
        kept = special[special != vocab.pad_id]  # with which decoders begin, and rows are filled up
        count = lambda tokens_BL: np.stack([(tokens_BL == token).sum(axis=1) for token in kept])
        there = count(host["tokens"])
        number = sum(np.abs(count(x.source.tokens) - there).sum() + count(x.target.tokens).sum() for x in asked)
        return at_most(int(number), 0, "special tokens that the source lacks or has in addition, or in the target")
    free = np.array(sorted(set(special.tolist()) - frame))
    number = sum(_added(host["tokens"], text.tokens, free) for inputs in asked for text in texts(inputs))
    return at_most(number, 0, "special tokens put in")


def texts(inputs: TextInput | PairInput) -> tuple[TextInput, ...]:
    return (inputs.source, inputs.target) if isinstance(inputs, PairInput) else (inputs,)


def aligned(inputs: TextInput | PairInput, tokens_BL: np.ndarray, vocab: VocabSpec) -> bool:
    """Whether position i of what is read stands for position i of the row: most of it is the row's token, or a mask."""
    if isinstance(inputs, PairInput) or inputs.tokens.shape != tokens_BL.shape:
        return False
    same_BL = (inputs.tokens == tokens_BL) | np.isin(inputs.tokens, [vocab.mask_id, *vocab.extra_ids])
    return bool(same_BL[tokens_BL != vocab.pad_id].mean() > 0.5)


def _moved(before_BL: np.ndarray, after_BL: np.ndarray, special: np.ndarray) -> int:
    """Places where either has a special token and the other not the same one."""
    either_BL = np.isin(before_BL, special) | np.isin(after_BL, special)
    return int((either_BL & (before_BL != after_BL)).sum())


def _added(before_BL: np.ndarray, after_BL: np.ndarray, special: np.ndarray) -> int:
    """How many more of these there are in each row."""
    count = lambda tokens_BL: np.stack([(tokens_BL == token).sum(axis=1) for token in special])
    return int(np.maximum(count(after_BL) - count(before_BL), 0).sum())


def rates(subject: Subject) -> Result:
    """Rows of ordinary tokens weigh on average what `predicted` says, over all of the run."""
    results = []
    length = max(128, subject.length)
    batches = [subject.ordinary(step, length) for step in range(BATCHES)]
    expected = dict.fromkeys(subject.objective.predicted(length), 0.0)
    means, variances = dict(expected), dict(expected)
    for learner in subject.stages:
        stage, objective = learner.stages[learner.stage], learner.objective
        share = (stage.stop - stage.start) / subject.experiment.steps
        steps = stage.start + (np.arange(BATCHES) + 0.5) / BATCHES * (stage.stop - stage.start)
        weigh = jax.jit(lambda rows, step: objective.weights(learner.corrupted(_at(step), rows), subject.vocab))
        drawn = [jax.device_get(weigh(rows, np.int32(step))) for rows, step in zip(batches, steps)]
        for term in objective.predicted(length):
            per_row = np.array([weights[term] for weights in drawn]) / ROWS
            means[term] += share * per_row.mean()
            variances[term] += share**2 * per_row.var() / BATCHES
    for term, value in subject.objective.predicted(length).items():
        # Words and spans that did not fit leave a row a little short.
        limit = 5 * variances[term] ** 0.5 + 0.03 * value
        note = f"{means[term]:.2f} of {value:.2f} predictions a row of {length}"
        results.append((term, at_most(abs(means[term] - value), limit, note)))
    return worst(results) if results else failed("predicted names no term")


def _at(step) -> TrainState:
    return TrainState(step, np.uint32(0), {}, {}, {})


def by_index(question: PyTree, keep: set[int], index_B=None, path: str = "") -> dict[tuple[str, int], np.ndarray]:
    """The rows of each array of a question under (its name, the example's index), of the examples to `keep`."""
    index_B, found = question.get("index", index_B), {}
    for key, value in question.items():
        if isinstance(value, dict):
            found |= by_index(value, keep, index_B, f"{path}{key}.")
        elif index_B is not None and np.ndim(value) and len(value) == len(index_B):
            found |= {(path + key, int(i)): row for i, row in zip(index_B, value) if int(i) in keep}
    return found


def apart(a: dict, b: dict) -> float:
    """How many rows of arrays are in one alone or not bitwise the same in both."""
    return float(len(a.keys() ^ b.keys()) + sum(not np.array_equal(a[key], b[key]) for key in a.keys() & b.keys()))
