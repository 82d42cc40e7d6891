"""Bootstrap: intervals cover the truth, differences are found where they are, and only there."""

import numpy as np
import pytest

from ptjax.bootstrap import BLOCK, Bootstrap, TaskScores, resamples
from ptjax.metrics import Accuracy, MacroF1, Metric, Pearson, SpanF1


def scores(statistics: dict[str, np.ndarray], metric: Metric | None = None, task: str = "task") -> TaskScores:
    return TaskScores(task, metric or Accuracy(), statistics)


def accuracies(right_SN: np.ndarray) -> np.ndarray:
    """f64[S, N, 2]: statistics of accuracy."""
    return np.stack([right_SN, np.ones(right_SN.shape)], axis=-1).astype(np.float64)


def runs(rng, truth: float, examples: int, count: int, spread: float = 0.0, hard=None) -> np.ndarray:
    """Statistics of runs that are right on about `truth` of the examples, mostly the same ones; spread: of runs."""
    hard = rng.random(examples) if hard is None else hard
    each = truth + spread * rng.normal(size=(count, 1))
    return accuracies(hard < each)


def test_draws_are_multinomial_counts():
    drawn = resamples(50, 4000, seed=3)
    assert drawn.shape == (4000, 50) and (drawn.sum(axis=1) == 50).all()
    np.testing.assert_allclose(drawn.mean(), 1)
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(drawn.var(axis=0), 1 - 1 / 50, atol=0.15)
    np.testing.assert_array_equal(drawn, resamples(50, 4000, seed=3))
    assert (drawn != resamples(50, 4000, seed=4)).any()
    assert resamples(1, 3, seed=0).tolist() == [[1]] * 3


@pytest.mark.parametrize(
    "count, spread", [(1, 0.0), (3, 0.03), (5, 0.03), (5, 0.0)], ids=["one run", "3 runs", "5 runs", "equal runs"]
)
def test_an_interval_covers_the_truth(count, spread):
    """Of 300 trials, 95% intervals of an accuracy of 0.7 on 150 examples and `count` runs."""
    rng = np.random.default_rng(count)
    covered = 0
    for trial in range(300):
        task = scores({"a": runs(rng, 0.7, 150, count, spread)})
        found = Bootstrap([task], count=400, seed=trial).score("a")
        covered += found.low <= 0.7 <= found.high
    assert 0.91 <= covered / 300 <= 0.98


def test_runs_that_differ_widen_the_interval_and_are_not_taken_for_examples():
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    width = {}
    for spread in (0.0, 0.05):
        found = Bootstrap([scores({"a": runs(rng, 0.7, 2000, 5, spread, hard)})]).score("a")
        width[spread] = found.high - found.low
    assert width[0.05] > 2 * width[0.0]
    one = Bootstrap([scores({"a": runs(rng, 0.7, 2000, 1, 0.0, hard)})]).score("a")
    assert width[0.0] == pytest.approx(one.high - one.low, rel=0.15)  # five equal runs tell no more than one


def test_a_value_is_the_metrics_own():
    rng = np.random.default_rng(0)
    references = [f"label {number}" for number in rng.integers(3, size=40)]
    predictions = {
        name: [[gold if rng.random() < share else "label 1" for gold in references] for _ in range(3)]
        for name, share in (("a", 0.8), ("b", 0.5))
    }
    metric = MacroF1()
    tags = [["B-PER", "O"], ["O"], ["B-LOC", "I-LOC"]]
    spans = {"a": [tags], "b": [[["O", "O"], ["O"], ["B-LOC", "I-LOC"]]]}
    tasks = [
        TaskScores.of("labels", metric, predictions, references),
        TaskScores.of("spans", SpanF1(), spans, tags),
    ]
    found = Bootstrap(tasks, count=50)
    by_run = {name: [metric(run, references) for run in predictions[name]] for name in "ab"}
    np.testing.assert_allclose(tasks[0].runs("a"), by_run["a"], atol=1e-12)
    assert found.task("labels", "a").mean == pytest.approx(np.mean(by_run["a"]))
    assert found.score("a").mean == pytest.approx((np.mean(by_run["a"]) + 1) / 2)
    assert found.score("b").mean == pytest.approx((np.mean(by_run["b"]) + 2 / 3) / 2)
    assert found.difference("a", "b").mean == pytest.approx(found.score("a").mean - found.score("b").mean)
    assert found.difference("b", "a").mean == -found.difference("a", "b").mean


def test_a_resample_is_the_metric_of_the_drawn_examples():
    """Every submission on the same ones, whoever else takes part, and in whatever blocks they are drawn."""
    rng = np.random.default_rng(0)
    size = BLOCK // 40
    gold = rng.normal(size=size)
    statistics = {name: Pearson().statistics(gold + rng.normal(size=size), gold)[None] for name in "ab"}
    both = scores(statistics, Pearson()).resampled(100, seed=5)
    alone = scores({"b": statistics["b"]}, Pearson()).resampled(100, seed=5)
    np.testing.assert_allclose(alone["b"], both["b"], rtol=0, atol=1e-12)
    assert len({*both["b"]}) == 100  # a block repeats none
    total = scores({name: np.ones((1, 30, 1)) for name in "ab"} | {"c": np.arange(30.0)[None, :, None]}, _Sum())
    found = total.resampled(200, seed=1)
    assert (found["a"] == 30).all() and (found["b"] == 30).all()
    np.testing.assert_array_equal(
        found["c"], scores({"c": 2 * np.arange(30.0)[None, :, None]}, _Sum()).resampled(200, seed=1)["c"] / 2
    )


