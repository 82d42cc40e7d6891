"""Benchmarks compare like with like: the same work for everyone, and a ratio that is what it says."""

import math
import sys

import numpy as np
import pytest

from benchmarks.interleave import Worker, interleave
from benchmarks.peers.items import ITEMS, MASK_ID, Item, batches
from benchmarks.peers.ours import experiment, training
from benchmarks.step import markdown
from ptjax.data.tokenizers import VocabSpec

TINY = Item("mlm", layers=1, width=32, heads=2, hidden=64, vocab=256, length=32, batch=8)

# A worker whose step takes a time of its own choice.
SLEEPER = """
import sys, time
from benchmarks.peers import worker
worker.serve(lambda i: time.sleep(float(sys.argv[1])) or 0.0, "numpy")
"""


def test_floating_point_operations_are_those_that_ptjax_counts():
    for item in ITEMS.values():
        counted = experiment(item, 0.0).flops_per_step(VocabSpec.synthetic(item.vocab))
        assert item.flops() == pytest.approx(counted, rel=0.01)
        assert item.kind == "causal" or item.flops(everywhere=True) > item.flops()


def test_an_item_can_be_changed():
    assert Item.parse("d:length=64,batch=2") == Item(**vars(ITEMS["d"]) | dict(length=64, batch=2))
    for text in ("e", "d:depth=2", "d:layers=0", "d:layers", "d:heads=5"):
        with pytest.raises(ValueError, match="no item|cannot read|divisible"):
            Item.parse(text)


def test_peers_are_asked_as_many_masked_tokens_of_the_same_text():
    for batch in batches(TINY, 2):
        asked = batch["labels"] != -100
        assert (asked.sum(axis=1) == TINY.masked).all()
        np.testing.assert_array_equal(np.where(asked, batch["labels"], batch["shown"]), batch["tokens"])
        assert (batch["shown"][asked] == MASK_ID).all() and (batch["tokens"] != MASK_ID).all()


def test_our_worker_trains_by_the_public_path():
    step = training(TINY, dropout=0.1, overrides=["optimizer.peak_lr=0.01"])
    losses = [step(0) for _ in range(20)]
    assert losses[0] == pytest.approx(math.log(TINY.vocab), abs=0.2) and losses[-1] < losses[0] - 0.2


def test_ratios_are_paired_and_a_failure_is_told():
    def sleeper(name: str, seconds: str) -> Worker:
        return Worker(name, [sys.executable, "-c", SLEEPER, seconds])

    broken = Worker("broken", [sys.executable, "-c", "raise SystemExit('no such model')"])
    workers = [sleeper("ours", "0.02"), broken, sleeper("theirs", "0.06")]
    timings = ours, failed, theirs = interleave(workers, rounds=3, seconds=0.06, say=lambda line: None)
    assert [len(block) for block in ours.rounds] == [1, 3, 3] and len(theirs.rounds) == 3
    assert np.median(theirs.over(ours)) == pytest.approx(3, rel=0.3)
    assert "no such model" in failed.failed and "no such model" in markdown(TINY, timings)
    refused = interleave([sleeper("large", "0")], 1, 0, free_bytes=2**60, say=lambda line: None)[0]
    assert "memory" in refused.failed
