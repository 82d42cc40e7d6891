"""Differences: equal arms rarely differ whatever makes noise, real differences are found, and no noise counts twice."""

import numpy as np
import pytest
from scipy import stats

from ptjax.bootstrap import Bootstrap, TaskScores
from ptjax.compare.differences import Differences, TaskRuns, holm, mean_of_seeds, seed_difference
from ptjax.metrics import Accuracy, MacroF1, SpanF1


def accuracies(right: np.ndarray) -> np.ndarray:
    """f64[..., 2]: statistics of accuracy."""
    return np.stack([right, np.ones(np.shape(right))], axis=-1).astype(np.float64)


def runs(statistics: dict[str, np.ndarray], task: str = "task", **seeds: tuple[int, ...]) -> TaskRuns:
    named = {arm: seeds.get(arm, tuple(range(len(rows)))) for arm, rows in statistics.items()}
    return TaskRuns(task, Accuracy(), statistics, named)


def trial(
    rng, examples=150, seeds=3, spread=0.0, common=0.0, own=0.0, shift=0.0, tasks=1, others=False
) -> list[TaskRuns]:
    """Two arms' runs. spread: of seeds, and the part of it that arms have in common. own: of how an arm takes
    each example, too. others: the arms have not the same seeds."""
    of_seed = spread * (np.sqrt(1 - common) * rng.normal(size=(2, seeds, 1, 1)))
    of_seed = of_seed + spread * np.sqrt(common) * rng.normal(size=(1, seeds, 1, 1))
    found = []
    for number in range(tasks):
        skill = of_seed + own * rng.normal(size=(2, 1, 1, examples)) + 0.7 * rng.normal(size=(2, seeds, 1, examples))
        skill[0] += shift
        right = skill + rng.normal(size=examples) > -0.5
        statistics = {"a": accuracies(right[0]), "b": accuracies(right[1])}
        found.append(runs(statistics, f"task {number}", b=tuple(range(others, others + seeds))))
    return found


def constant(values) -> np.ndarray:
    """Statistics of runs that score the same on whatever examples."""
    return accuracies(np.repeat(np.asarray(values)[:, None, None], 4, axis=2))


def test_a_value_is_the_metrics_own():
    rng = np.random.default_rng(0)
    references = [f"label {number}" for number in rng.integers(3, size=40)]
    predictions = {
        arm: [[[gold if rng.random() < share else "label 1" for gold in references] for _ in range(2)] for _ in "123"]
        for arm, share in (("a", 0.8), ("b", 0.5))
    }
    tags = [["B-PER", "O"], ["O"], ["B-LOC", "I-LOC"]]
    half = [["O", "O"], ["O"], ["B-LOC", "I-LOC"]]
    spans = {"a": [[tags]] * 3, "b": [[tags], [half], [half]]}
    seeds = {"a": (4, 5, 6), "b": (6, 5, 4)}
    tasks = [
        TaskRuns.of("labels", MacroF1(), predictions, references, seeds),
        TaskRuns.of("spans", SpanF1(), spans, tags, seeds | {"b": (4, 5, 6)}),
    ]
    found = Differences(tasks, count=60)
    labels = {arm: np.mean([[MacroF1()(t, references) for t in s] for s in predictions[arm]], axis=1) for arm in "ab"}
    np.testing.assert_allclose(found.task_seeds("labels", "b"), labels["b"], atol=1e-12)
    np.testing.assert_allclose(found.seeds("a"), (labels["a"] + 1) / 2, atol=1e-12)
    np.testing.assert_allclose(found.seeds("b"), (labels["b"] + [2 / 3, 2 / 3, 1]) / 2, atol=1e-12)  # 6, 5, 4
    assert found.task("labels", "a").mean == pytest.approx(labels["a"].mean())
    assert found.score("a").mean == pytest.approx((labels["a"].mean() + 1) / 2)
    assert found.difference("a", "b").mean == pytest.approx(found.score("a").mean - found.score("b").mean)
    assert found.task_difference("spans", "a", "b").mean == pytest.approx(1 - 7 / 9)


