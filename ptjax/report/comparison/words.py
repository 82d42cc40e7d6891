"""What a comparison found, in sentences that the page and the Markdown share."""

import itertools
from collections.abc import Callable, Sequence

from ptjax.report.comparison.contents import Arm, Contents, Difference
from ptjax.report.figures import NONE, count, duration, plain, points, probability
from ptjax.report.values import Interval, is_count

FEW = 5  # seeds, below which an interval is said to rest on few
SHOWN = 4  # pairs that the verdict names; the table has all
METRICS = {"bits_per_byte": "bits a byte", "loss": "loss"}


class Name(str):
    """An arm's name within a sentence."""


Sentence = list[str]  # and names


def verdict(made: Contents) -> Sentence:
    """Which arms differ by more than noise and which do not; what that rests on; what is left to do."""
    if not made.arms:
        return ["There are no arms to compare."]
    measured = [d.turned() for d in made.differences if d.mean is not None]
    if measured:
        found = [*_joined(_apart(measured, made) + _ties(measured)), ". ", *_rests_on(measured, made)]
    else:
        found = _scores(made) if made.ranked or made.suite is not None else _pretraining(made)
    return [*found, *_left(made)]


def _apart(pairs: Sequence[Difference], made: Contents) -> list[Sentence]:
    """A clause for each arm that leads: whom, and by how much."""
    apart = sorted((d for d in pairs if not d.tie), key=lambda d: -d.mean)
    places = {arm.name: place for place, arm in enumerate(made.ranked)}
    shown = sorted(apart[:SHOWN], key=lambda d: places.get(d.a.name, 0))
    clauses = []
    for leader, behind in itertools.groupby(shown, key=lambda d: d.a.name):
        clause: Sentence = [Name(leader), " leads "]
        for k, d in enumerate(behind):
            clause += [", and "] * (k > 0) + [Name(d.b.name), f" by {_far(d)}"]
            if d.holm is not None and d.p is not None and d.p <= 1 - made.confidence < d.holm:
                clause.append(f" (though {probability(d.holm)} once adjusted for {len(pairs)} pairs)")
        clauses.append(clause)
    more = len(apart) - len(shown)
    return clauses + ([[f"{more} more pair{'s differ' if more > 1 else ' differs'}"]] if more else [])


def _ties(pairs: Sequence[Difference]) -> list[Sentence]:
    """Pairs that cannot be told apart, where they are few; else the widest of them."""
    ties = [d for d in pairs if d.tie]
    alone = len(ties) == len(pairs)
    if len(ties) > SHOWN or alone and len(ties) > 1:
        widest = max(ties, key=lambda d: d.mean)
        many = "No two arms can be told apart" if alone else f"{len(ties)} pairs cannot be told apart"
        gap = [", the widest gap being ", Name(widest.a.name), " over ", Name(widest.b.name), f" by {_far(widest)}"]
        return [[many, *gap]]
    gaps = [[f": {_far(d)} between them"] if alone else [] for d in ties]
    return [[Name(d.a.name), " and ", Name(d.b.name), " cannot be told apart", *gap] for d, gap in zip(ties, gaps)]


def _far(d: Difference) -> str:
    p = probability(d.p)
    return f"{points(d.mean)} points{interval(d)}{f', {p}' * bool(p)}"


def _joined(clauses: Sequence[Sentence]) -> Sentence:
    return [part for k, clause in enumerate(clauses) for part in (["; "] * (k > 0) + clause)]


def _rests_on(measured: Sequence[Difference], made: Contents) -> Sentence:
    counts = [int(n) for d in measured for n in d.seeds]
    words = f"Scores are means over {_tasks(made)}"
    if not counts:
        return [f"{words}. "]
    few, many = min(counts), max(counts)
    if many == 1:
        return [f"{words}, of one seed an arm: nothing here says what another seed would change. "]
    between = f"{few}" if few == many else f"{few} to {many}"
    return [f"{words}; the intervals rest on {between} seeds an arm{', which are few' * (few < FEW)}. "]


def _scores(made: Contents) -> Sentence:
    """Where there is no difference yet."""
    if not made.ranked:
        return [f"No arm has a result on all of {_tasks(made)} yet. "]
    said = [[Name(arm.name), f" scores {points(arm.score.mean)}{interval(arm.score)}"] for arm in made.ranked[:SHOWN]]
    if len(made.arms) == 1:
        rest = f" on average over {_tasks(made)}. It is the only arm: there is nothing to compare it with. "
    else:
        rest = f" on average over {_tasks(made)}; no difference is known yet. "
    return [*_joined(said), rest]


def _pretraining(made: Contents) -> Sentence:
    """Where there is no suite: values that validation gave."""
    known = [arm for arm in made.arms if arm.pretraining.mean is not None]
    if not known:
        return ["There is no suite, and no run is done yet. "]
    same = len({(arm.objective, arm.metric) for arm in known}) == 1
    said = [
        [Name(arm.name), f" has {plain(arm.pretraining.mean)}{interval(arm.pretraining, plain)}"]
        for arm in known[: 2 * SHOWN]
    ]
    words = (
        METRICS.get(known[0].metric, "validation") if same else "validation, where questions differ and do not compare"
    )
    return [f"There is no suite, so there are no scores. In {words}: ", *_joined(said), ". "]


