"""What a comparison found, in sentences that the page and the Markdown share."""

import itertools
from collections.abc import Iterable, Sequence

from ptjax.report.comparison.contents import APART, BEFORE_ADJUSTING, SCORE, TIE, Contents, Difference
from ptjax.report.comparison.words import interval, metric_words
from ptjax.report.figures import plain, points, probability, thousandths
from ptjax.report.values import is_count

FEW = 5  # seeds, below which an interval is said to rest on few
SHOWN = 4  # pairs that the verdict names; the table has all


class Name(str):
    """An arm's name within a sentence."""


Sentence = list[str]  # and names


def verdict(made: Contents) -> Sentence:
    """Which arms differ by more than noise and which do not; what that rests on; what is left to do."""
    if not made.arms:
        return ["There are no arms to compare."]
    scored = [d.turned() for d in made.differences if d.mean is not None]
    validated = [d.turned() for d in made.pretraining if d.mean is not None] if made.suite is None else []
    if scored:
        found = [*_told(scored, made), ". ", *_rests_on(f"Scores are means over {_tasks(made)}", scored)]
    elif validated:
        found = _of_validation(validated, made)
    else:
        found = _scores(made) if made.ranked or made.suite is not None else _pretraining(made)
    return [*found, *_lacking(made), *_left(made)]


def _told(pairs: Sequence[Difference], made: Contents) -> Sentence:
    return _joined([*_apart(pairs, made), *_before_adjusting(pairs, made), *_ties(pairs)])


def _apart(pairs: Sequence[Difference], made: Contents) -> list[Sentence]:
    """A clause for each arm that leads: whom, and by how much."""
    apart, shown = _widest(pairs, APART)
    clauses: list[Sentence] = []
    adjusted = f" adjusted for {pairs[0].pairs} pairs"
    for leader, behind in _by_leader(shown, made):
        clause: Sentence = [Name(leader), " leads "]
        for k, d in enumerate(behind):
            p = f"{probability(d.holm)}{adjusted}" if d.pairs > 1 else probability(d.p)
            clause += [", and "] * (k > 0) + [Name(d.b.name), f" by {_far(d)}{', ' * bool(p)}{p}"]
            adjusted = " adjusted"  # for how many has been said
        clauses.append(clause)
    more = len(apart) - len(shown)
    return clauses + ([[f"{more} more pair{'s differ' if more > 1 else ' differs'}"]] if more else [])


def _before_adjusting(pairs: Sequence[Difference], made: Contents) -> list[Sentence]:
    """A clause for each arm that is ahead of others by what so many pairs may come to by chance."""
    before, shown = _widest(pairs, BEFORE_ADJUSTING)
    clauses: list[Sentence] = []
    for leader, behind in _by_leader(shown, made):
        clause: Sentence = [Name(leader), " is ahead of "]
        for k, d in enumerate(behind):
            clause += [", and of "] * (k > 0) + [Name(d.b.name), f" by {_far(d)}{_p(d)}"]
        clauses.append([*clause, f", but not after adjusting for {pairs[0].pairs} pairs"])
    more = len(before) - len(shown)
    return clauses + ([[f"{more} more only before adjusting"]] if more else [])


def _ties(pairs: Sequence[Difference]) -> list[Sentence]:
    """Pairs that cannot be told apart, where they are few; else the widest of them."""
    ties = [d for d in pairs if d.told == TIE]
    alone = len(ties) == len(pairs)
    if len(ties) > SHOWN or alone and len(ties) > 1:
        widest = max(ties, key=lambda d: d.mean)
        many = "No two arms can be told apart" if alone else f"{len(ties)} pairs cannot be told apart"
        far = f"{_far(widest)}{_p(widest)}"
        return [[many, ", the widest gap being ", Name(widest.a.name), " over ", Name(widest.b.name), f" by {far}"]]
    gaps = [[f": {_far(d)}{_p(d)} between them"] if alone else [] for d in ties]
    return [[Name(d.a.name), " and ", Name(d.b.name), " cannot be told apart", *gap] for d, gap in zip(ties, gaps)]