def test_seeds_noise_is_students():
    """Where examples make none: paired by the seeds' names, in whatever order, and Welch's where they differ."""
    a, b = np.array([0.81, 0.79, 0.84]), np.array([0.73, 0.70, 0.77])
    tasks = [runs({"a": constant(a), "b": constant(b[[2, 0, 1]]), "c": constant(b)}, b=(2, 0, 1), c=(7, 8, 9))]
    found = Differences(tasks, count=20_000)
    paired, welch = stats.ttest_rel(a, b), stats.ttest_ind(a, b, equal_var=False)
    for other, expected in (("b", paired), ("c", welch)):
        difference = found.difference("a", other, 0.9)
        interval = expected.confidence_interval(0.9)
        assert difference.paired == (other == "b") and difference.seeds == (3, 3) and difference.seeds_known
        assert difference.mean == pytest.approx((a - b).mean())
        assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high), rel=2e-3)
        assert difference.p == pytest.approx(expected.pvalue, abs=2e-4)
    assert found.difference("a", "b").p < found.difference("a", "c").p
    one = stats.t.interval(0.9, 2, a.mean(), stats.sem(a))
    assert (found.score("a", 0.9).low, found.score("a", 0.9).high) == pytest.approx(one, rel=2e-3)


def test_one_seeds_noise_is_that_of_examples():
    """The paired bootstrap's, wider by what N drawn of N examples vary too little."""
    rng = np.random.default_rng(0)
    right = rng.random((2, 1, 1, 50)) < np.array([0.8, 0.6])[:, None, None, None]
    statistics = {arm: accuracies(rows) for arm, rows in zip("ab", right)}
    found = Differences([runs(statistics)]).difference("a", "b")
    plain = Bootstrap([TaskScores("task", Accuracy(), {arm: rows[:, 0] for arm, rows in statistics.items()})])
    plain = plain.difference("a", "b")
    wider = np.sqrt(50 / 49)
    assert found.mean == plain.mean
    assert found.low - found.mean == pytest.approx(wider * (plain.low - plain.mean))
    assert found.high - found.mean == pytest.approx(wider * (plain.high - plain.mean))
    assert not found.seeds_known and found.seeds == (1, 1)


def test_examples_count_beyond_what_the_spread_of_seeds_holds_of_them():
    """Where each run errs by itself, resamples add next to nothing to t; where an arm's runs err alike, much."""
    widths = {}
    for own in (0.0, 2.0):
        ratios = []
        for number in range(20):
            (task,) = trial(np.random.default_rng(number), examples=400, seeds=6, own=own)
            found = Differences([task], count=300).difference("a", "b")
            spread = stats.sem(task.values("a") - task.values("b")) * stats.t.ppf(0.975, 5)
            ratios.append((found.high - found.low) / (2 * spread))
        widths[own] = np.median(ratios)
    assert 1 <= widths[0.0] < 1.15
    assert widths[2.0] > 1.7


@pytest.mark.parametrize(
    "noise",
    [
        dict(),
        dict(spread=0.1),
        dict(spread=0.4, tasks=3, examples=60),
        dict(spread=0.1, own=0.5),
        dict(spread=0.1, seeds=2),
        dict(spread=0.3, common=0.8),
        dict(spread=0.3, others=True),
    ],
    ids=["runs", "seeds", "seeds of 3 tasks", "seeds and examples", "2 seeds", "seeds in common", "other seeds"],
)
def test_equal_arms_rarely_differ(noise):
    """Of 200 trials of equal arms at 5 %: 10 are expected, more than 18 in less than one of 100 repetitions."""
    rng = np.random.default_rng(1)
    alarms = 0
    for number in range(200):
        tasks = trial(rng, **noise)
        found = Differences(tasks, count=200, seed=number).difference("a", "b")
        assert found.tie == (found.p >= 0.05)
        alarms += not found.tie
    assert alarms <= 18


