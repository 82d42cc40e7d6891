"""What a comparison found, in sentences that the page and the Markdown share."""

from collections.abc import Sequence

from ptjax.report.comparison.contents import Arm, Contents, Difference
from ptjax.report.figures import NONE, count, plain, points, probability
from ptjax.report.values import Interval, is_count

FEW = 5  # seeds, below which an interval is said to rest on few
SHOWN = 4  # pairs that the verdict names; the table has all
METRICS = {"bits_per_byte": "bits a byte", "loss": "loss"}


class Name(str):
    """An arm's name within a sentence."""


Sentence = list[str]  # and names


def verdict(made: Contents) -> Sentence:
    """Which arms differ by more than noise and which do not; what that rests on; what is left to do."""
    return [*_found(made), *_rests_on(made), *_left(made)]


def _found(made: Contents) -> Sentence:
    measured = [d.turned() for d in made.differences if d.mean is not None]
    if not made.arms:
        return ["There are no arms to compare."]
    if measured:
        return _clauses(measured, made)
    if made.ranked:
        best = made.ranked[0]
        scores = [Name(best.name), f" scores {points(best.score.mean)}{interval(best.score)}"]
        if len(made.arms) == 1:
            return [*scores, f" on average over {_tasks(made)}; it is the only arm, so there is nothing to compare. "]
        rest = ", ".join(f"{arm.name} {points(arm.score.mean)}" for arm in made.ranked[1:])
        return [*scores, f"; {rest}" * bool(rest), "; their differences are not known. "]
    if made.suite is not None:
        return [f"No arm has a result on all of {_tasks(made)} yet. "]
    return _pretraining(made)


def _clauses(pairs: Sequence[Difference], made: Contents) -> Sentence:
    apart = sorted((d for d in pairs if not d.tie), key=lambda d: -d.mean)
    ties = [d for d in pairs if d.tie]
    clauses: list[Sentence] = []
    for d in apart[:SHOWN]:
        words = f" by {points(d.mean)} points{interval(d)}"
        doubt = d.holm is not None and d.p is not None and d.p < 1 - made.confidence <= d.holm
        doubt = f", though {probability(d.holm)} once adjusted for {len(pairs)} pairs" if doubt else ""
        clauses.append([Name(d.a.name), " leads ", Name(d.b.name), words, _p(d), doubt])
    if len(apart) > SHOWN:
        clauses.append([f"{len(apart) - SHOWN} more pairs differ"])
    if len(ties) > SHOWN or not apart and len(ties) > 1:
        largest = max(ties, key=lambda d: d.mean)
        many = "no two arms" if not apart else f"{len(ties)} pairs"
        far = [Name(largest.a.name), " over ", Name(largest.b.name), f" by {points(largest.mean)} points"]
        verb = "can be told apart" if not apart else "cannot be told apart"
        clauses.append([f"{many} {verb}, the widest gap being ", *far, interval(largest), _p(largest)])
    else:
        for d in ties:
            far = [f", {points(d.mean)} points{interval(d)}{_p(d)} between them"] if not apart else []
            clauses.append([Name(d.a.name), " and ", Name(d.b.name), " cannot be told apart", *far])
    joined = [part for k, clause in enumerate(clauses) for part in (["; "] * (k > 0) + clause)]
    if not isinstance(joined[0], Name):
        joined[0] = joined[0][:1].upper() + joined[0][1:]
    return [*(part for part in joined if part), f", on average over {_tasks(made)}. "]


def _pretraining(made: Contents) -> Sentence:
    """Where there is no suite: values that validation gave, of arms that were asked the same."""
    known = [arm for arm in made.arms if arm.pretraining.mean is not None]
    if not known:
        return ["There is no suite, and no run is done yet. "]
    same = len({(arm.objective, arm.metric) for arm in known}) == 1
    said = [
        [Name(arm.name), f" has {value(arm.pretraining.mean)}{interval(arm.pretraining, value)}"] for arm in known[:6]
    ]
    if len(known) > len(said):
        said.append([f"{len(known) - len(said)} more are in the table"])
    listed = [part for k, one in enumerate(said) for part in (["; "] * (k > 0) + one)]
    words = metric_words(known[0].metric) if same else "validation, each by its own question, which do not compare"
    return [f"There is no suite, so there are no scores. In {words}: ", *listed, ". "]


def _rests_on(made: Contents) -> Sentence:
    counts = [int(n) for d in made.differences if d.mean is not None for n in d.seeds]
    if not counts or min(counts) >= FEW:
        return []
    few, many = min(counts), max(counts)
    if many == 1:
        return ["With one seed an arm, nothing here says how much another seed would change. "]
    return [f"This rests on {few if few == many else f'{few} to {many}'} seeds an arm. "]