def _widest(pairs: Sequence[Difference], told: str) -> tuple[list[Difference], list[Difference]]:
    """All that are so told, and those of them that are named."""
    found = sorted((d for d in pairs if d.told == told), key=lambda d: -d.mean)
    return found, found[:SHOWN]


def _by_leader(shown: Sequence[Difference], made: Contents) -> Iterable[tuple[str, Iterable[Difference]]]:
    places = {arm.name: place for place, arm in enumerate(made.ranked)}
    return itertools.groupby(sorted(shown, key=lambda d: (places.get(d.a.name, 0), d.a.name)), key=lambda d: d.a.name)


def _far(d: Difference) -> str:
    if d.metric == SCORE:
        return f"{points(d.mean)} points{interval(d)}"
    unit = f" {metric_words(d.metric)}" if d.metric != "loss" else ""
    return f"{thousandths(d.mean)}{unit}{interval(d, thousandths)}"


def _p(d: Difference) -> str:
    return f", {probability(d.p)}" if d.p is not None else ""


def _joined(clauses: Sequence[Sentence]) -> Sentence:
    return [part for k, clause in enumerate(clauses) for part in (["; "] * (k > 0) + clause)]


def _rests_on(words: str, measured: Sequence[Difference]) -> Sentence:
    counts = [int(n) for d in measured for n in d.seeds]
    if not counts:
        return [f"{words}. "]
    few, many = min(counts), max(counts)
    if many == 1:
        return [f"{words}, of one seed an arm: nothing here says what another seed would change. "]
    between = f"{few}" if few == many else f"{few} to {many}"
    return [f"{words}; the intervals rest on {between} seeds an arm{', which are few' * (few < FEW)}. "]


def _of_validation(measured: Sequence[Difference], made: Contents) -> Sentence:
    """Where there is no suite: a sentence a question, for only its answers compare."""
    said: Sentence = ["There is no suite, so there are no scores. "]
    for question in dict.fromkeys(d.question for d in measured):
        said += [f"In validation by {question}, where lower is better: "]
        said += [*_told([d for d in measured if d.question == question], made), ". "]
    alone = [one.arms[0] for one in made.asked if len(one.arms) == 1]
    for arm in alone[:SHOWN]:
        said += ["No other arm was asked what ", Name(arm.name), " was. "]
    return [*said, *_rests_on("Values are of the end of pre-training", measured)]


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
    """Where there is neither a suite nor a difference: values that validation gave, by question."""
    if not made.asked:
        return ["There is no suite, and no run is done yet. "]
    said: Sentence = ["There is no suite, so there are no scores. "]
    if len(made.asked) > 1:
        said += ["In validation questions differ, and values of unlike ones do not compare. "]
    for one in made.asked[: 2 * SHOWN]:
        arms = [
            [Name(arm.name), f" has {plain(arm.pretraining.mean)}{interval(arm.pretraining, plain)}"]
            for arm in one.arms[:SHOWN]
        ]
        said += [f"{metric_words(one.metric).capitalize()} by {one.question}: ", *_joined(arms), ". "]
    return said


def _lacking(made: Contents) -> Sentence:
    arms = [arm for arm in made.arms if arm.lacking]
    if not arms:
        return []
    return ["Fewer seeds than planned: ", *_joined([[Name(arm.name), f" has {arm.lacking}"] for arm in arms]), ". "]


def _left(made: Contents) -> Sentence:
    left = [
        f"{made.left[key]:,} {word}{'s' * (made.left[key] != 1)}"
        for key, word in (("runs", "pre-training"), ("cells", "fine-tuning"))
        if is_count(made.left.get(key)) and made.left[key]
    ]
    return (
        [] if made.complete else [f"Incomplete: still to be done are {' and '.join(left)}." if left else "Incomplete."]
    )


def _tasks(made: Contents) -> str:
    return f"{len(made.tasks)} task{'s' * (len(made.tasks) != 1)}"