def test_a_bootstrap_of_few_seeds_declares_equal_arms_different():
    """Why seeds are not resampled."""
    rng = np.random.default_rng(1)
    alarms, drawn = 0, 0
    for number in range(100):
        (task,) = trial(rng, examples=500, seeds=2, spread=0.4)
        alarms += not Differences([task], 100, number).difference("a", "b").tie
        scores = TaskScores("task", Accuracy(), {arm: rows[:, 0] for arm, rows in task.statistics.items()})
        drawn += not Bootstrap([scores], 100, number).difference("a", "b").tie
    assert alarms <= 11 and drawn > 15


def test_real_differences_are_found():
    rng = np.random.default_rng(0)
    found = [Differences(trial(rng, 400, spread=0.05, shift=0.5), 200).difference("a", "b") for _ in range(30)]
    assert np.mean([not difference.tie and difference.mean > 0 for difference in found]) > 0.5


def test_seeds_that_both_arms_share_pair_them():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(20):
        (task,) = trial(rng, 500, seeds=5, spread=0.5, common=1.0)
        apart = TaskRuns(task.task, task.metric, task.statistics, {"a": (0, 1, 2, 3, 4), "b": (5, 6, 7, 8, 9)})
        paired, welch = (Differences([each], 200).difference("a", "b") for each in (task, apart))
        ratios.append((paired.high - paired.low) / (welch.high - welch.low))
    assert np.median(ratios) < 0.5


def test_the_other_way_round_is_the_same_with_the_sign_turned():
    tasks = trial(np.random.default_rng(3), spread=0.1, own=0.5, tasks=2)
    found = Differences(tasks, 200)
    one, other = found.difference("a", "b"), found.difference("b", "a")
    assert one.mean == -other.mean and one.p == pytest.approx(other.p)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_equal_runs_tie_with_no_difference():
    right = np.random.default_rng(0).random((3, 2, 50)) < 0.7
    tasks = [runs({"a": accuracies(right), "b": accuracies(right)}, name) for name in ("one", "two")]
    found = Differences(tasks, 100).difference("a", "b")
    assert (found.mean, found.low, found.high, found.p, found.tie) == (0, 0, 0, 1, True)


def test_a_difference_without_any_noise_is_as_rare_as_resamples_can_say():
    found = Differences([runs({"a": constant([0.75] * 3), "b": constant([0.5] * 3)})], 99).difference("a", "b")
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    assert found.p == 2 / 100 and not found.tie


def test_a_single_seed_is_taken_to_spread_as_the_other_arms():
    rows = {"a": constant([0.8, 0.7, 0.9]), "b": constant([0.5])}
    found = Differences([runs(rows)], 20_000).difference("a", "b")
    reach = stats.t.ppf(0.975, 2) * 0.1 * np.sqrt(1 / 3 + 1)
    assert (found.low, found.high) == pytest.approx((0.3 - reach, 0.3 + reach), abs=2e-3)
    assert found.seeds == (3, 1) and not found.seeds_known and not found.paired


def test_what_says_nothing_declares_nothing():
    """One example, and too few resamples for the confidence."""
    one = Differences([runs({"a": accuracies(np.ones((1, 1, 1))), "b": accuracies(np.zeros((1, 1, 1)))})])
    found = one.difference("a", "b")
    assert (found.mean, found.low, found.high, found.p, found.tie) == (1, -np.inf, np.inf, 1, True)
    assert one.score("a").mean == 1 and one.score("a").low == -np.inf
    tasks = trial(np.random.default_rng(0), spread=0.1, shift=2)
    for arms in (tasks, [runs({arm: rows[:1] for arm, rows in tasks[0].statistics.items()})]):
        found = Differences(arms, count=20).difference("a", "b")
        assert found.tie and found.p >= 0.05 and (found.low, found.high) == (-np.inf, np.inf)
        assert not Differences(arms, count=20).difference("a", "b", confidence=0.8).tie