def _left(made: Contents) -> Sentence:
    left = [
        f"{made.left[k]:,} {words if made.left[k] != 1 else words[:-1]}"
        for k, words in (("runs", "pre-trainings"), ("cells", "fine-tunings"))
        if is_count(made.left.get(k)) and made.left[k]
    ]
    if made.complete or not made.arms:
        return []
    return [f"Incomplete: {' and '.join(left)} {'are' if left != ['1'] else 'is'} left." if left else "Incomplete."]


def interval(around: Interval, said=points) -> str:
    """[low, high] with a space before it, where both are known."""
    low, high = around.low, around.high
    return "" if low is None or high is None else f" [{said(low)}, {said(high)}]"


def value(number: float | None) -> str:
    """Of a loss or of bits a byte."""
    return plain(number)


def metric_words(metric: str) -> str:
    return METRICS.get(metric, metric)


def budget_words(made: Contents) -> str:
    """What is equal, and why the rest is not."""
    known = [arm for arm in made.arms if arm.predicted is not None]
    amount = f"{count(made.amount)} {made.unit}" if made.amount is not None else f"the same amount of {made.unit}"
    words = f"Arms are matched by {made.unit}: each spends {amount}"
    words += ", or the multiple of it in its row. " if any(arm.share not in (None, 1.0) for arm in made.arms) else ". "
    if len({round(arm.predicted, 1) for arm in known}) > 1:
        each = ", ".join(f"{arm.name} {arm.predicted:.3g}" for arm in known)
        words += f"Objectives ask unlike amounts: of 100 tokens that it reads, each arm predicts so many: {each}. "
        words += (
            "Each prediction is one term of a loss, so that what is equal here decides who learns from more of them."
        )
    return words


def after_words(arm: Arm) -> str:
    """Whose state a branch goes on from."""
    if not arm.after:
        return ""
    step, share = arm.after.get("step"), arm.after.get("share")
    place = f" from step {step:,}" if is_count(step) else ""
    part = f", {100 * share:g} % of the amount" if isinstance(share, float) and abs(share) < 1e9 else ""
    return f"after {arm.after.get('arm') or NONE}{place}{part}"


def _p(d: Difference) -> str:
    p = probability(d.p)
    return f", {p}" if p else ""


def _tasks(made: Contents) -> str:
    return f"{len(made.tasks)} task{'s' * (len(made.tasks) != 1)}"


def definitions(made: Contents) -> list[tuple[str, str]]:
    """How to read a comparison: what its words mean and what it cannot say."""
    resamples = f"{made.resamples:,}" if is_count(made.resamples) else "the"
    return [
        (
            "Score",
            "The mean of the tasks' headline metrics, in points of 100. Only an arm with every seed of every task has "
            "one.",
        ),
        (
            "Interval",
            f"{made.percent}, over examples and seeds together: {resamples} bootstrap resamples of the examples, and "
            "Student's t over the seeds, of which there are few; with three, t is wide for a reason. It covers other "
            "examples of the same kind and other seeds, not another corpus, size, budget or task.",
        ),
        (
            "Difference, told apart",
            "Arm minus arm. Two arms cannot be told apart where the interval of their difference holds 0, which is not "
            "the same as being equal.",
        ),
        (
            "p, p (Holm)",
            "How often a difference this large comes about where there is none; adjusted by Holm for the number of "
            "pairs shown. Differences by task are not adjusted: of twenty, one stands out by chance.",
        ),
        (
            "Paired",
            "Runs of one seed saw the same documents in the same order and began with the same weights, as the hashes "
            "say; their differences are taken seed by seed. It proves that nothing else differs than what is declared. "
            "It does not prove that the declared change is the cause of all that follows from it, nor that both arms "
            "are tuned as well as they could be.",
        ),
        (
            "Budget",
            f"What arms spend equally is {made.unit}; whatever else they spend follows from their objectives. Totals "
            "are of one run with the prefix of a branch, at the selected rate. Seconds are steps times the measured "
            "step of this machine.",
        ),
        (
            "Curves",
            "Losses of different objectives answer different questions, and the lower one is not the better one. Only "
            "runs that were asked the same share a chart.",
        ),
        (
            "Learning rate",
            "The same multiples of an arm's own peak rate for all, tried with the first seed; selected by "
            + ("the arm's own validation loss" if made.select == "loss" else "the suite's score on validation")
            + ". Where the selected one is at the edge of the grid, the best may lie beyond it.",
        ),
        (
            "Size",
            "At the size of a laptop a result says little about large models: order and distance of methods change "
            "with scale, and small models differ by how fast they learn more than by what they could learn.",
        ),
        ("Bold", "The highest mean of its column, whether or not it can be told apart."),
    ]