def _left(made: Contents) -> Sentence:
    left = [
        f"{made.left[key]:,} {word}{'s' * (made.left[key] != 1)}"
        for key, word in (("runs", "pre-training"), ("cells", "fine-tuning"))
        if is_count(made.left.get(key)) and made.left[key]
    ]
    return (
        [] if made.complete else [f"Incomplete: still to be done are {' and '.join(left)}." if left else "Incomplete."]
    )


def interval(around: Interval, said: Callable[[float | None], str] = points) -> str:
    """[low, high] with a space before it, where both are known."""
    low, high = around.low, around.high
    return "" if low is None or high is None else f" [{said(low)}, {said(high)}]"


def metric_words(metric: str) -> str:
    return METRICS.get(metric, metric)


def budget_words(made: Contents) -> str:
    """What is equal, and why the rest is not."""
    known = [arm for arm in made.arms if arm.predicted is not None]
    amount = f"{_amount(made)} " if made.amount is not None else "the same amount of "
    words = f"Each arm spends {amount}{made.unit}"
    words += (
        ", or the multiple of that in its row. " if any(arm.share not in (None, 1.0) for arm in made.arms) else ". "
    )
    if len({f"{arm.predicted:.3g}" for arm in known}) > 1:
        each = ", ".join(f"{arm.name} {arm.predicted:.3g}" for arm in known[:8])
        words += f"Objectives ask unlike amounts of the same text: of 100 tokens that are read, they predict {each}. "
        words += {
            "tokens": "At equal tokens, who predicts fewer of them has fewer terms in its loss to learn from. ",
            "predicted_tokens": "At equal predictions, who predicts fewer of a hundred tokens reads more text. ",
        }.get(made.match, "Neither text nor predictions are equal where that is. ")
    return words.strip()


def _amount(made: Contents) -> str:
    return duration(made.amount) + " in" if made.match == "seconds" else count(made.amount, 3)


def after_words(arm: Arm) -> str:
    """Whose state a branch goes on from."""
    if not arm.after:
        return ""
    step, share = arm.after.get("step"), arm.after.get("share")
    place = f" from step {step:,}" if is_count(step) else ""
    part = f", {100 * share:g} % of the amount" if isinstance(share, float) and abs(share) < 1e9 else ""
    return f"after {arm.after.get('arm') or NONE}{place}{part}"


def _tasks(made: Contents) -> str:
    return f"{len(made.tasks)} task{'s' * (len(made.tasks) != 1)}"


def definitions(made: Contents) -> list[tuple[str, str]]:
    """How to read a comparison: what its words mean and what it cannot say."""
    resamples = f"{made.resamples:,}" if is_count(made.resamples) else "the"
    of_scores = [
        (
            "Score",
            "The mean of the tasks' headline metrics, in points of 100. Only an arm with every seed of every task has "
            "one.",
        ),
        (
            "Interval",
            f"{made.percent}, over pre-training seeds and over the tasks' examples. Seeds: Student's t, which for "
            "three of them is wide, because three cannot say how far such runs spread. Examples: what "
            f"{resamples} bootstrap resamples do to all seeds alike. It may reach beyond 0 or 100. It covers other "
            "seeds and other examples of the same kind, not another corpus, size, budget or task. Where "
            "there is one seed it is over examples alone: it says which of two models is better, not which recipe.",
        ),
        (
            "Difference, told apart",
            "Arm minus arm, of their scores. Two arms are told apart where the interval of their difference lacks 0. "
            "Those that are not may differ all the same, by as much as its ends.",
        ),
        (
            "p, p (Holm)",
            "How often noise alone would make a difference as large, on either side; and the same adjusted for the "
            "number of pairs, so that any false alarm among them is as rare as one (Holm, 1979). Differences by task "
            "are not adjusted: of twenty where there is nothing, one is bold.",
        ),
        ("Bold", "The highest mean of its column, whether or not it can be told apart."),
    ]
    return (of_scores if made.tasks else []) + [
        (
            "Paired",
            "Arms have the same seeds, and runs of one seed saw the same rows in the same order and began with the "
            "same weights, as far as their configs agree: the hashes of what they recorded are equal. Differences are "
            "then taken seed by seed. It proves that nothing differs but what is declared. It does not prove that each "
            "arm is tuned as well as it could be, nor which part of a declared change makes the difference.",
        ),
        (
            "Budget",
            f"What arms spend equally is {made.unit}; whatever else they spend follows from their objectives. Totals "
            "are of one run with the prefix of a branch, at the selected rate. Seconds are steps times the measured "
            "step of this machine.",
        ),
        (
            "Curves",
            "Losses of different objectives answer different questions, and the lower one is not the better one: a "
            "masked token is told by both sides, the next one by the left alone. Only runs that were asked the same "
            "share a chart.",
        ),
        (
            "Learning rate",
            "The same multiples of an arm's own peak rate for all, tried with the first seed; selected by "
            + ("the arm's own validation loss" if made.select == "loss" else "the suite's score on validation")
            + ". Where the selected one is at the edge of the grid, the best may lie beyond it.",
        ),
        (
            "Size",
            "A comparison at the size of a laptop says little about large models: what is ahead early in training, or "
            "with few parameters, may not be ahead later. It is evidence about this size and this budget.",
        ),
    ]
