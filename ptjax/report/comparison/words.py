"""What has to be said beside the tables of a comparison, on the page and in the Markdown alike."""

from collections.abc import Callable

from ptjax.report.comparison.contents import Arm, Contents, Difference, Fit
from ptjax.report.figures import NONE, count, duration, points, rate
from ptjax.report.values import Interval, is_count

METRICS = {"bits_per_byte": "bits a byte", "loss": "loss"}
PAIRED = {True: "seed by seed", False: "unpaired seeds", None: NONE}
BITS = (
    "Bits of the tokens that were asked for over their bytes. Only of a causal model is it how well text is compressed."
)
MINIMAL_PAIRS = "Judged by each model's own likelihood: exact for causal models, a pseudo-likelihood for masked ones."
UNRECORDED = "Masks and dropout follow from the seed and are not recorded; nor is the code of fine-tuning."
STEP = (
    "Predictions are what the objective asks for, by term of the loss: more than one of a token where several terms "
    "ask. FLOPs by formula are matrix products of the model, forward and backward; the optimizer's are not counted, "
    "and are in the compiled column: all that XLA compiles, whose count may leave out custom kernels."
)


def interval(around: Interval, said: Callable[[float | None], str] = points) -> str:
    """[low, high] with a space before it, where both are known."""
    low, high = around.low, around.high
    return "" if low is None or high is None else f" [{said(low)}, {said(high)}]"


def metric_words(metric: str) -> str:
    return METRICS.get(metric, metric)


def scores_words(made: Contents) -> str:
    """What the columns of scores hold."""
    words = []
    if made.tasks:
        words.append(f"Points of 100. Scores with {made.percent} intervals over seeds and examples.")
    if made.asked:
        words.append(
            "Validation is of the end of pre-training, a column a question: values of unlike questions do not compare."
        )
    return " ".join(words)


def differences_words(made: Contents) -> str:
    return f"The first arm minus the second, in points of 100, with {made.percent} intervals."


def validation_words(d: Difference, percent: str) -> str:
    """Of a table of differences in what validation measured."""
    return (
        f"Validation by {d.question}: {metric_words(d.metric)}, lower is better. The first arm minus the second at the "
        f"end of pre-training, with {percent} intervals over seeds."
    )


def proven_words(made: Contents) -> str:
    if made.proven is None:
        return "Whether the arms are paired is not known yet."
    if not made.proven:
        return (
            "Not proven: the arms are compared as they are, and what differs between them may be more than the change."
        )
    return (
        "Proven from what pre-trainings recorded while they ran: where their configs agree in what decides a thing, it "
        f"is equal in all of them. It differs only where it is said below, and why. {UNRECORDED}"
    )


def budget_words(made: Contents) -> str:
    """What is equal, and why the rest is not."""
    words = f"Each arm spends {amount_words(made)}"
    words += (
        ", or the multiple of that in its row. " if any(arm.share not in (None, 1.0) for arm in made.arms) else ". "
    )
    known = [arm for arm in made.arms if arm.predicted is not None]
    if len({f"{arm.predicted:.3g}" for arm in known}) > 1:
        each = ", ".join(f"{arm.name} {arm.predicted:.3g}" for arm in known[:8])
        words += f"Objectives ask unlike amounts of the same text. Predictions a hundred tokens: {each}. "
        words += {
            "tokens": "At equal tokens, who makes fewer predictions has fewer terms in its loss to learn from. ",
            "predicted_tokens": "At equal predictions, who makes fewer a hundred tokens reads more text. ",
        }.get(made.match, "Neither text nor predictions are equal where that is. ")
    return words.strip()


def amount_words(made: Contents) -> str:
    if made.amount is None:
        return f"the same amount of {made.unit}"
    return duration(made.amount) if made.match == "seconds" else f"{count(made.amount, 3)} {made.unit}"


def after_words(arm: Arm) -> str:
    """Whose state a branch goes on from."""
    if not arm.after:
        return ""
    step, share = arm.after.get("step"), arm.after.get("share")
    place = f" from step {step:,}" if is_count(step) else ""
    part = f", {100 * share:g} % of the amount" if isinstance(share, float) and abs(share) < 1e9 else ""
    return f"after {arm.after.get('arm') or NONE}{place}{part}"


def tried(made: Contents) -> list[Arm]:
    """Arms of which more than one rate was tried."""
    return [arm for arm in made.arms if len({t.rate for t in arm.rates.grid}) > 1]


def rates_words(made: Contents) -> str:
    """How rates were selected; where there is one, that none was; empty where none is known."""
    if not tried(made):
        one = ", ".join(f"{arm.name} {rate(arm.rates.peak)}" for arm in made.arms if arm.rates.peak is not None)
        words = "One rate each: no arm was tuned, and a difference may be one of how well this rate suits it."
        return f"{words} {one}." if one else ""
    words = (
        "The same multiples of each arm's peak rate, tried with the first seed, whose run of the selected rate is also "
        f"the first of those that are scored; selected by {_selected_by(made)}. Scores here are the mean of the "
        "trained tasks on validation: tasks without training are left out."
    )
    branches = [arm.name for arm in made.arms if arm.after]
    goes = f"{' and '.join(branches)} go{'es' * (len(branches) == 1)} on from another arm"
    return f"{words} {goes}: multiples apply from where it leaves." if branches else words


def _selected_by(made: Contents) -> str:
    return "its own validation loss" if made.select == "loss" else "the mean of the trained tasks on validation"