def test_an_arm_is_scored_by_the_seeds_that_have_all_tasks():
    two = [
        runs({"a": constant([0.1, 0.2, 0.3]), "b": constant([0.5])}, "one"),
        runs({"a": constant([0.4, 0.6])}, "two", a=(2, 0)),
    ]
    found = Differences(two, 50)
    assert found.seeds("a") == pytest.approx([(0.1 + 0.6) / 2, (0.3 + 0.4) / 2])
    assert found.task_seeds("one", "a") == pytest.approx([0.1, 0.2, 0.3])
    assert found.task("one", "b").mean == 0.5 and found.task_difference("one", "a", "b").seeds == (3, 1)
    for asked in (lambda: found.score("b"), lambda: found.difference("a", "b"), lambda: found.seeds("nobody")):
        with pytest.raises(KeyError):
            asked()
    apart = [runs({"a": constant([0.1])}, "one", a=(0,)), runs({"a": constant([0.1])}, "two", a=(1,))]
    with pytest.raises(KeyError, match="no seed that has all the tasks"):
        Differences(apart).score("a")


def test_what_cannot_be_compared_is_refused():
    good = constant([0.5, 0.6])
    for statistics, message in (
        ({}, "no arms"),
        ({"a": good[0]}, "seeds, tunings, examples"),
        ({"a": good, "b": good[:, :, :3]}, "same examples"),
        ({"a": np.where(good == 0.6, np.nan, good)}, "arm a has statistics that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            runs(statistics)
    with pytest.raises(ValueError, match="2 seeds of arm a, which are named"):
        runs({"a": good}, a=(1, 1))
    with pytest.raises(ValueError, match=r"arm a have \[1, 2\] fine-tunings"):
        TaskRuns.of("task", Accuracy(), {"a": [[["x"]], [["x"], ["x"]]]}, ["x"], {"a": (0, 1)})
    task = runs({"a": good})
    for build in (lambda: Differences([]), lambda: Differences([task, task]), lambda: Differences([task], 0)):
        with pytest.raises(ValueError):
            build()
    with pytest.raises(ValueError, match="confidence"):
        Differences([task]).score("a", confidence=95)


def test_holm():
    """Holm's: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04, no less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([0.02]) == [0.02] and holm([]) == []
    for ps in ([0.5, float("nan")], [1.5]):
        with pytest.raises(ValueError):
            holm(ps)


def test_means_of_seeds():
    values = [1.31, 1.28, 1.36]
    found = mean_of_seeds(values, 0.9)
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, 2, np.mean(values), stats.sem(values)))
    one = mean_of_seeds([1.3])
    assert (one.mean, one.low, one.high) == (1.3, -np.inf, np.inf)
    same = mean_of_seeds([1.3, 1.3])
    assert (same.mean, same.low, same.high) == (1.3, 1.3, 1.3)
    with pytest.raises(ValueError, match="no seeds"):
        mean_of_seeds([])


def test_differences_of_what_is_measured_once_a_seed():
    a, b = {0: 1.31, 1: 1.28, 2: 1.36}, {2: 1.30, 1: 1.23, 0: 1.24}
    paired = stats.ttest_rel([*a.values()], [1.24, 1.23, 1.30])
    welch = stats.ttest_ind([*a.values()], [*b.values()], equal_var=False)
    for other, expected in ((b, paired), ({seed + 7: value for seed, value in b.items()}, welch)):
        found = seed_difference(a, other)
        interval = expected.confidence_interval(0.95)
        assert found.paired == (other is b) and found.p == pytest.approx(expected.pvalue)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
        assert found.tie == (found.p >= 0.05)
    same = seed_difference(a, dict(a))
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    "a, b", [({0: 1.0}, {0: 2.0}), ({0: 1.0, 1: 1.1}, {0: np.inf, 1: 1.0}), ({0: np.nan, 1: 1.0}, {2: 2.0, 3: 2.1})]
)
def test_seeds_that_say_nothing_tie(a, b):
    found = seed_difference(a, b)
    assert found.tie and found.p == 1 and (found.low, found.high) == (-np.inf, np.inf)
