"""Law 4, of masks in particular: as many as the config says, where they may be, each shown as often as it says."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptjax.data.tokenizers import VocabSpec
from ptjax.learner import Learner
from ptjax.objectives import MLM
from ptjax.types import TrainState

from . import cases

VOCAB = cases.VOCAB


@functools.cache
def corruption(objective):
    @jax.jit
    def run(batch, seed, step):
        learner = Learner(cases.experiment(objective, "bert"), VOCAB)
        state = TrainState(step, seed, {}, {}, {})
        return learner.corrupted(state, batch)

    return run


def corrupt(objective, batch, seed=0, step=0):
    return jax.device_get(corruption(objective)(batch, np.uint32(seed), np.int32(step)))


MASKED = [name for name, objective in cases.OBJECTIVES.items() if isinstance(objective, MLM)]


@pytest.mark.parametrize("objective", MASKED)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 10**6))
def test_masked_positions(objective, seed, step):
    config, batch = cases.OBJECTIVES[objective], cases.batch(step % 97)
    out = corrupt(objective, batch, seed, step)
    assert (out["original"] == batch["tokens"]).all()
    for row in range(cases.ROWS):
        chosen = out["positions"][row][out["weights"][row] > 0]
        ordinary = ~np.isin(batch["tokens"][row], VOCAB.special_ids)
        quota = round(config.rate * int(ordinary.sum()))
        assert len(set(chosen)) == len(chosen)
        assert ordinary[chosen].all()
        untouched = np.setdiff1d(np.arange(cases.LENGTH), chosen)
        assert (out["tokens"][row, untouched] == batch["tokens"][row, untouched]).all()
        if config.unit == "token":
            assert len(chosen) == quota
            continue
        words = word_numbers(batch["tokens"][row], VOCAB)
        longest = np.bincount(words[ordinary]).max() if ordinary.any() else 1
        assert quota - longest < len(chosen) <= quota
        whole = np.flatnonzero(np.isin(words, words[chosen]))
        assert set(whole) == set(chosen)


def word_numbers(tokens: np.ndarray, vocab: VocabSpec) -> np.ndarray:
    """The unit of each position by the definition in `VocabSpec`, spelled out as a loop; special tokens stand alone."""
    number, numbers = -1, []
    for i, token in enumerate(tokens):
        before = tokens[i - 1]
        special = token in vocab.special_ids or before in vocab.special_ids
        if i == 0 or vocab.starts_word[token] or vocab.ends_word[before] or special:
            number += 1
        numbers.append(number)
    return np.array(numbers)


@pytest.mark.parametrize("objective", MASKED)
def test_realised_shares(objective):
    config = cases.OBJECTIVES[objective]
    masked = randomised = kept = 0
    for step in range(150):
        out = corrupt(objective, cases.batch(step), 1, step)
        original = np.take_along_axis(out["original"], out["positions"], 1)[out["weights"] > 0]
        shown = np.take_along_axis(out["tokens"], out["positions"], 1)[out["weights"] > 0]
        masked += (shown == VOCAB.mask_id).sum()
        kept += (shown == original).sum()
        randomised += ((shown != VOCAB.mask_id) & (shown != original)).sum()
    total = masked + randomised + kept
    assert total > 5000
    # Five standard deviations of a share of `total` draws.
    wide = 5 * 0.5 / total**0.5
    assert masked / total == pytest.approx(config.mask_share, abs=wide)
    assert randomised / total == pytest.approx(config.random_share, abs=wide)


def test_positions_are_uniform():
    """Every ordinary position is chosen equally often, over steps."""
    tokens = np.full((cases.ROWS, cases.LENGTH), 50, np.int32)
    counts = np.zeros(cases.LENGTH)
    steps = 200
    for step in range(steps):
        out = corrupt("mlm", {"index": np.arange(cases.ROWS, dtype=np.int32), "tokens": tokens}, 3, step)
        counts += np.bincount(out["positions"][out["weights"] > 0], minlength=cases.LENGTH)
    share = counts / (steps * cases.ROWS)
    rate = round(0.2 * cases.LENGTH) / cases.LENGTH
    assert np.abs(share - rate).max() < 5 * (rate * (1 - rate) / (steps * cases.ROWS)) ** 0.5