def edge_words(made: Contents) -> list[str]:
    return [
        f"{arm.name}: the selected rate, {rate(arm.rates.peak)}, is at the edge of the grid, and a better one may lie "
        "beyond it."
        for arm in made.arms
        if arm.rates.edge
    ]


def fitted(made: Contents, fit: Fit) -> str:
    """What a fit is of: scores, or a metric of validation and by what question."""
    arms = {series.name for series, _, _ in fit.points}
    asked = [one for one in made.asked if one.metric == fit.y and arms & {arm.name for arm in one.arms}]
    return ", ".join([metric_words(fit.y), *(one.question for one in asked)])


def scaling_words() -> str:
    return (
        "The slope is, of a score, the points that ten times the FLOPs add; of a loss, the exponent. It and its p rest "
        "on the sizes, not on the runs: t has as many degrees of freedom as there are sizes, less 2. So few sizes fit "
        "many laws: the form is assumed, not tested, and says nothing of sizes outside."
    )


def definitions(made: Contents) -> list[tuple[str, str]]:
    """How to read a comparison: what its words mean and what it cannot say."""
    shown = _of_scores(made) if made.tasks else []
    if made.tasks and made.differences or made.pretraining:
        shown += _of_differences(made)
    if any(one.metric == "bits_per_byte" for one in made.asked):
        shown.append(("Bits a byte", BITS))
    return shown + [
        (
            "Pairing proof",
            "Where arms have the same seeds, runs of one seed saw the same rows in the same order and began with the "
            "same weights, as far as their configs agree: the hashes of what they recorded are equal. It shows that in "
            "pre-training nothing that is recorded (tokenizer, rows, first weights, code) differs but what is "
            f"declared. {UNRECORDED} It does not show that each arm is tuned as well as it could be, nor which part of "
            "a declared change makes the difference.",
        ),
        (
            "Declared",
            "Said to differ by the comparison's own config: by what arms change, or their seeds. What is allowed "
            "differs without that and was let pass; what may differ is held to nothing.",
        ),
        (
            "Amount",
            f"What one run of each arm spends, a branch its beginning in another arm included: {amount_words(made)}, "
            "or the arm's multiple of that. It takes as many steps as that buys; whatever else it spends follows from "
            "its objective. Seconds are steps times the measured step of this machine.",
        ),
        (
            "Losses",
            "Those of different objectives answer different questions, and the lower one is not the better one: a "
            "masked token is told by both sides, the next one by the left alone. Only runs that were asked the same "
            "compare.",
        ),
        (
            "Learning rate",
            "Each arm has rates of its own, multiples of its peak rate, the same multiples for all. Where the selected "
            "one is at the edge of the grid, the best may lie beyond it.",
        ),
        (
            "Size",
            "A comparison at the size of a laptop says little about large models: what is ahead early in training, or "
            "with few parameters, may not be ahead later. It is evidence about this size and this budget.",
        ),
    ]


def _of_scores(made: Contents) -> list[tuple[str, str]]:
    headlines: dict[str, list[str]] = {}
    for task in made.tasks:
        headlines.setdefault(task.metric or "metric not known", []).append(task.name)
    named = "; ".join(f"{metric} of {', '.join(names)}" for metric, names in headlines.items())
    shown = [
        (
            "Score",
            "The mean of the tasks' headline metrics, in points of 100. An arm has a score once one seed has all "
            "tasks; seeds that lack one are left out.",
        ),
        ("Headline metric", f"The one of a task's metrics that counts: {named}."),
    ]
    if any(task.kind == "MinimalPairs" for task in made.tasks):
        shown.append(("Minimal pairs", MINIMAL_PAIRS))
    return shown


def _of_differences(made: Contents) -> list[tuple[str, str]]:
    resamples = f"{made.resamples:,}" if is_count(made.resamples) else "the"
    alpha = f"{1 - made.confidence:.3g}"
    examples = (
        f"Examples: what {resamples} bootstrap resamples do to all seeds alike. It may reach beyond 0 or 100. It is "
        "not over other training examples of a task (the same subset is used for all), nor another choice of rate, nor "
        "other fine-tuning seeds where there is one; nor another corpus, size or budget. Of validation it is over "
        "seeds alone. Where there is one seed it is over examples alone: it says which of two models is better, not "
        "which recipe."
    )
    return [
        (
            "Interval",
            f"{made.percent}, over pre-training seeds{' and test examples' * bool(made.tasks)}. Seeds: Student's t, "
            "which for three of them is wide, because three cannot say how far such runs spread. "
            + (examples if made.tasks else "It is not over another choice of rate, another corpus, size or budget."),
        ),
        (
            "Told apart",
            f"Yes: the interval of the difference lacks 0, and p is at most {alpha} once it is adjusted for the number "
            "of pairs. Before adjusting: the interval lacks 0, but among so many pairs one like it may come by chance. "
            "No: the interval holds 0; the arms may differ all the same, by as much as its ends.",
        ),
        (
            "p, p (Holm)",
            "How often noise alone would make a difference as large, on either side; and the same adjusted for the "
            "number of pairs, so that any false alarm among them is as rare as one (Holm, 1979). Intervals are not "
            "adjusted, nor are differences by task: of twenty where there is nothing, one is bold.",
        ),
        (
            "By seed",
            "Both arms have the same seeds, so that differences are taken seed by seed; what such runs share, the "
            "pairing proof says.",
        ),
    ]
