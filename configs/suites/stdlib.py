"""Four tasks of the standard library of the Python that runs them, with true labels and nothing to download: which
package a function comes from, what kind each token is, where the answer to a question stands, and which of two snippets
is real. Small enough for a laptop: a model of make pretrain's size takes a minute or two a task."""

from ptjax.data.examples.stdlib import PackageExamples, ReturnExamples, SwapExamples, TokenKindExamples
from ptjax.finetune import Recipe
from ptjax.leaderboard import Suite
from ptjax.optim import AdamW, Linear
from ptjax.tasks import MinimalPairs, QuestionAnswering, SequenceClassification, TokenClassification


def get_config(seeds: int = 3, examples: int = 1200) -> Suite:
    train, spare = dict(train=examples), dict(validation=400, test=500)
    return Suite(
        name="stdlib",
        tasks=(
            SequenceClassification(name="packages", examples=PackageExamples(**train, **spare), length=64),
            TokenClassification(
                name="tokens", examples=TokenKindExamples(**train, **spare), metric="accuracy", length=64, stride=16
            ),
            QuestionAnswering(
                name="answers", examples=ReturnExamples(**train, **spare), length=64, stride=16, max_question=16
            ),
            MinimalPairs(name="swaps", examples=SwapExamples(), too_long="tie"),
        ),
        recipe=Recipe(
            learning_rates=(1e-3,),
            seeds=tuple(range(seeds)),
            epochs=4.0,
            evaluations=4,
            optimizer=AdamW(schedule=Linear(warmup=0.1), weight_decay=0.01),
        ),
    )