class _Sum(Metric):
    def value(self, sums):
        return sums[..., 0]


def test_equal_submissions_tie_with_no_difference():
    rng = np.random.default_rng(0)
    one = runs(rng, 0.7, 200, 1)
    f1 = MacroF1(("a", "b", "c")).statistics([*"abcabcab"], [*"abcbcabc"])[None]
    tasks = [scores({"x": one, "y": one.copy()}), scores({"x": f1, "y": f1.copy()}, MacroF1(), "other")]
    found = Bootstrap(tasks).difference("x", "y")
    assert (found.mean, found.low, found.high, found.p, found.tie) == (0, 0, 0, 1, True)
    found = Bootstrap([scores({name: runs(np.random.default_rng(1), 0.7, 200, 3, 0.05) for name in "xy"})])
    found = found.difference("x", "y")
    assert found.mean == 0 and found.low < 0 < found.high and found.tie and found.p > 0.5


def test_submissions_of_one_quality_rarely_differ():
    rng = np.random.default_rng(0)
    significant = 0
    for trial in range(200):
        hard = rng.random(150)
        noisy = {name: runs(rng, 0.7, 150, 3, 0.02, hard + 0.2 * rng.normal(size=150)) for name in "ab"}
        found = Bootstrap([scores(noisy)], count=300, seed=trial).difference("a", "b")
        assert found.tie == (found.low <= 0 <= found.high)
        significant += not found.tie
        assert found.tie or found.p < 0.07
    assert significant / 200 <= 0.08


def test_a_real_difference_is_found_and_paired_is_tighter():
    rng = np.random.default_rng(0)
    tasks, apart = [], []
    for number in range(2):
        hard = rng.random(500)
        one, other = (runs(rng, share, 500, 3, 0.002, hard) for share in (0.75, 0.70))
        tasks.append(scores({"better": one, "worse": other}, task=f"task {number}"))
        apart += [(one, other)]
    found = Bootstrap(tasks).difference("better", "worse")
    assert 0 < found.low < found.mean < found.high and not found.tie
    assert found.p == pytest.approx(2 / 1001)  # the least that a thousand resamples can say
    assert Bootstrap(tasks).difference("worse", "better").high < 0
    # Each on draws of its own, which names of tasks decide.
    alone = [
        np.mean(
            [scores({"s": rows[side]}, task=f"{side}{n}").resampled(1000, 0)["s"] for n, rows in enumerate(apart)], 0
        )
        for side in (0, 1)
    ]
    low, high = np.quantile(alone[0] - alone[1], [0.025, 0.975])
    assert found.high - found.low < 0.7 * (high - low)


def test_a_seed_decides_and_confidence_widens():
    task = scores({name: runs(np.random.default_rng(2), 0.6, 100, 3, 0.1) for name in "ab"})
    first = Bootstrap([task], seed=0)
    assert first.score("a") == Bootstrap([task], seed=0).score("a")
    assert first.difference("a", "b") == Bootstrap([task], seed=0).difference("a", "b")
    assert first.score("a") != Bootstrap([task], seed=1).score("a")
    narrow, wide = first.score("a", 0.5), first.score("a", 0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_refuses_what_cannot_be_compared():
    one = np.ones((1, 4, 2))
    for statistics in ({}, {"a": np.ones((4, 2))}, {"a": one, "b": np.ones((1, 5, 2))}, {"a": np.ones((0, 4, 2))}):
        with pytest.raises(ValueError, match="no submissions|of the same examples"):
            scores(statistics)
    with pytest.raises(ValueError, match="at least one, and each but once"):
        Bootstrap([scores({"a": one}), scores({"a": one})])
    with pytest.raises(ValueError, match="at least one"):
        Bootstrap([])
    with pytest.raises(ValueError, match="at least 1 resample"):
        Bootstrap([scores({"a": one})], count=0)
    with pytest.raises(ValueError, match="share in"):
        Bootstrap([scores({"a": one})]).score("a", confidence=95)
    both = Bootstrap([scores({"a": one, "b": one}), scores({"a": one}, task="other")])
    assert both.score("a").mean == both.task("task", "b").mean == 1
    with pytest.raises(KeyError):
        both.score("b")


@pytest.mark.parametrize("count", [10, 39, 40, 200, 1000])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_an_interval_and_its_p_never_disagree(count, confidence):
    rng, seen = np.random.default_rng(count), set()
    for trial in range(60):
        hard = rng.random(100)
        pair = {name: runs(rng, share, 100, 1, 0.0, hard + 0.1 * rng.normal(size=100)) for name, share in
                (("a", 0.75), ("b", 0.69))}  # fmt: skip
        found = Bootstrap([scores(pair)], count=count, seed=trial).difference("a", "b", confidence)
        assert (found.p < 1 - confidence) == (not found.low <= 0 <= found.high) == (not found.tie)
        seen.add(found.tie)
    assert seen == ({True} if 2 / (count + 1) >= 1 - confidence else {True, False})
