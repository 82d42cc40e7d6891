"""Minimal pairs: which sentence of two does a model hold likelier? Nothing is trained."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import chz

from ptjax.config import UserError
from ptjax.data.examples import Example
from ptjax.likelihood import Likelihood, Scorer
from ptjax.metrics import GroupAccuracy, PairAccuracy
from ptjax.tasks.base import Answer, Task

if TYPE_CHECKING:
    from ptjax.pretrained import Pretrained


@chz.chz
class MinimalPairs(Task):
    """BLiMP (Warstadt et al., 2020) and its like: examples of pairs, judged by the model's own likelihood of their two
    texts. A prediction is [score of the good one, score of the bad one], in nats; equal scores count half."""

    metric: str = chz.field(default="accuracy", doc="accuracy, or group_accuracy: the mean over groups")
    likelihood: Likelihood | None = chz.field(
        default=None,
        meta_factory=chz.factories.subclass(Likelihood),
        doc="Causal, PseudoLikelihood, Permutation or DiffusionBound; None: by what the model has learned",
    )

    @property
    def zero_shot(self):
        return True

    def metrics(self):
        return PairAccuracy(), GroupAccuracy()

    def judge(
        self, start: "Pretrained", examples: Sequence[Example], *, fresh: bool = False, seed: int = 0
    ) -> list[Answer]:
        """An answer to each example. fresh: by the same model with random weights.

        Raises UserError: examples that are no pairs; a model that has no likelihood; texts that are too long for it.
        """
        for example in examples:
            _check(self.name, example)
        texts = [example[key] for example in examples for key in ("good", "bad")]
        names = [f"task {self.name}: {key} of example {x['id']}" for x in examples for key in ("good", "bad")]
        scores = Scorer.open(start, self.likelihood, fresh=fresh, seed=seed).scores(texts, names)
        return [
            {"id": example["id"], "prediction": pair} for example, pair in zip(examples, scores.reshape(-1, 2).tolist())
        ]

    def reference(self, example):
        return example.get("group", "")

    def check_prediction(self, prediction):
        numbers = isinstance(prediction, list) and all(type(x) in (int, float) for x in prediction)
        if not numbers or len(prediction) != 2 or not all(map(math.isfinite, prediction)):
            raise ValueError(
                f"{prediction!r}: [score of good, score of bad], two finite numbers, higher for the likelier"
            )


def _check(task: str, example: Example) -> None:
    for key in ("good", "bad"):
        if not isinstance(example.get(key), str) or not example[key].strip():
            raise UserError(f"task {task}: example {example['id']} has no {key}: a pair has the texts 'good' and 'bad'")
